//! Disks, their images, and what is below those.

use super::is_default;
use crate::devices::{
    BackingStore, DataStore, DeviceSeclabel, Disk, HostTransport, IoTune, Mirror, NetProtocol, Slices,
    Source, StorageHost, StorageKind, Tray, YesNo,
};

pub(super) fn canonical_disk(disk: &mut Disk) {
    if disk.source.is_none() {
        // A drive that says nothing of a source is empty, of whatever kind it calls itself.
        disk.kind = StorageKind::File;
    }
    let kind = disk.kind;
    disk.source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
    disk.backing
        .iter_mut()
        .for_each(|backing| canonical_backing(backing));
    disk.mirror.iter_mut().for_each(canonical_mirror);
    disk.iotune.iter_mut().for_each(IoTune::drop_zeroes);
    drop_values!(disk, is_default; snapshot);
    if disk.target.tray == Some(Tray::Closed) {
        disk.target.tray = None;
    }
    disk.target.rotation_rate = disk.target.rotation_rate.filter(|rate| *rate != 0);
    if let Some(driver) = &mut disk.driver {
        driver.queues = driver.queues.filter(|queues| *queues != 0);
        driver.queue_size = driver.queue_size.filter(|size| *size != 0);
        drop_values!(driver, is_default; cache, error_policy, rerror_policy, io, discard, detect_zeroes);
    }
    // One without cylinders, heads or sectors says nothing.
    let says = |number| number != 0;
    disk.geometry = disk.geometry.take().filter(|geometry| {
        [geometry.cyls, geometry.heads, geometry.secs]
            .into_iter()
            .all(says)
    });
    if let Some(geometry) = &mut disk.geometry {
        drop_values!(geometry, is_default; trans);
    }
}

impl Source {
    /// Drops what a source of the kind does not know.
    pub(crate) fn canonicalize(&mut self, kind: StorageKind) {
        canonical_source(self, kind);
    }
}

fn canonical_source(source: &mut Source, kind: StorageKind) {
    use StorageKind::{Block, Dir, File, Network, Nvme, VhostUser, VhostVdpa, Volume};
    if kind != File {
        clear!(source; file, fdgroup);
    }
    if !matches!(kind, Block | VhostVdpa) {
        clear!(source; dev);
    }
    if kind != Dir {
        clear!(source; dir);
    }
    if kind != Network {
        clear!(source; protocol, name, query, tls, tls_hostname, hosts, snapshot, config, ssl,
            cookies, readahead, timeout, known_hosts, identity, initiator);
    }
    canonical_protocol(source);
    source.slices = source.slices.take().and_then(canonical_slices);
    if kind != Volume {
        clear!(source; pool, volume, mode);
    }
    if kind != Nvme {
        clear!(source; managed, namespace, address);
    }
    if !matches!(kind, Nvme | VhostUser) {
        clear!(source; transport);
    }
    if kind != VhostUser {
        clear!(source; path);
    }
    if !matches!(kind, Network | VhostUser) {
        clear!(source; reconnect);
    }
    for place in [
        &mut source.file,
        &mut source.dev,
        &mut source.dir,
        &mut source.name,
    ] {
        *place = place.take().filter(|place| !place.is_empty());
    }
    if kind == Nvme {
        source.managed.get_or_insert(YesNo::Yes);
        if let Some(address) = &mut source.address {
            for part in [
                &mut address.domain,
                &mut address.bus,
                &mut address.slot,
                &mut address.function,
            ] {
                part.get_or_insert(0);
            }
        }
    }
    canonical_reconnect(source, kind);
    source.readahead = source.readahead.take().filter(|ahead| ahead.size != 0);
    source.timeout = source.timeout.take().filter(|timeout| timeout.seconds != 0);
    source.hosts.iter_mut().for_each(canonical_host);
    if kind == Network {
        clear!(source; seclabels);
    }
    canonical_seclabels(&mut source.seclabels);
    source
        .data_store
        .iter_mut()
        .for_each(|store| canonical_data_store(store));
}

/// A server is at a socket, or at a name and a port.
pub(super) fn canonical_host(host: &mut StorageHost) {
    host.port = host.port.filter(|port| *port != 0);
    match host.transport {
        Some(HostTransport::Unix) => {
            clear!(host; name, port);
        }
        _ => {
            clear!(host; socket);
        }
    }
    host.transport = host
        .transport
        .filter(|transport| *transport != HostTransport::Tcp);
}

/// A socket is dialled again after seconds, a server of NBD is waited for; others do neither.
fn canonical_reconnect(source: &mut Source, kind: StorageKind) {
    let Some(mut reconnect) = source.reconnect.take() else {
        return;
    };
    match (kind, source.protocol) {
        (StorageKind::VhostUser, _) => source.reconnect = super::canonical_reconnect(Some(reconnect)),
        (StorageKind::Network, Some(NetProtocol::Nbd)) => {
            clear!(reconnect; enabled, timeout);
            source.reconnect = Some(reconnect).filter(|r| r.delay.is_some_and(|delay| delay != 0));
        }
        _ => {}
    }
}

/// The one part of a source that counts: the first that is of the storage.
fn canonical_slices(mut slices: Slices) -> Option<Slices> {
    slices
        .slices
        .retain(|slice| slice.kind.as_deref() == Some("storage"));
    slices.slices.truncate(1);
    (!slices.slices.is_empty()).then_some(slices)
}

/// Of a server, what its protocol knows.
fn canonical_protocol(source: &mut Source) {
    use NetProtocol::{Ftp, Ftps, Http, Https, Nfs, Ssh};
    let protocol = source.protocol;
    if !matches!(protocol, Some(Http | Https)) {
        clear!(source; query, cookies);
    }
    if !matches!(protocol, Some(Https | Ftps)) {
        clear!(source; ssl);
    }
    if !matches!(protocol, Some(Http | Https | Ftp | Ftps)) {
        clear!(source; readahead, timeout);
    }
    if protocol != Some(Ssh) {
        clear!(source; known_hosts);
    }
    if !matches!(protocol, Some(Ssh | Nfs)) {
        clear!(source; identity);
    }
}

fn canonical_data_store(store: &mut DataStore) {
    if let Some(format) = &mut store.format {
        format.metadata_cache = None;
    }
    let kind = store.kind.unwrap_or_default();
    store
        .source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
}

/// Chains are as deep as documents may nest, and end where an image does not say of what type it is.
fn canonical_backing(backing: &mut BackingStore) {
    let Some(kind) = backing.kind else {
        let BackingStore { detected, .. } = *backing;
        *backing = BackingStore {
            detected,
            ..BackingStore::default()
        };
        return;
    };
    backing
        .source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
    backing
        .backing
        .iter_mut()
        .for_each(|below| canonical_backing(below));
}

fn canonical_mirror(mirror: &mut Mirror) {
    let kind = mirror.kind.unwrap_or_default();
    mirror
        .source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
    mirror
        .backing
        .iter_mut()
        .for_each(|below| canonical_backing(below));
}

impl IoTune {
    /// Makes limits absent that are 0.
    pub(crate) fn drop_zeroes(&mut self) {
        macro_rules! drop_zeroes {
            ($($field:ident)+) => { $(self.$field = self.$field.filter(|value| *value != 0);)+ };
        }
        drop_zeroes!(total_bytes_sec read_bytes_sec write_bytes_sec total_iops_sec read_iops_sec
            write_iops_sec total_bytes_sec_max read_bytes_sec_max write_bytes_sec_max
            total_iops_sec_max read_iops_sec_max write_iops_sec_max size_iops_sec
            total_bytes_sec_max_length read_bytes_sec_max_length write_bytes_sec_max_length
            total_iops_sec_max_length read_iops_sec_max_length write_iops_sec_max_length);
    }
}

/// A label that says nothing is none.
pub(super) fn canonical_seclabels(labels: &mut Vec<DeviceSeclabel>) {
    labels.retain(|l| l.label.is_some() || l.relabel.is_some() || l.labelskip.is_some());
    labels.iter_mut().for_each(canonical_seclabel);
}

fn canonical_seclabel(label: &mut DeviceSeclabel) {
    if label.labelskip == Some(YesNo::Yes) {
        clear!(label; relabel, label);
    } else {
        label.labelskip = None;
        label.relabel.get_or_insert(YesNo::Yes);
    }
}
