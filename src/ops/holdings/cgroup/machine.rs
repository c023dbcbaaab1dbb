//! A guest as a machine of systemd-machined, whose unit has the guest's control group. Called when the group is made and
//! removed.

use confine::cgroup::{self, Group, Host};
use domxml::Domain;

use super::{PARTITION, refused};
use crate::{
    error::Result,
    ops::Driver,
    peers::machined::{self, Machine},
};

/// Registers a guest whose process `pid` waits to become QEMU. The group of the unit that machined has put it into; none
/// where no machined runs, and, with a warning, where it refuses or hangs or leaves the process where it was.
///
/// # Errors
/// The kernel's, where the guest's own group in that of the unit is made.
pub(crate) async fn enter(
    driver: &Driver,
    host: &Host,
    document: &Domain,
    (id, pid): (i32, i32),
) -> Result<Option<Group>> {
    let devices = document
        .devices
        .interfaces
        .iter()
        .filter_map(|interface| interface.target.as_ref()?.dev.as_deref());
    let partition = document.resource.as_ref().and_then(|r| r.partition.clone());
    let machine = Machine {
        name: cgroup::machine_name(id, &document.name),
        uuid: document.uuid.unwrap_or_default(),
        leader: pid,
        interfaces: devices
            .filter_map(|device| unixfd::link_index(device).ok())
            .collect(),
        partition: partition.unwrap_or_else(|| PARTITION.to_owned()),
        threads_max: driver.config().limits.threads,
    };
    match machined::register(&machine).await {
        Ok(false) => return Ok(None),
        Ok(true) => {}
        Err(error) => {
            let machine = machine.name;
            tracing::warn!(machine, %error, "machined does not register the guest; its control groups are made without it");
            return Ok(None);
        }
    }
    let host = host.clone();
    let nest = move || {
        let unit = Group::of_process(&host, pid).map_err(refused)?;
        unit.map(|unit| unit.nest(pid)).transpose().map_err(refused)
    };
    let given = crate::blocking::file("making the guest's group in its unit", nest).await?;
    if given.is_none() {
        tracing::warn!(
            machine = machine.name,
            "machined has moved the guest's process into no unit"
        );
    }
    Ok(given)
}

/// Has machined forget a guest that has ended, beside whatever the caller does: whoever hangs there keeps no end of a
/// guest waiting.
pub(super) fn leave(tracker: &tokio_util::task::TaskTracker, name: String) {
    tracker.spawn(async move {
        if let Err(error) = machined::forget(&name).await {
            tracing::warn!(machine = name, %error, "machined may still know a guest that has ended");
        }
    });
}
