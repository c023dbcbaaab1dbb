//! Facts of the host that many calls need: read whole once, and again when something has come or gone.
//!
//! Reading them all takes hundreds of small reads, so it is done on a thread that may wait; to see that they are still
//! true takes a few reads of the kernel's memory, which is done in place.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hostinfo::{HostFacts, Landmarks, Print, Root};

use crate::{
    error::Result,
    ops::{Driver, host::place},
};

/// The last facts. One a daemon.
#[derive(Debug, Default)]
pub struct Kept {
    last: Mutex<Option<Known>>,
}

/// How long nothing is taken to come or go after a look.
const TRUSTED: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Known {
    looked: Instant,
    landmarks: Landmarks,
    print: Print,
    facts: Arc<HostFacts>,
}

impl Kept {
    /// The facts, if they are known and still true.
    fn current(&self, root: &Root) -> Option<Arc<HostFacts>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_mut()?;
        if known.looked.elapsed() > TRUSTED {
            let now = Instant::now();
            if known.landmarks.print(root).ok()? != known.print {
                return None;
            }
            known.looked = now;
        }
        Some(Arc::clone(&known.facts))
    }

    fn read(&self, root: &Root) -> hostinfo::Result<Arc<HostFacts>> {
        // First the print: what changes meanwhile is seen the next time.
        let looked = Instant::now();
        let landmarks = Landmarks::of(root)?;
        let print = landmarks.print(root)?;
        let facts = Arc::new(HostFacts::read(root)?);
        let known = Known {
            looked,
            landmarks,
            print,
            facts: Arc::clone(&facts),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(facts)
    }
}

/// The facts as they are now.
///
/// # Errors
/// `Internal` when the kernel does not tell.
pub(crate) async fn of_host(driver: &Arc<Driver>) -> Result<Arc<HostFacts>> {
    if let Some(facts) = driver.host_facts.current(&Root::at(&driver.host.root)) {
        return Ok(facts);
    }
    let driver = Arc::clone(driver);
    crate::blocking::file("reading the host's facts", move || {
        driver
            .host_facts
            .read(&Root::at(&driver.host.root))
            .map_err(place::unreadable)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn facts_are_read_once_while_nothing_comes_or_goes() {
        let kept = Kept::default();
        let root = Root::default();
        assert!(kept.current(&root).is_none());
        let facts = kept.read(&root).unwrap();
        assert!(Arc::ptr_eq(&facts, &kept.current(&root).unwrap()));
        tokio::time::sleep(TRUSTED * 2).await;
        assert!(Arc::ptr_eq(&facts, &kept.current(&root).unwrap()));
        tokio::time::sleep(TRUSTED * 2).await;
        assert!(kept.current(&Root::at("/nonexistent")).is_none(), "another host");
    }
}
