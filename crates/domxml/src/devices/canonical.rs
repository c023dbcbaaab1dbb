//! What is left of a device when only that counts which its kind knows.
//!
//! libvirt's reader looks at the attributes that a kind has and never sees the others; a
//! struct here has them all. [`Devices::canonicalize`] makes up for that after reading. It
//! needs no knowledge of a host or of QEMU: what does is filled in elsewhere.

use super::{
    Audio, AudioKind, AudioStream, BackingStore, Chardev, ChardevKind, ChardevMode, ChardevProtocol,
    ChardevSource, DataStore, Device, DeviceMut, DeviceSeclabel, Devices, Disk, Filesystem, FilesystemDriver,
    FilesystemDriverKind, Graphics, GraphicsKind, HostTransport, Hostdev, Interface, InterfaceKind,
    InterfaceSource, IoTune, Ip, ListenKind, Mirror, NetProtocol, PciModel, Redirfilter, RngBackend,
    RngBackendModel, Route, Smartcard, SmartcardMode, Source, StorageKind, Tray, YesNo,
};

/// Makes fields absent.
macro_rules! clear {
    ($value:expr; $($field:ident),+ $(,)?) => {
        $($value.$field = Default::default();)+
    };
}

/// Makes fields absent that have a value which says no more than absence does.
macro_rules! drop_values {
    ($value:expr, $word:expr; $($field:ident),+ $(,)?) => {
        $(if $value.$field.as_ref().is_some_and(|v| $word(v.as_str())) { $value.$field = None; })+
    };
}

fn is_default(word: &str) -> bool {
    word == "default"
}

impl Devices {
    /// Drops what the kind of each device does not know, and spells out what reading implies.
    pub fn canonicalize(&mut self) {
        self.iter_mut().for_each(canonicalize);
    }
}

impl Device {
    /// Drops what the kind of the device does not know, and spells out what reading implies.
    pub fn canonicalize(&mut self) {
        canonicalize(self.as_mut());
    }
}

fn canonicalize(device: DeviceMut<'_>) {
    match device {
        DeviceMut::Disk(disk) => canonical_disk(disk),
        DeviceMut::Filesystem(filesystem) => canonical_filesystem(filesystem),
        DeviceMut::Interface(interface) => canonical_interface(interface),
        DeviceMut::Graphics(graphics) => canonical_graphics(graphics),
        DeviceMut::Hostdev(hostdev) => canonical_hostdev(hostdev),
        DeviceMut::Serial(serial) => canonical_chardev(&mut serial.chardev),
        DeviceMut::Parallel(parallel) => canonical_chardev(&mut parallel.chardev),
        DeviceMut::Console(console) => canonical_chardev(&mut console.chardev),
        DeviceMut::Channel(channel) => {
            canonical_chardev(&mut channel.chardev);
            let address = channel.target.iter_mut().flat_map(|target| &mut target.address);
            address.for_each(canonical_address);
        }
        DeviceMut::Controller(controller)
            if !matches!(
                controller.pci_model(),
                Some(PciModel::PciRoot | PciModel::PcieRoot)
            ) =>
        {
            clear!(controller; pcihole64);
        }
        DeviceMut::Audio(audio) => canonical_audio(audio),
        DeviceMut::Lease(lease) => canonical_lease(lease),
        DeviceMut::Tpm(tpm) => {
            if let Some(backend) = &mut tpm.backend {
                backend.encryption = backend.encryption.take().filter(|key| !key.secret.is_empty());
            }
        }
        DeviceMut::Redirdev(redirdev) => canonical_chardev(&mut redirdev.chardev),
        DeviceMut::Smartcard(smartcard) => canonical_smartcard(smartcard),
        DeviceMut::Redirfilter(filter) => canonical_redirfilter(filter),
        DeviceMut::Rng(rng) => {
            rng.rate = rng.rate.take().filter(|rate| rate.bytes != 0);
            rng.backend.iter_mut().for_each(canonical_rng_backend);
        }
        _ => {}
    }
}

fn canonical_disk(disk: &mut Disk) {
    let kind = disk.kind;
    disk.source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
    disk.backing
        .iter_mut()
        .for_each(|backing| canonical_backing(backing));
    disk.mirror.iter_mut().for_each(canonical_mirror);
    disk.iotune.iter_mut().for_each(canonical_iotune);
    drop_values!(disk, is_default; snapshot);
    if disk.target.tray == Some(Tray::Closed) {
        disk.target.tray = None;
    }
    if let Some(driver) = &mut disk.driver {
        drop_values!(driver, is_default; cache, error_policy, rerror_policy, io, discard, detect_zeroes);
    }
    if let Some(geometry) = &mut disk.geometry {
        drop_values!(geometry, is_default; trans);
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
    source.name = source.name.take().filter(|name| !name.is_empty());
    source.readahead = source.readahead.take().filter(|ahead| ahead.size != 0);
    source.timeout = source.timeout.take().filter(|timeout| timeout.seconds != 0);
    for host in &mut source.hosts {
        host.port = host.port.filter(|port| *port != 0);
        host.transport = host
            .transport
            .filter(|transport| *transport != HostTransport::Tcp);
    }
    canonical_seclabels(&mut source.seclabels);
    source
        .data_store
        .iter_mut()
        .for_each(|store| canonical_data_store(store));
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
    let kind = store.kind.unwrap_or_default();
    store
        .source
        .iter_mut()
        .for_each(|source| canonical_source(source, kind));
}

/// Chains are as deep as documents may nest.
fn canonical_backing(backing: &mut BackingStore) {
    let kind = backing.kind.unwrap_or_default();
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

fn canonical_iotune(tune: &mut IoTune) {
    macro_rules! drop_zeroes {
        ($($field:ident)+) => { $(tune.$field = tune.$field.filter(|value| *value != 0);)+ };
    }
    drop_zeroes!(total_bytes_sec read_bytes_sec write_bytes_sec total_iops_sec read_iops_sec
        write_iops_sec total_bytes_sec_max read_bytes_sec_max write_bytes_sec_max
        total_iops_sec_max read_iops_sec_max write_iops_sec_max size_iops_sec
        total_bytes_sec_max_length read_bytes_sec_max_length write_bytes_sec_max_length
        total_iops_sec_max_length read_iops_sec_max_length write_iops_sec_max_length);
}

/// A label that says nothing is none.
fn canonical_seclabels(labels: &mut Vec<DeviceSeclabel>) {
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

/// Of both directions of a back end, what its kind knows.
fn canonical_audio(audio: &mut Audio) {
    use AudioKind::{Alsa, Coreaudio, Jack, Oss, Pipewire, Pulseaudio, Sdl};
    let kind = audio.kind;
    let streams = audio.input.iter_mut().chain(&mut audio.output);
    for stream in streams {
        if !matches!(kind, Alsa | Oss) {
            clear!(stream; dev);
        }
        if !matches!(kind, Coreaudio | Oss | Sdl) {
            clear!(stream; buffer_count);
        }
        if !matches!(kind, Pulseaudio | Pipewire) {
            clear!(stream; name, stream_name, latency);
        }
        if kind != Jack {
            clear!(stream; server_name, client_name, connect_ports, exact_name);
        }
        if kind != Oss {
            clear!(stream; try_poll);
        }
    }
    let says = |stream: &AudioStream| *stream != AudioStream::default();
    audio.input = audio.input.take().filter(says);
    audio.output = audio.output.take().filter(says);
}

fn canonical_lease(lease: &mut super::Lease) {
    if let Some(target) = &mut lease.target {
        target.offset = target.offset.filter(|offset| *offset != 0);
    }
}

fn canonical_filesystem(filesystem: &mut Filesystem) {
    drop_values!(filesystem, is_default; multidevs);
    let virtiofs = |driver: &FilesystemDriver| driver.kind == Some(FilesystemDriverKind::Virtiofs);
    if !filesystem.driver.as_ref().is_some_and(virtiofs) {
        clear!(filesystem; binary);
        if let Some(driver) = &mut filesystem.driver {
            clear!(driver; queue);
        }
    }
}

fn canonical_chardev(chardev: &mut Chardev) {
    canonical_sources(chardev.kind, &mut chardev.sources);
    match chardev.kind {
        ChardevKind::Tcp => {
            chardev.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => chardev.protocol = None,
    }
}

fn canonical_smartcard(smartcard: &mut Smartcard) {
    if smartcard.mode != SmartcardMode::Passthrough {
        clear!(smartcard; kind, sources, protocol, log);
        return;
    }
    clear!(smartcard; certificates, database);
    let Some(kind) = smartcard.kind else { return };
    canonical_sources(kind, &mut smartcard.sources);
    match kind {
        ChardevKind::Tcp => {
            smartcard.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => smartcard.protocol = None,
    }
}

fn canonical_rng_backend(backend: &mut RngBackend) {
    if backend.model != RngBackendModel::Random {
        backend.path.clear();
    }
    if backend.model != RngBackendModel::Egd {
        clear!(backend; kind, sources, protocol, log);
        return;
    }
    let Some(kind) = backend.kind else { return };
    canonical_sources(kind, &mut backend.sources);
    match kind {
        ChardevKind::Tcp => {
            backend.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => backend.protocol = None,
    }
}

fn canonical_sources(kind: ChardevKind, sources: &mut Vec<ChardevSource>) {
    use ChardevKind::{Null, Spicevmc, Stdio, Udp, Vc};
    if matches!(kind, Null | Spicevmc | Stdio | Vc) {
        sources.clear();
    }
    for source in &mut *sources {
        canonical_chardev_source(kind, source);
    }
    if kind == Udp {
        sources.sort_by_key(|source| source.mode != Some(ChardevMode::Bind));
    }
}

fn canonical_chardev_source(kind: ChardevKind, source: &mut ChardevSource) {
    use ChardevKind::{Dbus, Dev, File, Nmdm, Pipe, Pty, QemuVdagent, Spiceport, Tcp, Udp, Unix};
    match kind {
        Tcp | Udp | Unix => {
            source.mode.get_or_insert(ChardevMode::Connect);
        }
        _ => source.mode = None,
    }
    if !matches!(kind, Dev | File | Pipe | Pty | Unix) {
        clear!(source; path, seclabels);
    }
    if kind != File {
        clear!(source; append);
    }
    if !matches!(kind, Tcp | Udp) {
        clear!(source; host, service);
    }
    if kind != Tcp {
        clear!(source; tls, tls_from_config);
    }
    if !matches!(kind, Tcp | Unix) {
        clear!(source; reconnect);
    }
    if !matches!(kind, Spiceport | Dbus) {
        clear!(source; channel);
    }
    if kind != Nmdm {
        clear!(source; master, slave);
    }
    if kind != QemuVdagent {
        clear!(source; clipboard, mouse);
    }
    canonical_seclabels(&mut source.seclabels);
}

/// Models of cards in their own spelling; they are known in any.
const CARDS: &[&str] = &[
    "netfront",
    "rtl8139",
    "virtio",
    "e1000",
    "e1000e",
    "igb",
    "virtio-transitional",
    "virtio-non-transitional",
    "usb-net",
    "spapr-vlan",
    "lan9118",
    "scm91c111",
    "vlance",
    "vmxnet",
    "vmxnet2",
    "vmxnet3",
    "Am79C970A",
    "Am79C973",
    "82540EM",
    "82545EM",
    "82543GC",
];

fn canonical_interface(interface: &mut Interface) {
    let kind = interface.kind;
    if let Some(source) = &mut interface.source {
        canonical_plug(kind, source);
    }
    if let Some(mac) = &mut interface.mac
        && let Some(octets) = crate::inet::mac_octets(&mac.address)
    {
        mac.address = crate::inet::format_mac(octets);
        if octets == [0; 6] {
            interface.mac = None;
        }
    }
    if kind == InterfaceKind::Hostdev {
        interface.driver = None;
    } else {
        clear!(interface; managed, hostdev);
    }
    if !matches!(
        kind,
        InterfaceKind::Network | InterfaceKind::Bridge | InterfaceKind::Ethernet
    ) {
        clear!(interface; filterref);
    }
    if let Some(model) = &mut interface.model
        && let Some(known) = CARDS.iter().find(|known| known.eq_ignore_ascii_case(model))
    {
        (*known).clone_into(model);
    }
    if let Some(filter) = &mut interface.filterref {
        filter.parameters.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if let Some(backend) = &mut interface.backend {
        drop_values!(backend, is_default; kind);
    }
    interface.ips.iter_mut().for_each(canonical_ip);
    interface.routes.iter_mut().for_each(canonical_route);
}

fn canonical_plug(kind: InterfaceKind, source: &mut InterfaceSource) {
    use InterfaceKind::{
        Bridge, Client, Direct, Ethernet, Hostdev, Internal, Mcast, Network, Server, Udp, User, Vdpa, Vds,
        Vhostuser,
    };
    if kind != Network {
        clear!(source; network, portgroup);
    }
    if !matches!(kind, Network | Vds) {
        clear!(source; portid);
    }
    if !matches!(kind, Network | Bridge) {
        clear!(source; bridge, mac_table_manager);
    }
    if kind != Vhostuser {
        clear!(source; transport, path, reconnect);
    }
    if !matches!(kind, Server | Client | Mcast | Udp) {
        clear!(source; address, port);
    }
    if kind != Udp {
        clear!(source; local);
    }
    if kind != Internal {
        clear!(source; name);
    }
    if !matches!(kind, Direct | Vdpa | User | Vhostuser | Network) {
        clear!(source; dev);
    }
    if !matches!(kind, Direct | Vhostuser | Network) {
        clear!(source; mode);
    }
    if kind != Vds {
        clear!(source; switchid, portgroupid, connectionid);
    }
    if kind != Hostdev {
        clear!(source; missing, host_device);
    }
    if kind != Ethernet {
        clear!(source; ips, routes);
    }
    source.ips.iter_mut().for_each(canonical_ip);
    source.routes.iter_mut().for_each(canonical_route);
}

fn canonical_address(address: &mut String) {
    if let Some(known) = crate::inet::numeric_address(address) {
        *address = known.to_string();
    }
}

fn canonical_route(route: &mut Route) {
    let addresses = [&mut route.address, &mut route.netmask, &mut route.gateway];
    addresses.into_iter().flatten().for_each(canonical_address);
}

fn canonical_ip(ip: &mut Ip) {
    canonical_address(&mut ip.address);
    ip.peer.iter_mut().for_each(canonical_address);
    ip.family = ip
        .family
        .take()
        .filter(|family| family == "ipv4" || family == "ipv6");
    let family = if ip.address.contains(':') { "ipv6" } else { "ipv4" };
    ip.family.get_or_insert_with(|| family.to_owned());
    ip.prefix = ip.prefix.filter(|prefix| *prefix != 0);
}

fn canonical_graphics(graphics: &mut Graphics) {
    use GraphicsKind::{Dbus, Desktop, EglHeadless, Rdp, Sdl, Spice, Vnc};
    let kind = graphics.kind;
    if !matches!(kind, Vnc | Spice | Rdp) {
        clear!(graphics; port, autoport, listen, listens, passwd);
    }
    if kind != Vnc {
        clear!(graphics; websocket, websocket_generated, socket, share_policy, power_control);
    }
    if !matches!(kind, Vnc | Spice) {
        clear!(graphics; keymap, passwd_valid_to, connected);
    }
    if kind != Spice {
        clear!(graphics; tls_port, default_mode, channels, image, jpeg, zlib, playback, streaming,
            mouse, clipboard, filetransfer);
    }
    if kind != Rdp {
        clear!(graphics; replace_user, multi_user, username);
    }
    if kind != Dbus {
        clear!(graphics; p2p, address);
    }
    if !matches!(kind, Sdl | Desktop) {
        clear!(graphics; display, fullscreen);
    }
    if kind != Sdl {
        clear!(graphics; xauth);
    }
    if !matches!(kind, Sdl | Spice | EglHeadless | Dbus) {
        clear!(graphics; gl);
    }
    if !matches!(kind, Vnc | Dbus) {
        clear!(graphics; audio);
    }
    for listen in &mut graphics.listens {
        if listen.kind != ListenKind::Socket {
            clear!(listen; socket);
        }
        if listen.kind != ListenKind::Network {
            clear!(listen; network);
        }
        if !matches!(listen.kind, ListenKind::Address | ListenKind::Network) {
            clear!(listen; address);
        }
    }
}

fn canonical_hostdev(hostdev: &mut Hostdev) {
    hostdev.ips.iter_mut().for_each(canonical_ip);
    hostdev.routes.iter_mut().for_each(canonical_route);
}

/// A version in two parts, the second with two digits: `1.1` means 1.10. -1 stands for any.
fn canonical_version(version: &str) -> Option<String> {
    let Some((major, minor)) = version.split_once('.') else {
        return Some(version.to_owned()).filter(|version| version != "-1");
    };
    let tens = if minor.len() == 1 { "0" } else { "" };
    Some(format!("{major}.{minor}{tens}"))
}

fn canonical_redirfilter(filter: &mut Redirfilter) {
    for rule in &mut filter.rules {
        for id in [&mut rule.class, &mut rule.vendor, &mut rule.product] {
            *id = id.filter(|id| *id >= 0);
        }
        rule.version = rule
            .version
            .take()
            .and_then(|version| canonical_version(&version));
    }
}
