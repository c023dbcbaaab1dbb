//! What a guest gets of block devices.

use std::path::Path;

use confine::cgroup::{BlockLimit, DeviceNode, Group};
use domxml::tuning::BlockTuneDevice;

use crate::{
    error::{Code, Error, Result},
    ops::cgroup::refused,
};

/// Sets the weight of a guest against others.
///
/// # Errors
/// `OperationUnsupported` where the kernel has no weights; what it refuses.
pub(in crate::ops) fn set_weight(group: &Group, weight: u32) -> Result<()> {
    match group.set_block_weight(weight).map_err(refused)? {
        true => Ok(()),
        false => Err(Error::new(Code::OperationUnsupported, "blkio weight is valid only for bfq or cfq scheduler")),
    }
}

/// Sets what a document says of one device.
///
/// # Errors
/// There is no such device; what the kernel refuses.
pub(in crate::ops) fn set_device(group: &Group, device: &BlockTuneDevice) -> Result<()> {
    let number = number(&device.path)?;
    if let Some(weight) = device.weight.filter(|weight| *weight != 0)
        && !group.set_device_weight(number, weight).map_err(refused)?
    {
        return Err(Error::invalid("blkio device weight is valid only for cfq scheduler"));
    }
    let limits = [
        (BlockLimit::ReadIops, device.read_iops_sec.map(u64::from)),
        (BlockLimit::WriteIops, device.write_iops_sec.map(u64::from)),
        (BlockLimit::ReadBytes, device.read_bytes_sec),
        (BlockLimit::WriteBytes, device.write_bytes_sec),
    ];
    for (limit, value) in limits {
        if let Some(value) = value.filter(|value| *value != 0) {
            group.set_block_limit(number, limit, value).map_err(refused)?;
        }
    }
    Ok(())
}

/// Major and minor number of a block device.
fn number(path: &str) -> Result<(u64, u64)> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::system(format_args!("Path '{path}' is not accessible"), error))?;
    drop(metadata);
    match DeviceNode::at(Path::new(path)) {
        Some(DeviceNode { block: true, major, minor: Some(minor) }) => Ok((u64::from(major), u64::from(minor))),
        _ => Err(Error::system(format_args!("Path '{path}' must be a block device"), std::io::Error::from_raw_os_error(nix::libc::EINVAL))),
    }
}
