//! What a guest tells about itself, through its agent: users, system, filesystems, disks and more.
//!
//! Called by the GuestAgent service. Everything here is the guest's word. The hard thing is a disk: the guest knows it by
//! its place on a bus, and the place is looked up in the document that the guest runs with.

use std::sync::Arc;

use domxml::{
    Domain as Document,
    devices::{Address, PciAddress},
};
use serde_json::{Value, json};

use super::addresses::{self, Addresses};
use crate::{
    domain::Domain,
    error::Result,
    ops::{
        Driver,
        run::agent::{self, Turn, reply::Reply},
    },
};

/// What can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Who is logged in.
    Users,
    /// The operating system.
    Os,
    /// The time zone.
    Timezone,
    /// The name that the guest has given itself.
    Hostname,
    /// Mounted filesystems.
    Filesystems,
    /// Disks and partitions.
    Disks,
    /// Interfaces and their addresses.
    Interfaces,
    /// How busy it is.
    Load,
}

impl Part {
    /// All parts, in the order in which they are asked.
    const ALL: [Part; 8] = [
        Part::Users,
        Part::Os,
        Part::Timezone,
        Part::Hostname,
        Part::Filesystems,
        Part::Disks,
        Part::Interfaces,
        Part::Load,
    ];

    fn command(self) -> &'static str {
        match self {
            Part::Users => "guest-get-users",
            Part::Os => "guest-get-osinfo",
            Part::Timezone => "guest-get-timezone",
            Part::Hostname => "guest-get-host-name",
            Part::Filesystems => "guest-get-fsinfo",
            Part::Disks => "guest-get-disks",
            Part::Interfaces => addresses::COMMAND,
            Part::Load => "guest-get-load",
        }
    }
}

/// What the guest told; none of what it was not asked about, or does not know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Who is logged in.
    pub users: Option<Vec<User>>,
    /// The operating system.
    pub os: Option<Os>,
    /// The time zone.
    pub timezone: Option<Timezone>,
    /// The name that the guest has given itself.
    pub hostname: Option<String>,
    /// Mounted filesystems.
    pub filesystems: Option<Vec<Filesystem>>,
    /// Disks and partitions.
    pub disks: Option<Vec<Disk>>,
    /// Interfaces and their addresses.
    pub interfaces: Option<Vec<Addresses>>,
    /// How busy it is.
    pub load: Option<Load>,
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// Name.
    pub name: String,
    /// The Windows domain of the account.
    pub domain: Option<String>,
    /// When, in seconds after 1970.
    pub login_time: f64,
}

/// The operating system, as far as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are named as in os-release and uname")]
pub struct Os {
    pub id: Option<String>,
    pub name: Option<String>,
    pub pretty_name: Option<String>,
    pub version: Option<String>,
    pub version_id: Option<String>,
    pub machine: Option<String>,
    pub variant: Option<String>,
    pub variant_id: Option<String>,
    pub kernel_release: Option<String>,
    pub kernel_version: Option<String>,
}

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timezone {
    /// Its abbreviation.
    pub name: Option<String>,
    /// Seconds east of UTC.
    pub offset: i32,
}

/// A mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mount_point: String,
    /// Name of its device.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Size, bytes.
    pub total: Option<u64>,
    /// Taken of it, bytes.
    pub used: Option<u64>,
    /// Disks that it is on.
    pub disks: Vec<Place>,
}

/// A disk that a filesystem is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Target in the guest's document.
    pub target: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// The guest's name of it.
    pub device: Option<String>,
}

/// A disk or a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The guest's name of it.
    pub name: String,
    /// It is a part of a disk.
    pub partition: bool,
    /// Names of what it is made of.
    pub dependencies: Vec<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Target in the guest's document.
    pub target: Option<String>,
    /// The guest's other name of it.
    pub alias: Option<String>,
    /// The bus that it is on.
    pub bus: Option<String>,
}

/// Processes that ran or waited to run, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
}

/// What the guest tells about these parts; about all that its agent knows of if there are none.
///
/// # Errors
/// As [`agent::execute`], and `Internal` if an answer lacks what it needs.
pub async fn ask(driver: &Arc<Driver>, domain: &Domain, parts: Vec<Part>) -> Result<Told> {
    agent::available(&domain.view())?;
    let turn = Turn::take(driver, domain).await?;
    driver.tracked(async move { all(&turn, &parts).await }).await
}

async fn all(turn: &Turn, parts: &[Part]) -> Result<Told> {
    let wanted = |part: &Part| parts.is_empty() || parts.contains(part);
    let mut told = Told::default();
    for part in Part::ALL.into_iter().filter(wanted) {
        let answer = match turn.ask(part.command(), json!({})).await {
            Err(error) if parts.is_empty() && error.reason == Some(agent::UNKNOWN) => continue,
            answer => answer?,
        };
        let view = turn.view();
        read(&mut told, part, &answer, &view.running()?.document.domain)?;
    }
    Ok(told)
}

fn read(told: &mut Told, part: Part, answer: &Value, document: &Document) -> Result<()> {
    let reply = Reply::new(part.command(), answer);
    match part {
        Part::Users => told.users = Some(reply.entries()?.map(user).collect::<Result<_>>()?),
        Part::Os => told.os = Some(os(reply)),
        Part::Timezone => {
            told.timezone = Some(Timezone {
                name: reply.may_text("zone"),
                offset: reply.number("offset")?,
            });
        }
        Part::Hostname => told.hostname = Some(reply.text("host-name")?),
        Part::Filesystems => {
            // The agent lists them from the last one mounted on.
            let all = reply.entries()?.rev().map(|entry| filesystem(entry, document));
            told.filesystems = Some(all.collect::<Result<_>>()?);
        }
        Part::Disks => {
            let all = reply.entries()?.map(|entry| disk(entry, document));
            told.disks = Some(all.collect::<Result<_>>()?);
        }
        Part::Interfaces => told.interfaces = Some(addresses::read(answer.clone())?),
        Part::Load => {
            told.load = Some(Load {
                one: reply.fraction("load1m")?,
                five: reply.fraction("load5m")?,
                fifteen: reply.fraction("load15m")?,
            });
        }
    }
    Ok(())
}

fn user(entry: Reply<'_>) -> Result<User> {
    Ok(User {
        name: entry.text("user")?,
        domain: entry.may_text("domain"),
        login_time: entry.fraction("login-time")?,
    })
}

fn os(reply: Reply<'_>) -> Os {
    Os {
        id: reply.may_text("id"),
        name: reply.may_text("name"),
        pretty_name: reply.may_text("pretty-name"),
        version: reply.may_text("version"),
        version_id: reply.may_text("version-id"),
        machine: reply.may_text("machine"),
        variant: reply.may_text("variant"),
        variant_id: reply.may_text("variant-id"),
        kernel_release: reply.may_text("kernel-release"),
        kernel_version: reply.may_text("kernel-version"),
    }
}

fn filesystem(entry: Reply<'_>, document: &Document) -> Result<Filesystem> {
    let place = |disk: Reply<'_>| {
        Ok(Place {
            target: target(disk, document)?,
            serial: disk.may_text("serial"),
            device: disk.may_text("dev"),
        })
    };
    Ok(Filesystem {
        mount_point: entry.text("mountpoint")?,
        name: entry.text("name")?,
        kind: entry.text("type")?,
        total: entry.may_size("total-bytes")?,
        used: entry.may_size("used-bytes")?,
        disks: entry.need("disk")?.entries()?.map(place).collect::<Result<_>>()?,
    })
}

fn disk(entry: Reply<'_>, document: &Document) -> Result<Disk> {
    let dependencies = match entry.at("dependencies") {
        Some(list) => list.entries()?.map(Reply::own_text).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let address = entry.at("address");
    let target = match address {
        Some(address) => target(address, document)?,
        None => None,
    };
    Ok(Disk {
        name: entry.text("name")?,
        partition: entry.flag("partition")?,
        dependencies,
        serial: address.and_then(|address| address.may_text("serial")),
        target,
        alias: entry.may_text("alias"),
        bus: address.and_then(|address| address.may_text("bus-type")),
    })
}

/// Where the guest sees a disk: the function of its controller, and its unit there.
struct Seat {
    pci: [u32; 4],
    unit: [u32; 3],
}

/// The target of the disk that the guest sees at this address; none if no disk is there.
fn target(address: Reply<'_>, document: &Document) -> Result<Option<String>> {
    let pci = address.need("pci-controller")?;
    // An agent that does not know the controller says so by a number that is none.
    let part = |name| {
        pci.number::<i64>(name)
            .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    };
    let seat = Seat {
        pci: [part("domain")?, part("bus")?, part("slot")?, part("function")?],
        unit: [
            address.number("bus")?,
            address.number("target")?,
            address.number("unit")?,
        ],
    };
    Ok(seat.occupant(document))
}

impl Seat {
    fn occupant(&self, document: &Document) -> Option<String> {
        let here = |pci: &PciAddress| [pci.domain, pci.bus, pci.slot, pci.function] == self.pci;
        let controllers = document.devices.controllers.iter();
        let index = controllers
            .filter(|controller| matches!(&controller.info.address, Some(Address::Pci(pci)) if here(pci)))
            .find_map(|controller| controller.index);
        let sits = |address: &Address| match address {
            Address::Pci(pci) => here(pci),
            Address::Drive(drive) => {
                Some(drive.controller) == index && [drive.bus, drive.target, drive.unit] == self.unit
            }
            _ => false,
        };
        let found = document.devices.disks.iter();
        let mut found = found.filter(|disk| disk.info.address.as_ref().is_some_and(sits));
        found.next().map(|disk| disk.target.dev.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = "<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>\
        <disk type='file' device='disk'><source file='/a'/><target dev='vda' bus='virtio'/>\
        <address type='pci' domain='0' bus='5' slot='0' function='0'/></disk>\
        <disk type='file' device='disk'><source file='/b'/><target dev='sda' bus='scsi'/>\
        <address type='drive' controller='0' bus='0' target='0' unit='3'/></disk>\
        <controller type='scsi' index='0' model='virtio-scsi'>\
        <address type='pci' domain='0' bus='2' slot='0' function='0'/></controller></devices></domain>";

    fn told(part: Part, answer: Value) -> Result<Told> {
        let document = Document::parse(DEVICES, domxml::ParseFlags::NONE).unwrap();
        let mut told = Told::default();
        read(&mut told, part, &answer, &document).map(|()| told)
    }

    fn at(bus: i64, unit: u32) -> Value {
        let pci = json!({"domain": 0, "bus": bus, "slot": 0, "function": 0});
        json!({"pci-controller": pci, "bus": 0, "target": 0, "unit": unit, "bus-type": "scsi",
            "serial": "s", "dev": "/dev/x"})
    }

    #[test]
    fn a_disk_is_known_by_its_place() {
        let targets = [(5, 0), (2, 3), (2, 4), (-1, 0)].map(|(bus, unit)| {
            let answer = json!([{"name": "/dev/x", "partition": false, "address": at(bus, unit)}]);
            let disks = told(Part::Disks, answer).unwrap().disks.unwrap();
            disks[0].target.clone()
        });
        assert_eq!(
            targets,
            [Some("vda".to_owned()), Some("sda".to_owned()), None, None]
        );
    }

    #[test]
    fn filesystems_are_told_in_the_order_in_which_they_were_mounted() {
        let answer = json!([
            {"mountpoint": "/home", "name": "sda1", "type": "ext4", "disk": [at(2, 3)], "total-bytes": 9},
            {"mountpoint": "/", "name": "vda1", "type": "xfs", "disk": []},
        ]);
        let found = told(Part::Filesystems, answer).unwrap().filesystems.unwrap();
        let shown = |f: &Filesystem| (f.mount_point.clone(), f.total, f.disks.len());
        let [root, home] = [0, 1].map(|index: usize| shown(&found[index]));
        assert_eq!(
            (root, home),
            (("/".to_owned(), None, 0), ("/home".to_owned(), Some(9), 1))
        );
        let target = found[1].disks[0].target.as_deref();
        assert_eq!(target, Some("sda"));
    }

    #[test]
    fn what_an_answer_lacks_is_named() {
        for (part, answer, lacks) in [
            (
                Part::Users,
                json!([{"user": "root"}]),
                "'login-time' missing in reply of guest-get-users",
            ),
            (
                Part::Timezone,
                json!({"zone": "UTC"}),
                "'offset' missing in reply of guest-get-timezone",
            ),
            (
                Part::Hostname,
                json!({}),
                "'host-name' missing in reply of guest-get-host-name",
            ),
            (
                Part::Load,
                json!({"load1m": 1}),
                "'load5m' missing in reply of guest-get-load",
            ),
            (
                Part::Disks,
                json!([{"name": "x"}]),
                "'partition' missing in reply of guest-get-disks",
            ),
        ] {
            let error = told(part, answer).unwrap_err().to_string();
            assert!(error.ends_with(lacks), "{error}");
        }
    }

    #[test]
    fn what_a_guest_does_not_say_is_left_out() {
        let os = told(Part::Os, json!({"id": "debian"})).unwrap().os.unwrap();
        assert_eq!((os.id.as_deref(), os.variant), (Some("debian"), None));
        let answer = json!([{"user": "root", "login-time": 1.5}]);
        let users = told(Part::Users, answer).unwrap().users.unwrap();
        assert_eq!((users[0].login_time, &users[0].domain), (1.5, &None));
    }
}
