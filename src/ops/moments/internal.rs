//! Internal snapshots of a running guest: QEMU's own jobs put them into its images, go back to them and remove them.

use domxml::{
    Domain,
    devices::{Disk, SnapshotMode},
    moment::{Snapshot, SnapshotDisk},
};
use qmp::{
    commands,
    types::{BlockDeviceInfo, SnapshotInfo},
};

use crate::{
    error::{Code, Error, Result},
    ops::{graph::jobs, run::guest::Guest},
};

/// The node of the variables of a guest's firmware.
const NVRAM_NODE: &str = "libvirt-pflash1-format";

/// Where QEMU has a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The node with the guest's memory.
    pub(crate) vmstate: String,
    /// The nodes of all that takes part.
    pub(crate) devices: Vec<String>,
}

fn failed(text: String) -> Error {
    Error::new(Code::OperationFailed, text)
}

/// The names of QEMU's jobs.
fn save_id(name: &str) -> String {
    format!("internal-snapshot-save-{name}")
}

fn load_id(name: &str) -> String {
    format!("internal-snapshot-load-{name}")
}

fn delete_id(name: &str) -> String {
    format!("internal-snapshot-delete-{name}")
}

/// The topmost node of a running guest's disk.
fn node_of(disk: &Disk) -> Result<String> {
    let private = disk
        .source
        .as_ref()
        .and_then(|source| source.private_data.as_ref());
    let names = private.and_then(|private| private.nodenames.as_ref());
    let name = names.and_then(|names| names.of("format").or_else(|| names.of("storage")));
    name.map(str::to_owned)
        .ok_or_else(|| Error::internal(format!("the nodes of disk '{}' are not known", disk.target.dev)))
}

fn internal_disks(snapshot: &Snapshot) -> impl Iterator<Item = &SnapshotDisk> {
    snapshot
        .disks
        .iter()
        .filter(|disk| disk.mode == Some(SnapshotMode::Internal))
}

fn disk_of<'a>(document: &'a Domain, target: &str) -> Option<&'a Disk> {
    document
        .devices
        .disks
        .iter()
        .find(|disk| disk.target.dev == target)
}

/// Where a new snapshot goes: memory into the first image.
///
/// # Errors
/// A disk's node is not known.
pub(crate) fn place_of_new(snapshot: &Snapshot, document: &Domain) -> Result<Place> {
    let disks = internal_disks(snapshot).filter_map(|part| disk_of(document, &part.name));
    let mut devices = disks.map(node_of).collect::<Result<Vec<_>>>()?;
    let vmstate = devices.first().cloned();
    let vmstate = vmstate.ok_or_else(|| Error::internal("no disk takes the guest's memory"))?;
    if document.os.nvram.is_some() {
        devices.push(NVRAM_NODE.to_owned());
    }
    Ok(Place { vmstate, devices })
}

/// Puts a snapshot into the images. The CPUs have to stand.
///
/// # Errors
/// What QEMU refuses or fails at.
pub(crate) async fn save(guest: &Guest, name: &str, place: Place) -> Result<()> {
    let Place { vmstate, devices } = place;
    let id = save_id(name);
    let command = commands::SnapshotSave {
        job_id: id.clone(),
        tag: name.to_owned(),
        vmstate,
        devices,
    };
    match jobs::run(guest, &id, command).await?.error {
        None => Ok(()),
        Some(error) => Err(failed(format!("snapshot-save job failed: {error}"))),
    }
}

/// Goes back to a snapshot. The CPUs have to stand.
///
/// # Errors
/// An image does not have it; what QEMU refuses or fails at.
pub(crate) async fn load(guest: &Guest, snapshot: &Snapshot) -> Result<()> {
    let name = &snapshot.moment.name;
    let view = guest.domain.view();
    let nodes = nodes(guest).await?;
    let Place { vmstate, devices } = place_of_old(snapshot, &view.running()?.document.domain, &nodes)?;
    let id = load_id(name);
    let command = commands::SnapshotLoad {
        job_id: id.clone(),
        tag: name.clone(),
        vmstate,
        devices,
    };
    match jobs::run(guest, &id, command).await?.error {
        None => Ok(()),
        Some(error) => Err(failed(format!(
            "load of internal snapshot '{name}' job failed: {error}"
        ))),
    }
}

/// Where QEMU has a snapshot that a guest goes back to.
fn place_of_old(snapshot: &Snapshot, document: &Domain, nodes: &[BlockDeviceInfo]) -> Result<Place> {
    let name = &snapshot.moment.name;
    let mut place = Place::default();
    let mut vmstate: Option<String> = None;
    let mut take = |node: &str, found: &SnapshotInfo| {
        place.devices.push(node.to_owned());
        if found.vm_state_size == 0 {
            return Ok(());
        }
        match vmstate.replace(node.to_owned()) {
            None => Ok(()),
            Some(_) => Err(failed(format!(
                "two disks images contain vm state section for internal snapshot '{name}'"
            ))),
        }
    };
    for part in internal_disks(snapshot) {
        let disk = disk_of(document, &part.name).ok_or_else(|| {
            Error::internal(format!(
                "VM doesn't have disk '{}' referenced by snapshot '{name}'",
                part.name
            ))
        })?;
        let node = node_of(disk)?;
        let found = in_node(nodes, &node, name).ok_or_else(|| {
            failed(format!(
                "image of disk '{}' does not have internal snapshot '{name}'",
                part.name
            ))
        })?;
        take(&node, found)?;
    }
    if let Some(found) = in_node(nodes, NVRAM_NODE, name) {
        take(NVRAM_NODE, found)?;
    }
    place.vmstate = vmstate.ok_or_else(|| {
        failed(format!(
            "missing vmstate section when reverting active internal snapshot '{name}'"
        ))
    })?;
    Ok(place)
}

/// Removes a snapshot from the images that have it.
///
/// # Errors
/// What QEMU refuses or fails at.
pub(crate) async fn delete(guest: &Guest, snapshot: &Snapshot) -> Result<()> {
    let view = guest.domain.view();
    let document = &view.running()?.document.domain;
    let disks = internal_disks(snapshot).filter_map(|part| disk_of(document, &part.name));
    let known: Vec<_> = disks.filter_map(|disk| node_of(disk).ok()).collect();
    delete_from(guest, &snapshot.moment.name, known).await
}

async fn delete_from(guest: &Guest, name: &str, mut known: Vec<String>) -> Result<()> {
    let nodes = nodes(guest).await?;
    known.push(NVRAM_NODE.to_owned());
    let is_writable = |node: &str| {
        nodes
            .iter()
            .any(|n| n.node_name.as_deref() == Some(node) && !n.ro)
    };
    let devices: Vec<_> = known
        .into_iter()
        .filter(|node| in_node(&nodes, node, name).is_some() && is_writable(node))
        .collect();
    if devices.is_empty() {
        return Ok(());
    }
    let id = delete_id(name);
    let command = commands::SnapshotDelete {
        job_id: id.clone(),
        tag: name.to_owned(),
        devices,
    };
    match jobs::run(guest, &id, command).await?.error {
        None => Ok(()),
        Some(error) => Err(failed(format!(
            "deletion of internal snapshot '{name}' job failed: {error}"
        ))),
    }
}

/// Removes all that there is of a snapshot that did not come about.
///
/// # Errors
/// As [`delete`].
pub(crate) async fn take_back(guest: &Guest, name: &str, place: Place) -> Result<()> {
    settle(guest, name).await?;
    delete_from(guest, name, place.devices).await
}

/// Waits for the jobs on a snapshot that nobody waits for any more, and dismisses them.
///
/// # Errors
/// QEMU does not answer; the guest ends.
pub(crate) async fn settle(guest: &Guest, name: &str) -> Result<()> {
    jobs::settle(guest, &[save_id(name), load_id(name), delete_id(name)]).await
}

async fn nodes(guest: &Guest) -> Result<Vec<BlockDeviceInfo>> {
    guest.execute(commands::QueryNamedBlockNodes { flat: true }).await
}

fn in_node<'a>(nodes: &'a [BlockDeviceInfo], node: &str, name: &str) -> Option<&'a SnapshotInfo> {
    let found = nodes
        .iter()
        .find(|known| known.node_name.as_deref() == Some(node))?;
    found
        .image
        .as_ref()?
        .snapshots
        .iter()
        .find(|snapshot| snapshot.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Domain {
        let disk = |target: &str, node: &str| {
            format!(
                "<disk type='file' device='disk'><source file='/{target}'><privateData><nodenames>\
                 <nodename type='storage' name='{node}-storage'/><nodename type='format' name='{node}-format'/>\
                 </nodenames></privateData></source><target dev='{target}'/></disk>"
            )
        };
        let text = format!(
            "<domain type='qemu'><name>a</name><devices>{}{}</devices></domain>",
            disk("vda", "libvirt-2"),
            disk("vdb", "libvirt-1")
        );
        Domain::parse(&text, domxml::status::PARSE).unwrap()
    }

    fn snapshot() -> Snapshot {
        let part = |name: &str| SnapshotDisk {
            name: name.to_owned(),
            mode: Some(SnapshotMode::Internal),
            ..SnapshotDisk::default()
        };
        let mut snapshot = Snapshot {
            disks: vec![part("vda"), part("vdb")],
            ..Snapshot::default()
        };
        snapshot.moment.name = "s".to_owned();
        snapshot
    }

    fn node(name: &str, sizes: &[u64]) -> BlockDeviceInfo {
        let snapshots: Vec<_> = sizes
            .iter()
            .map(|n| serde_json::json!({"name": "s", "vm-state-size": n}))
            .collect();
        let image = serde_json::json!({"filename": "f", "format": "qcow2", "virtual-size": 1, "snapshots": snapshots});
        serde_json::from_value(serde_json::json!({"node-name": name, "image": image})).unwrap()
    }

    #[test]
    fn a_snapshot_is_found_where_it_is_or_what_is_wrong_with_it_is_said() {
        let place = |a: &[u64], b: &[u64], nvram: &[u64]| {
            let nodes = [
                node("libvirt-2-format", a),
                node("libvirt-1-format", b),
                node(NVRAM_NODE, nvram),
            ];
            place_of_old(&snapshot(), &document(), &nodes).map_err(|e| e.message.into_owned())
        };
        let found = place(&[9], &[0], &[0]).unwrap();
        assert_eq!(found.vmstate, "libvirt-2-format");
        assert_eq!(
            found.devices,
            ["libvirt-2-format", "libvirt-1-format", NVRAM_NODE]
        );
        assert_eq!(
            place(&[9], &[], &[]).unwrap_err(),
            "image of disk 'vdb' does not have internal snapshot 's'"
        );
        assert_eq!(
            place(&[9], &[9], &[]).unwrap_err(),
            "two disks images contain vm state section for internal snapshot 's'"
        );
        assert_eq!(
            place(&[0], &[0], &[]).unwrap_err(),
            "missing vmstate section when reverting active internal snapshot 's'"
        );
        let new = place_of_new(&snapshot(), &document()).unwrap();
        assert_eq!((new.vmstate.as_str(), new.devices.len()), ("libvirt-2-format", 2));
    }
}
