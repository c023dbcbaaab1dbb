//! What the guest's agent is asked by libvirt's own calls.

use std::collections::BTreeSet;

use virtqemud_client::time;
use wire::consts::*;
use wire::remote::*;
use wire::typed::TypedParam;
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use super::args::Must;
use super::flags::{Flags, named};
use super::{Reply, args, by_uuid};
use crate::ctx::Ctx;
use crate::proto::list_guest_vcpus_response::Vcpu;
use crate::proto::set_agent_timeout_request::{Limit, Unlimited, Usual};
use crate::proto::set_authorized_keys_request::Change;
use crate::proto::set_guest_time_request::{Clock, HardwareClock};
use crate::proto::set_user_password_request::Password;
use crate::proto::sleep_request::Kind;
use crate::proto::{
    FreezeGuestFilesystemsRequest, GetGuestTimeRequest, ListAuthorizedKeysRequest,
    ListGuestFilesystemsRequest, ListGuestVcpusRequest, SetAgentTimeoutRequest, SetAuthorizedKeysRequest,
    SetGuestTimeRequest, SetGuestVcpuCountRequest, SetGuestVcpusRequest, SetUserPasswordRequest,
    SleepRequest, ThawGuestFilesystemsRequest, TrimGuestFilesystemsRequest,
};

/// CPUs of a guest have smaller numbers.
const VCPUS_MAX: u32 = 4096;

pub(crate) async fn get_time(ctx: &Ctx, args: DomainGetTime, flags: Flags) -> Reply<DomainGetTimeRet> {
    flags.checked()?;
    let domain = by_uuid(&args.dom);
    let request = GetGuestTimeRequest { domain };
    let answer = ctx.guest_agent().get_time(request).await?;
    let time = answer.time.unwrap_or_default();
    Ok(DomainGetTimeRet {
        seconds: time.seconds,
        nseconds: u32::try_from(time.nanos).unwrap_or(0),
    })
}

pub(crate) async fn freeze(ctx: &Ctx, args: DomainFsfreeze, flags: Flags) -> Reply<DomainFsfreezeRet> {
    flags.checked()?;
    let mount_points = args.mountpoints.into_iter().map(|m| m.into_string());
    let request = FreezeGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        mount_points: mount_points.collect(),
        options: None,
    };
    let count = ctx.guest_agent().freeze_filesystems(request).await?;
    Ok(DomainFsfreezeRet {
        filesystems: number(count.count),
    })
}

pub(crate) async fn thaw(ctx: &Ctx, args: DomainFsthaw, flags: Flags) -> Reply<DomainFsthawRet> {
    flags.checked()?;
    if !args.mountpoints.is_empty() {
        return Err(args::unsupported("specifying mountpoints is not supported").into());
    }
    let request = ThawGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        options: None,
    };
    let count = ctx.guest_agent().thaw_filesystems(request).await?;
    Ok(DomainFsthawRet {
        filesystems: number(count.count),
    })
}

pub(crate) async fn trim(ctx: &Ctx, args: DomainFstrim, flags: Flags) -> Reply<()> {
    flags.checked()?;
    if args.mount_point.is_some() {
        return Err(args::unsupported("Specifying mount point is not supported for now").into());
    }
    let request = TrimGuestFilesystemsRequest {
        domain: by_uuid(&args.dom),
        minimum: args.minimum,
        options: None,
    };
    ctx.guest_agent().trim_filesystems(request).await?;
    Ok(())
}

fn number(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(crate) async fn set_time(ctx: &Ctx, args: DomainSetTime, flags: Flags) -> Reply<()> {
    let clock = match flags.checked()? & VIR_DOMAIN_TIME_SYNC {
        0 => Clock::Time(time::Timestamp {
            seconds: args.seconds,
            nanos: i32::try_from(args.nseconds).unwrap_or(i32::MAX),
        }),
        _ => Clock::HardwareClock(HardwareClock {}),
    };
    let request = SetGuestTimeRequest {
        domain: by_uuid(&args.dom),
        clock: Some(clock),
        options: None,
    };
    ctx.guest_agent().set_time(request).await?;
    Ok(())
}

pub(crate) async fn get_filesystems(
    ctx: &Ctx,
    args: DomainGetFsinfo,
    flags: Flags,
) -> Reply<DomainGetFsinfoRet> {
    flags.checked()?;
    let domain = by_uuid(&args.dom);
    let request = ListGuestFilesystemsRequest { domain };
    let answer = ctx.guest_agent().list_filesystems(request).await?;
    let told = answer.filesystems;
    let ret = u32::try_from(told.len()).unwrap_or(u32::MAX);
    let info = told.into_iter().map(|it| {
        let targets = it.disks.into_iter().map(|disk| disk.target);
        DomainFsinfo {
            mountpoint: it.mount_point.into(),
            name: it.name.into(),
            fstype: it.r#type.into(),
            dev_aliases: targets
                .filter(|target| !target.is_empty())
                .map(Text::from)
                .collect(),
        }
    });
    Ok(DomainGetFsinfoRet {
        info: info.collect(),
        ret,
    })
}

async fn vcpus(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Vec<Vcpu>> {
    let request = ListGuestVcpusRequest { domain: by_uuid(dom) };
    Ok(ctx.guest_agent().list_vcpus(request).await?.vcpus)
}

pub(crate) async fn get_vcpus(
    ctx: &Ctx,
    args: DomainGetGuestVcpus,
    flags: Flags,
) -> Reply<DomainGetGuestVcpusRet> {
    flags.checked()?;
    let vcpus = vcpus(ctx, &args.dom).await?;
    let list = |name: &str, wanted: fn(&Vcpu) -> bool| {
        let chosen = vcpus.iter().filter(|vcpu| wanted(vcpu));
        let numbers = chosen.map(|vcpu| vcpu.number).collect();
        TypedParam::new(name, cpu_list(&numbers).as_str())
    };
    let params = vec![
        list("vcpus", |_| true),
        list("online", |vcpu| vcpu.online),
        list("offlinable", |vcpu| vcpu.can_offline),
    ];
    Ok(DomainGetGuestVcpusRet {
        params: params.into(),
    })
}

pub(crate) async fn set_vcpus(ctx: &Ctx, args: DomainSetGuestVcpus, flags: Flags) -> Reply<()> {
    flags.checked()?;
    let online = match args.state {
        0 => false,
        1 => true,
        _ => {
            return Err(args::refused(
                ErrorDomain::QEMU,
                ctx.info.api,
                "state",
                "unsupported state value",
            )
            .into());
        }
    };
    let request = SetGuestVcpusRequest {
        domain: by_uuid(&args.dom),
        vcpus: numbers(&args.cpumap.to_str())?,
        online,
        options: None,
    };
    ctx.guest_agent().set_vcpus(request).await?;
    Ok(())
}

/// The numbers of a set of CPUs that is written as libvirt writes sets.
pub(super) fn numbers(cpumap: &str) -> Result<Vec<u32>, WireError> {
    let numbers = parsed(cpumap).ok_or_else(|| {
        let text = format!("Failed to parse bitmap '{cpumap}'");
        WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::NONE, &text)
    })?;
    Ok(numbers.into_iter().collect())
}

/// How many CPUs the guest uses, or has.
pub(crate) async fn count_vcpus(ctx: &Ctx, dom: &NonnullDomain, maximum: bool) -> Reply<i32> {
    let vcpus = vcpus(ctx, dom).await?;
    let counted = vcpus.iter().filter(|vcpu| maximum || vcpu.online);
    Ok(i32::try_from(counted.count()).unwrap_or(i32::MAX))
}

pub(crate) async fn set_vcpu_count(ctx: &Ctx, dom: &NonnullDomain, count: u32) -> Reply<()> {
    let request = SetGuestVcpuCountRequest {
        domain: by_uuid(dom),
        count,
        options: None,
    };
    ctx.guest_agent().set_vcpu_count(request).await?;
    Ok(())
}

pub(crate) async fn set_user_password(ctx: &Ctx, args: DomainSetUserPassword, flags: Flags) -> Reply<()> {
    args::check(ctx, "user", Must::NotBeNull, args.user.is_some())?;
    args::check(ctx, "password", Must::NotBeNull, args.password.is_some())?;
    let password = args::text(args.password);
    let password = match flags.checked()? & VIR_DOMAIN_PASSWORD_ENCRYPTED {
        0 => Password::Plain(password),
        _ => Password::Encrypted(password),
    };
    let request = SetUserPasswordRequest {
        domain: by_uuid(&args.dom),
        user: args::text(args.user),
        password: Some(password),
        options: None,
    };
    ctx.guest_agent().set_user_password(request).await?;
    Ok(())
}

pub(crate) async fn get_keys(
    ctx: &Ctx,
    args: DomainAuthorizedSshKeysGet,
    flags: Flags,
) -> Reply<DomainAuthorizedSshKeysGetRet> {
    flags.checked()?;
    let request = ListAuthorizedKeysRequest {
        domain: by_uuid(&args.dom),
        user: args.user.into_string(),
    };
    let answer = ctx.guest_agent().list_authorized_keys(request).await?;
    Ok(DomainAuthorizedSshKeysGetRet {
        keys: answer.keys.into_iter().map(Text::from).collect(),
    })
}

pub(crate) async fn set_keys(ctx: &Ctx, args: DomainAuthorizedSshKeysSet, flags: Flags) -> Reply<()> {
    let both = named!(
        VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND,
        VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE
    );
    let flags = flags.exclusive(both)?;
    let change = match flags.given & (both[0].0 | both[1].0) {
        VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND => Change::Add,
        VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_REMOVE => Change::Remove,
        _ => Change::Replace,
    };
    let keys: Vec<String> = args.keys.into_iter().map(Text::into_string).collect();
    args::check(
        ctx,
        "keys",
        Must::NotBeNull,
        change == Change::Replace || !keys.is_empty(),
    )?;
    flags.checked()?;
    let request = SetAuthorizedKeysRequest {
        domain: by_uuid(&args.dom),
        user: args.user.into_string(),
        change: change.into(),
        keys,
        options: None,
    };
    ctx.guest_agent().set_authorized_keys(request).await?;
    Ok(())
}

pub(crate) async fn set_timeout(
    ctx: &Ctx,
    args: DomainAgentSetResponseTimeout,
    flags: Flags,
) -> Reply<DomainAgentSetResponseTimeoutRet> {
    flags.checked()?;
    let limit = match args.timeout {
        VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK => Limit::Unlimited(Unlimited {}),
        VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT => Limit::Usual(Usual {}),
        seconds if seconds >= 0 => Limit::Timeout(time::of_seconds(seconds.into())),
        seconds => {
            let least = VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK;
            let text = format!("guest agent timeout '{seconds}' is less than the minimum '{least}'");
            return Err(args::invalid(&text).into());
        }
    };
    let request = SetAgentTimeoutRequest {
        domain: by_uuid(&args.dom),
        limit: Some(limit),
        options: None,
    };
    ctx.guest_agent().set_timeout(request).await?;
    Ok(DomainAgentSetResponseTimeoutRet { result: 0 })
}

pub(crate) async fn pm_suspend(ctx: &Ctx, args: DomainPmSuspendForDuration, flags: Flags) -> Reply<()> {
    flags.checked()?;
    if args.duration != 0 {
        return Err(args::unsupported("Duration not supported. Use 0 for now").into());
    }
    let kind = match args.target {
        0 => Kind::Memory,
        1 => Kind::Disk,
        2 => Kind::Hybrid,
        target => return Err(args::invalid(&format!("Unknown suspend target: {target}")).into()),
    };
    let request = SleepRequest {
        domain: by_uuid(&args.dom),
        kind: kind.into(),
        options: None,
    };
    ctx.guest_agent().sleep(request).await?;
    Ok(())
}

/// A list of CPUs such as "0-3,7".
fn cpu_list(numbers: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(first, last): (u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let texts: Vec<String> = ranges.into_iter().map(text).collect();
    texts.join(",")
}

/// The CPUs of such a list; "^3" takes one out of those before it.
fn parsed(list: &str) -> Option<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    let number = |text: &str| {
        text.trim()
            .parse::<u32>()
            .ok()
            .filter(|number| *number < VCPUS_MAX)
    };
    for part in list.split(',') {
        if let Some(out) = part.trim().strip_prefix('^') {
            numbers.remove(&number(out)?);
            continue;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    (!numbers.is_empty()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        for (text, back) in [
            ("0", "0"),
            ("0-3,^2", "0-1,3"),
            ("3, 1,2", "1-3"),
            ("4095", "4095"),
        ] {
            assert_eq!(
                parsed(text).map(|numbers| cpu_list(&numbers)).as_deref(),
                Some(back)
            );
        }
        for text in ["", "a", "3-1", "4096", "0-4294967295", "^0", "1,"] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
        assert_eq!(cpu_list(&BTreeSet::new()), "");
    }
}
