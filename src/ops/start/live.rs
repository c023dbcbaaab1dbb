//! What of a run's document only QEMU knows: terminals, threads, devices.

use std::collections::BTreeMap;

use domxml::{
    StatusDocument,
    clock::{Adjustment, ClockOffset},
    devices::{ChannelState, Chardev, ChardevKind, GraphicsKind, interface::LinkState},
    status::{DeviceAlias, VcpuThread},
};
use qmp::{commands, types::MigrationCapability};

use crate::{
    domain::Effects,
    error::Result,
    events::model::{
        EventKind,
        event::{Detail, DiskChange},
    },
    ops::{
        Driver,
        document::prepared::Prepared,
        run::{password, slots},
    },
    qemu::Monitor,
};

/// Asks QEMU, puts what it says into the document, and returns the parts of the status file that follow.
pub(crate) async fn complete(
    driver: &Driver,
    monitor: &Monitor,
    prepared: &mut Prepared,
) -> Result<StatusDocument> {
    tell_of_migrations(monitor).await?;
    if let Some(clock) = &mut prepared.document.clock
        && let (ClockOffset::Variable, Some(Adjustment::Seconds(ahead))) = (clock.offset, clock.adjustment)
    {
        clock.adjustment0 = Some(ahead);
    }
    let ptys = monitor.ptys().await?;
    put_terminals(&mut prepared.document, &ptys);
    for channel in &mut prepared.document.devices.channels {
        if let Some(target) = channel.target.as_mut().filter(|t| t.name.is_some()) {
            target.state.get_or_insert(ChannelState::Disconnected);
        }
    }
    slots::plug_at_start(monitor, &mut prepared.document).await?;
    let threads = monitor.cpus().await?;
    let devices = monitor.device_ids().await?;
    apply_balloon(monitor, &prepared.document).await?;
    take_links_down(monitor, &prepared.document).await?;
    for display in &prepared.document.devices.graphics {
        if matches!(display.kind, GraphicsKind::Vnc | GraphicsKind::Spice) {
            password::tell(driver, monitor, display).await?;
        }
    }
    Ok(StatusDocument {
        vcpus: threads
            .iter()
            .map(|c| VcpuThread {
                id: u32::try_from(c.cpu_index).unwrap_or(0),
                pid: c.thread_id,
            })
            .collect(),
        devices: devices.into_iter().map(|alias| DeviceAlias { alias }).collect(),
        ..StatusDocument::default()
    })
}

/// What the run's emulator can do.
pub(super) fn capabilities(prepared: &Prepared) -> Vec<domxml::status::CapabilityFlag> {
    let flags = prepared.caps.flags();
    let flag = |name: &str| domxml::status::CapabilityFlag {
        name: name.to_owned(),
    };
    flags.iter().map(|f| flag(f.name())).collect()
}

/// QEMU tells of the steps of a migration, and a save is one. A daemon that takes the guest over relies on it.
async fn tell_of_migrations(monitor: &Monitor) -> Result<()> {
    let events = MigrationCapability {
        capability: "events".to_owned(),
        state: true,
    };
    let capabilities = vec![events];
    monitor
        .execute(commands::MigrateSetCapabilities { capabilities })
        .await
        .map(drop)
}

/// What is in a drive says of what format it is: nothing in it, no format.
pub(crate) fn empty_drives(document: &mut domxml::Domain) {
    for disk in &mut document.devices.disks {
        if qemu_plan::block::is_empty(disk)
            && let Some(driver) = &mut disk.driver
        {
            driver.kind = None;
        }
    }
}

/// The events of images that the guest was started without.
pub(crate) fn tell_missing(missing: Vec<(String, String, bool)>) -> Effects {
    missing
        .into_iter()
        .fold(Effects::none(), |effects, (alias, old_path, emptied)| {
            let change = DiskChange {
                old_path,
                new_path: String::new(),
                alias,
                // libvirt's numbers.
                reason: i32::from(!emptied),
            };
            effects.event(EventKind::DiskChange, Some(Detail::DiskChange(change)))
        })
}

/// Links that the document has down: QEMU makes all of them up.
async fn take_links_down(monitor: &Monitor, document: &domxml::Domain) -> Result<()> {
    for interface in document
        .devices
        .interfaces
        .iter()
        .filter(|i| i.link == Some(LinkState::Down))
    {
        let name = interface.info.alias.clone().unwrap_or_default();
        monitor.execute(commands::SetLink { name, up: false }).await?;
    }
    Ok(())
}

/// The balloon's size and how often the guest tells of its memory.
async fn apply_balloon(monitor: &Monitor, document: &domxml::Domain) -> Result<()> {
    let Some(balloon) = document
        .devices
        .memballoon
        .as_ref()
        .filter(|b| b.model.as_str() != "none")
    else {
        return Ok(());
    };
    if let Some(period) = balloon.stats_period.filter(|p| *p > 0) {
        let path = format!(
            "/machine/peripheral/{}",
            balloon.info.alias.as_deref().unwrap_or("balloon0")
        );
        monitor.set_balloon_period(&path, period).await?;
    }
    let facts = crate::domain::facts::Facts::of(document);
    if facts.current_memory_kib < facts.memory_kib {
        monitor
            .set_balloon(facts.current_memory_kib.saturating_mul(1024))
            .await?;
    }
    Ok(())
}

fn put_terminals(document: &mut domxml::Domain, ptys: &BTreeMap<String, String>) {
    let put = |chardev: &mut Chardev, alias: Option<&str>| {
        let path = alias.and_then(|alias| ptys.get(&format!("char{alias}")))?.clone();
        if chardev.kind != ChardevKind::Pty {
            return None;
        }
        chardev.source_mut().path = Some(path.clone());
        Some(path)
    };
    let devices = &mut document.devices;
    for serial in &mut devices.serials {
        put(&mut serial.chardev, serial.info.alias.as_deref());
    }
    for parallel in &mut devices.parallels {
        put(&mut parallel.chardev, parallel.info.alias.as_deref());
    }
    for channel in &mut devices.channels {
        put(&mut channel.chardev, channel.info.alias.as_deref());
    }
    for console in &mut devices.consoles {
        let tty = put(&mut console.chardev, console.info.alias.as_deref());
        let port = console.target.as_ref().and_then(|target| target.port);
        // Only of the first one do old clients look for the terminal here.
        console.tty = tty.filter(|_| port.unwrap_or(0) == 0);
    }
}

/// Whether the guest has a channel for an agent.
pub(crate) fn has_agent(document: &domxml::Domain) -> bool {
    let name = |c: &domxml::devices::Channel| c.target.as_ref().and_then(|t| t.name.clone());
    document
        .devices
        .channels
        .iter()
        .any(|c| name(c).as_deref() == Some("org.qemu.guest_agent.0"))
}
