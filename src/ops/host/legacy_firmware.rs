//! Firmware that no descriptor tells of: what qemu.conf names, or where distributions keep it.

use std::path::Path;

use crate::config::QemuConfig;

/// Where distributions keep firmware that no descriptor tells of, when qemu.conf has no list: code and variables.
// table
pub(crate) const LEGACY_FIRMWARE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (
        "/usr/share/OVMF/OVMF_CODE.secboot.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    (
        "/usr/share/AAVMF/AAVMF32_CODE.fd",
        "/usr/share/AAVMF/AAVMF32_VARS.fd",
    ),
];

/// Firmware that qemu.conf names by path: code and variables.
pub(crate) fn legacy_firmware(config: &QemuConfig) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    match &config.nvram {
        Some(pairs) => pairs
            .iter()
            .map(|(code, variables)| (text(code), text(variables)))
            .collect(),
        None => LEGACY_FIRMWARE
            .iter()
            .map(|(code, variables)| ((*code).to_owned(), (*variables).to_owned()))
            .collect(),
    }
}
