//! All guests by UUID, name and number.
//!
//! Lookups copy a handle out under a short lock; nothing is awaited under it. A guest enters when it is first defined or
//! created and leaves by its owner task, when it is neither stored nor running.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicI32, atomic::Ordering,
    },
    time::{SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

use super::{Domain, View, owner::World, store::Store};
use crate::{
    error::{Area, Code, Error, Result},
    events::Journal,
};

/// The guests of this daemon.
pub struct Registry {
    maps: RwLock<Maps>,
    world: Arc<World>,
    next_id: AtomicI32,
    max_queued: usize,
}

#[derive(Default)]
struct Maps {
    by_uuid: HashMap<Uuid, Domain>,
    by_name: BTreeMap<Arc<str>, Domain>,
    by_id: HashMap<i32, Uuid>,
}

impl Registry {
    /// An empty registry; its owner tasks write through `store` and tell `journal`. At most `max_queued` jobs wait for a
    /// guest, 0 is any number.
    pub fn new(store: Store, journal: Journal, max_queued: usize) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self {
            maps: RwLock::default(),
            world: Arc::new(World {
                store,
                journal,
                registry: weak.clone(),
            }),
            next_id: AtomicI32::new(1),
            max_queued,
        })
    }

    /// The journal that commits are told to.
    pub fn journal(&self) -> &Journal {
        &self.world.journal
    }
    /// The files.
    pub fn store(&self) -> &Store {
        &self.world.store
    }

    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new run.
    pub fn new_id(&self) -> i32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
    /// Sees to it that numbers of new runs are above `id`.
    pub fn seen_id(&self, id: i32) {
        self.next_id.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// The guest with this UUID.
    ///
    /// # Errors
    /// `NoDomain`.
    pub fn by_uuid(&self, uuid: Uuid) -> Result<Domain> {
        let found = self
            .read()
            .by_uuid
            .get(&uuid)
            .filter(|d| d.view().exists())
            .cloned();
        found.ok_or_else(|| no_domain(format!("no domain with matching uuid '{uuid}'")))
    }
    /// The guest with this name.
    ///
    /// # Errors
    /// `NoDomain`.
    pub fn by_name(&self, name: &str) -> Result<Domain> {
        let maps = self.read();
        let found = maps
            .by_name
            .get(name)
            .filter(|d| is_called(&d.view(), name))
            .cloned();
        found.ok_or_else(|| no_domain(format!("no domain with matching name '{name}'")))
    }
    /// The guest whose run has this number.
    ///
    /// # Errors
    /// `NoDomain`.
    pub fn by_id(&self, id: i32) -> Result<Domain> {
        let maps = self.read();
        let found = maps
            .by_id
            .get(&id)
            .and_then(|uuid| maps.by_uuid.get(uuid))
            .cloned();
        found.ok_or_else(|| no_domain(format!("no domain with matching id {id}")))
    }

    /// All guests in the order of their names.
    pub fn all(&self) -> Vec<Domain> {
        let maps = self.read();
        maps.by_name
            .iter()
            .filter(|(name, d)| is_called(&d.view(), name))
            .map(|(_, d)| d.clone())
            .collect()
    }
    /// The newest view of all guests in the order of their names.
    pub fn views(&self) -> Vec<Arc<View>> {
        let maps = self.read();
        maps.by_name
            .iter()
            .map(|(name, d)| (name, d.view()))
            .filter(|(name, v)| is_called(v, name))
            .map(|(_, v)| v)
            .collect()
    }

    /// The guest that a document with this UUID and name is about: one that is there, or a new handle that nobody sees
    /// before its first commit.
    ///
    /// # Errors
    /// `OperationFailed` if only one of the two is taken, in libvirt's words.
    pub fn claim(&self, uuid: Uuid, name: &str) -> Result<Domain> {
        let mut maps = self.write();
        match (maps.by_uuid.get(&uuid), maps.by_name.contains_key(name)) {
            (Some(domain), _) if &*domain.view().name == name => Ok(domain.clone()),
            (None, false) => Ok(maps.insert(Domain::spawn(
                Arc::clone(&self.world),
                View::new(uuid, name.into(), first_generation()),
                self.max_queued,
            ))),
            _ => Err(maps.clash(uuid, name)),
        }
    }

    /// The guest that [`Self::claim`] would give, as it is; one of which nothing is known if it would be new.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn holder(&self, uuid: Uuid, name: &str) -> Result<Arc<View>> {
        let maps = self.read();
        match (maps.by_uuid.get(&uuid), maps.by_name.contains_key(name)) {
            (Some(domain), _) if &*domain.view().name == name => Ok(domain.view()),
            (None, false) => Ok(Arc::new(View::new(uuid, name.into(), first_generation()))),
            _ => Err(maps.clash(uuid, name)),
        }
    }

    /// Why no guest can have this UUID and name: only one of the two is somebody's.
    pub fn clash(&self, uuid: Uuid, name: &str) -> Error {
        self.read().clash(uuid, name)
    }

    /// Enters a guest that was found in the files at start-up.
    pub fn enter(&self, view: View) -> Domain {
        let mut maps = self.write();
        if view.id() != 0 {
            maps.by_id.insert(view.id(), view.uuid);
        }
        maps.insert(Domain::spawn(
            Arc::clone(&self.world),
            View {
                generation: first_generation(),
                ..view
            },
            self.max_queued,
        ))
    }

    /// Keeps `new_name` for `uuid`, so that nobody takes it while the rename is on its way.
    ///
    /// # Errors
    /// `OperationInvalid` if it is taken.
    pub fn reserve_name(&self, uuid: Uuid, new_name: &str) -> Result<()> {
        let mut maps = self.write();
        if maps.by_name.contains_key(new_name) {
            return Err(
                Error::invalid(format!("domain with name '{new_name}' already exists")).because("DOM_EXIST"),
            );
        }
        let domain = maps
            .by_uuid
            .get(&uuid)
            .cloned()
            .ok_or_else(|| no_domain(format!("no domain with matching uuid '{uuid}'")))?;
        maps.by_name.insert(new_name.into(), domain);
        Ok(())
    }

    /// Gives back a name that `reserve_name` kept and that did not become the guest's.
    pub fn release_name(&self, name: &str) {
        let mut maps = self.write();
        let keep = maps.by_name.get(name).is_some_and(|d| &*d.view().name == name);
        if !keep {
            maps.by_name.remove(name);
        }
    }

    /// Enters a number before the view that has it is published. A new name was reserved.
    pub(super) fn announce(&self, before: &View, after: &View) {
        if before.id() != after.id() && after.id() != 0 {
            self.write().by_id.insert(after.id(), after.uuid);
        }
    }

    /// Takes out name and number that the published view has no more.
    pub(super) fn retire(&self, before: &View, after: &View) {
        if before.id() != after.id() && before.id() != 0 {
            self.write().by_id.remove(&before.id());
        }
        if before.name != after.name {
            self.write().by_name.remove(&before.name);
        }
    }

    pub(super) fn remove(&self, view: &View) {
        let mut maps = self.write();
        maps.by_uuid.remove(&view.uuid);
        maps.by_name.remove(&view.name);
        maps.by_id.remove(&view.id());
    }

    /// Tells all owners to end.
    pub async fn close(&self) {
        for domain in self.all() {
            domain.close().await;
        }
    }
}

impl Maps {
    fn clash(&self, uuid: Uuid, name: &str) -> Error {
        let message = match (self.by_uuid.get(&uuid), self.by_name.get(name)) {
            (Some(domain), _) => format!(
                "domain '{}' is already defined with uuid {uuid}",
                domain.view().name
            ),
            (None, Some(other)) => format!("domain '{name}' already exists with uuid {}", other.uuid()),
            (None, None) => format!("domain '{name}' has just gone; try again"),
        };
        Error::new(Code::OperationFailed, message)
            .in_area(Area::Domain)
            .because("DOM_EXIST")
    }

    fn insert(&mut self, domain: Domain) -> Domain {
        let view = domain.view();
        self.by_name.insert(Arc::clone(&view.name), domain.clone());
        self.by_uuid.insert(view.uuid, domain.clone());
        domain
    }
}

/// Whether the guest is there under this name. While it is renamed it is entered under two.
fn is_called(view: &View, name: &str) -> bool {
    view.exists() && *view.name == *name
}

fn no_domain(message: String) -> Error {
    Error::new(Code::NoDomain, message)
}

/// Generations begin at the time, so that none repeats after a restart of the daemon.
fn first_generation() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0) << 8
}
