//! What a command line takes of the world besides the document: directories, environment, configuration, clock.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use qemu_plan::command::{self, Config, Dirs, Purpose, Resources};

use crate::{config::QemuConfig, ops::Driver};

/// Directories of a run.
pub(crate) fn dirs(driver: &Driver, short_name: &str) -> Dirs {
    let paths = driver.registry.store().paths();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Dirs {
        lib: text(paths.domains.join(format!("domain-{short_name}"))),
        channel: text(paths.state.join("channel").join(short_name)),
        memory: text(paths.lib.join("ram").join(short_name)),
        hugepages: Vec::new(),
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
