//! What a guest told about itself, as messages.

use super::convert;
use crate::{
    ops::inspect::guest_info::{Disk, Filesystem, Load, Os, Part, Place, Timezone, Told, User},
    pb::{self, get_guest_info_request::Part as Asked, guest_info as info},
};

/// What is asked about; none for the value that nobody may send.
pub(super) fn part(part: Asked) -> Option<Part> {
    Some(match part {
        Asked::Unspecified => return None,
        Asked::Users => Part::Users,
        Asked::Os => Part::Os,
        Asked::Timezone => Part::Timezone,
        Asked::Hostname => Part::Hostname,
        Asked::Filesystems => Part::Filesystems,
        Asked::Disks => Part::Disks,
        Asked::Interfaces => Part::Interfaces,
        Asked::Load => Part::Load,
    })
}

/// Everything.
pub(super) fn info(told: Told) -> pb::GuestInfo {
    pb::GuestInfo {
        users: told.users.map(|users| info::Users {
            users: users.into_iter().map(user).collect(),
        }),
        os: told.os.map(os),
        timezone: told.timezone.map(timezone),
        hostname: told.hostname,
        filesystems: told.filesystems.map(|all| info::Filesystems {
            filesystems: all.into_iter().map(filesystem).collect(),
        }),
        disks: told.disks.map(|disks| info::Disks {
            disks: disks.into_iter().map(disk).collect(),
        }),
        interfaces: told.interfaces.map(|all| info::Interfaces {
            interfaces: convert::interfaces(all),
        }),
        load: told.load.map(load),
    }
}

/// A filesystem.
pub(super) fn filesystem(filesystem: Filesystem) -> pb::GuestFilesystem {
    let place = |place: Place| pb::guest_filesystem::Disk {
        target: place.target.unwrap_or_default(),
        serial: place.serial.unwrap_or_default(),
        device: place.device.unwrap_or_default(),
    };
    pb::GuestFilesystem {
        mount_point: filesystem.mount_point,
        name: filesystem.name,
        r#type: filesystem.kind,
        total_bytes: filesystem.total,
        used_bytes: filesystem.used,
        disks: filesystem.disks.into_iter().map(place).collect(),
    }
}

fn user(user: User) -> info::User {
    info::User {
        name: user.name,
        domain: user.domain.unwrap_or_default(),
        login_time: Some(time(user.login_time)),
    }
}

/// Seconds after 1970, to the microsecond: a double has no more of a time of today.
fn time(seconds: f64) -> prost_types::Timestamp {
    let micros = (seconds * 1e6).round();
    // A guest may tell any number; what is out of range is the nearest that is in it.
    #[allow(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let micros = micros as i64;
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

fn os(os: Os) -> info::Os {
    info::Os {
        id: os.id.unwrap_or_default(),
        name: os.name.unwrap_or_default(),
        pretty_name: os.pretty_name.unwrap_or_default(),
        version: os.version.unwrap_or_default(),
        version_id: os.version_id.unwrap_or_default(),
        machine: os.machine.unwrap_or_default(),
        variant: os.variant.unwrap_or_default(),
        variant_id: os.variant_id.unwrap_or_default(),
        kernel_release: os.kernel_release.unwrap_or_default(),
        kernel_version: os.kernel_version.unwrap_or_default(),
    }
}

fn timezone(zone: Timezone) -> info::Timezone {
    info::Timezone {
        name: zone.name.unwrap_or_default(),
        offset: Some(prost_types::Duration {
            seconds: zone.offset.into(),
            nanos: 0,
        }),
    }
}

fn disk(disk: Disk) -> pb::GuestDisk {
    pb::GuestDisk {
        name: disk.name,
        partition: disk.partition,
        dependencies: disk.dependencies,
        serial: disk.serial.unwrap_or_default(),
        target: disk.target.unwrap_or_default(),
        alias: disk.alias.unwrap_or_default(),
        bus: disk.bus.unwrap_or_default(),
    }
}

fn load(load: Load) -> info::Load {
    info::Load {
        over_one: load.one,
        over_five: load.five,
        over_fifteen: load.fifteen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_login_keeps_its_fraction() {
        let shown = |seconds| {
            let time = time(seconds);
            (time.seconds, time.nanos)
        };
        assert_eq!(shown(1_700_000_000.25), (1_700_000_000, 250_000_000));
        assert_eq!(shown(-0.5), (-1, 500_000_000));
        assert_eq!(shown(f64::NAN), (0, 0));
    }
}
