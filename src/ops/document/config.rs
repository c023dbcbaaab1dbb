//! What completing a document takes from the daemon's configuration.

use std::path::PathBuf;

use crate::ops::{Driver, host::legacy_firmware::legacy_firmware};

/// The first security model in force, for labels that name none.
pub(crate) const SECURITY_MODEL: &str = "none";

/// What completing a document takes from the daemon's configuration.
pub(crate) fn plan_config(driver: &Driver) -> qemu_plan::postparse::Config {
    let paths = driver.registry.store().paths();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    qemu_plan::postparse::Config {
        channel_dirs: [&paths.state, &paths.lib]
            .map(|dir| text(dir.join("channel")))
            .into(),
        lib_dir: text(paths.lib.clone()),
        nvram_dir: text(paths.lib.join("nvram")),
        firmware: driver.firmware.known().to_vec(),
        legacy_firmware: legacy_firmware(&driver.config()),
        host_audio: qemu_plan::postparse::HostAudio {
            with_vnc: driver.config().audio.with_vnc,
            without_graphics: driver.config().audio.without_graphics,
        },
        security_model: SECURITY_MODEL.to_owned(),
    }
}
