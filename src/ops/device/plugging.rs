//! What a device that comes or goes means for QEMU, command by command.
//!
//! `qemu_plan::command::plug` says which commands there are and in which order; here each becomes one of `qmp`'s, which has
//! its deadline. Used by attach, by detach, and by recovery for what an attach that was cut off has left.

use std::{error::Error as _, time::Duration};

use tokio::sync::oneshot;

use qemu_plan::command::{
    Props,
    plug::{Part, Step},
};
use qmp::{ErrorClass, commands};
use serde_json::{Map, Value};

use crate::{
    domain::View,
    error::{Code, Error, Result},
    ops::{
        holdings::chardev::Files,
        run::{departures::Departure, guest::Guest},
    },
};

/// How long a guest may take to let a device go, as libvirt waits.
pub(crate) const LETTING_GO: Duration = Duration::from_secs(5);

/// The reason of an error: the guest keeps the device.
pub(super) const REJECTED: &str = "UNPLUG_REJECTED";

/// What came of asking a guest to let a device go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unplugged {
    /// QEMU has it no more.
    Gone,
    /// The guest has not answered in time; it may do so later.
    Pending,
}

/// What a step does, for the operation's phase and its log.
pub(super) fn phase(step: &Step) -> &'static str {
    match step {
        Step::Object(_) => "an object",
        Step::Blockdev(_) => "a block node",
        Step::Chardev(..) => "a character device's back end",
        Step::Netdev(_) => "an interface's back end",
        Step::Device(_) => "the device",
        Step::AddFd(..) => "a descriptor",
        Step::Throttle(_) => "the disk's limits",
        Step::WatchdogAction(_) => "what watchdogs do",
    }
}

/// Gives QEMU one command of an attach; the terminal that it has opened, if it has.
///
/// # Errors
/// What QEMU refuses, or that it does not answer.
pub(super) async fn give(guest: &Guest, step: Step, files: &mut Files) -> Result<Option<String>> {
    match step {
        Step::Chardev(id, backend) => {
            let made = guest.execute(commands::ChardevAdd { id, backend }).await?;
            return Ok(made.get("pty").and_then(Value::as_str).map(str::to_owned));
        }
        Step::Object(props) => guest.execute(commands::ObjectAdd(map(props))).await.map(drop),
        Step::Blockdev(props) => guest.execute(commands::BlockdevAdd(map(props))).await.map(drop),
        Step::Netdev(props) => guest.execute(commands::NetdevAdd(map(props))).await.map(drop),
        Step::Device(props) => guest.execute(commands::DeviceAdd(map(props))).await.map(drop),
        Step::AddFd(set, number, opaque) => {
            let file = files.take(number);
            let file = file.ok_or_else(|| Error::internal("the file of the device is not open"))?;
            let command = commands::AddFd {
                fdset_id: Some(i64::from(set)),
                opaque: Some(opaque),
            };
            let monitor = guest.monitor()?;
            monitor.client().execute_with_fds(command, vec![file]).await?;
            Ok(())
        }
        Step::WatchdogAction(action) => {
            let action = commands::SetAction {
                reboot: None,
                shutdown: None,
                panic: None,
                watchdog: Some(action.as_str().to_owned()),
            };
            guest.execute(action).await.map(drop)
        }
        Step::Throttle(props) => {
            let limited = guest.execute(commands::BlockSetIoThrottle(map(props))).await;
            // As with libvirt the disk is there all the same.
            if let Err(error) = limited {
                tracing::warn!(guest = %guest.domain.view().name, %error, "the limits of a disk could not be set");
            }
            Ok(())
        }
    }
    .map(|()| None)
}

/// Takes the sets of descriptors that QEMU was given for a device that is no disk out of it.
///
/// # Errors
/// QEMU does not answer.
pub(crate) async fn drop_fdsets(guest: &Guest, alias: &str) -> Result<()> {
    let names = ["source", "log", "vdpa"].map(|part| format!("{alias}-{part}"));
    drop_sets(guest, |name| names.iter().any(|its| its == name)).await
}

/// Takes the sets of descriptors that block nodes were opened by out of QEMU.
///
/// # Errors
/// QEMU does not answer.
pub(crate) async fn drop_sets_of_nodes(guest: &Guest, nodes: &[String]) -> Result<()> {
    let is_its = |name: &str| {
        let node = name.trim_end_matches(|c: char| c.is_ascii_digit());
        nodes.iter().any(|its| its == node)
    };
    drop_sets(guest, is_its).await
}

async fn drop_sets(guest: &Guest, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    for set in guest.execute(commands::QueryFdsets {}).await? {
        let is_its = |fd: &qmp::types::FdsetFdInfo| fd.opaque.as_deref().is_some_and(&is_wanted);
        if set.fds.iter().any(is_its) {
            let part = Part::FdSet(u32::try_from(set.fdset_id).unwrap_or_default());
            take_away(guest, &part).await?;
        }
    }
    Ok(())
}

/// The first number of a set of descriptors that is free in a run.
pub(super) fn next_fdset(view: &View) -> u32 {
    let fdset = view.run.as_ref().and_then(|run| run.status.fdset);
    u32::try_from(fdset.unwrap_or(0)).unwrap_or(u32::MAX)
}

fn map(props: Props) -> Map<String, Value> {
    match props.into_value() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes a part of a device out of QEMU. One that is not there is no error; a device is waited for.
///
/// # Errors
/// What QEMU refuses, that it does not answer, or that the guest does not let the device go.
pub(crate) async fn take_away(guest: &Guest, part: &Part) -> Result<()> {
    match part.clone() {
        Part::Object(id) => gone(guest.execute(commands::ObjectDel { id }).await),
        Part::Node(node_name) => gone(guest.execute(commands::BlockdevDel { node_name }).await),
        Part::Chardev(id) => gone(guest.execute(commands::ChardevRemove { id }).await),
        Part::Netdev(id) => gone(guest.execute(commands::NetdevDel { id }).await),
        Part::FdSet(set) => gone(
            guest
                .execute(commands::RemoveFd {
                    fdset_id: i64::from(set),
                    fd: None,
                })
                .await,
        ),
        Part::Device(id) => match unplug(guest, &id, LETTING_GO).await? {
            Unplugged::Gone => Ok(()),
            Unplugged::Pending => Err(Error::new(
                Code::OperationTimeout,
                format!("the guest does not let the device '{id}' go"),
            )),
        },
    }
}

fn gone<T>(result: Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Asks the guest to let a device go, and waits for its answer.
///
/// # Errors
/// What QEMU refuses; `OperationFailed` if the guest refuses, in libvirt's words.
pub(crate) async fn unplug(guest: &Guest, alias: &str, patience: Duration) -> Result<Unplugged> {
    match ask(guest, alias).await? {
        Some(asked) => asked.answer(patience).await,
        None => Ok(Unplugged::Gone),
    }
}

/// A guest that was asked to let a device go.
pub(super) struct Asked {
    answer: oneshot::Receiver<Departure>,
}

/// Asks the guest to let a device go; none if QEMU has it no more.
///
/// # Errors
/// What QEMU refuses.
pub(super) async fn ask(guest: &Guest, alias: &str) -> Result<Option<Asked>> {
    let mut answer = guest.departures.expect(alias);
    match guest.execute(commands::DeviceDel { id: alias.to_owned() }).await {
        Ok(_) => Ok(Some(Asked { answer })),
        Err(error) if is_missing(&error) => Ok(None),
        // It may have left before it was asked again.
        Err(_) if answer.try_recv() == Ok(Departure::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Asked {
    /// Waits for the guest's answer.
    ///
    /// # Errors
    /// `OperationFailed` if the guest refuses, in libvirt's words.
    pub(super) async fn answer(self, patience: Duration) -> Result<Unplugged> {
        match tokio::time::timeout(patience, self.answer).await {
            Ok(Ok(Departure::Gone)) => Ok(Unplugged::Gone),
            Ok(Ok(Departure::Refused)) => Err(Error::new(
                Code::OperationFailed,
                "unplug of device was rejected by the guest",
            )
            .because(REJECTED)),
            _ => Ok(Unplugged::Pending),
        }
    }
}

/// Whether QEMU said that it has no such thing.
fn is_missing(error: &Error) -> bool {
    let refusal = error
        .source()
        .and_then(|source| source.downcast_ref::<qmp::Error>());
    match refusal {
        Some(qmp::Error::Refused { class, desc, .. }) => {
            *class == ErrorClass::DeviceNotFound
                || desc.contains("not found")
                || desc.starts_with("Failed to find node")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use qmp::Command;

    use super::*;

    #[test]
    fn what_qemu_has_no_more_need_not_be_taken_away() {
        let refused = |class, desc: &str| {
            Error::from(qmp::Error::Refused {
                command: commands::DeviceDel::NAME.to_owned(),
                class,
                desc: desc.to_owned(),
            })
        };
        for (class, desc, missing) in [
            (ErrorClass::DeviceNotFound, "Device 'net1' not found", true),
            (ErrorClass::GenericError, "object 'x' not found", true),
            (ErrorClass::GenericError, "Chardev 'x' not found", true),
            (
                ErrorClass::GenericError,
                "Failed to find node with node-name='libvirt-3-format'",
                true,
            ),
            (ErrorClass::GenericError, "Node libvirt-3-format is in use", false),
        ] {
            assert_eq!(is_missing(&refused(class, desc)), missing, "{desc}");
        }
    }
}
