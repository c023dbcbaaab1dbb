//! What a command line takes of the world besides the document: directories, environment, configuration, clock.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use domxml::tuning::MemorySource;
use qemu_plan::command::{self, Config, Dirs, Purpose, Resources, TlsFiles};

use crate::{
    config::{QemuConfig, Tls},
    error::Result,
    ops::{Driver, host::hugepages},
};

/// Below a directory of the host's, that of all guests.
pub(crate) const OF_GUESTS: &str = "libvirt/qemu";

/// Directories of a run; [`find_huge_pages`] adds those of huge pages.
pub(crate) fn dirs(driver: &Driver, short_name: &str) -> Dirs {
    let paths = driver.registry.store().paths();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    Dirs {
        lib: text(paths.domains.join(format!("domain-{short_name}"))),
        channel: text(paths.state.join("channel").join(short_name)),
        memory: text(memory_dir(driver).join(short_name)),
        hugepages: Vec::new(),
        dbus_socket: text(paths.state.join("dbus").join(format!("{short_name}-dbus.sock"))),
    }
}

/// Where the memory of guests is that is kept in files.
fn memory_dir(driver: &Driver) -> PathBuf {
    let configured = &driver.config().paths.memory_backing;
    match configured {
        Some(dir) => dir.join(OF_GUESTS),
        None => driver.registry.store().paths().lib.join("ram"),
    }
}

/// Finds where the guest's huge pages are, if it uses any.
///
/// # Errors
/// A place that is configured is none.
pub(crate) async fn find_huge_pages(
    driver: &Driver,
    document: &domxml::Domain,
    dirs: &mut Dirs,
    short_name: &str,
) -> Result<()> {
    if wants_huge_pages(document) {
        dirs.hugepages = huge_pages(driver, short_name).await?;
    }
    Ok(())
}

/// Where the huge pages of a run are, if it uses any, by their size in KiB.
///
/// # Errors
/// A place that is configured is none.
pub(crate) async fn huge_pages(driver: &Driver, short_name: &str) -> Result<Vec<(u64, String)>> {
    let (config, root, short_name) = (driver.config(), driver.host.root.clone(), short_name.to_owned());
    let find = move || {
        let mounts = hugepages::mounts(&root, config.paths.hugetlbfs.as_deref())?;
        let dir = |mount: PathBuf| {
            mount
                .join(OF_GUESTS)
                .join(&short_name)
                .to_string_lossy()
                .into_owned()
        };
        Ok(mounts.into_iter().map(|(kib, mount)| (kib, dir(mount))).collect())
    };
    crate::blocking::file("looking for huge pages", find).await
}

/// Whether some of the guest's memory is of huge pages.
fn wants_huge_pages(document: &domxml::Domain) -> bool {
    let of_guest = document
        .memory_backing
        .as_ref()
        .is_some_and(|m| m.hugepages.is_some());
    let sources = document.devices.memories.iter().filter_map(|m| m.source.as_ref());
    of_guest || sources.into_iter().any(|source| source.pagesize.is_some())
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

/// The directories that a run's memory is in, of those that it may have.
pub(crate) fn of_memory(document: &domxml::Domain, dirs: &Dirs) -> Vec<PathBuf> {
    let in_files = is_in_files(document).then_some(&dirs.memory);
    let huge = dirs.hugepages.iter().map(|(_, dir)| dir);
    huge.chain(in_files).map(PathBuf::from).collect()
}

/// Whether some of the guest's memory is kept in files: where the document says so, and where it says who shares it.
fn is_in_files(document: &domxml::Domain) -> bool {
    let backing = document.memory_backing.as_ref();
    let modules = &document.devices.memories;
    let shared = || {
        modules.iter().any(|module| module.access.is_some())
            || backing.is_some_and(|backing| backing.access.is_some())
            || numa_cells(document).any(|cell| cell.mem_access.is_some())
    };
    match backing.and_then(|backing| backing.source) {
        Some(source) => source == MemorySource::File,
        None => shared(),
    }
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

/// What one kind of connections shows: the directory that is configured, the usual one if it is there, or that of all.
pub(crate) fn files(tls: &Tls, usual: &str) -> TlsFiles {
    let usual = || Some(PathBuf::from(usual)).filter(|path| path.exists());
    let dir = tls.cert_dir.clone().or_else(usual);
    let dir = dir.as_ref().unwrap_or(&tls.default_dir);
    TlsFiles {
        dir: dir.to_string_lossy().into_owned(),
        verify: tls.verify,
        secret: tls.secret.map(|uuid| uuid.to_string()),
    }
}

/// What of qemu.conf is on the command line.
pub(crate) fn line_config(config: &QemuConfig) -> Config {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let (vnc, spice) = (&config.vnc, &config.spice);
    Config {
        vnc_listen: vnc.listen.clone(),
        vnc_tls: vnc.tls.on.then(|| files(&vnc.tls, "/etc/pki/libvirt-vnc")),
        vnc_password: vnc.password.is_some(),
        vnc_sasl: vnc.sasl,
        vnc_sasl_dir: vnc.sasl_dir.as_ref().map(text),
        spice_listen: spice.listen.clone(),
        spice_tls: spice.tls.on.then(|| files(&spice.tls, "/etc/pki/libvirt-spice")),
        spice_password: spice.password.is_some(),
        spice_sasl: spice.sasl,
        spice_sasl_dir: spice.sasl_dir.as_ref().map(text),
        chardev_tls: config.chardev_tls.on,
        chardev_files: files(&config.chardev_tls, "/etc/pki/libvirt-chardev"),
        nbd_tls: config.nbd_tls.on,
        nbd_files: files(&config.nbd_tls, "/etc/pki/libvirt-nbd"),
        gluster_debug: Some(config.gluster_debug_level),
        dump_guest_core: config.limits.dump_guest_core.then_some(true),
        seccomp_sandbox: config.guard.seccomp_sandbox.unwrap_or(true),
        log_timestamp: config.log_timestamp,
        set_process_name: config.set_process_name,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_looked_for_where_the_document_asks_for_them() {
        for (content, wants) in [
            ("", false),
            ("<memoryBacking><hugepages/></memoryBacking>", true),
            (
                "<devices><memory model='dimm'><source><pagesize>2048</pagesize></source><target><size>1</size>
                 <node>0</node></target></memory></devices>",
                true,
            ),
        ] {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{content}</domain>");
            let document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            assert_eq!(wants_huge_pages(&document), wants, "{content}");
        }
    }

    #[test]
    fn memory_is_in_files_where_it_is_said_or_shared() {
        let numa = "<cpu><numa><cell id='0' cpus='0' memory='1' memAccess='shared'/></numa></cpu>";
        for (content, files) in [
            ("", false),
            ("<memoryBacking><hugepages/></memoryBacking>", false),
            ("<memoryBacking><source type='file'/></memoryBacking>", true),
            ("<memoryBacking><access mode='shared'/></memoryBacking>", true),
            (
                "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
                false,
            ),
            (numa, true),
        ] {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{content}</domain>");
            let document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
            assert_eq!(is_in_files(&document), files, "{content}");
        }
    }
}
