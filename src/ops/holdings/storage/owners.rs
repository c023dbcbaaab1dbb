//! Whom QEMU runs as, and to whom the files belong that it uses.
//!
//! With dynamic ownership a guest's files are given to QEMU's user before it starts and back when it stops. The former
//! owner is kept with the file, in libvirt's extended attributes, with a count of the guests that use it: so either daemon
//! can give it back, and a file that two guests share is given back by the last. An image that guests only read, or share,
//! or that is below another, is given and stays so, as with libvirt: its owner is not remembered. A label of a document
//! says that the guest runs as somebody else, or that its files, or those of a device, are left alone or become
//! somebody else's.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use domxml::{
    Domain,
    devices::{BackingStore, DeviceRef, DeviceSeclabel, Disk, StorageKind, YesNo},
    security::SeclabelType,
};
use nix::{
    errno::Errno,
    unistd::{Gid, Uid, chown},
};

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        document::plan,
        holdings::{cgroup, chardev, hostdev, storage::chain},
        host::identity::{Identity, OWNERS, owner_label},
    },
};

/// libvirt's attributes of a file that is in use: owner before, users, and when the host was started.
const OWNER: &str = "trusted.libvirt.security.dac";
const COUNT: &str = "trusted.libvirt.security.ref_dac";
const BOOTED: &str = "trusted.libvirt.security.timestamp_dac";

/// What becomes of a file when the guest has done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It is given back to whoever owned it.
    GivenBack,
    /// It stays QEMU's user's, since other guests may use it as well: nobody remembers whose it was.
    Kept,
    /// It is root's whenever no guest has it.
    Roots,
}

/// A file that changes hands.
#[derive(Debug)]
struct Handed {
    path: PathBuf,
    to: Identity,
    after: After,
}

/// The files of a guest that change hands.
#[derive(Debug, Default)]
pub struct Owners {
    files: Vec<Handed>,
    remember: bool,
    /// A label that names nobody.
    wrong: Option<Error>,
}

/// Whose a guest's files become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    to: Option<Identity>,
    remember: bool,
}

impl Rules {
    /// By the document's label of owners, and by what qemu.conf says of ownership.
    pub(crate) fn of(driver: &Driver, document: &Domain) -> Self {
        let config = driver.config();
        let to = Identity::of_guest(&config, document).ok();
        let fixed = owner_label(document)
            .is_some_and(|label| label.kind == Some(SeclabelType::None) || label.relabel == Some(YesNo::No));
        Self {
            to: to.filter(|to| to.privileged && config.identity.dynamic_ownership && !fixed),
            remember: config.identity.remember_owner,
        }
    }

    /// Whose a file becomes that has labels of its own; nobody's: it is left alone.
    ///
    /// # Errors
    /// `InvalidArg` for a label that names nobody.
    pub(crate) fn for_labels(self, labels: &[DeviceSeclabel]) -> Result<Option<Identity>> {
        let own = labels.iter().find(|label| label.model.as_deref() == Some(OWNERS));
        match (self.to, own) {
            (Some(_), Some(own)) if own.relabel == Some(YesNo::No) => Ok(None),
            (
                Some(to),
                Some(DeviceSeclabel {
                    label: Some(label), ..
                }),
            ) => to.labelled(label).map(Some),
            (to, _) => Ok(to),
        }
    }
}

impl Owners {
    /// The files of a document but those of its character devices, which are made as they are opened.
    pub fn of(driver: &Driver, document: &Domain) -> Self {
        let rules = Rules::of(driver, document);
        let mut owners = Self::by(rules);
        for disk in &document.devices.disks {
            owners.add_disk(rules, disk);
        }
        let os = &document.os;
        let boot = [&os.kernel, &os.initrd, &os.dtb].into_iter().flatten();
        let tables = os.acpi_tables.iter().map(|table| &table.path);
        let files = boot.chain(tables).map(PathBuf::from);
        let devices = document.devices.iter().filter_map(file_of);
        for path in files.chain(plan::nvram_path(document)).chain(devices) {
            owners.add(rules.to, path, After::GivenBack);
        }
        owners
    }

    /// The files of a document's character devices.
    pub fn of_chardevs(driver: &Driver, document: &Domain) -> Self {
        let rules = Rules::of(driver, document);
        let mut owners = Self::by(rules);
        for device in document.devices.iter() {
            owners.add_chardev(driver, rules, device);
        }
        owners
    }

    /// The nodes of a document's host devices.
    pub fn of_hostdevs(driver: &Driver, document: &Domain) -> Self {
        let rules = Rules::of(driver, document);
        let mut owners = Self::by(rules);
        for node in hostdev::nodes(driver.hostdevs.root(), document) {
            owners.add_node(rules, node);
        }
        owners
    }

    /// The files of one device of a guest; it is no disk.
    pub fn of_device(driver: &Driver, document: &Domain, device: DeviceRef<'_>) -> Self {
        let rules = Rules::of(driver, document);
        let mut owners = Self::by(rules);
        let passed = match device {
            DeviceRef::Hostdev(hostdev) => Some(hostdev.clone()),
            DeviceRef::Interface(card) => hostdev::of_interface(card),
            _ => None,
        };
        let node = passed.and_then(|hostdev| hostdev::node_of(driver.hostdevs.root(), &hostdev));
        node.into_iter().for_each(|node| owners.add_node(rules, node));
        if let Some(path) = file_of(device) {
            owners.add(rules.to, path, After::GivenBack);
        }
        owners.add_chardev(driver, rules, device);
        owners
    }

    /// The files of one disk of a guest.
    pub fn of_disk(driver: &Driver, document: &Domain, disk: &Disk) -> Self {
        let rules = Rules::of(driver, document);
        let mut owners = Self::by(rules);
        owners.add_disk(rules, disk);
        owners
    }

    fn by(rules: Rules) -> Self {
        Self {
            remember: rules.remember,
            ..Self::default()
        }
    }

    fn add(&mut self, to: Option<Identity>, path: PathBuf, after: After) {
        self.files.extend(to.map(|to| Handed { path, to, after }));
    }

    /// Whose files with these labels become; a wrong label is told when the files are taken.
    fn judged(&mut self, rules: Rules, labels: &[DeviceSeclabel]) -> Option<Identity> {
        rules.for_labels(labels).unwrap_or_else(|error| {
            self.wrong.get_or_insert(error);
            None
        })
    }

    /// The images of a disk: those below its own are of its label unless they have one.
    fn add_disk(&mut self, rules: Rules, disk: &Disk) {
        let top = disk.source.as_ref();
        let labels = top.map(|source| &source.seclabels[..]).unwrap_or_default();
        let of_disk = self.judged(rules, labels);
        let after = if disk.readonly || disk.shareable {
            After::Kept
        } else {
            After::GivenBack
        };
        for path in chain::files_of(disk.kind, top) {
            self.add(of_disk, path, after);
        }
        let mut below = disk.backing.as_deref();
        while let Some(BackingStore {
            kind,
            source,
            backing,
            ..
        }) = below
        {
            let kind = kind.unwrap_or(StorageKind::File);
            let files = chain::files_of(kind, source.as_ref());
            if !files.is_empty() {
                let own = source
                    .as_ref()
                    .map(|source| &source.seclabels[..])
                    .unwrap_or_default();
                let to = match own {
                    [] => of_disk,
                    own => self.judged(rules, own),
                };
                files.into_iter().for_each(|path| self.add(to, path, After::Kept));
            }
            below = backing.as_deref();
        }
    }

    fn add_chardev(&mut self, driver: &Driver, rules: Rules, device: DeviceRef<'_>) {
        let (paths, labels) = chardev::files_of(driver, device);
        if paths.is_empty() {
            return;
        }
        let to = self.judged(rules, labels);
        for path in paths {
            self.add(to, path, After::GivenBack);
        }
    }

    fn add_node(&mut self, rules: Rules, node: hostdev::Node) {
        let after = if node.is_roots {
            After::Roots
        } else {
            After::GivenBack
        };
        self.add(rules.to, node.path, after);
    }

    /// Gives the files to QEMU's user. On an error those already given are given back.
    ///
    /// # Errors
    /// A label names nobody; `OperationInvalid` for a file that another guest has under another owner; `System` if a
    /// file's owner can't be changed.
    pub fn take(&self) -> Result<()> {
        if let Some(wrong) = &self.wrong {
            let again = Error::new(wrong.code, wrong.message.clone()).in_area(wrong.area);
            return Err(again);
        }
        for (at, file) in self.files.iter().enumerate() {
            let remember = self.remember && file.after == After::GivenBack;
            if let Err(error) = take(&file.path, file.to, remember) {
                self.give_back(&self.files[..at]);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether there is nothing to take, and nothing wrong.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.wrong.is_none()
    }

    /// Gives the files back. What can't be given back is logged.
    pub fn restore(&self) {
        self.give_back(&self.files);
    }

    fn give_back(&self, files: &[Handed]) {
        for file in files {
            match file.after {
                After::GivenBack if self.remember => restore(&file.path),
                // Nobody knows whose it was.
                After::GivenBack | After::Roots => give_to_root(&file.path),
                After::Kept => {}
            }
        }
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

fn take(file: &Path, to: Identity, remember: bool) -> Result<()> {
    let failed = |what: String, error| Error::system(what, error).in_area(Area::Security);
    let metadata =
        fs::metadata(file).map_err(|error| failed(format!("unable to stat: {}", file.display()), error))?;
    let (uid, gid) = (metadata.uid(), metadata.gid());
    let is_theirs = (uid, gid) == (to.uid, to.gid);
    if remember {
        note_user(file, (uid, gid), is_theirs)?;
    }
    if is_theirs {
        return Ok(());
    }
    match chown(file, Some(Uid::from_raw(to.uid)), Some(Gid::from_raw(to.gid))) {
        Ok(()) => Ok(()),
        // Such a file may be QEMU's to use nevertheless.
        Err(error @ (Errno::EPERM | Errno::EROFS | Errno::EOPNOTSUPP | Errno::EINVAL)) => {
            tracing::info!(file = %file.display(), %error, "the file keeps its owner");
            Ok(())
        }
        Err(error) => {
            if remember {
                restore(file);
            }
            let (uid, gid) = (to.uid, to.gid);
            let what = format!(
                "unable to set user and group to '{uid}:{gid}' on '{}'",
                file.display()
            );
            Err(failed(what, error.into()))
        }
    }
}

/// Counts one more user of a file with the file, and notes whose it was before the first.
fn note_user(file: &Path, (uid, gid): (u32, u32), is_theirs: bool) -> Result<()> {
    let booted = boot_time();
    let fresh = get(file, BOOTED).as_deref() == Some(booted.as_str());
    let count: u32 = get(file, COUNT)
        .filter(|_| fresh)
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    if count > 0 && !is_theirs {
        let text = format!(
            "Setting different DAC user or group on {} which is already in use",
            file.display()
        );
        return Err(Error::new(Code::OperationInvalid, text).in_area(Area::Security));
    }
    let mut noted = set(file, COUNT, &(count + 1).to_string());
    if count == 0 {
        noted = noted
            .and_then(|()| set(file, OWNER, &format!("+{uid}:+{gid}")))
            .and_then(|()| set(file, BOOTED, &booted));
    }
    // A file system without such attributes forgets the owner, as with libvirt.
    if let Err(error) = noted {
        tracing::debug!(file = %file.display(), %error, "the owner of the file can't be remembered");
    }
    Ok(())
}

/// A file whose former owner nobody knows is root's.
fn give_to_root(file: &Path) {
    if let Err(error) = chown(file, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))
        && error != nix::errno::Errno::ENOENT
    {
        tracing::warn!(file = %file.display(), %error, "the file could not be given back to root");
    }
}

fn restore(file: &Path) {
    let count = match unixfd::attribute(file, COUNT) {
        Ok(count) => count.and_then(|c| String::from_utf8(c).ok()?.parse::<u32>().ok()),
        Err(error) if error.kind() == ErrorKind::Unsupported => return give_to_root(file),
        Err(_) => None,
    };
    let Some(count) = count else { return };
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
