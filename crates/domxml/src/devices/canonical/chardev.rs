//! Character devices, and what has a character device behind it.

use super::net::canonical_address;
use super::storage::canonical_seclabels;
use crate::devices::{
    ChannelTarget, ChannelTargetKind, Chardev, ChardevKind, ChardevMode, ChardevProtocol, ChardevSource,
    RngBackend, RngBackendModel, Smartcard, SmartcardMode,
};

pub(super) fn canonical_chardev(chardev: &mut Chardev) {
    // A log without a file is none.
    chardev.log = chardev.log.take().filter(|log| log.file.is_some());
    canonical_sources(chardev.kind, &mut chardev.sources);
    match chardev.kind {
        ChardevKind::Tcp => {
            chardev.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => chardev.protocol = None,
    }
}

/// Where a channel ends in the guest.
pub(super) fn canonical_channel_target(target: &mut ChannelTarget) {
    use ChannelTargetKind::{Guestfwd, Virtio, Xen};
    if target.kind != Some(Guestfwd) {
        clear!(target; address, port);
    }
    if !matches!(target.kind, Some(Virtio | Xen)) {
        clear!(target; name, state);
    }
    target.address.iter_mut().for_each(canonical_address);
}

pub(super) fn canonical_smartcard(smartcard: &mut Smartcard) {
    if smartcard.mode != SmartcardMode::Passthrough {
        clear!(smartcard; kind, sources, protocol, log);
        return;
    }
    clear!(smartcard; certificates, database);
    let Some(kind) = smartcard.kind else { return };
    canonical_sources(kind, &mut smartcard.sources);
    drop_labels(&mut smartcard.sources);
    match kind {
        ChardevKind::Tcp => {
            smartcard.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => smartcard.protocol = None,
    }
}

pub(super) fn canonical_rng_backend(backend: &mut RngBackend) {
    if backend.model != RngBackendModel::Random {
        backend.path.clear();
    }
    if backend.model != RngBackendModel::Egd {
        clear!(backend; kind, sources, protocol, log);
        return;
    }
    let Some(kind) = backend.kind else { return };
    canonical_sources(kind, &mut backend.sources);
    drop_labels(&mut backend.sources);
    match kind {
        ChardevKind::Tcp => {
            backend.protocol.get_or_insert(ChardevProtocol::Raw);
        }
        _ => backend.protocol = None,
    }
}

/// Only ports and channels have labels of their own.
pub(super) fn drop_labels(sources: &mut [ChardevSource]) {
    sources.iter_mut().for_each(|source| source.seclabels.clear());
}

fn canonical_sources(kind: ChardevKind, sources: &mut Vec<ChardevSource>) {
    use ChardevKind::{Null, Spicevmc, Stdio, Udp, Vc};
    if matches!(kind, Null | Spicevmc | Stdio | Vc) {
        sources.clear();
    }
    for source in &mut *sources {
        canonical_chardev_source(kind, source);
    }
    sources.retain(|source| *source != ChardevSource::default());
    if kind == Udp {
        keep_first_of_each_mode(sources);
        sources.sort_by_key(|source| source.mode != Some(ChardevMode::Bind));
    }
}

/// Of two sources that lead the same way the first counts, and one that leads nowhere is none.
fn keep_first_of_each_mode(sources: &mut Vec<ChardevSource>) {
    let mut seen = Vec::new();
    sources.retain(|source| {
        let is_first = !seen.contains(&source.mode);
        seen.push(source.mode);
        is_first && (source.host.is_some() || source.service.is_some())
    });
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
    source.reconnect = super::canonical_reconnect(source.reconnect.take());
    canonical_seclabels(&mut source.seclabels);
}
