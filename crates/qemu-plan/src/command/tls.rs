//! What qemu.conf says of encrypted connections, written into the document of a run: so whoever goes on with it knows what
//! QEMU has.

use domxml::Domain;
use domxml::devices::common::YesNo;
use domxml::devices::storage::{NetProtocol, Source};
use domxml::devices::{Chardev, ChardevKind, ChardevSource, DeviceMut};

use crate::resources::Config;

/// Has everything that says nothing of it be as the configuration has it, and say so.
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
            let mut below = disk.backing.as_deref_mut();
            while let Some(store) = below {
                if let Some(source) = &mut store.source {
                    settle_source(source, config);
                }
                below = store.backing.as_deref_mut();
            }
        }
        DeviceMut::Serial(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Parallel(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Channel(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Console(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Redirdev(device) => settle_chardev(&mut device.chardev, config),
        DeviceMut::Rng(device) => {
            if let Some(backend) = &mut device.backend {
                settle_sources(backend.kind, &mut backend.sources, config);
            }
        }
        _ => {}
    }
}

fn settle_chardev(chardev: &mut Chardev, config: &Config) {
    settle_sources(Some(chardev.kind), &mut chardev.sources, config);
}

fn settle_sources(kind: Option<ChardevKind>, sources: &mut [ChardevSource], config: &Config) {
    let first = sources.first_mut().filter(|_| kind == Some(ChardevKind::Tcp));
    if let Some(source) = first.filter(|source| source.tls_from_config.is_none()) {
        source.tls_from_config = Some(u32::from(source.tls.is_none()));
        source.tls.get_or_insert(configured(config.chardev_tls));
    }
}

fn configured(is_on: bool) -> YesNo {
    if is_on { YesNo::Yes } else { YesNo::No }
}

fn settle_source(source: &mut Source, config: &Config) {
    if source.protocol != Some(NetProtocol::Nbd) || source.tls_from_config.is_some() {
        return;
    }
    source.tls_from_config = Some(u32::from(source.tls.is_none()));
    source.tls.get_or_insert(configured(config.nbd_tls));
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
        <serial type='udp'><source mode='connect' host='h' service='3'/></serial>
        <rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='h' service='4'/></backend></rng></devices></domain>";

    #[test]
    fn what_the_configuration_has_encrypt_is_the_runs_and_not_the_documents() {
        let mut def = Domain::parse(GUEST, ParseFlags::NONE).unwrap();
        settle(&mut def, &Config::default());
        assert!(!def.format(FormatFlags::NONE).contains("tls='yes'"));
        let told = |def: &Domain| {
            let sources = def.devices.disks.iter().filter_map(|d| d.source.as_ref());
            sources.map(|s| (s.tls, s.tls_from_config)).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&def),
            [(Some(YesNo::No), Some(1)), (Some(YesNo::No), Some(0))]
        );
        let mut def = Domain::parse(GUEST, ParseFlags::NONE).unwrap();
        let config = Config {
            chardev_tls: true,
            nbd_tls: true,
            ..Config::default()
        };
        settle(&mut def, &config);
        assert_eq!(
            told(&def),
            [(Some(YesNo::Yes), Some(1)), (Some(YesNo::No), Some(0))]
        );
        let egd = &def.devices.rngs[0].backend.as_ref().unwrap().sources[0];
        assert_eq!((egd.tls, egd.tls_from_config), (Some(YesNo::Yes), Some(1)));
        let serials = def.devices.serials.iter().map(|s| &s.chardev.sources[0]);
        let serials: Vec<_> = serials.map(|s| (s.tls, s.tls_from_config)).collect();
        assert_eq!(
            serials,
            [
                (Some(YesNo::Yes), Some(1)),
                (Some(YesNo::No), Some(0)),
                (None, None)
            ]
        );
    }
}
