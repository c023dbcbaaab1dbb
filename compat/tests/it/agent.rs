//! The guest's agent, keys and sleep: from libvirt's arguments to the service's, and back.

use virtqemud_client::proto::{self, set_agent_timeout_request::Limit, set_guest_time_request::Clock};
use wire::consts::*;
use wire::remote::*;
use wire::typed::TypedValue;

use crate::Front;
use crate::client::Client;

fn guest(client: &mut Client) -> NonnullDomain {
    client
        .call(&DomainLookupByName { name: "demo".into() })
        .unwrap()
        .dom
}

#[test]
fn cpus_of_the_guest_are_told_as_lists() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let get = DomainGetGuestVcpus {
        dom: dom.clone(),
        flags: 0,
    };
    let params = client.call(&get).unwrap().params;
    let shown: Vec<_> = params
        .iter()
        .map(|param| match &param.value {
            TypedValue::String(text) => (param.field.to_str().into_owned(), text.to_str().into_owned()),
            _ => (param.field.to_str().into_owned(), String::new()),
        })
        .collect();
    let expected = [("vcpus", "0-3"), ("online", "0,2-3"), ("offlinable", "1-3")];
    assert_eq!(
        shown,
        expected.map(|(name, list)| (name.to_owned(), list.to_owned()))
    );
    let mut count = |flags| {
        let args = DomainGetVcpusFlags {
            dom: dom.clone(),
            flags: flags | VIR_DOMAIN_VCPU_GUEST,
        };
        client.call(&args).unwrap().num
    };
    assert_eq!((count(0), count(VIR_DOMAIN_VCPU_MAXIMUM)), (3, 4));
}

#[test]
fn cpus_of_the_guest_are_named_by_a_list() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let mut set = |cpumap: &str, state| {
        let args = DomainSetGuestVcpus {
            dom: dom.clone(),
            cpumap: cpumap.into(),
            state,
            flags: 0,
        };
        client.call(&args).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(set("1-3,^2", 0), Ok(()));
    let sent: proto::SetGuestVcpusRequest = front.fake.last("SetVcpus");
    assert_eq!((sent.vcpus, sent.online), (vec![1, 3], false));
    assert!(set("1", 2).unwrap_err().contains("unsupported state value"));
    assert!(set("x", 1).unwrap_err().contains("Failed to parse bitmap 'x'"));
}

#[test]
fn filesystems_name_the_disks_that_they_are_on() {
    let front = Front::new();
    let mut client = front.open();
    let args = DomainGetFsinfo {
        dom: guest(&mut client),
        flags: 0,
    };
    let reply = client.call(&args).unwrap();
    let disks: Vec<_> = reply.info[0]
        .dev_aliases
        .iter()
        .map(|alias| alias.to_str().into_owned())
        .collect();
    assert_eq!((reply.ret, reply.info[0].mountpoint.to_str().as_ref()), (1, "/"));
    assert_eq!(disks, ["vda"]);
}

#[test]
fn the_guest_is_asked_for_what_the_types_say() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let mut ask = |types| {
        let args = DomainGetGuestInfo {
            dom: dom.clone(),
            types,
            flags: 0,
        };
        client
            .call(&args)
            .map(|reply| reply.params.len())
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        ask(VIR_DOMAIN_GUEST_INFO_HOSTNAME | VIR_DOMAIN_GUEST_INFO_LOAD),
        Ok(1)
    );
    let sent: proto::GetGuestInfoRequest = front.fake.last("GetInfo");
    assert_eq!(sent.parts, [4, 8]);
    let unknown = ask(0x100_001).unwrap_err();
    assert!(
        unknown.contains("unsupported guest information types '0x100000'"),
        "{unknown}"
    );
}

#[test]
fn accounts_in_the_guest() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let password = DomainSetUserPassword {
        dom: dom.clone(),
        user: Some("root".into()),
        password: Some("$6$x".into()),
        flags: VIR_DOMAIN_PASSWORD_ENCRYPTED,
    };
    client.call(&password).unwrap();
    let sent: proto::SetUserPasswordRequest = front.fake.last("SetUserPassword");
    let encrypted = proto::set_user_password_request::Password::Encrypted("$6$x".into());
    assert_eq!(sent.password, Some(encrypted));
    let nobody = DomainSetUserPassword {
        user: None,
        ..password
    };
    assert!(
        client
            .call(&nobody)
            .unwrap_err()
            .to_string()
            .contains("user in virDomainSetUserPassword")
    );
    let mut change = |flags, keys: &[&str]| {
        let args = DomainAuthorizedSshKeysSet {
            dom: dom.clone(),
            user: "root".into(),
            keys: keys.iter().map(|key| (*key).into()).collect(),
            flags,
        };
        client.call(&args).map(drop).map_err(|error| error.to_string())
    };
    for (flags, change_of) in [(0, 1), (1, 2), (2, 3)] {
        assert_eq!(change(flags, &["k"]), Ok(()));
        let sent: proto::SetAuthorizedKeysRequest = front.fake.last("SetAuthorizedKeys");
        assert_eq!((sent.change, sent.keys.len()), (change_of, 1));
    }
    assert_eq!(change(0, &[]), Ok(()));
    assert!(change(3, &["k"]).unwrap_err().contains("mutually exclusive"));
    assert!(
        change(1, &[])
            .unwrap_err()
            .contains("keys in virDomainAuthorizedSSHKeysSet")
    );
}

#[test]
fn time_and_patience() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let time = DomainSetTime {
        dom: dom.clone(),
        seconds: 7,
        nseconds: 5,
        flags: 0,
    };
    client.call(&time).unwrap();
    let sent: proto::SetGuestTimeRequest = front.fake.last("SetTime");
    assert!(matches!(sent.clock, Some(Clock::Time(time)) if (time.seconds, time.nanos) == (7, 5)));
    let sync = DomainSetTime {
        flags: VIR_DOMAIN_TIME_SYNC,
        ..time
    };
    client.call(&sync).unwrap();
    let sent: proto::SetGuestTimeRequest = front.fake.last("SetTime");
    assert!(matches!(sent.clock, Some(Clock::HardwareClock(_))));
    let mut limit = |timeout| {
        let args = DomainAgentSetResponseTimeout {
            dom: dom.clone(),
            timeout,
            flags: 0,
        };
        client.call(&args).map_err(|error| error.to_string())?;
        let sent: proto::SetAgentTimeoutRequest = front.fake.last("SetTimeout");
        Ok::<_, String>(sent.limit)
    };
    assert!(matches!(limit(-2), Ok(Some(Limit::Unlimited(_)))));
    assert!(matches!(limit(-1), Ok(Some(Limit::Usual(_)))));
    assert!(matches!(limit(9), Ok(Some(Limit::Timeout(time))) if time.seconds == 9));
    let least = limit(-3).unwrap_err();
    assert!(
        least.contains("guest agent timeout '-3' is less than the minimum '-2'"),
        "{least}"
    );
}

#[test]
fn sleep_and_keys() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let mut sleep = |target, duration| {
        let args = DomainPmSuspendForDuration {
            dom: dom.clone(),
            target,
            duration,
            flags: 0,
        };
        client.call(&args).map_err(|error| error.to_string())?;
        let sent: proto::SleepRequest = front.fake.last("Sleep");
        Ok::<_, String>(sent.kind)
    };
    assert_eq!([sleep(0, 0), sleep(1, 0), sleep(2, 0)], [Ok(1), Ok(2), Ok(3)]);
    assert!(
        sleep(0, 5)
            .unwrap_err()
            .contains("Duration not supported. Use 0 for now")
    );
    assert!(sleep(3, 0).unwrap_err().contains("Unknown suspend target: 3"));
    let mut press = |codeset, keys: &[u32]| {
        let args = DomainSendKey {
            dom: dom.clone(),
            codeset,
            holdtime: 1_020,
            keycodes: keys.iter().copied().collect(),
            flags: 0,
        };
        client.call(&args).map_err(|error| error.to_string())?;
        Ok::<_, String>(front.fake.last::<proto::SendKeysRequest>("SendKeys"))
    };
    let sent = press(7, &[4, 5]).unwrap();
    let hold = sent.hold.unwrap();
    assert_eq!((sent.code_set, sent.codes), (8, vec![4, 5]));
    assert_eq!((hold.seconds, hold.nanos), (1, 20_000_000));
    assert!(press(10, &[1]).unwrap_err().contains("Unsupported codeset '10'"));
    assert!(
        press(0, &[])
            .unwrap_err()
            .contains("nkeycodes in virDomainSendKey must be greater than zero")
    );
}
