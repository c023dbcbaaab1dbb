//! systemd-machined, where guests are registered on a host that has it, as libvirt registers them.
//!
//! Called at the start and at the end of a guest. A guest that machined does not know does not survive that libvirt's
//! daemon takes it over. machined makes a unit for the guest's process, whose control group becomes the guest's; which it
//! is, the kernel tells.

use std::{fmt::Write, time::Duration};

use uuid::Uuid;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::bus::{Bus, Fault, Object, within};

/// How long machined may keep the start or the end of a guest waiting.
const LIMIT: Duration = Duration::from_secs(5);

const MANAGER: Object = Object {
    service: "org.freedesktop.machine1",
    path: "/org/freedesktop/machine1",
    interface: "org.freedesktop.machine1.Manager",
};
/// machined can only make units where systemd manages the host.
const SYSTEMD_MANAGER: Object = Object {
    service: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";
const NO_MACHINE: &str = "org.freedesktop.machine1.NoSuchMachine";

/// libvirt's word for the one who registers.
const SERVICE: &str = "libvirt-qemu";
const CLASS: &str = "vm";

/// A guest as it is registered.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The name by which the host knows it.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// The process that is to become QEMU.
    pub leader: i32,
    /// The kernel's numbers of its network devices on the host.
    pub interfaces: Vec<u32>,
    /// The partition that it is in, such as "/machine".
    pub partition: String,
    /// How many threads its processes may have, if qemu.conf says; machined has a number of its own.
    pub threads_max: Option<u64>,
}

/// Registers a guest; whether that was done: not where no machined runs.
///
/// # Errors
/// machined's, or no answer within 5 s; it may still register the guest then.
pub async fn register(machine: &Machine) -> Result<bool, Fault> {
    within(LIMIT, async {
        let Some(bus) = available().await? else {
            return Ok(false);
        };
        match create(&bus, machine).await {
            Err(fault) if fault.name() == Some(UNKNOWN_METHOD) => {
                create_without_network(&bus, machine).await?
            }
            other => other?,
        }
        match machine.threads_max {
            Some(threads) => limit_threads(&bus, &machine.name, threads).await.map(|()| true),
            None => Ok(true),
        }
    })
    .await
}

/// Has machined forget a guest, and end what is left in its unit. One that it does not know is no error.
///
/// # Errors
/// machined's, or no answer within 5 s.
pub async fn forget(name: &str) -> Result<(), Fault> {
    within(LIMIT, async {
        let Some(bus) = available().await? else {
            return Ok(());
        };
        match bus.call(MANAGER, "TerminateMachine", &(name,)).await {
            Err(fault) if fault.name() == Some(NO_MACHINE) => Ok(()),
            other => other,
        }
    })
    .await
}

/// The bus, if machined is there: it is started by the call, if need be.
async fn available() -> Result<Option<Bus>, Fault> {
    let Some(bus) = Bus::open().await? else {
        return Ok(None);
    };
    let is_there = bus.can_start(MANAGER.service).await? && bus.runs(SYSTEMD_MANAGER.service).await?;
    Ok(is_there.then_some(bus))
}

async fn create(bus: &Bus, machine: &Machine) -> Result<(), Fault> {
    let interfaces: Vec<i32> = machine
        .interfaces
        .iter()
        .map(|index| index.cast_signed())
        .collect();
    let name = &machine.name;
    let (id, leader) = (machine.uuid.as_bytes().as_slice(), machine.leader.cast_unsigned());
    let scope = scope(&machine.partition);
    let arguments = (name, id, SERVICE, CLASS, leader, "", interfaces, scope);
    let _: OwnedObjectPath = bus.call(MANAGER, "CreateMachineWithNetwork", &arguments).await?;
    Ok(())
}

/// For a machined that is too old to be told of devices.
async fn create_without_network(bus: &Bus, machine: &Machine) -> Result<(), Fault> {
    let (id, leader) = (machine.uuid.as_bytes().as_slice(), machine.leader.cast_unsigned());
    let arguments = (
        &machine.name,
        id,
        SERVICE,
        CLASS,
        leader,
        "",
        scope(&machine.partition),
    );
    let _: OwnedObjectPath = bus.call(MANAGER, "CreateMachine", &arguments).await?;
    Ok(())
}

/// systemd's own limit is for all of the unit, so it must not be the lower one.
async fn limit_threads(bus: &Bus, name: &str, threads: u64) -> Result<(), Fault> {
    let properties = vec![("TasksMax", Value::from(threads))];
    let unit = format!("machine-{}.scope", escaped(name, None));
    bus.call(SYSTEMD_MANAGER, "SetUnitProperties", &(unit, true, properties))
        .await
}

/// Properties of the guest's unit: where it is, and that it outlives the daemons when the host goes down.
fn scope(partition: &str) -> Vec<(&'static str, Value<'static>)> {
    vec![
        ("Slice", Value::from(slice(partition))),
        (
            "After",
            Value::from(vec!["libvirtd.service", "virtqemud.service"]),
        ),
        ("Before", Value::from(vec!["virt-guest-shutdown.target"])),
    ]
}

/// systemd's name of a partition.
fn slice(partition: &str) -> String {
    let name = escaped(partition.trim_matches('/'), Some('/'));
    // The slice of all has no name of its own.
    let name = if name.is_empty() { "-" } else { &name };
    format!("{name}.slice")
}

/// A text as systemd has it in the name of a unit, with a dash for each separator.
fn escaped(text: &str, separator: Option<char>) -> String {
    let mut name = String::new();
    for (place, byte) in text.bytes().enumerate() {
        match char::from(byte) {
            letter if Some(letter) == separator => name.push('-'),
            '.' if place == 0 => name.push_str("\\x2e"),
            letter if letter.is_ascii_alphanumeric() || ".:_".contains(letter) => name.push(letter),
            // Writing to a string does not fail.
            _ => drop(write!(name, "\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_as_systemd_names_it() {
        for (partition, name) in [
            ("/machine", "machine.slice"),
            ("/machine/prod", "machine-prod.slice"),
            ("/a-b/c d", "a\\x2db-c\\x20d.slice"),
            ("/.hidden", "\\x2ehidden.slice"),
            ("/", "-.slice"),
        ] {
            assert_eq!(slice(partition), name);
        }
    }

    #[test]
    fn a_unit_has_the_machines_name() {
        assert_eq!(escaped("qemu-1-k.a/b", None), "qemu\\x2d1\\x2dk.a\\x2fb");
    }

    #[test]
    fn arguments_have_the_types_that_machined_takes() {
        use zbus::zvariant::DynamicType;
        let id = [0_u8; 16];
        let all = (
            "",
            id.as_slice(),
            "",
            "",
            0_u32,
            "",
            &vec![1_i32],
            scope("/machine"),
        );
        assert_eq!(all.signature().to_string(), "(sayssusaia(sv))");
    }
}
