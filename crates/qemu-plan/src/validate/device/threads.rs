//! Which thread serves which queue of a disk or a SCSI controller.

use std::collections::BTreeSet;

use domxml::devices::IoThreads;

use super::super::Guest;
use crate::error::{Error, Result};

/// Checks that every queue has a thread, once, or that none is named.
pub(super) fn mapping(guest: &Guest<'_>, mapping: &IoThreads, queues: u32) -> Result<()> {
    let refuse = |text: String| Err(Error::unsupported(text));
    let explicit = mapping.threads.first().is_some_and(|t| !t.queues.is_empty());
    if explicit && queues == 0 {
        return refuse("'queue' count must be configured for explicit iothread to queue mapping".into());
    }
    let (mut threads, mut served) = (BTreeSet::new(), BTreeSet::new());
    for thread in &mapping.threads {
        let id = thread.id;
        if !threads.insert(id) {
            return refuse(format!("duplicate mapping for iothread '{id}'"));
        }
        if !guest.iothreads().contains(&id) {
            return refuse(format!("iothread '{id}' not defined in iothreadid"));
        }
        if explicit == thread.queues.is_empty() {
            return refuse("iothread to queue mapping must be provided for all iothreads or for none".into());
        }
        for queue in thread.queues.iter().map(|q| q.id) {
            if queue >= queues {
                return refuse(format!("iothread queue '{queue}' mapping out of range"));
            }
            if !served.insert(queue) {
                return refuse(format!("iothread queue '{queue}' is already assigned"));
            }
        }
    }
    // Each served queue is one of them, and counted once: a gap lies within as many steps.
    let gap = (0..queues).find(|queue| !served.contains(queue));
    match gap.filter(|_| explicit) {
        Some(queue) => refuse(format!("missing iothread mapping for queue '{queue}'")),
        None => Ok(()),
    }
}
