//! What qemu.conf says of encrypted connections, written into the document of a run: so whoever goes on with it knows what
//! QEMU has.

use domxml::Domain;
use domxml::devices::common::YesNo;
use domxml::devices::storage::{NetProtocol, Source};
use domxml::devices::{Chardev, ChardevKind, DeviceMut};

use crate::resources::Config;

/// Has everything encrypt that says nothing of it and that the configuration wants encrypted.
pub fn settle(def: &mut Domain, config: &Config) {
    def.devices
        .iter_mut()
        .for_each(|device| settle_device(device, config));
}

/// The same for one device.
pub fn settle_device(device: DeviceMut<'_>, config: &Config) {
    match device {
        DeviceMut::Disk(disk) => {
            if let Some(source) = &mut disk.source {
                settle_source(source, config);
            }
        }
        DeviceMut::Serial(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Parallel(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Channel(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Console(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Redirdev(device) => settle_chardev(&mut device.chardev, config),
        _ => {}
    }
}

fn settle_chardev(chardev: &mut Chardev, config: &Config) {
    let first = chardev
        .sources
        .first_mut()
        .filter(|_| chardev.kind == ChardevKind::Tcp);
    if let Some(source) = first.filter(|source| config.chardev_tls && source.tls.is_none()) {
        (source.tls, source.tls_from_config) = (Some(YesNo::Yes), Some(1));
    }
}

fn settle_source(source: &mut Source, config: &Config) {
    if config.nbd_tls && source.protocol == Some(NetProtocol::Nbd) && source.tls.is_none() {
        (source.tls, source.tls_from_config) = (Some(YesNo::Yes), Some(1));
    }
}

#[cfg(test)]
mod tests {
    use domxml::{FormatFlags, ParseFlags};

    use super::*;

    const GUEST: &str = "<domain type='qemu' id='1'><name>a</name><memory>1</memory><devices>
        <disk type='network'><source protocol='nbd' name='x'><host name='h'/></source><target dev='vda'/></disk>
        <disk type='network'><source protocol='nbd' name='y' tls='no'><host name='h'/></source><target dev='vdb'/></disk>
        <serial type='tcp'><source mode='bind' host='h' service='1'/></serial>
        <serial type='tcp'><source mode='bind' host='h' service='2' tls='no'/></serial>
        <serial type='udp'><source mode='connect' host='h' service='3'/></serial></devices></domain>";

    #[test]
    fn what_the_configuration_has_encrypt_is_the_runs_and_not_the_documents() {
        let mut def = Domain::parse(GUEST, ParseFlags::NONE).unwrap();
        settle(&mut def, &Config::default());
        assert!(!def.format(FormatFlags::NONE).contains("tls='yes'"));
        let config = Config {
            chardev_tls: true,
            nbd_tls: true,
            ..Config::default()
        };
        settle(&mut def, &config);
        let tls = |source: Option<&Source>| source.and_then(|source| source.tls);
        let disks: Vec<_> = def.devices.disks.iter().map(|d| tls(d.source.as_ref())).collect();
        assert_eq!(disks, [Some(YesNo::Yes), Some(YesNo::No)]);
        let serials = def.devices.serials.iter().map(|s| &s.chardev.sources[0]);
        let serials: Vec<_> = serials.map(|s| (s.tls, s.tls_from_config)).collect();
        assert_eq!(
            serials,
            [(Some(YesNo::Yes), Some(1)), (Some(YesNo::No), None), (None, None)]
        );
    }
}
