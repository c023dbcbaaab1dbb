//! The document that another host is given of a guest: what older versions of libvirt know how to read.
//!
//! It is the inactive form of the document, with all addresses, and without what every version adds by itself: the reader
//! at the other end would take it for something that the guest was given.

use crate::Domain;
use crate::cpu::Cpu;
use crate::devices::{
    Audio, AudioKind, Controller, ControllerKind, Devices, Graphics, GraphicsKind, Input, InputBus,
    InputKind, ListenKind, PanicModel, PciModel, StorageFormat, StorageKind, UsbModel, Watchdog,
    WatchdogAction, WatchdogModel, YesNo,
};
use crate::security::SeclabelType;

impl Domain {
    /// Leaves out what a running guest has beyond its configuration, as its inactive form does.
    pub fn drop_runtime(&mut self) {
        self.devices.drop_runtime();
        self.seclabels.retain(|label| !label.implicit);
        for label in &mut self.seclabels {
            label.imagelabel = None;
            if label.kind == Some(SeclabelType::Dynamic) {
                label.label = None;
            }
        }
    }

    /// Leaves out the state of a running guest that has no configuration: names of its devices and images and its labels
    /// stay, as in libvirt's inactive form of it. It is to be written as a live document then.
    pub fn drop_state(&mut self) {
        self.id = None;
        let mut aliases = Vec::new();
        self.devices
            .for_each_info(|_, info| aliases.push(info.alias.take()));
        let tops = self.devices.disks.iter().map(|disk| disk.source.as_ref());
        let indexes: Vec<_> = tops
            .map(|source| source.and_then(|source| source.index))
            .collect();
        self.devices.drop_runtime();
        let mut aliases = aliases.into_iter();
        self.devices
            .for_each_info(|_, info| info.alias = aliases.next().flatten());
        for (disk, index) in self.devices.disks.iter_mut().zip(indexes) {
            if let Some(source) = &mut disk.source {
                source.index = index;
            }
        }
    }

    /// Makes it the document that another host is given. A running guest has the CPU back that was asked for, if it is
    /// known; [`Self::drop_runtime`] has to come first then.
    pub fn make_migratable(&mut self, asked_for: Option<&Cpu>) {
        if let Some(cpu) = asked_for {
            self.cpu = Some(cpu.clone());
        }
        // What was chosen stands in the document; that it was to be chosen is no longer asked.
        self.os.firmware = None;
        self.os.firmware_features.clear();
        let machine = self.os.kind.as_ref().and_then(|kind| kind.machine.clone());
        let machine = machine.unwrap_or_default();
        self.drop_implicit_controllers(&machine);
        let devices = &mut self.devices;
        devices.inputs.retain(|input| !is_implicit_keyboard(input));
        // A drive has a format again that an empty one has not while it runs.
        let named = devices
            .disks
            .iter_mut()
            .filter(|disk| disk.kind != StorageKind::Volume);
        for driver in named.filter_map(|disk| disk.driver.as_mut()) {
            driver.kind.get_or_insert(StorageFormat::Raw);
        }
        if let [audio] = &devices.audios[..]
            && is_default_audio(audio, devices)
        {
            devices.audios.clear();
        }
        if machine.contains("q35") {
            devices.watchdogs.retain(|watchdog| !is_default_itco(watchdog));
        }
        // Older versions know a display of SPICE that listens nowhere by its having no port.
        let nowhere = |display: &&mut Graphics| {
            let first = display.listens.first().map(|listen| listen.kind);
            display.kind == GraphicsKind::Spice && first == Some(ListenKind::None)
        };
        for display in devices.graphics.iter_mut().filter(nowhere) {
            display.autoport = Some(YesNo::No);
            display.listens.clear();
        }
        // Older versions know a socket of VNC by its attribute alone.
        for display in &mut devices.graphics {
            let has_socket = display.kind == GraphicsKind::Vnc && display.socket.is_some();
            display
                .listens
                .retain(|listen| !has_socket || listen.kind != ListenKind::Socket);
        }
        devices
            .panics
            .retain(|panic| !matches!(panic.model, Some(PanicModel::Pseries | PanicModel::S390)));
    }

    fn drop_implicit_controllers(&mut self, machine: &str) {
        let controllers = &mut self.devices.controllers;
        if is_i440fx(machine) {
            drop_only(controllers, ControllerKind::Usb, |usb| {
                matches!(usb.usb_model(), None | Some(UsbModel::Piix3Uhci))
            });
        }
        drop_only(controllers, ControllerKind::Pci, |pci| {
            pci.pcihole64.is_none() && pci.pci_model() == Some(PciModel::PciRoot)
        });
    }
}

/// Drops the controller of a kind if it is the only one, has the number 0 and no name of a user's, and is implied.
fn drop_only(controllers: &mut Vec<Controller>, kind: ControllerKind, implied: fn(&Controller) -> bool) {
    let mut all = controllers.iter().filter(|controller| controller.kind == kind);
    let (Some(only), None) = (all.next(), all.next()) else {
        return;
    };
    if only.index.unwrap_or_default() == 0 && !only.info.has_user_alias() && implied(only) {
        controllers.retain(|controller| controller.kind != kind);
    }
}

fn is_i440fx(machine: &str) -> bool {
    machine == "pc"
        || machine.starts_with("pc-i440fx")
        || machine.starts_with("pc-0.")
        || machine.starts_with("pc-1.")
}

fn is_implicit_keyboard(input: &Input) -> bool {
    input.kind == InputKind::Keyboard && matches!(input.bus, Some(InputBus::Ps2 | InputBus::Xen))
}

/// Whether it is the back end that a guest with these displays gets which has none.
fn is_default_audio(audio: &Audio, devices: &Devices) -> bool {
    let has = |kind| devices.graphics.iter().any(|display| display.kind == kind);
    let own = [GraphicsKind::Sdl, GraphicsKind::Dbus, GraphicsKind::EglHeadless];
    let kind = match () {
        () if has(GraphicsKind::Spice) => AudioKind::Spice,
        () if has(GraphicsKind::Vnc) || !own.into_iter().any(has) => AudioKind::None,
        () => return false,
    };
    let default = Audio {
        id: Some(1),
        kind,
        ..Audio::default()
    };
    *audio == default
}

fn is_default_itco(watchdog: &Watchdog) -> bool {
    let action = matches!(watchdog.action, None | Some(WatchdogAction::Reset));
    watchdog.model == WatchdogModel::Itco && action
}

#[cfg(test)]
mod tests {
    use xmlform::{FormatFlags, ParseFlags};

    use super::*;

    fn migratable(machine: &str, devices: &str) -> Vec<String> {
        let text = format!(
            "<domain type='qemu' id='3'><name>a</name><os firmware='efi'><type machine='{machine}'>hvm</type></os>\
             <devices>{devices}</devices></domain>"
        );
        let mut domain = Domain::parse(&text, ParseFlags::NONE).unwrap();
        domain.drop_runtime();
        domain.make_migratable(None);
        let text = domain.format(FormatFlags::INACTIVE | FormatFlags::MIGRATABLE);
        assert!(!text.contains("id='3'") && !text.contains("firmware"), "{text}");
        let lines = text.lines().map(|line| line.trim().to_owned());
        let inside = lines.skip_while(|line| line != "<devices>").skip(1);
        inside.take_while(|line| line != "</devices>").collect()
    }

    #[test]
    fn spice_that_listens_nowhere_has_no_port() {
        let audio = "<audio id='1' type='spice'/>";
        for (listens, kept) in [
            ("none", &["<graphics type='spice' autoport='no'/>"][..]),
            (
                "socket",
                &[
                    "<graphics type='spice'>",
                    "<listen type='socket'/>",
                    "</graphics>",
                ],
            ),
        ] {
            let display = format!("<graphics type='spice'><listen type='{listens}'/></graphics>");
            assert_eq!(migratable("pc-q35-10.0", &format!("{display}{audio}")), kept);
        }
        let other = "<graphics type='spice' autoport='no'/>";
        let silent = "<audio id='1' type='none'/>";
        assert_eq!(
            migratable("pc-q35-10.0", &format!("{other}{silent}")),
            [other, silent]
        );
    }

    #[test]
    fn what_every_version_adds_is_left_out() {
        let usb = "<controller type='usb' index='0' model='piix3-uhci'><alias name='usb'/></controller>";
        let pci = "<controller type='pci' index='0' model='pci-root'><alias name='pci.0'/></controller>";
        let rest = "<input type='mouse' bus='ps2'><alias name='input0'/></input><input type='keyboard' bus='ps2'/>\
                    <audio id='1' type='none'/>";
        assert_eq!(
            migratable("pc-i440fx-10.0", &format!("{usb}{pci}{rest}")),
            ["<input type='mouse' bus='ps2'/>"]
        );
        let q35 = "<watchdog model='itco' action='reset'/><watchdog model='itco' action='none'/>";
        assert_eq!(
            migratable("pc-q35-10.0", q35),
            ["<watchdog model='itco' action='none'/>"]
        );
    }

    #[test]
    fn what_older_versions_know_otherwise_is_in_their_words() {
        let socket = "<graphics type='vnc' socket='/a'><listen type='socket' socket='/a'/></graphics>";
        assert_eq!(
            migratable("pc-i440fx-10.0", socket),
            ["<graphics type='vnc' socket='/a'/>"]
        );
        let root = "<controller type='pci' index='0' model='pci-root'><target hotplug='off'/></controller>";
        assert!(migratable("pc-i440fx-10.0", root).is_empty());
        let drive =
            "<disk type='file' device='cdrom'><driver name='qemu'/><target dev='hda' bus='ide'/></disk>";
        let shown = migratable("pc-i440fx-10.0", drive);
        assert_eq!(shown[1], "<driver name='qemu' type='raw'/>");
    }

    #[test]
    fn what_a_user_asked_for_stays() {
        let named = "<controller type='usb' index='0' model='piix3-uhci'>";
        let inside = "<alias name='ua-usb'/>";
        assert_eq!(
            migratable("pc-i440fx-10.0", &format!("{named}{inside}</controller>")),
            [named, inside, "</controller>"]
        );
        let other = "<controller type='usb' index='0' model='qemu-xhci'/>";
        assert_eq!(migratable("pc-q35-10.0", other), [other]);
        let audio = "<audio id='2' type='none'/>";
        assert_eq!(migratable("pc-q35-10.0", audio), [audio]);
    }
}
