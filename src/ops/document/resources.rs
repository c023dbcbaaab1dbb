//! What a command line takes of the world besides the document: directories, environment, configuration, clock.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::tuning::MemorySource;
use qemu_plan::command::{self, Config, Dirs, Purpose, Resources};

use crate::{
    config::QemuConfig,
    ops::{Driver, host::hugepages},
};

/// Below mounts that others have things in, too.
const OURS: &str = "libvirt/qemu";

/// Directories of a run.
pub(crate) fn dirs(driver: &Driver, short_name: &str) -> Dirs {
    let paths = driver.registry.store().paths();
    let config = driver.config();
    let memory = match &config.paths.memory_backing {
        Some(directory) => directory.join(OURS),
        None => paths.lib.join("ram"),
    };
    let mounts = hugepages::mounts(driver, &config).into_iter();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Dirs {
        lib: text(paths.domains.join(format!("domain-{short_name}"))),
        channel: text(paths.state.join("channel").join(short_name)),
        memory: text(memory.join(short_name)),
        hugepages: mounts
            .map(|(kib, mount)| (kib, text(mount.join(OURS).join(short_name))))
            .collect(),
        dbus_socket: text(paths.state.join("dbus").join(format!("{short_name}-dbus.sock"))),
    }
}

/// The resources of a command line that is only shown.
pub(crate) fn native_resources(driver: &Driver, document: &domxml::Domain, short_name: &str) -> Resources {
    Resources {
        purpose: Purpose::Native,
        ..resources(driver, document, dirs(driver, short_name))
    }
}

/// What every command line takes of the world.
pub(crate) fn resources(driver: &Driver, document: &domxml::Domain, dirs: Dirs) -> Resources {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let east = unixfd::local_offset(i64::try_from(now).unwrap_or(0));
    let rtc_base = command::clock::start_time(document, now, east);
    Resources {
        dirs,
        env: environment(),
        config: line_config(&driver.config()),
        rtc_base,
        ..Resources::default()
    }
}

/// Directories that a run needs, of those that it may have: those of its memory only where that lies in files.
pub(crate) fn of_run(document: &domxml::Domain, dirs: &Dirs) -> Vec<String> {
    let backing = document.memory_backing.as_ref();
    let source = backing.and_then(|backing| backing.source);
    let modules = &document.devices.memories;
    let paged = modules.iter().any(|module| {
        let source = module.source.as_ref();
        source.is_some_and(|source| source.pagesize.is_some())
    });
    let shared = modules.iter().any(|module| module.access.is_some())
        || backing.is_some_and(|backing| backing.access.is_some())
        || numa_cells(document).any(|cell| cell.mem_access.is_some());
    let in_files = source == Some(MemorySource::File) || source.is_none() && shared;
    let mut needed = vec![dirs.lib.clone(), dirs.channel.clone()];
    if paged || backing.is_some_and(|backing| backing.hugepages.is_some()) {
        needed.extend(dirs.hugepages.iter().map(|(_, directory)| directory.clone()));
    }
    if in_files {
        needed.push(dirs.memory.clone());
    }
    needed
}

fn numa_cells(document: &domxml::Domain) -> impl Iterator<Item = &domxml::cpu::Cell> {
    let numa = document.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    numa.into_iter().flat_map(|numa| &numa.cells)
}

/// The daemon's own variables that QEMU gets.
pub(crate) fn environment() -> Vec<(String, String)> {
    std::env::var("PATH")
        .map(|path| ("PATH".to_owned(), path))
        .into_iter()
        .collect()
}

/// What of qemu.conf is on the command line.
pub(crate) fn line_config(config: &QemuConfig) -> Config {
    Config {
        vnc_listen: config.vnc.listen.clone(),
        vnc_password: config.vnc.password.is_some(),
        vnc_sasl: config.vnc.sasl,
        dump_guest_core: config.limits.dump_guest_core.then_some(true),
        seccomp_sandbox: config.guard.seccomp_sandbox.unwrap_or(true),
        log_timestamp: config.log_timestamp,
        set_process_name: config.set_process_name,
        ..Config::default()
    }
}
