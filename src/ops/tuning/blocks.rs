//! What a guest gets of block devices.

use std::path::Path;

use confine::cgroup::{BlockLimit, Controller, DeviceNode, Group};
use domxml::{
    Domain,
    tuning::{BlockTune, BlockTuneDevice},
};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::scope::{self, Scope},
        holdings::cgroup::refused,
        tuning::{group_with, not_in_session},
    },
};

const NO_GROUP: &str = "blkio cgroup isn't mounted";

/// Most devices that have limits.
const DEVICES_MAX: usize = 1024;

/// What it gets; in a change, what is none stays, and zero takes a limit away.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Weight against others.
    pub weight: Option<u32>,
    /// Devices, by their paths.
    #[serde(with = "super::words::devices")]
    pub devices: Vec<BlockTuneDevice>,
}

/// What a guest gets: the weight of a running one by the kernel's word.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration, or is in no group of block devices.
pub fn read(driver: &Driver, view: &View, scope: Scope) -> Result<Limits> {
    not_in_session(driver, "Block I/O tuning")?;
    let document = scope::read(view, scope)?;
    let tune = document.domain()?.blkiotune.clone().unwrap_or_default();
    let weight = if document.is_live() {
        let group = group_with(driver, view, Controller::Blkio, NO_GROUP)?;
        group.block_weight().map_err(refused)?.ok_or_else(no_weights)?
    } else {
        tune.weight.unwrap_or(0)
    };
    Ok(Limits {
        weight: Some(weight),
        devices: tune.devices,
    })
}

fn no_weights() -> Error {
    Error::new(
        Code::OperationUnsupported,
        "blkio weight is valid only for bfq or cfq scheduler",
    )
}

pub(crate) fn apply(domain: &mut Domain, limits: &Limits) -> Result<()> {
    let tune = domain.blkiotune.get_or_insert_default();
    if limits.weight.is_some() {
        tune.weight = limits.weight.filter(|weight| *weight != 0);
    }
    limits
        .devices
        .iter()
        .for_each(|device| merge(&mut tune.devices, device));
    tune.devices.retain(|device| {
        *device
            != BlockTuneDevice {
                path: device.path.clone(),
                ..BlockTuneDevice::default()
            }
    });
    if tune.devices.len() > DEVICES_MAX {
        return Err(Error::argument(format!(
            "at most {DEVICES_MAX} devices can have limits"
        )));
    }
    if *tune == BlockTune::default() {
        domain.blkiotune = None;
    }
    Ok(())
}

fn merge(known: &mut Vec<BlockTuneDevice>, wanted: &BlockTuneDevice) {
    let place = known
        .iter()
        .position(|device| device.path == wanted.path)
        .unwrap_or_else(|| {
            known.push(BlockTuneDevice {
                path: wanted.path.clone(),
                ..BlockTuneDevice::default()
            });
            known.len() - 1
        });
    let device = &mut known[place];
    let small = [
        (&mut device.weight, wanted.weight),
        (&mut device.read_iops_sec, wanted.read_iops_sec),
        (&mut device.write_iops_sec, wanted.write_iops_sec),
    ];
    for (place, value) in small {
        if value.is_some() {
            *place = value.filter(|value| *value != 0);
        }
    }
    for (place, value) in [
        (&mut device.read_bytes_sec, wanted.read_bytes_sec),
        (&mut device.write_bytes_sec, wanted.write_bytes_sec),
    ] {
        if value.is_some() {
            *place = value.filter(|value| *value != 0);
        }
    }
}

/// What takes the change of a running guest back.
pub(crate) fn before(driver: &Driver, view: &View, limits: &Limits) -> Result<Limits> {
    not_in_session(driver, "Block I/O tuning")?;
    let group = group_with(driver, view, Controller::Blkio, NO_GROUP)?;
    let known = view.running()?.document.domain.blkiotune.clone();
    let known = known.unwrap_or_default().devices;
    let former = |wanted: &BlockTuneDevice| undone(wanted, known.iter().find(|d| d.path == wanted.path));
    let weight = group.block_weight().map_err(refused)?;
    Ok(Limits {
        weight: weight.filter(|_| limits.weight.is_some()),
        devices: limits.devices.iter().map(former).collect(),
    })
}

pub(crate) fn carry_out(driver: &Driver, view: &View, limits: &Limits) -> Result<()> {
    let before = before(driver, view, limits)?;
    let group = group_with(driver, view, Controller::Blkio, NO_GROUP)?;
    let result = set(&group, limits);
    // Those that were never set can't be undone either; why the change failed is what matters.
    if result.is_err()
        && let Err(error) = set(&group, &before)
    {
        tracing::debug!(guest = %view.name, %error, "a limit of block devices that was refused");
    }
    result
}

/// What takes a device back to what it was.
fn undone(wanted: &BlockTuneDevice, before: Option<&BlockTuneDevice>) -> BlockTuneDevice {
    let before = before.cloned().unwrap_or_default();
    let small = |wanted: Option<u32>, before: Option<u32>| wanted.map(|_| before.unwrap_or(0));
    let large = |wanted: Option<u64>, before: Option<u64>| wanted.map(|_| before.unwrap_or(0));
    BlockTuneDevice {
        path: wanted.path.clone(),
        weight: small(wanted.weight, before.weight),
        read_iops_sec: small(wanted.read_iops_sec, before.read_iops_sec),
        write_iops_sec: small(wanted.write_iops_sec, before.write_iops_sec),
        read_bytes_sec: large(wanted.read_bytes_sec, before.read_bytes_sec),
        write_bytes_sec: large(wanted.write_bytes_sec, before.write_bytes_sec),
    }
}

/// Sets limits in a guest's group.
///
/// # Errors
/// There is no such device; `OperationUnsupported` where the kernel has no weights; what it refuses.
pub(crate) fn set(group: &Group, limits: &Limits) -> Result<()> {
    if let Some(weight) = limits.weight.filter(|weight| *weight != 0)
        && !group.set_block_weight(weight).map_err(refused)?
    {
        return Err(no_weights());
    }
    limits
        .devices
        .iter()
        .try_for_each(|device| set_device(group, device))
}

fn set_device(group: &Group, device: &BlockTuneDevice) -> Result<()> {
    let number = number(&device.path)?;
    if let Some(weight) = device.weight
        && !group.set_device_weight(number, weight).map_err(refused)?
    {
        return Err(Error::invalid(
            "blkio device weight is valid only for cfq scheduler",
        ));
    }
    let limits = [
        (BlockLimit::ReadIops, device.read_iops_sec.map(u64::from)),
        (BlockLimit::WriteIops, device.write_iops_sec.map(u64::from)),
        (BlockLimit::ReadBytes, device.read_bytes_sec),
        (BlockLimit::WriteBytes, device.write_bytes_sec),
    ];
    let mut given = limits
        .into_iter()
        .filter_map(|(limit, value)| Some((limit, value?)));
    given.try_for_each(|(limit, value)| group.set_block_limit(number, limit, value).map_err(refused))
}

/// Major and minor number of a block device.
fn number(path: &str) -> Result<(u64, u64)> {
    std::fs::metadata(path)
        .map_err(|error| Error::system(format_args!("Path '{path}' is not accessible"), error))?;
    match DeviceNode::at(Path::new(path)) {
        Some(DeviceNode {
            block: true,
            major,
            minor: Some(minor),
        }) => Ok((u64::from(major), u64::from(minor))),
        _ => Err(Error::system(
            format_args!("Path '{path}' must be a block device"),
            std::io::Error::from_raw_os_error(nix::libc::EINVAL),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_merged_and_go_with_their_last_limit() {
        let mut domain = Domain::parse(
            "<domain type='qemu'><name>a</name><os><type>hvm</type></os></domain>",
            domxml::ParseFlags::INACTIVE,
        )
        .unwrap();
        let device = |path: &str| BlockTuneDevice {
            path: path.to_owned(),
            ..BlockTuneDevice::default()
        };
        let mut change = |weight, devices| {
            apply(&mut domain, &Limits { weight, devices })
                .map(|()| domain.blkiotune.clone())
                .unwrap()
        };
        change(
            Some(500),
            vec![BlockTuneDevice {
                read_iops_sec: Some(30),
                ..device("/dev/a")
            }],
        );
        let both = change(
            None,
            vec![
                BlockTuneDevice {
                    write_bytes_sec: Some(9),
                    ..device("/dev/a")
                },
                BlockTuneDevice {
                    weight: Some(0),
                    ..device("/dev/b")
                },
            ],
        );
        let expected = BlockTuneDevice {
            read_iops_sec: Some(30),
            write_bytes_sec: Some(9),
            ..device("/dev/a")
        };
        assert_eq!(
            both,
            Some(BlockTune {
                weight: Some(500),
                devices: vec![expected]
            })
        );
        let none = change(
            Some(0),
            vec![BlockTuneDevice {
                read_iops_sec: Some(0),
                write_bytes_sec: Some(0),
                ..device("/dev/a")
            }],
        );
        assert_eq!(none, None);
    }
}
