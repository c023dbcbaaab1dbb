//! Limits of what a disk, or a group of disks, may do.

use domxml::devices::{Disk, DiskBus, IoTune};

use super::super::Guest;
use crate::error::{Error, Result};

/// Largest rate that QEMU takes.
const LARGEST: u64 = 1_000_000_000_000_000;

type Rate = (&'static str, fn(&IoTune) -> Option<u64>);

/// Every rate.
// table
const RATES: &[Rate] = &[
    ("total_bytes_sec", |t| t.total_bytes_sec),
    ("read_bytes_sec", |t| t.read_bytes_sec),
    ("write_bytes_sec", |t| t.write_bytes_sec),
    ("total_iops_sec", |t| t.total_iops_sec),
    ("read_iops_sec", |t| t.read_iops_sec),
    ("write_iops_sec", |t| t.write_iops_sec),
    ("total_bytes_sec_max", |t| t.total_bytes_sec_max),
    ("read_bytes_sec_max", |t| t.read_bytes_sec_max),
    ("write_bytes_sec_max", |t| t.write_bytes_sec_max),
    ("total_iops_sec_max", |t| t.total_iops_sec_max),
    ("read_iops_sec_max", |t| t.read_iops_sec_max),
    ("write_iops_sec_max", |t| t.write_iops_sec_max),
    ("size_iops_sec", |t| t.size_iops_sec),
];

/// What excludes what: a total, and either of its parts.
const TOTALS: &[&str] = &["bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"];

fn rate(tune: &IoTune, name: &str) -> u64 {
    let found = RATES.iter().find(|(known, _)| *known == name);
    found.and_then(|(_, value)| value(tune)).unwrap_or(0)
}

/// A total and its parts can't both be limited.
pub(in crate::validate) fn totals(tune: &IoTune) -> Result<()> {
    let part = |name: &str, part: &str| rate(tune, &format!("{part}_{name}")) > 0;
    let clash = |name: &&&str| part(name, "total") && (part(name, "read") || part(name, "write"));
    TOTALS.iter().find(clash).map_or(Ok(()), |name| {
        Err(Error::xml(format!(
            "total and read/write {name} cannot be set at the same time"
        )))
    })
}

/// Whether anything is limited.
pub(super) fn is_set(tune: &IoTune) -> bool {
    RATES.iter().any(|(_, value)| value(tune).is_some_and(|v| v > 0)) || lengths(tune).iter().any(|l| *l > 0)
}

fn lengths(tune: &IoTune) -> [u64; 6] {
    [
        tune.total_bytes_sec_max_length,
        tune.read_bytes_sec_max_length,
        tune.write_bytes_sec_max_length,
        tune.total_iops_sec_max_length,
        tune.read_iops_sec_max_length,
        tune.write_iops_sec_max_length,
    ]
    .map(Option::unwrap_or_default)
}

fn same(a: &IoTune, b: &IoTune) -> bool {
    RATES
        .iter()
        .all(|(_, value)| value(a).unwrap_or(0) == value(b).unwrap_or(0))
        && lengths(a) == lengths(b)
}

/// What QEMU does not take.
pub(super) fn qemu(guest: &Guest<'_>, disk: &Disk) -> Result<()> {
    let Some(tune) = &disk.iotune else { return Ok(()) };
    if tune.group_name.is_some() && !is_set(tune) {
        return Err(Error::unsupported(
            "group_name can be configured only together with settings",
        ));
    }
    if is_set(tune) && disk.target.bus == Some(DiskBus::Sd) {
        return Err(Error::unsupported("<iotune> is not supported with bus='sd'"));
    }
    if let Some(group) = &tune.group_name {
        let differs = |other: &&Disk| {
            let theirs = other
                .iotune
                .as_ref()
                .filter(|t| t.group_name.as_ref() == Some(group));
            other.target.dev != disk.target.dev && theirs.is_some_and(|t| !same(t, tune))
        };
        if let Some(other) = guest.def.devices.disks.iter().find(differs) {
            return Err(Error::unsupported(format!(
                "different iotunes for disks {} and {}",
                disk.target.dev, other.target.dev
            )));
        }
    }
    if RATES
        .iter()
        .any(|(_, value)| value(tune).is_some_and(|v| v > LARGEST))
    {
        return Err(Error::out_of_range(format!(
            "block I/O throttle limit must be no more than {LARGEST} using QEMU"
        )));
    }
    Ok(())
}
