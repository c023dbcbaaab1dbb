//! Sessions of clients that guests are bound to: when the session ends, so do they.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use uuid::Uuid;

use crate::{
    error::{Error, Result},
    ops::{Conditions, Driver, run::stop},
};

/// Open sessions.
#[derive(Clone, Default)]
pub struct Sessions {
    open: Arc<Mutex<HashMap<Arc<str>, ()>>>,
}

/// One session, open until it is dropped.
pub struct Session {
    id: Arc<str>,
    sessions: Sessions,
    driver: Weak<Driver>,
}

impl Sessions {
    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, ()>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session.
    pub fn open(&self, driver: &Arc<Driver>) -> Session {
        let id: Arc<str> = Uuid::new_v4().to_string().into();
        self.table().insert(Arc::clone(&id), ());
        Session {
            id,
            sessions: self.clone(),
            driver: Arc::downgrade(driver),
        }
    }

    /// The open session of that id; none if the id is empty.
    ///
    /// # Errors
    /// `InvalidArg` if there is no such session.
    pub fn find(&self, id: &str) -> Result<Option<Arc<str>>> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.table().get_key_value(id).map(|(id, ())| Arc::clone(id));
        found
            .map(Some)
            .ok_or_else(|| Error::argument(format!("there is no open session '{id}'")))
    }

    /// Whether the session is still open: one may end while a guest that is bound to it starts.
    pub fn is_open(&self, id: &str) -> bool {
        self.table().contains_key(id)
    }
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

// A daemon that ends closes its clients' streams: that is no wish of theirs, and their guests stay.
impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.table().remove(&self.id);
        let Some(driver) = self.driver.upgrade().filter(|d| !d.stop.is_cancelled()) else {
            return;
        };
        driver.groups.end(&self.id);
        let bound = |v: &Arc<crate::domain::View>| {
            v.run
                .as_ref()
                .is_some_and(|r| r.launched.session.as_deref() == Some(&*self.id))
        };
        for view in driver.registry.views().into_iter().filter(bound) {
            let (uuid, driver) = (view.uuid, Arc::clone(&driver));
            driver.tracker.clone().spawn(async move {
                let Ok(domain) = driver.registry.by_uuid(uuid) else { return };
                if let Err(error) = stop::power_off(&driver, &domain, stop::How::default(), &Conditions::default()).await {
                    tracing::warn!(guest = %view.name, %error, "a guest bound to a session that ended could not be powered off");
                }
            });
        }
    }
}
