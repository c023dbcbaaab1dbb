//! `-smbios` and `-fw_cfg`: strings that the guest's firmware shows, and files it is given.

use domxml::os::SmbiosMode;
use domxml::sysinfo::{SmbiosTable, Sysinfo, SysinfoType};

use super::context::Context;
use super::line::CommandLine;
use crate::props::Keyval;
use crate::{Error, Result};

/// Number of the table of a base board.
const BOARD: u32 = 2;

/// Entries of each table in QEMU's order.
const BIOS: [&str; 4] = ["vendor", "version", "date", "release"];
const SYSTEM: [&str; 7] = [
    "manufacturer",
    "product",
    "version",
    "serial",
    "uuid",
    "sku",
    "family",
];
const BASE_BOARD: [&str; 6] = [
    "manufacturer",
    "product",
    "version",
    "serial",
    "asset",
    "location",
];
const CHASSIS: [&str; 5] = ["manufacturer", "version", "serial", "asset", "sku"];

/// Appends all tables and files.
///
/// # Errors
/// When the host's tables are asked for and were not read.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    if let Some(source) = source(cx)? {
        build_tables(source, line);
    }
    for info in cx
        .def
        .sysinfo
        .iter()
        .filter(|info| info.kind == SysinfoType::Fwcfg)
    {
        for file in &info.files {
            let mut value = Keyval::new().with("name", &file.name);
            match (&file.value, &file.file) {
                (Some(text), _) => value.set("string", text),
                (None, file) => value.opt("file", file.as_ref()),
            };
            line.push("-fw_cfg", value);
        }
    }
    Ok(())
}

fn source(cx: Context<'_>) -> Result<Option<&Sysinfo>> {
    match cx.def.os.smbios {
        None | Some(SmbiosMode::Emulate) => Ok(None),
        Some(SmbiosMode::Sysinfo) => {
            let own = cx
                .def
                .sysinfo
                .iter()
                .find(|info| info.kind == SysinfoType::Smbios);
            own.map(Some)
                .ok_or_else(|| Error::xml_qemu(format!("Domain '{}' sysinfo are not available", cx.def.name)))
        }
        Some(SmbiosMode::Host) => {
            let host = cx.res.host_smbios.as_ref();
            host.map(Some)
                .ok_or_else(|| Error::unsupported("Host SMBIOS information is not available"))
        }
    }
}

fn build_tables(info: &Sysinfo, line: &mut CommandLine) {
    push_table(0, &BIOS, info.bios.as_ref(), line);
    push_table(1, &SYSTEM, info.system.as_ref(), line);
    for board in &info.base_boards {
        push_table(BOARD, &BASE_BOARD, Some(board), line);
    }
    push_table(3, &CHASSIS, info.chassis.as_ref(), line);
    if !info.oem_strings.is_empty() {
        let mut value = Keyval::new().with("type", 11);
        for text in &info.oem_strings {
            value.set("value", text);
        }
        line.push("-smbios", value);
    }
}

fn push_table(kind: u32, names: &[&str], table: Option<&SmbiosTable>, line: &mut CommandLine) {
    let Some(table) = table.filter(|table| !table.entries.is_empty()) else {
        return;
    };
    let mut value = Keyval::new().with("type", kind);
    for name in names {
        // The board's manufacturer is always said.
        let always = (kind == BOARD && *name == "manufacturer").then_some("");
        value.opt(name, table.get(name).or(always));
    }
    line.push("-smbios", value);
}
