//! What a running guest has beyond its configuration, and how it is shown.
//!
//! One list of devices serves every form. What is only in some forms is left out by the writer
//! where a flag says so; where a value differs between forms (a chosen port, a made-up name)
//! the list is changed by a function here before it is written.

use super::{
    BackingStore, ChannelState, Chardev, ChardevKind, Console, DeviceMut, Devices, Disk, Graphics,
    GraphicsKind, Interface, InterfaceSource, ListenKind, Source, YesNo,
};

/// Beginnings of names that were made up for the host's end of an interface.
const MADE_UP_NAMES: &[&str] = &["vnet", "macvtap", "macvlan", "vif"];

impl Devices {
    /// Takes away what a running guest has beyond its configuration, so that the inactive form
    /// can be written of a list that has no configuration of its own.
    pub fn drop_runtime(&mut self) {
        self.for_each_info(|_, info| {
            if !info.has_user_alias() {
                info.alias = None;
            }
        });
        for device in self.iter_mut() {
            match device {
                DeviceMut::Disk(disk) => disk.drop_runtime(),
                DeviceMut::Interface(interface) => interface.drop_runtime(),
                DeviceMut::Graphics(graphics) => graphics.drop_runtime(),
                DeviceMut::Serial(serial) => serial.chardev.drop_runtime(),
                DeviceMut::Parallel(parallel) => parallel.chardev.drop_runtime(),
                DeviceMut::Console(console) => console.drop_runtime(),
                DeviceMut::Channel(channel) => {
                    channel.chardev.drop_runtime();
                    if let Some(target) = &mut channel.target {
                        target.state = None::<ChannelState>;
                    }
                }
                DeviceMut::Redirdev(redirdev) => redirdev.chardev.drop_runtime(),
                DeviceMut::Hostdev(hostdev) => {
                    if let Some(source) = &mut hostdev.source {
                        (source.missing, source.origstates, source.private_data) = (None, None, None);
                    }
                }
                DeviceMut::Tpm(tpm) => tpm.private_data = None,
                DeviceMut::Memory(memory) => {
                    if let Some(target) = &mut memory.target {
                        target.current = None;
                    }
                }
                DeviceMut::Vsock(vsock) => {
                    if let Some(cid) = &mut vsock.cid
                        && cid.auto == Some(YesNo::Yes)
                    {
                        cid.address = None;
                    }
                }
                _ => {}
            }
        }
    }

    /// Replaces what interfaces ask a network for by what they got, as the live form shows it.
    /// The status form is written of the list as it was.
    pub fn show_actual(&mut self) {
        self.interfaces.iter_mut().for_each(Interface::show_actual);
    }
}

impl Disk {
    fn drop_runtime(&mut self) {
        (self.mirror, self.private_data) = (None, None);
        self.source.iter_mut().for_each(Source::drop_runtime);
        self.backing = self.backing.take().filter(|below| !below.detected);
        self.backing.iter_mut().for_each(|below| below.drop_runtime());
    }
}

impl Source {
    fn drop_runtime(&mut self) {
        (self.index, self.private_data) = (None, None);
        self.place = super::VolumePlace::default();
        if self.tls_from_config.take() == Some(1) {
            self.tls = None;
        }
        if let Some(data) = self.data_store.as_deref_mut() {
            data.source.iter_mut().for_each(Source::drop_runtime);
        }
    }
}

impl BackingStore {
    fn drop_runtime(&mut self) {
        self.index = None;
        self.source.iter_mut().for_each(Source::drop_runtime);
        self.backing = self.backing.take().filter(|below| !below.detected);
        self.backing.iter_mut().for_each(|below| below.drop_runtime());
    }
}

impl Chardev {
    fn drop_runtime(&mut self) {
        if self.kind == ChardevKind::Pty {
            self.sources.clear();
        }
        for source in &mut self.sources {
            if source.tls_from_config.take() == Some(1) {
                source.tls = None;
            }
        }
    }
}

impl Console {
    fn drop_runtime(&mut self) {
        self.chardev.drop_runtime();
        self.tty = None;
    }
}

impl Graphics {
    fn drop_runtime(&mut self) {
        if self.autoport == Some(YesNo::Yes) {
            self.port = (self.kind == GraphicsKind::Vnc).then_some(-1);
            self.tls_port = None;
        }
        if self.websocket_generated.take() == Some(YesNo::Yes) {
            self.websocket = Some(-1);
        }
        // A bus of its own is begun with the run.
        let own = |address: &String| address.contains("/qemu/dbus/") && address.ends_with("-dbus.sock");
        self.address = self.address.take().filter(|address| !own(address));
        for listen in &mut self.listens {
            if listen.auto_generated.take() == Some(YesNo::Yes) {
                (listen.socket, self.socket) = (None, None);
            }
            if listen.from_config.take() == Some(1) || listen.kind == ListenKind::Network {
                (listen.address, self.listen) = (None, None);
            }
        }
    }
}

impl Interface {
    fn drop_runtime(&mut self) {
        (self.actual, self.private_data) = (None, None);
        if let Some(mac) = &mut self.mac {
            mac.current_address = None;
        }
        if let Some(source) = &mut self.source {
            (source.portid, source.mac_table_manager, source.missing) = (None, None, None);
            source.origstates = None;
        }
        let made_up = |name: &str| MADE_UP_NAMES.iter().any(|start| name.starts_with(start));
        if let Some(target) = &mut self.target {
            target.dev = target.dev.take().filter(|name| !made_up(name));
        }
        if let Some(guest) = &mut self.guest {
            guest.actual = None;
        }
    }

    /// Replaces what the interface asks a network for by what it got.
    pub fn show_actual(&mut self) {
        let Some(actual) = self.actual.take() else {
            return;
        };
        let asked = self.source.take().unwrap_or_default();
        self.source = Some(InterfaceSource {
            network: asked.network,
            portgroup: asked.portgroup,
            portid: asked.portid,
            ..actual.source.unwrap_or_default()
        });
        self.kind = actual.kind;
        self.managed = actual.managed;
        if let Some(hostdev) = actual.hostdev {
            self.hostdev.driver = hostdev.driver;
        }
        if actual.trust_guest_rx_filters.is_some() {
            self.trust_guest_rx_filters = actual.trust_guest_rx_filters;
        }
        if actual.vlan.is_some() {
            self.vlan = actual.vlan;
        }
        self.virtualport = actual.virtualport;
        self.bandwidth = actual.bandwidth;
        self.isolated = actual.isolated;
    }
}
