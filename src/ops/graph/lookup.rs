//! Disks and images by the names that clients give them.
//!
//! A disk is named by its target or the path of its image, an image by `vda[N]`, N being its number and not its depth, or
//! by its path. Errors are libvirt's, in its order.

use std::path::Path;

use domxml::devices::{Disk, StorageKind, disk::DiskBus};
use qemu_plan::block::{Chain, Layer};

use crate::{
    domain::{Run, View},
    error::{Code, Error, Result},
    ops::graph::job_of,
};

/// A running guest's disk by its name.
///
/// # Errors
/// `InvalidArg` if there is none.
pub(crate) fn disk_named<'a>(run: &'a Run, name: &str) -> Result<&'a Disk> {
    let disks = &run.document.domain.devices.disks;
    let by_target = disks.iter().find(|disk| disk.target.dev == name);
    let has_path = |disk: &&Disk| {
        let chain = Chain::of(disk);
        !name.is_empty() && chain.layers.first().and_then(Layer::path).as_deref() == Some(name)
    };
    by_target
        .or_else(|| disks.iter().find(has_path))
        .ok_or_else(|| Error::argument(format!("disk '{name}' not found in domain")))
}

/// Refuses a disk that is at work, or that takes no job.
///
/// # Errors
/// `BlockCopyActive` or `OperationUnsupported`.
pub(crate) fn check_free(view: &View, disk: &Disk) -> Result<()> {
    check_idle(view, disk)?;
    check_supported(disk)
}

/// Refuses a disk that is at work.
///
/// # Errors
/// `BlockCopyActive` or `OperationUnsupported`.
pub(crate) fn check_idle(view: &View, disk: &Disk) -> Result<()> {
    let target = &disk.target.dev;
    let busy = || format!("disk '{target}' already in active block job");
    if disk.mirror.is_some() {
        return Err(Error::new(Code::BlockCopyActive, busy()));
    }
    if job_of(view, target).is_some() {
        return Err(Error::new(Code::OperationUnsupported, busy()));
    }
    Ok(())
}

/// Refuses a disk whose images can't be moved while the guest runs.
///
/// # Errors
/// `OperationUnsupported`.
pub(crate) fn check_supported(disk: &Disk) -> Result<()> {
    let target = &disk.target.dev;
    let unsupported = |text: String| Err(Error::new(Code::OperationUnsupported, text));
    if disk.target.bus == Some(DiskBus::Sd) {
        return unsupported(format!(
            "block jobs are not supported on disk '{target}' using bus 'sd'"
        ));
    }
    if disk.transient.is_some() {
        return unsupported(format!(
            "block jobs are not supported on transient disk '{target}'"
        ));
    }
    if disk.kind == StorageKind::VhostUser {
        return unsupported(format!(
            "block jobs are not supported on vhostuser disk '{target}'"
        ));
    }
    Ok(())
}

/// An image of a disk's chain by its name: where it is in the chain. With `below`, only those under that image are meant.
///
/// # Errors
/// `InvalidArg` if it is not among them.
pub(crate) fn image(disk: &Disk, chain: &Chain, name: &str, below: Option<usize>) -> Result<usize> {
    let target = &disk.target.dev;
    let first = below.map_or(0, |below| below + 1);
    if let Some((named, index)) = numbered(name) {
        if named != target {
            return Err(Error::argument(format!(
                "requested target '{named}' does not match target '{target}'"
            )));
        }
        let found = chain.with_index(index).filter(|at| *at >= first);
        return found.ok_or_else(|| {
            Error::argument(format!(
                "could not find backing store index '{index}' in chain for '{target}'"
            ))
        });
    }
    let found = (first..chain.layers.len()).find(|at| is_named(chain, *at, name));
    found.ok_or_else(|| match below.and_then(|at| chain.layers.get(at)?.path()) {
        Some(above) => Error::argument(format!(
            "could not find image '{name}' beneath '{above}' in chain for '{target}'"
        )),
        None => Error::argument(format!("could not find image '{name}' in chain for '{target}'")),
    })
}

/// What is below an image without being named.
///
/// # Errors
/// `InvalidArg` if nothing is.
pub(crate) fn base_of(disk: &Disk, chain: &Chain, top: usize, lowest: bool) -> Result<usize> {
    let last = chain.layers.len().saturating_sub(1);
    if top >= last {
        let target = &disk.target.dev;
        return Err(Error::argument(format!(
            "could not find base image in chain for '{target}'"
        )));
    }
    Ok(if lowest { last } else { top + 1 })
}

/// Reads `vda[3]`.
fn numbered(name: &str) -> Option<(&str, u32)> {
    let (target, rest) = name.split_once('[')?;
    let index = rest.strip_suffix(']')?.parse().ok()?;
    (!target.is_empty()).then_some((target, index))
}

fn is_named(chain: &Chain, at: usize, name: &str) -> bool {
    let Some(layer) = chain.layers.get(at) else {
        return false;
    };
    let Some(path) = layer.path() else {
        return layer.source.name.as_deref() == Some(name);
    };
    if path == name || layer.relative() == Some(name) {
        return true;
    }
    let above = at
        .checked_sub(1)
        .and_then(|above| chain.layers.get(above)?.path());
    let dir = above.as_deref().and_then(|above| Path::new(above).parent());
    dir.is_some_and(|dir| dir.join(name) == Path::new(&path))
}

/// How images from `upper` on must name `lower` so that the names stay relative: joined, as each is relative to the image
/// above it.
///
/// # Errors
/// `OperationInvalid` if one of them is not relative.
pub(crate) fn relative_name(chain: &Chain, upper: usize, lower: usize) -> Result<String> {
    let refused = || Error::invalid("can't keep relative backing relationship");
    let mut joined = std::path::PathBuf::new();
    for at in upper + 1..=lower {
        let name = chain
            .layers
            .get(at)
            .and_then(Layer::relative)
            .ok_or_else(refused)?;
        joined = match joined.parent() {
            Some(dir) => dir.join(name),
            None => name.into(),
        };
    }
    match joined.as_os_str().is_empty() {
        true => Err(refused()),
        false => Ok(joined.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let text = "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/d/top' index='7'/>
            <backingStore type='file' index='2'><format type='qcow2'/><source file='/d/mid'/>
            <backingStore type='file' index='9'><format type='raw'/><source file='/d/e/low'/><backingStore/>
            </backingStore></backingStore>
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>";
        let mut document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        document.devices.disks.remove(0)
    }

    fn found(name: &str, below: Option<usize>) -> Result<usize, String> {
        let disk = disk();
        image(&disk, &Chain::of(&disk), name, below).map_err(|error| error.message.into_owned())
    }

    #[test]
    fn images_are_found_by_number_path_and_relative_path() {
        let table = [
            ("vda[7]", None, Ok(0)),
            ("vda[9]", None, Ok(2)),
            ("/d/mid", None, Ok(1)),
            ("mid", None, Ok(1)),
            ("e/low", None, Ok(2)),
            ("/d/e/low", Some(1), Ok(2)),
            (
                "vda[7]",
                Some(0),
                Err("could not find backing store index '7' in chain for 'vda'"),
            ),
            (
                "vdb[7]",
                None,
                Err("requested target 'vdb' does not match target 'vda'"),
            ),
            ("/x", None, Err("could not find image '/x' in chain for 'vda'")),
            (
                "/x",
                Some(0),
                Err("could not find image '/x' beneath '/d/top' in chain for 'vda'"),
            ),
        ];
        for (name, below, expected) in table {
            assert_eq!(
                found(name, below),
                expected.map_err(str::to_owned),
                "{name} {below:?}"
            );
        }
    }

    #[test]
    fn relative_names_are_joined() {
        let mut chain = Chain::of(&disk());
        assert!(relative_name(&chain, 0, 2).is_err());
        chain.layers[1].set_relative(Some("sub/mid".into()));
        chain.layers[2].set_relative(Some("low".into()));
        assert_eq!(relative_name(&chain, 0, 1).unwrap(), "sub/mid");
        assert_eq!(relative_name(&chain, 0, 2).unwrap(), "sub/low");
        assert_eq!(relative_name(&chain, 1, 2).unwrap(), "low");
    }
}
