//! What of a disk a running guest keeps: all but its medium, its startup policy and whether snapshots take it.

use std::fmt::Debug;

use domxml::devices::{BlockIo, Disk, DiskDriver, Geometry, IoTune, Tray};

/// A part of a disk by the name that libvirt's refusal has, and what a document says of it.
type Field = (&'static str, fn(&Disk) -> Option<String>);

/// Of the refusals, the one that is in other words.
const THREADS: &str = "iothreads";

/// Why a running guest keeps its disk: the first field that a document changes. What it does not say stays, but for the
/// fields that it always says.
pub fn changed_field(old: &Disk, new: &Disk) -> Option<String> {
    let differs = |(_, said): &&Field| said(new).is_some_and(|new| said(old).unwrap_or_default() != new);
    FIELDS.iter().find(differs).map(|(name, _)| match *name {
        THREADS => "cannot modify '<iothreads>' configuration of the disk".to_owned(),
        name => format!("cannot modify field '{name}' of the disk"),
    })
}

fn word<T: Debug>(value: Option<T>) -> Option<String> {
    value.map(|value| format!("{value:?}"))
}

/// A number; zero is none.
fn number(value: Option<impl Into<u64>>) -> Option<String> {
    let value = value.map(Into::into).filter(|value| *value != 0);
    value.map(|value| value.to_string())
}

/// A word that is always said.
fn always<T: Debug>(value: Option<T>) -> Option<String> {
    Some(word(value).unwrap_or_default())
}

fn flag(is: bool) -> Option<String> {
    is.then(|| "yes".to_owned())
}

fn driver<T: Debug>(disk: &Disk, of: fn(&DiskDriver) -> Option<T>) -> Option<String> {
    word(disk.driver.as_ref().and_then(of))
}

fn tune(disk: &Disk, of: fn(&IoTune) -> Option<u64>) -> Option<String> {
    number(disk.iotune.as_ref().and_then(of))
}

fn geometry(disk: &Disk, of: fn(&Geometry) -> u32) -> Option<String> {
    number(disk.geometry.as_ref().map(of))
}

fn block(disk: &Disk, of: fn(&BlockIo) -> Option<u32>) -> Option<String> {
    Some(number(disk.blockio.as_ref().and_then(of)).unwrap_or_default())
}

/// In libvirt's order.
// table
const FIELDS: &[Field] = &[
    ("device", |d| always(Some(d.device))),
    ("bus", |d| word(d.target.bus)),
    ("tray", |d| word(d.target.tray.filter(|tray| *tray == Tray::Open))),
    ("removable", |d| word(d.target.removable)),
    ("rotation rate", |d| word(d.target.rotation_rate)),
    ("geometry cylinders", |d| geometry(d, |g| g.cyls)),
    ("geometry heads", |d| geometry(d, |g| g.heads)),
    ("geometry sectors", |d| geometry(d, |g| g.secs)),
    ("BIOS-translation-modus", |d| {
        word(d.geometry.as_ref().and_then(|g| g.trans))
    }),
    ("blockio logical_block_size", |d| {
        block(d, |b| b.logical_block_size)
    }),
    ("blockio physical_block_size", |d| {
        block(d, |b| b.physical_block_size)
    }),
    ("blockio discard_granularity", |d| {
        block(d, |b| b.discard_granularity)
    }),
    ("blkdeviotune total_bytes_sec", |d| tune(d, |t| t.total_bytes_sec)),
    ("blkdeviotune read_bytes_sec", |d| tune(d, |t| t.read_bytes_sec)),
    ("blkdeviotune write_bytes_sec", |d| tune(d, |t| t.write_bytes_sec)),
    ("blkdeviotune total_iops_sec", |d| tune(d, |t| t.total_iops_sec)),
    ("blkdeviotune read_iops_sec", |d| tune(d, |t| t.read_iops_sec)),
    ("blkdeviotune write_iops_sec", |d| tune(d, |t| t.write_iops_sec)),
    ("blkdeviotune total_bytes_sec_max", |d| {
        tune(d, |t| t.total_bytes_sec_max)
    }),
    ("blkdeviotune read_bytes_sec_max", |d| {
        tune(d, |t| t.read_bytes_sec_max)
    }),
    ("blkdeviotune write_bytes_sec_max", |d| {
        tune(d, |t| t.write_bytes_sec_max)
    }),
    ("blkdeviotune total_iops_sec_max", |d| {
        tune(d, |t| t.total_iops_sec_max)
    }),
    ("blkdeviotune read_iops_sec_max", |d| {
        tune(d, |t| t.read_iops_sec_max)
    }),
    ("blkdeviotune write_iops_sec_max", |d| {
        tune(d, |t| t.write_iops_sec_max)
    }),
    ("blkdeviotune size_iops_sec", |d| tune(d, |t| t.size_iops_sec)),
    ("blkdeviotune group name", |d| {
        d.iotune.as_ref().and_then(|t| t.group_name.clone())
    }),
    ("serial", |d| d.serial.clone()),
    ("wwn", |d| d.wwn.clone()),
    ("vendor", |d| d.vendor.clone()),
    ("product", |d| d.product.clone()),
    ("cache", |d| driver(d, |r| r.cache)),
    ("error_policy", |d| driver(d, |r| r.error_policy)),
    ("rerror_policy", |d| driver(d, |r| r.rerror_policy)),
    ("io", |d| driver(d, |r| r.io)),
    ("ioeventfd", |d| driver(d, |r| r.ioeventfd)),
    ("event_idx", |d| driver(d, |r| r.event_idx)),
    ("copy_on_read", |d| driver(d, |r| r.copy_on_read)),
    ("discard_no_unref", |d| driver(d, |r| r.discard_no_unref)),
    ("transient", |d| word(d.transient.as_ref())),
    ("address", |d| word(d.info.address.as_ref())),
    ("alias", |d| d.info.alias.clone()),
    ("boot order", |d| number(d.info.boot.as_ref().map(|b| b.order))),
    ("model", |d| word(d.model)),
    ("rawio", |d| word(d.rawio)),
    ("sgio", |d| word(d.sgio)),
    ("discard", |d| driver(d, |r| r.discard)),
    ("iothread", |d| driver(d, |r| r.iothread)),
    (THREADS, |d| driver(d, |r| r.iothreads.clone())),
    ("backenddomain", |d| d.backend_domain.clone()),
    ("readonly", |d| flag(d.readonly)),
    ("shared", |d| flag(d.shareable)),
    ("detect_zeroes", |d| driver(d, |r| r.detect_zeroes)),
    ("queues", |d| driver(d, |r| r.queues)),
    ("queue_size", |d| driver(d, |r| r.queue_size)),
    ("metadata_cache", |d| driver(d, |r| r.metadata_cache.clone())),
];
