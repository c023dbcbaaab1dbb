//! How a descriptor gets to QEMU: a process that is to be QEMU inherits it, a running one gets it over the monitor.
//!
//! What opens something for a device takes any [`Handover`], so that a start and an attach are one code.

use std::{future::Future, os::fd::OwnedFd};

use qemu_plan::command::FdRef;
use qmp::commands::Closefd;

use crate::{error::Result, ops::operation::undo::Undo, qemu};

/// A way to hand descriptors to QEMU.
pub(crate) trait Handover: Send {
    /// Hands a descriptor over; `name` is what a running QEMU calls it. Answers how QEMU is told of it.
    ///
    /// # Errors
    /// The daemon is out of descriptors, or QEMU does not take it.
    fn pass(
        &mut self,
        name: String,
        fd: OwnedFd,
        undo: &mut Undo,
    ) -> impl Future<Output = Result<FdRef>> + Send;
}

/// A process that is to be QEMU: what it has inherited goes with it.
impl Handover for qemu::Prepared {
    async fn pass(&mut self, _: String, fd: OwnedFd, _: &mut Undo) -> Result<FdRef> {
        Self::pass(self, fd).map(FdRef::Number)
    }
}

/// A running QEMU. A name that no command has used stays until it is closed or the connection ends.
impl Handover for qemu::Monitor {
    async fn pass(&mut self, name: String, fd: OwnedFd, undo: &mut Undo) -> Result<FdRef> {
        self.pass_fd(&name, fd).await?;
        let (monitor, fdname) = (self.clone(), name.clone());
        undo.push("a descriptor that QEMU was given", async move {
            match monitor.client().execute(Closefd { fdname }).await {
                // A command has taken it.
                Ok(_) | Err(qmp::Error::Refused { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        Ok(FdRef::Name(name))
    }
}
