//! Throttle groups, and the filter nodes by which a disk's traffic passes through them: above its image, and above the
//! filter that copies what is read.

use domxml::devices::{Disk, IoTune, NodeName, NodeNames};

use crate::props::Props;

/// The kind of a filter's name in a status file.
const KIND: &str = "throttle-filter";

/// A filter of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its node.
    pub node: String,
    /// The group that it belongs to.
    group: String,
}

/// Gives every filter of a disk that has none a number, from `first` on. Answers the next free number.
pub(super) fn number_filters(disk: &mut Disk, first: u32) -> u32 {
    let known = named(disk).len();
    let groups = groups(disk);
    let new = (first..).zip(groups.into_iter().skip(known));
    let new: Vec<NodeName> = new
        .map(|(number, group)| NodeName {
            kind: KIND.to_owned(),
            name: format!("libvirt-{number}-filter"),
            group: Some(group),
        })
        .collect();
    let next = first.saturating_add(u32::try_from(new.len()).unwrap_or(0));
    if !new.is_empty() {
        let private = disk.private_data.get_or_insert_default();
        private.nodenames.get_or_insert_default().names.extend(new);
    }
    next
}

/// The highest number of a disk's filters.
pub(super) fn highest_filter(disk: &Disk) -> Option<u32> {
    let numbers = named(disk).into_iter().filter_map(|name| {
        let number = name.name.strip_prefix("libvirt-")?.strip_suffix("-filter")?;
        number.parse().ok()
    });
    numbers.max()
}

/// The filters of a disk, the lowest first; `stem` names those of a disk without numbers.
pub fn filters(disk: &Disk, stem: &str) -> Vec<Filter> {
    let named = named(disk);
    let node = |at: usize| match named.get(at) {
        Some(name) => name.name.clone(),
        None => format!("{stem}-filter{at}"),
    };
    let groups = groups(disk).into_iter().enumerate();
    groups
        .map(|(at, group)| Filter {
            node: node(at),
            group,
        })
        .collect()
}

/// The names that a status file has of a disk's filters.
pub(super) fn named(disk: &Disk) -> Vec<NodeName> {
    let names = disk
        .private_data
        .as_ref()
        .and_then(|private| private.nodenames.as_ref());
    let all = names.map_or(&[][..], |NodeNames { names }| names.as_slice());
    all.iter().filter(|name| name.kind == KIND).cloned().collect()
}

fn groups(disk: &Disk) -> Vec<String> {
    let filters = disk.throttlefilters.iter().flat_map(|filters| &filters.filters);
    filters.filter_map(|filter| filter.group.clone()).collect()
}

/// The node of a filter above another node.
pub fn filter_node(filter: &Filter, below: &str) -> Props {
    Props::driver("throttle")
        .with("node-name", filter.node.as_str())
        .with("throttle-group", group_id(&filter.group))
        .with("file", below)
}

/// What QEMU calls a group.
pub fn group_id(group: &str) -> String {
    format!("throttle-{group}")
}

/// The object of a group.
pub fn group_object(tune: &IoTune) -> Props {
    let always = [
        ("bps-total", tune.total_bytes_sec),
        ("bps-read", tune.read_bytes_sec),
        ("bps-write", tune.write_bytes_sec),
        ("iops-total", tune.total_iops_sec),
        ("iops-read", tune.read_iops_sec),
        ("iops-write", tune.write_iops_sec),
        ("bps-total-max", tune.total_bytes_sec_max),
        ("bps-read-max", tune.read_bytes_sec_max),
        ("bps-write-max", tune.write_bytes_sec_max),
        ("iops-total-max", tune.total_iops_sec_max),
        ("iops-read-max", tune.read_iops_sec_max),
        ("iops-write-max", tune.write_iops_sec_max),
        ("iops-size", tune.size_iops_sec),
    ];
    let lengths = [
        ("bps-total-max-length", tune.total_bytes_sec_max_length),
        ("bps-read-max-length", tune.read_bytes_sec_max_length),
        ("bps-write-max-length", tune.write_bytes_sec_max_length),
        ("iops-total-max-length", tune.total_iops_sec_max_length),
        ("iops-read-max-length", tune.read_iops_sec_max_length),
        ("iops-write-max-length", tune.write_iops_sec_max_length),
    ];
    let mut limits = Props::new();
    for (name, value) in always {
        limits.set(name, value.unwrap_or(0));
    }
    for (name, value) in lengths {
        limits.opt(name, value.filter(|length| *length > 0));
    }
    let group = tune.group_name.as_deref().unwrap_or_default();
    Props::object("throttle-group", group_id(group)).with("limits", limits)
}

#[cfg(test)]
mod tests {
    use domxml::{Domain, ParseFlags};

    use super::*;

    #[test]
    fn filters_stand_on_each_other_and_have_the_numbers_after_the_images() {
        let text = "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>
            <disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/>
            <throttlefilters><throttlefilter group='x'/><throttlefilter group='y'/></throttlefilters></disk></devices></domain>";
        let mut disk = Domain::parse(text, ParseFlags::INACTIVE)
            .unwrap()
            .devices
            .disks
            .remove(0);
        assert_eq!(crate::block::number_disk(&mut disk, 25), 28);
        assert_eq!(
            crate::block::number_disk(&mut disk, 40),
            40,
            "numbers are given once"
        );
        crate::block::name_disk(&mut disk).unwrap();
        let found = filters(&disk, "");
        let nodes: Vec<_> = found
            .iter()
            .map(|f| (f.node.as_str(), f.group.as_str()))
            .collect();
        assert_eq!(nodes, [("libvirt-26-filter", "x"), ("libvirt-27-filter", "y")]);
        assert_eq!(highest_filter(&disk), Some(27));
    }
}
