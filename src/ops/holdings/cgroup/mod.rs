//! A guest's control groups: made around its process before QEMU runs, tuned by `tuning`, removed at its end.
//!
//! Where a host has none, or the daemon may not make any (in a container, as a user), guests run without, as with
//! libvirt. Where systemd-machined runs, guests are registered with it and are in the group of the unit that it makes for
//! them ([`machine`]). Which group a guest is in is asked of the kernel each time, so it does not matter who made it.

pub(crate) mod machine;
pub(crate) mod nodes;

pub mod thread;

use std::sync::OnceLock;

use confine::cgroup::{self, Controller, Group, Host};
use domxml::{
    Domain,
    devices::DeviceRef,
    tuning::{NumaMode, Placement, Resource},
};

use crate::{
    config::QemuConfig,
    domain::Run,
    error::{Code, Error, Result},
    ops::Driver,
    paths::Scope,
};

/// The partition of guests that name none.
pub(crate) const PARTITION: &str = "/machine";

/// The controllers of the host, looked for once. One a daemon.
#[derive(Debug, Default)]
pub struct Kept {
    host: OnceLock<Option<Host>>,
}

/// What the host has mounted; none where the daemon makes no groups.
fn host(driver: &Driver) -> Option<Host> {
    let look = || {
        let found = Host::detect(&driver.host.root)
            .inspect_err(|error| tracing::warn!(%error, "guests have no control groups"));
        found
            .ok()
            .filter(|host| driver.host.scope == Scope::System && host.is_any())
    };
    driver.cgroups.host.get_or_init(look).clone()
}

/// The controllers that qemu.conf lets the daemon use.
pub(crate) fn allowed(driver: &Driver, config: &QemuConfig) -> Option<Host> {
    let host = host(driver)?;
    let host = match &config.guard.cgroup_controllers {
        Some(names) => host.only(names),
        None => host,
    };
    host.is_any().then_some(host)
}

/// Has the kernel made ready to move processes, while something else is done.
pub(crate) fn make_ready(driver: &Driver) {
    if let Some(host) = allowed(driver, &driver.config()) {
        tokio::task::spawn_blocking(move || host.make_ready());
    }
}

/// Notes in the document of a run in which partition it is.
///
/// # Errors
/// `ConfigUnsupported`: it is no path.
pub(crate) fn note_partition(driver: &Driver, document: &mut Domain) -> Result<()> {
    if allowed(driver, &driver.config()).is_none() {
        return Ok(());
    }
    let resource = document.resource.get_or_insert_with(Resource::default);
    let partition = resource.partition.get_or_insert_with(|| PARTITION.to_owned());
    if partition.starts_with('/') {
        return Ok(());
    }
    let message = format!("Resource partition '{partition}' must start with '/'");
    Err(Error::new(Code::ConfigUnsupported, message))
}

/// The group of a run by its names.
pub(crate) fn named(host: &Host, document: &Domain, id: i32) -> Group {
    let partition = document
        .resource
        .as_ref()
        .and_then(|r| r.partition.as_deref())
        .unwrap_or(PARTITION);
    Group::of_guest(host, partition, &cgroup::machine_name(id, &document.name))
}

/// The group that a running guest is in; none if it is in none.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn of_run(driver: &Driver, run: &Run) -> Result<Option<Group>> {
    let Some(host) = allowed(driver, &driver.config()) else {
        return Ok(None);
    };
    Group::of_process(&host, run.launched.pid).map_err(refused)
}

/// Lets a running guest open the nodes of a device, or forbids it those of one that it has no more; what it still
/// has of them stays.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn change_device(driver: &Driver, run: &Run, change: DeviceChange<'_>) -> Result<()> {
    let (DeviceChange::In(device) | DeviceChange::Out(device)) = change;
    let its = nodes::of_device(driver, device);
    if its.is_empty() {
        return Ok(());
    }
    let Some(group) = of_run(driver, run)?.filter(|group| group.has(Controller::Devices)) else {
        return Ok(());
    };
    match change {
        DeviceChange::In(_) => its
            .into_iter()
            .try_for_each(|(node, access)| group.allow_device(node, access)),
        DeviceChange::Out(_) => {
            let kept = nodes::of_guest(driver, &run.document.domain);
            let gone = its
                .into_iter()
                .filter(|(node, _)| kept.iter().all(|(kept, _)| kept != node));
            gone.map(|(node, _)| node)
                .try_for_each(|node| group.forbid_device(node))
        }
    }
    .map_err(refused)
}

/// A device that comes, or has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeviceChange<'a> {
    /// The guest is about to open its nodes.
    In(DeviceRef<'a>),
    /// It is in no document any more.
    Out(DeviceRef<'a>),
}

/// Removes the group of a run that has ended, or did not begin, and has machined forget it. What is left behind is
/// logged.
pub(crate) fn remove(driver: &Driver, document: &Domain, id: i32) -> impl FnOnce() + Send + 'static {
    let group = host(driver).map(|host| named(&host, document, id));
    let (machine, tracker) = (cgroup::machine_name(id, &document.name), driver.tracker.clone());
    move || {
        let Some(group) = group else { return };
        if let Err(error) = group.remove() {
            tracing::warn!(%error, "a control group is left behind");
        }
        machine::leave(&tracker, machine);
    }
}

/// The nodes that all of a guest's memory must be from.
pub(crate) fn strict_nodes(document: &Domain) -> Option<String> {
    let memory = document.numatune.as_ref()?.memory.as_ref()?;
    let strict = matches!(
        memory.mode.unwrap_or(NumaMode::Strict),
        NumaMode::Strict | NumaMode::Restrictive
    );
    let fixed = memory.placement != Some(Placement::Auto);
    memory
        .nodeset
        .as_ref()
        .filter(|_| strict && fixed)
        .map(ToString::to_string)
}

/// The error of what the kernel refused.
pub(crate) fn refused(error: cgroup::Error) -> Error {
    Error::system(error.what, error.source)
}
