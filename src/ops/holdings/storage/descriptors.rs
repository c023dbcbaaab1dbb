//! Groups of descriptors that clients have handed over for a guest.
//!
//! A disk whose source names a group (`fdgroup`) is opened by its descriptors: at a start, by hot-plug and as a medium. The
//! path beside it is a name only: neither its owner nor a lease of it is taken, for the client has opened the file and
//! answers for it. A group lives as long as the session of the client that handed it over, and QEMU gets duplicates.
//!
//! What the client says of labels has no effect: QEMU's user needs no right to a file that is open already, and only
//! SELinux would label it.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use domxml::devices::Disk;
use qemu_plan::{block, command::Resources};
use unixfd::Fds;
use uuid::Uuid;

use crate::error::{Code, Error, Result};

/// Most descriptors that the groups of one session may have together.
const OF_SESSION: usize = 1_024;

/// The groups of all guests.
#[derive(Clone, Default)]
pub struct Groups {
    table: Arc<Mutex<HashMap<(Uuid, String), Group>>>,
}

/// The descriptors of one group, and whose they are.
#[derive(Clone)]
struct Group {
    session: Arc<str>,
    fds: Fds,
}

impl Groups {
    fn table(&self) -> MutexGuard<'_, HashMap<(Uuid, String), Group>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Associates a group with a guest, in place of one of the same name.
    ///
    /// # Errors
    /// `ResourceBusy` if the session has handed over too many.
    pub(crate) fn put(&self, guest: Uuid, name: String, (session, fds): (Arc<str>, Fds)) -> Result<()> {
        let mut table = self.table();
        let key = (guest, name);
        let others = table
            .iter()
            .filter(|(at, group)| group.session == session && **at != key);
        let taken: usize = others.map(|(_, group)| group.fds.len()).sum();
        if taken.saturating_add(fds.len()) > OF_SESSION {
            let text = format!("a client may associate {OF_SESSION} file descriptors at most");
            return Err(Error::new(Code::ResourceBusy, text));
        }
        table.insert(key, Group { session, fds });
        Ok(())
    }

    /// The groups of a session go with it.
    pub(crate) fn end(&self, session: &str) {
        self.table().retain(|_, group| *group.session != *session);
    }

    /// The groups that the sources of disks name.
    ///
    /// # Errors
    /// `InvalidArg` if one is not associated with the guest.
    pub(crate) fn named_by<'a>(
        &self,
        guest: Uuid,
        disks: impl IntoIterator<Item = &'a Disk>,
    ) -> Result<Handed> {
        let mut handed = Handed::default();
        let sources = disks.into_iter().flat_map(block::sources);
        for name in sources.filter_map(|source| source.fdgroup.as_deref()) {
            let found = self
                .table()
                .get(&(guest, name.to_owned()))
                .map(|group| group.fds.clone());
            let fds = found.ok_or_else(|| not_associated(name))?;
            handed.0.insert(name.to_owned(), fds);
        }
        Ok(handed)
    }
}

impl Groups {
    /// A duplicate of the one descriptor of a group.
    ///
    /// # Errors
    /// `InvalidArg` if the group is not associated with the guest, or has several.
    pub(crate) fn only(&self, guest: Uuid, name: &str) -> Result<OwnedFd> {
        let found = self
            .table()
            .get(&(guest, name.to_owned()))
            .map(|group| group.fds.clone());
        let fds = found.ok_or_else(|| not_associated(name))?;
        match (fds.len(), fds.get(0)) {
            (1, Some(fd)) => fd
                .try_clone_to_owned()
                .map_err(|error| Error::system("cannot duplicate a descriptor", error)),
            (count, _) => Err(Error::argument(format!(
                "file descriptor group '{name}' must contain one file descriptor, not {count}"
            ))),
        }
    }
}

fn not_associated(name: &str) -> Error {
    Error::argument(format!(
        "file descriptor group '{name}' was not associated with the domain"
    ))
}

/// The groups that some disks name, kept however long their sessions last.
#[derive(Clone, Debug, Default)]
pub struct Handed(HashMap<String, Fds>);

impl Handed {
    /// The file that a group is of.
    ///
    /// # Errors
    /// Its descriptor can't be duplicated.
    pub(crate) fn file(&self, group: &str) -> io::Result<File> {
        let fds = self.0.get(group);
        let first = fds.and_then(|fds| fds.get(0)).ok_or(io::ErrorKind::NotFound)?;
        first.try_clone_to_owned().map(File::from)
    }

    /// Gives QEMU duplicates for a disk whose sets are numbered: `keep` takes each and says by which number the command names
    /// it.
    ///
    /// # Errors
    /// A descriptor can't be duplicated, what `keep` gives.
    pub(crate) fn hand_over(
        &self,
        disk: &Disk,
        mut keep: impl FnMut(OwnedFd) -> Result<i32>,
        given: &mut Resources,
    ) -> Result<()> {
        for source in block::sources(disk) {
            let names = source
                .private_data
                .as_ref()
                .and_then(|private| private.nodenames.as_ref());
            let node = names.and_then(|names| names.of("storage"));
            let Some((group, node)) = source.fdgroup.as_deref().zip(node) else {
                continue;
            };
            let fds = self.0.get(group).ok_or_else(|| not_associated(group))?;
            let failed = |_| {
                Error::internal(format!(
                    "failed to duplicate file descriptor for fd group '{group}'"
                ))
            };
            let copies = fds.try_clone().map_err(failed)?;
            let numbers = copies.into_iter().map(&mut keep).collect::<Result<Vec<_>>>()?;
            given.devices.entry(node.to_owned()).or_default().descriptors = numbers;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Fds {
        let open = || OwnedFd::from(File::open("/dev/null").unwrap());
        Fds::new((0..count).map(|_| open()).collect())
    }

    #[test]
    fn a_session_takes_its_groups_along_and_has_a_limit() {
        let (groups, guest) = (Groups::default(), Uuid::from_u128(1));
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let put = |name: &str, session: &Arc<str>, count| {
            groups.put(guest, name.to_owned(), (Arc::clone(session), some(count)))
        };
        put("a", &one, 1).unwrap();
        put("b", &two, 1).unwrap();
        assert!(put("c", &one, OF_SESSION).is_err());
        // What is replaced counts no more.
        put("a", &one, OF_SESSION).unwrap();
        put("a", &one, 1).unwrap();
        groups.end("one");
        let left: Vec<_> = groups.table().keys().map(|(_, name)| name.clone()).collect();
        assert_eq!(left, ["b"]);
    }
}
