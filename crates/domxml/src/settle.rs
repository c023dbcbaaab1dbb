//! What of a client's document is not kept: values of the run that the document was taken from, and what belongs to
//! something that is off or not there.
//!
//! People take the document of a running guest, change it, and define it. What only that run had would be wrong in the
//! next.

use crate::Domain;
use crate::devices::{
    ChardevKind, Controller, ControllerKind, Device, DeviceMut, Graphics, Interface, InterfaceKind,
    ListenKind, MemballoonModel, OnOff, UsbModel,
};
use crate::features::{Features, Hpt, Hyperv, Kvm};
use crate::security::{Seclabel, SeclabelType};

impl Domain {
    /// Gives each console its place as its port, as reading the document does.
    pub fn number_consoles(&mut self) {
        number_consoles(&mut self.devices.consoles);
    }

    /// Drops what is not kept.
    pub(crate) fn settle(&mut self) {
        self.seclabels.iter_mut().for_each(settle_label);
        self.features.iter_mut().for_each(settle_features);
        if let Some(tune) = &self.numatune
            && *tune == with_empty_memory()
        {
            self.numatune = None;
        }
        self.os.boot.truncate(BOOT_DEVICES);
        number_consoles(&mut self.devices.consoles);
        self.devices.iter_mut().for_each(settle_device);
    }
}

impl Device {
    /// Drops what is not kept.
    pub(crate) fn settle(&mut self) {
        settle_device(self.as_mut());
    }
}

fn settle_device(device: DeviceMut<'_>) {
    match device {
        DeviceMut::Interface(interface) => settle_interface(interface),
        DeviceMut::Serial(serial) => settle_chardev(&mut serial.chardev),
        DeviceMut::Parallel(parallel) => settle_chardev(&mut parallel.chardev),
        DeviceMut::Console(console) => settle_chardev(&mut console.chardev),
        DeviceMut::Channel(channel) => settle_chardev(&mut channel.chardev),
        DeviceMut::Graphics(graphics) => settle_graphics(graphics),
        DeviceMut::Controller(controller) => settle_controller(controller),
        DeviceMut::Memballoon(balloon) if balloon.model == MemballoonModel::None => {
            (balloon.info.alias, balloon.info.address) = (None, None);
        }
        _ => {}
    }
}

/// A console has its place as its port.
fn number_consoles(consoles: &mut [crate::devices::Console]) {
    for (port, console) in (0..).zip(consoles) {
        console.target.get_or_insert_default().port = Some(port);
    }
}

/// Devices to boot from that count; more are left out.
const BOOT_DEVICES: usize = 4;

fn with_empty_memory() -> crate::tuning::NumaTune {
    crate::tuning::NumaTune {
        memory: Some(crate::tuning::NumaMemory::default()),
        ..crate::tuning::NumaTune::default()
    }
}

/// The host makes up a dynamic label anew at each start.
fn settle_label(label: &mut Seclabel) {
    if label.model.as_deref() == Some("none") {
        (label.kind, label.relabel) = (Some(SeclabelType::None), Some(false.into()));
    }
    label.imagelabel = None;
    match label.kind {
        Some(SeclabelType::Static) => {}
        Some(SeclabelType::None) => (label.label, label.baselabel) = (None, None),
        _ => label.label = None,
    }
}

fn settle_interface(interface: &mut Interface) {
    if interface.kind == InterfaceKind::Network
        && let Some(source) = &mut interface.source
    {
        // Which bridge a network has is the network's to say.
        source.bridge = None;
        source.dev = None;
        source.mode = None;
    }
}

/// Which terminal it gets is chosen at start.
fn settle_chardev(chardev: &mut crate::devices::Chardev) {
    if chardev.kind == ChardevKind::Pty {
        chardev.sources.clear();
    }
}

/// How long a password holds, and what follows its change, goes with the password.
fn settle_graphics(graphics: &mut Graphics) {
    if graphics.passwd.is_none() {
        (graphics.passwd_valid_to, graphics.connected) = (None, None);
    }
    // A network says at which address it is reached.
    let of_networks = graphics.listens.iter_mut();
    for listen in of_networks.filter(|listen| listen.kind == ListenKind::Network) {
        listen.address = None;
    }
}

fn settle_controller(controller: &mut Controller) {
    if controller.kind == ControllerKind::Usb && controller.usb_model() == Some(UsbModel::None) {
        (controller.info.alias, controller.info.address) = (None, None);
        controller.info.master = None;
    }
}

/// What is off has no settings.
fn settle_features(features: &mut Features) {
    if let Some(smm) = features.smm.as_mut().filter(|smm| smm.state == OnOff::Off) {
        smm.tseg = None;
    }
    features.hpt = features.hpt.take().filter(|hpt| *hpt != Hpt::default());
    features.hyperv.iter_mut().for_each(settle_hyperv);
    features.kvm.iter_mut().for_each(settle_kvm);
    if let Some(passthrough) = features.xen.as_mut().and_then(|xen| xen.passthrough.as_mut())
        && passthrough.state == OnOff::Off
    {
        passthrough.mode = None;
    }
}

fn settle_hyperv(hyperv: &mut Hyperv) {
    if hyperv.mode == crate::features::HypervMode::Passthrough {
        *hyperv = Hyperv {
            mode: hyperv.mode,
            ..Hyperv::default()
        };
    }
    if let Some(spinlocks) = hyperv.spinlocks.as_mut().filter(|s| s.state == OnOff::Off) {
        spinlocks.retries = None;
    }
    if let Some(vendor) = hyperv.vendor_id.as_mut().filter(|v| v.state == OnOff::Off) {
        vendor.value = None;
    }
    if let Some(timer) = &mut hyperv.stimer {
        let on = timer.state == OnOff::On;
        timer.direct = timer.direct.filter(|direct| on && direct.state == OnOff::On);
    }
    if let Some(flush) = &mut hyperv.tlbflush {
        let on = flush.state == OnOff::On;
        flush.direct = flush.direct.filter(|direct| on && direct.state == OnOff::On);
        flush.extended = flush
            .extended
            .filter(|extended| on && extended.state == OnOff::On);
    }
}

fn settle_kvm(kvm: &mut Kvm) {
    if let Some(ring) = kvm.dirty_ring.as_mut().filter(|ring| ring.state == OnOff::Off) {
        ring.size = None;
    }
}

#[cfg(test)]
mod tests {
    use xmlform::FormatFlags;

    use super::*;

    /// The lines of a document of these parts that has something of `part`.
    fn lines(parts: &str, part: &str) -> Vec<String> {
        let text = format!("<domain type='qemu'><name>a</name><os><type>hvm</type></os>{parts}</domain>");
        let domain = Domain::given(&text).unwrap();
        let text = domain.format(FormatFlags::INACTIVE | FormatFlags::SECURE);
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.filter(|line| line.contains(part)).collect()
    }

    #[test]
    fn values_of_a_run_are_dropped() {
        for (parts, part, kept) in [
            (
                "<devices><interface type='network'><source network='lan' bridge='virbr7'/></interface></devices>",
                "source",
                "<source network='lan'/>",
            ),
            (
                "<devices><serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial></devices>",
                "source",
                "",
            ),
            (
                "<seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label>\
                 <imagelabel>+0:+0</imagelabel></seclabel>",
                "label",
                "<seclabel type='dynamic' model='dac' relabel='yes'/>",
            ),
            (
                "<devices><graphics type='vnc' passwdValidTo='2040-01-01T00:00:00' connected='keep'/></devices>",
                "graphics",
                "<graphics type='vnc'/>",
            ),
            (
                "<devices><graphics type='vnc'><listen type='network' network='lan' address='192.0.2.1'/></graphics></devices>",
                "listen",
                "<listen type='network' network='lan'/>",
            ),
        ] {
            assert_eq!(lines(parts, part).concat(), kept, "{parts}");
        }
    }

    #[test]
    fn what_is_off_has_no_settings() {
        for (parts, part, kept) in [
            (
                "<features><hyperv><spinlocks state='off' retries='8191'/></hyperv></features>",
                "spinlocks",
                "<spinlocks state='off'/>",
            ),
            (
                "<features><hyperv><stimer state='on'><direct state='off'/></stimer></hyperv></features>",
                "stimer",
                "<stimer state='on'/>",
            ),
            (
                "<devices><controller type='usb' index='0' model='none'><address type='pci' slot='1'/></controller></devices>",
                "controller",
                "<controller type='usb' index='0' model='none'/>",
            ),
            (
                "<devices><memballoon model='none'><address type='pci' slot='1'/></memballoon></devices>",
                "balloon",
                "<memballoon model='none'/>",
            ),
        ] {
            assert_eq!(lines(parts, part).concat(), kept, "{parts}");
        }
    }
}
