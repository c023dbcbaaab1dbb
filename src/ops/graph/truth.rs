//! The chains of images as QEMU has them.

use domxml::devices::Disk;
use qmp::{
    commands,
    types::{BlockStats, JobInfo},
};

use crate::{
    error::Result,
    ops::run::{guest::Guest, react},
};

/// What QEMU says of its block nodes and the jobs on them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// The nodes of each device, by its alias: the image that it is on first, then those below.
    pub(crate) chains: Vec<(String, Vec<String>)>,
    /// Its jobs.
    pub(crate) jobs: Vec<JobInfo>,
}

impl Truth {
    /// Asks QEMU.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn read(guest: &Guest) -> Result<Self> {
        let jobs = guest.execute(commands::QueryJobs {}).await?;
        let stats = guest
            .execute(commands::QueryBlockstats { query_nodes: false })
            .await?;
        Ok(Self {
            chains: stats.iter().filter_map(chain).collect(),
            jobs,
        })
    }

    /// The nodes of a disk, the top one first; none if QEMU has no such device.
    pub(crate) fn chain_of(&self, disk: &Disk) -> Option<&[String]> {
        let alias = disk.info.alias.as_deref()?;
        let found = self.chains.iter().find(|(known, _)| known == alias);
        found.map(|(_, nodes)| nodes.as_slice())
    }

    /// A job.
    pub(crate) fn job(&self, id: &str) -> Option<&JobInfo> {
        self.jobs.iter().find(|job| job.id == id)
    }
}

/// The nodes of one device, filters, storage and jobs' own among them: an image's before those below it.
fn chain(device: &BlockStats) -> Option<(String, Vec<String>)> {
    let alias = react::alias_of(device.qdev.as_deref()?);
    let mut nodes = Vec::new();
    let mut left = vec![device];
    while let Some(node) = left.pop() {
        nodes.extend(node.node_name.clone());
        left.extend(node.backing.as_deref());
        left.extend(node.parent.as_deref());
    }
    Some((alias, nodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_device_are_found_through_filters() {
        let node = |name: &str, parent: Option<BlockStats>, backing: Option<BlockStats>| BlockStats {
            device: None,
            qdev: None,
            node_name: Some(name.to_owned()),
            stats: Default::default(),
            parent: parent.map(Box::new),
            backing: backing.map(Box::new),
        };
        let low = node("f2", Some(node("s2", None, None)), None);
        let top = node("f1", Some(node("s1", None, None)), Some(low));
        let mut filter = node("throttle", Some(top), None);
        filter.qdev = Some("/machine/peripheral/virtio-disk0/virtio-backend".to_owned());
        let (alias, nodes) = chain(&filter).unwrap();
        assert_eq!(alias, "virtio-disk0");
        assert_eq!(nodes, ["throttle", "f1", "s1", "f2", "s2"]);
        assert_eq!(chain(&node("x", None, None)), None);
    }
}
