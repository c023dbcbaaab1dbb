//! What only QEMU knows of a device that has come: its terminal, where its memory is, and how much memory the guest has
//! with it.
//!
//! Called once the device is plugged in, so that nothing here fails: what QEMU does not tell, the document does not say.

use std::fmt::Display;

use domxml::{
    devices::{Address, Chardev, ChardevKind, Device, DimmAddress, Memory, MemoryModel, common::Size},
    units::Kib,
};
use qemu_plan::hotplug;
use qmp::{
    commands,
    types::{MemoryDevice, MemoryDeviceData},
};

use crate::{
    domain::{Document, View},
    ops::run::guest::Guest,
};

/// Notes the terminal that a character device has opened.
pub(super) fn put_terminal(device: &mut Device, path: &str) {
    let chardev = match device {
        Device::Serial(port) => &mut port.chardev,
        Device::Parallel(port) => &mut port.chardev,
        Device::Console(console) => &mut console.chardev,
        Device::Channel(channel) => &mut channel.chardev,
        Device::Redirdev(redirected) => &mut redirected.chardev,
        _ => return,
    };
    put(chardev, path);
}

fn put(chardev: &mut Chardev, path: &str) {
    if chardev.kind == ChardevKind::Pty {
        chardev.source_mut().path = Some(path.to_owned());
    }
}

/// Notes where the memory of a module is; how much memory the guest has then, as [`balloon`] says.
pub(super) async fn of_memory(guest: &Guest, device: &mut Device) -> Option<u64> {
    let kib = balloon(guest, device).await;
    let Device::Memory(module) = device else {
        return kib;
    };
    match guest.execute(commands::QueryMemoryDevices {}).await {
        Ok(list) => put_place(module, &list),
        Err(error) => unknown(guest, &error),
    }
    kib
}

/// How much memory the balloon leaves the guest, KiB, once a memory module has come or gone; none for other devices, and for
/// guests without a balloon.
pub(super) async fn balloon(guest: &Guest, device: &Device) -> Option<u64> {
    if !matches!(device, Device::Memory(_)) {
        return None;
    }
    let asked = match guest.monitor() {
        Ok(monitor) => monitor.balloon().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(bytes) => bytes.map(|bytes| bytes / 1024),
        Err(error) => {
            unknown(guest, &error);
            None
        }
    }
}

fn unknown(guest: &Guest, error: &dyn Display) {
    tracing::warn!(guest = %guest.domain.view().name, %error, "QEMU does not say how much memory the guest has");
}

fn put_place(module: &mut Memory, list: &[MemoryDevice]) {
    let alias = module.info.alias.as_deref();
    let found = list.iter().find(|device| device.data.id.as_deref() == alias);
    let Some(MemoryDevice { data, .. }) = found else {
        return;
    };
    let MemoryDeviceData {
        addr,
        memaddr,
        slot,
        size,
        ..
    } = data;
    match module.model {
        MemoryModel::Dimm | MemoryModel::Nvdimm => {
            if let Some(Address::Dimm(address)) = &mut module.info.address {
                *address = DimmAddress {
                    slot: slot
                        .and_then(|slot| u32::try_from(slot).ok())
                        .unwrap_or(address.slot),
                    base: addr.or(address.base),
                };
            }
        }
        model => {
            let target = module.target.get_or_insert_default();
            target.address = memaddr.or(target.address);
            if model == MemoryModel::VirtioMem {
                target.current = size.map(|bytes| in_kib(bytes / 1024));
            }
        }
    }
}

/// A size as documents of running guests show it.
fn in_kib(value: u64) -> Size {
    Size {
        unit: Some("KiB".to_owned()),
        value,
    }
}

/// The guest has so much memory by its balloon; what it has on virtio-mem comes on top.
pub(super) fn put_balloon(view: &mut View, kib: Option<u64>) {
    let (Some(run), Some(kib)) = (view.run.as_mut(), kib) else {
        return;
    };
    let mut document = domxml::Domain::clone(&run.document.domain);
    let modules = document.devices.memories.iter();
    let grown = modules
        .filter(|module| module.model == MemoryModel::VirtioMem)
        .map(current);
    let all = kib.saturating_add(grown.fold(0, u64::saturating_add));
    document.current_memory = Some(Kib(all));
    run.document = Document::live(document);
    run.seen.balloon_kib = Some(all);
}

/// What the guest has of a virtio-mem device now, KiB.
fn current(module: &Memory) -> u64 {
    let mut only = module.clone();
    let target = only.target.get_or_insert_default();
    target.size = target.current.take();
    hotplug::memory_kib(&only)
}

#[cfg(test)]
mod tests {
    use domxml::ParseFlags;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_module_is_shown_where_qemu_has_put_it() {
        let list = json!([
            {"type": "dimm", "data": {"id": "dimm1", "addr": 4_294_967_296_u64, "slot": 3, "size": 134_217_728,
                "hotplugged": true, "memdev": "/objects/memdimm1", "node": 0, "hotpluggable": true}},
            {"type": "virtio-mem", "data": {"id": "virtiomem0", "memaddr": 4_563_402_752_u64, "size": 67_108_864,
                "requested-size": 67_108_864, "max-size": 268_435_456, "block-size": 2_097_152, "node": 0,
                "memdev": "/objects/memvirtiomem0"}}]);
        let list: Vec<MemoryDevice> = serde_json::from_value(list).unwrap();
        // table: the module, what its document says then.
        for (text, said) in [
            (
                "<memory model='dimm'><target><size>131072</size></target><alias name='dimm1'/><address type='dimm' slot='1'/></memory>",
                "<address type='dimm' slot='3' base='0x100000000'/>",
            ),
            (
                "<memory model='virtio-mem'><target><size>262144</size></target><alias name='virtiomem0'/></memory>",
                "<current unit='KiB'>65536</current>",
            ),
            (
                "<memory model='dimm'><target><size>131072</size></target><alias name='dimm7'/><address type='dimm' slot='1'/></memory>",
                "<address type='dimm' slot='1'/>",
            ),
        ] {
            let Ok(Device::Memory(mut module)) = Device::parse(text, ParseFlags::NONE) else {
                panic!("{text}")
            };
            put_place(&mut module, &list);
            let shown = Device::Memory(module).format(domxml::FormatFlags::NONE);
            assert!(shown.contains(said), "{shown}");
        }
    }
}
