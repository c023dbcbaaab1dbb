//! Whom QEMU runs as, and to whom the files belong that it uses.
//!
//! With dynamic ownership a guest's files are given to QEMU's user before it starts and back when it stops. The former
//! owner is kept with the file, in libvirt's extended attributes, with a count of the guests that use it: so either daemon
//! can give it back, and a file that two guests share is given back by the last. An image that guests only read, or share,
//! is given and stays so, as with libvirt: its owner is not remembered.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use domxml::devices::DeviceRef;
use nix::unistd::{Gid, Uid, chown};

use crate::{
    error::{Area, Error, Result},
    ops::{
        Driver,
        document::plan,
        holdings::{cgroup, hostdev, storage::chain},
        host::identity::Identity,
    },
};

/// libvirt's attributes of a file that is in use: owner before, users, and when the host was started.
const OWNER: &str = "trusted.libvirt.security.dac";
const COUNT: &str = "trusted.libvirt.security.ref_dac";
const BOOTED: &str = "trusted.libvirt.security.timestamp_dac";

/// The files of a guest that change hands.
#[derive(Debug, Default)]
pub struct Owners {
    files: Vec<PathBuf>,
    /// Images that several guests may read: whoever owned them before is not remembered, and they are not given back.
    shared: Vec<PathBuf>,
    /// Files that are root's whenever no guest has them.
    of_root: Vec<PathBuf>,
    to: Option<Identity>,
    remember: bool,
}

impl Owners {
    /// The files of a document, by what qemu.conf says of ownership.
    pub fn of(driver: &Driver, document: &domxml::Domain) -> Self {
        let config = driver.config();
        let to = Identity::of(&config)
            .ok()
            .filter(|i| i.privileged && config.identity.dynamic_ownership);
        let (shared, disks): (Vec<_>, Vec<_>) = document.devices.disks.iter().partition(|d| is_shared(d));
        let boot = [&document.os.kernel, &document.os.initrd, &document.os.dtb]
            .into_iter()
            .flatten()
            .map(PathBuf::from);
        Self {
            files: images(&disks)
                .chain(boot)
                .chain(plan::nvram_path(document))
                .chain(document.devices.iter().filter_map(file_of))
                .collect(),
            shared: images(&shared).collect(),
            to,
            remember: config.identity.remember_owner,
            ..Self::default()
        }
    }

    /// The nodes of a document's host devices.
    pub fn of_hostdevs(driver: &Driver, document: &domxml::Domain) -> Self {
        let config = driver.config();
        let to = Identity::of(&config)
            .ok()
            .filter(|i| i.privileged && config.identity.dynamic_ownership);
        let nodes = hostdev::nodes(driver.hostdevs.root(), document);
        let (of_root, files): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.is_roots);
        let paths = |nodes: Vec<hostdev::Node>| nodes.into_iter().map(|node| node.path).collect();
        Self {
            files: paths(files),
            of_root: paths(of_root),
            to,
            remember: config.identity.remember_owner,
            ..Self::default()
        }
    }

    /// The files of one device that is no disk.
    pub fn of_device(driver: &Driver, device: DeviceRef<'_>) -> Self {
        let config = driver.config();
        let to = Identity::of(&config)
            .ok()
            .filter(|i| i.privileged && config.identity.dynamic_ownership);
        let node = match device {
            DeviceRef::Hostdev(hostdev) => hostdev::node_of(driver.hostdevs.root(), hostdev),
            _ => None,
        };
        let (of_root, mut files): (Vec<_>, Vec<_>) = node.into_iter().partition(|node| node.is_roots);
        files.extend(file_of(device).map(|path| hostdev::Node {
            path,
            is_roots: false,
        }));
        let paths = |nodes: Vec<hostdev::Node>| nodes.into_iter().map(|node| node.path).collect();
        Self {
            files: paths(files),
            of_root: paths(of_root),
            to,
            remember: config.identity.remember_owner,
            ..Self::default()
        }
    }

    /// The files of one disk.
    pub fn of_disk(driver: &Driver, disk: &domxml::devices::Disk) -> Self {
        let config = driver.config();
        let to = Identity::of(&config)
            .ok()
            .filter(|i| i.privileged && config.identity.dynamic_ownership);
        let image: Vec<_> = images(&[disk]).collect();
        let (files, shared) = if is_shared(disk) {
            (Vec::new(), image)
        } else {
            (image, Vec::new())
        };
        Self {
            files,
            shared,
            to,
            remember: config.identity.remember_owner,
            ..Self::default()
        }
    }

    /// Gives the files to QEMU's user. On an error those already given are given back.
    ///
    /// # Errors
    /// `System` if a file's owner can't be changed.
    pub fn take(&self) -> Result<()> {
        let Some(to) = self.to else { return Ok(()) };
        let others = self.shared.iter().chain(&self.of_root).map(|file| (file, false));
        for (file, remember) in self.files.iter().map(|file| (file, self.remember)).chain(others) {
            if let Err(error) = take(file, to, remember) {
                self.restore_before(file);
                let what = format!(
                    "unable to set user and group to '{}:{}' on '{}'",
                    to.uid,
                    to.gid,
                    file.display()
                );
                return Err(Error::system(what, error).in_area(Area::Security));
            }
        }
        Ok(())
    }

    /// Gives the files back. What can't be given back is logged.
    pub fn restore(&self) {
        if self.to.is_none() {
            return;
        }
        if self.remember {
            self.files.iter().for_each(|f| restore(f));
        }
        for file in &self.of_root {
            give_to_root(file);
        }
    }

    /// Gives back those before a file.
    fn restore_before(&self, failed: &Path) {
        self.files
            .iter()
            .take_while(|f| *f != failed)
            .for_each(|f| restore(f));
        self.of_root
            .iter()
            .take_while(|f| *f != failed)
            .for_each(|f| give_to_root(f));
    }
}

/// The file of a device that is neither a disk nor the host's: what a memory module is of, and an input device.
fn file_of(device: DeviceRef<'_>) -> Option<PathBuf> {
    match device {
        DeviceRef::Memory(module) => module.source.as_ref()?.path.as_deref().map(PathBuf::from),
        DeviceRef::Input(_) => cgroup::nodes::path_of(device).map(PathBuf::from),
        _ => None,
    }
}

/// Whether other guests may use the disk's image at the same time.
fn is_shared(disk: &domxml::devices::Disk) -> bool {
    disk.readonly || disk.shareable
}

fn images(disks: &[&domxml::devices::Disk]) -> impl Iterator<Item = PathBuf> {
    disks
        .iter()
        .filter_map(|disk| chain::opened_path(disk.kind, disk.source.as_ref()))
}

fn take(file: &Path, to: Identity, remember: bool) -> std::io::Result<()> {
    let metadata = fs::metadata(file)?;
    if remember {
        let booted = boot_time();
        let fresh = get(file, BOOTED).as_deref() == Some(booted.as_str());
        let count: u32 = get(file, COUNT)
            .filter(|_| fresh)
            .and_then(|c| c.parse().ok())
            .unwrap_or(0);
        let mut noted = set(file, COUNT, &(count + 1).to_string());
        if count == 0 {
            noted = noted
                .and_then(|()| set(file, OWNER, &format!("+{}:+{}", metadata.uid(), metadata.gid())))
                .and_then(|()| set(file, BOOTED, &booted));
        }
        // A file system without such attributes forgets the owner, as with libvirt.
        if let Err(error) = noted {
            tracing::debug!(file = %file.display(), %error, "the owner of the file can't be remembered");
        }
    }
    if (metadata.uid(), metadata.gid()) == (to.uid, to.gid) {
        return Ok(());
    }
    chown(file, Some(Uid::from_raw(to.uid)), Some(Gid::from_raw(to.gid))).map_err(Into::into)
}

/// A file that went with its device is nobody's.
fn give_to_root(file: &Path) {
    if let Err(error) = chown(file, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))
        && error != nix::errno::Errno::ENOENT
    {
        tracing::warn!(file = %file.display(), %error, "the file could not be given back to root");
    }
}

fn restore(file: &Path) {
    let Some(count) = get(file, COUNT).and_then(|c| c.parse::<u32>().ok()) else {
        return;
    };
    if count > 1 {
        // Its other users still need it.
        let _ = set(file, COUNT, &(count - 1).to_string());
        return;
    }
    let owner = get(file, OWNER);
    for name in [OWNER, COUNT, BOOTED] {
        let _ = unixfd::remove_attribute(file, name);
    }
    let Some((uid, gid)) = owner.as_deref().and_then(parse_owner) else {
        return;
    };
    if let Err(error) = chown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        tracing::warn!(file = %file.display(), %error, "the file could not be given back to its owner");
    }
}

/// "+UID:+GID".
fn parse_owner(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    Some((
        uid.strip_prefix('+')?.parse().ok()?,
        gid.strip_prefix('+')?.parse().ok()?,
    ))
}

fn get(file: &Path, name: &str) -> Option<String> {
    unixfd::attribute(file, name)
        .ok()
        .flatten()
        .and_then(|v| String::from_utf8(v).ok())
}

fn set(file: &Path, name: &str, value: &str) -> std::io::Result<()> {
    unixfd::set_attribute(file, name, value.as_bytes())
}

/// When the host was started, in seconds since 1970; empty if the kernel does not tell.
fn boot_time() -> String {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines()
        .find_map(|l| l.strip_prefix("btime "))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        assert_eq!(parse_owner("+0:+107"), Some((0, 107)));
        assert_eq!(parse_owner("root:root"), None);
    }
}
