//! What a guest tells about itself, as libvirt's typed parameters, in libvirt's order.

use wire::consts::*;
use wire::params::*;
use wire::remote::*;
use wire::typed::{Param, TypedParam, TypedValue};

use super::flags::Flags;
use super::info::basic;
use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::get_guest_info_request::Part;
use crate::proto::guest_info::{Load, Os, Timezone, User};
use crate::proto::{GetGuestInfoRequest, GuestDisk, GuestFilesystem, GuestInfo, InterfaceAddresses};

const MILLISECONDS: u64 = 1_000;

/// What can be asked about, by libvirt's flags.
const PARTS: [(u32, Part); 8] = [
    (VIR_DOMAIN_GUEST_INFO_USERS, Part::Users),
    (VIR_DOMAIN_GUEST_INFO_OS, Part::Os),
    (VIR_DOMAIN_GUEST_INFO_TIMEZONE, Part::Timezone),
    (VIR_DOMAIN_GUEST_INFO_HOSTNAME, Part::Hostname),
    (VIR_DOMAIN_GUEST_INFO_FILESYSTEM, Part::Filesystems),
    (VIR_DOMAIN_GUEST_INFO_DISKS, Part::Disks),
    (VIR_DOMAIN_GUEST_INFO_INTERFACES, Part::Interfaces),
    (VIR_DOMAIN_GUEST_INFO_LOAD, Part::Load),
];

pub(crate) async fn get(ctx: &Ctx, args: DomainGetGuestInfo, flags: Flags) -> Reply<DomainGetGuestInfoRet> {
    flags.checked()?;
    let known = PARTS.iter().fold(0, |known, (flag, _)| known | flag);
    let unknown = args.types & !known;
    if unknown != 0 {
        basic(ctx, &args.dom).await?;
        return Err(args::invalid(&format!("unsupported guest information types '{unknown:#x}'")).into());
    }
    let wanted = PARTS.iter().filter(|(flag, _)| args.types & flag != 0);
    let request = GetGuestInfoRequest {
        domain: by_uuid(&args.dom),
        parts: wanted.map(|(_, part)| i32::from(*part)).collect(),
    };
    let info = ctx.guest_agent().get_info(request).await?;
    Ok(DomainGetGuestInfoRet {
        params: params(info).into(),
    })
}

/// Parameters under names with numbers, such as "disk.0.name".
#[derive(Default)]
struct List(Vec<TypedParam>);

impl List {
    fn put(&mut self, param: Param, value: impl Into<TypedValue>) {
        self.0.push(param.with(value));
    }

    /// A text; left out if it is empty.
    fn text(&mut self, param: Param, value: String) {
        if !value.is_empty() {
            self.put(param, value.as_str());
        }
    }

    /// How many follow. Where there are none, libvirt says so of users and interfaces only.
    fn count(&mut self, param: Param, count: usize) {
        self.put(param, small(count));
    }

    /// A parameter of one entry.
    fn of(&mut self, entry: &str, suffix: Param, value: impl Into<TypedValue>) {
        self.0
            .push(TypedParam::new(format!("{entry}{}", suffix.field), value));
    }

    /// A text of one entry; left out if it is empty.
    fn text_of(&mut self, entry: &str, suffix: Param, value: &str) {
        if !value.is_empty() {
            self.of(entry, suffix, value);
        }
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn params(info: GuestInfo) -> Vec<TypedParam> {
    let mut list = List::default();
    if let Some(it) = info.users {
        users(&mut list, &it.users);
    }
    if let Some(it) = info.os {
        os(&mut list, it);
    }
    if let Some(it) = info.timezone {
        timezone(&mut list, it);
    }
    if let Some(name) = info.hostname {
        list.put(VIR_DOMAIN_GUEST_INFO_HOSTNAME_HOSTNAME, name.as_str());
    }
    if let Some(it) = info.filesystems {
        filesystems(&mut list, &it.filesystems);
    }
    if let Some(it) = info.disks {
        disks(&mut list, &it.disks);
    }
    if let Some(it) = info.interfaces {
        interfaces(&mut list, &it.interfaces);
    }
    if let Some(it) = info.load {
        load(&mut list, &it);
    }
    list.0
}

fn users(list: &mut List, users: &[User]) {
    list.count(VIR_DOMAIN_GUEST_INFO_USER_COUNT, users.len());
    for (index, user) in users.iter().enumerate() {
        let entry = format!("user.{index}");
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_USER_SUFFIX_NAME, user.name.as_str());
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_USER_SUFFIX_DOMAIN, &user.domain);
        let login = user.login_time.unwrap_or_default();
        let (seconds, nanos) = (u64::try_from(login.seconds), u64::try_from(login.nanos));
        let millis = seconds.unwrap_or(0).saturating_mul(MILLISECONDS);
        let millis = millis.saturating_add(nanos.unwrap_or(0) / 1_000_000);
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_USER_SUFFIX_LOGIN_TIME, millis);
    }
}

fn os(list: &mut List, os: Os) {
    list.text(VIR_DOMAIN_GUEST_INFO_OS_ID, os.id);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_NAME, os.name);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_PRETTY_NAME, os.pretty_name);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_VERSION, os.version);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_VERSION_ID, os.version_id);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_MACHINE, os.machine);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_VARIANT, os.variant);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_VARIANT_ID, os.variant_id);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_KERNEL_RELEASE, os.kernel_release);
    list.text(VIR_DOMAIN_GUEST_INFO_OS_KERNEL_VERSION, os.kernel_version);
}

fn timezone(list: &mut List, zone: Timezone) {
    list.text(VIR_DOMAIN_GUEST_INFO_TIMEZONE_NAME, zone.name);
    let offset = zone.offset.unwrap_or_default().seconds;
    let offset = i32::try_from(offset).unwrap_or(0);
    list.put(VIR_DOMAIN_GUEST_INFO_TIMEZONE_OFFSET, offset);
}

fn filesystems(list: &mut List, filesystems: &[GuestFilesystem]) {
    if filesystems.is_empty() {
        return;
    }
    list.count(VIR_DOMAIN_GUEST_INFO_FS_COUNT, filesystems.len());
    for (index, it) in filesystems.iter().enumerate() {
        let entry = format!("fs.{index}");
        let mount_point = it.mount_point.as_str();
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_MOUNTPOINT, mount_point);
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_NAME, it.name.as_str());
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_FSTYPE, it.r#type.as_str());
        if let Some(total) = it.total_bytes {
            list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_TOTAL_BYTES, total);
        }
        if let Some(used) = it.used_bytes {
            list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_USED_BYTES, used);
        }
        let count = small(it.disks.len());
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_DISK_COUNT, count);
        for (index, disk) in it.disks.iter().enumerate() {
            let entry = format!("{entry}.disk.{index}");
            list.text_of(
                &entry,
                VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_DISK_SUFFIX_ALIAS,
                &disk.target,
            );
            list.text_of(
                &entry,
                VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_DISK_SUFFIX_SERIAL,
                &disk.serial,
            );
            list.text_of(
                &entry,
                VIR_DOMAIN_GUEST_INFO_FS_SUFFIX_DISK_SUFFIX_DEVICE,
                &disk.device,
            );
        }
    }
}

fn disks(list: &mut List, disks: &[GuestDisk]) {
    if disks.is_empty() {
        return;
    }
    list.count(VIR_DOMAIN_GUEST_INFO_DISK_COUNT, disks.len());
    for (index, disk) in disks.iter().enumerate() {
        let entry = format!("disk.{index}");
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_NAME, disk.name.as_str());
        list.of(
            &entry,
            VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_PARTITION,
            disk.partition,
        );
        if !disk.dependencies.is_empty() {
            let count = small(disk.dependencies.len());
            list.of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_DEPENDENCY_COUNT, count);
        }
        for (index, name) in disk.dependencies.iter().enumerate() {
            let entry = format!("{entry}.dependency.{index}");
            let suffix = VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_DEPENDENCY_SUFFIX_NAME;
            list.of(&entry, suffix, name.as_str());
        }
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_SERIAL, &disk.serial);
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_ALIAS, &disk.target);
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_GUEST_ALIAS, &disk.alias);
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_DISK_SUFFIX_GUEST_BUS, &disk.bus);
    }
}

fn interfaces(list: &mut List, interfaces: &[InterfaceAddresses]) {
    list.count(VIR_DOMAIN_GUEST_INFO_IF_COUNT, interfaces.len());
    for (index, interface) in interfaces.iter().enumerate() {
        let entry = format!("if.{index}");
        list.of(
            &entry,
            VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_NAME,
            interface.name.as_str(),
        );
        list.text_of(&entry, VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_HWADDR, &interface.mac);
        let count = small(interface.addresses.len());
        list.of(&entry, VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_ADDR_COUNT, count);
        for (index, address) in interface.addresses.iter().enumerate() {
            let entry = format!("{entry}.addr.{index}");
            let kind = if address.address.contains(':') {
                "ipv6"
            } else {
                "ipv4"
            };
            list.of(&entry, VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_ADDR_SUFFIX_TYPE, kind);
            let suffix = VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_ADDR_SUFFIX_ADDR;
            list.of(&entry, suffix, address.address.as_str());
            let suffix = VIR_DOMAIN_GUEST_INFO_IF_SUFFIX_ADDR_SUFFIX_PREFIX;
            list.of(&entry, suffix, address.prefix);
        }
    }
}

fn load(list: &mut List, load: &Load) {
    list.put(VIR_DOMAIN_GUEST_INFO_LOAD_1M, load.over_one);
    list.put(VIR_DOMAIN_GUEST_INFO_LOAD_5M, load.over_five);
    list.put(VIR_DOMAIN_GUEST_INFO_LOAD_15M, load.over_fifteen);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::guest_info::{Disks, Filesystems, Interfaces, Users};

    /// The names alone, and the values of those that `shown` picks.
    fn told(info: GuestInfo) -> Vec<String> {
        let shown = |param: TypedParam| match param.value {
            TypedValue::String(text) => format!("{}={}", param.field.to_str(), text.to_str()),
            value => format!("{}={value:?}", param.field.to_str()),
        };
        params(info).into_iter().map(shown).collect()
    }

    #[test]
    fn who_is_logged_in_and_on_what() {
        let user = User {
            name: "root".into(),
            domain: String::new(),
            login_time: Some(prost_types::Timestamp {
                seconds: 2,
                nanos: 500_000_000,
            }),
        };
        let info = GuestInfo {
            users: Some(Users { users: vec![user] }),
            os: Some(Os {
                id: "debian".into(),
                machine: "x86_64".into(),
                ..Os::default()
            }),
            filesystems: Some(Filesystems::default()),
            disks: Some(Disks::default()),
            interfaces: Some(Interfaces::default()),
            ..GuestInfo::default()
        };
        let expected = [
            "user.count=Uint(1)",
            "user.0.name=root",
            "user.0.login-time=Ullong(2500)",
            "os.id=debian",
            "os.machine=x86_64",
            "if.count=Uint(0)",
        ];
        assert_eq!(told(info), expected);
    }

    #[test]
    fn disks_come_with_what_they_are_made_of() {
        let disk = GuestDisk {
            name: "/dev/dm-0".into(),
            dependencies: vec!["/dev/vda".into()],
            target: "vda".into(),
            bus: "virtio".into(),
            ..GuestDisk::default()
        };
        let filesystem = GuestFilesystem {
            mount_point: "/".into(),
            name: "dm-0".into(),
            r#type: "xfs".into(),
            total_bytes: Some(7),
            disks: vec![crate::proto::guest_filesystem::Disk {
                target: "vda".into(),
                ..Default::default()
            }],
            ..GuestFilesystem::default()
        };
        let info = GuestInfo {
            filesystems: Some(Filesystems {
                filesystems: vec![filesystem],
            }),
            disks: Some(Disks { disks: vec![disk] }),
            ..GuestInfo::default()
        };
        let expected = [
            "fs.count=Uint(1)",
            "fs.0.mountpoint=/",
            "fs.0.name=dm-0",
            "fs.0.fstype=xfs",
            "fs.0.total-bytes=Ullong(7)",
            "fs.0.disk.count=Uint(1)",
            "fs.0.disk.0.alias=vda",
            "disk.count=Uint(1)",
            "disk.0.name=/dev/dm-0",
            "disk.0.partition=Boolean(false)",
            "disk.0.dependency.count=Uint(1)",
            "disk.0.dependency.0.name=/dev/vda",
            "disk.0.alias=vda",
            "disk.0.guest_bus=virtio",
        ];
        assert_eq!(told(info), expected);
    }
}
