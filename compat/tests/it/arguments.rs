//! What is refused before any guest is looked at, word for word.

use wire::WireError;
use wire::procedure::Procedure;
use wire::remote::*;
use wire::typed::TypedParam;

use crate::Front;
use crate::client::Client;

/// The refusal of a call: number, area, message, then what libvirt puts beside it.
fn refusal<P: Procedure>(client: &mut Client, args: &P) -> String {
    match client.call(args) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => line(&error),
    }
}

fn line(error: &WireError) -> String {
    let text =
        |text: &Option<wire::xdr::Text>| text.as_ref().map(|t| t.to_str().into_owned()).unwrap_or_default();
    format!(
        "{} {} {} | {} {}",
        error.code.0,
        error.domain.0,
        text(&error.message),
        text(&error.str1),
        error.int1
    )
}

#[test]
fn flags_that_a_call_does_not_take_are_refused() {
    let front = Front::new();
    let mut client = front.open();
    let destroy = DomainDestroyFlags {
        flags: 0x41,
        ..DomainDestroyFlags::default()
    };
    let unsupported = |flags: &str, function: &str| {
        format!("8 10 unsupported flags ({flags}) in function {function} | {function} 0")
    };
    assert_eq!(
        refusal(&mut client, &destroy),
        unsupported("0x40", "qemuDomainDestroyFlags")
    );
    let state = DomainGetState {
        flags: 1,
        ..DomainGetState::default()
    };
    assert_eq!(
        refusal(&mut client, &state),
        unsupported("0x1", "qemuDomainGetState")
    );
    let define = DomainDefineXmlFlags {
        xml: "<domain/>".into(),
        flags: 6,
    };
    assert_eq!(
        refusal(&mut client, &define),
        unsupported("0x6", "qemuDomainDefineXMLFlags")
    );
    let list = ConnectListAllDomains {
        need_results: 1,
        flags: 0x1_0000,
    };
    assert_eq!(
        refusal(&mut client, &list),
        unsupported("0x10000", "qemuConnectListAllDomains")
    );
}

#[test]
fn flags_are_refused_by_the_function_that_looks_at_them() {
    let front = Front::new();
    let mut client = front.open();
    let map = NodeGetCpuMap {
        flags: 2,
        ..NodeGetCpuMap::default()
    };
    let text = "8 0 unsupported flags (0x2) in function virHostCPUGetMap | virHostCPUGetMap 0";
    assert_eq!(refusal(&mut client, &map), text);
    let found = client.call(&DomainLookupByName { name: "demo".into() }).unwrap();
    let metadata = DomainGetMetadata {
        dom: found.dom,
        r#type: 1,
        flags: 6,
        ..DomainGetMetadata::default()
    };
    let text = "8 20 unsupported flags (0x4) in function virDomainObjGetMetadata | virDomainObjGetMetadata 0";
    assert_eq!(refusal(&mut client, &metadata), text);
    let events = wire::qemu::ConnectDomainMonitorEventRegister {
        flags: 4,
        ..Default::default()
    };
    let function = "virDomainQemuMonitorEventStateRegisterID";
    let text = format!("8 0 unsupported flags (0x4) in function {function} | {function} 0");
    assert_eq!(refusal(&mut client, &events), text);
}

#[test]
fn what_the_api_layer_refuses_comes_before_flags() {
    let front = Front::new();
    let mut client = front.open();
    let flags = 0x8000_0000;
    let pin = DomainPinEmulator {
        flags,
        ..DomainPinEmulator::default()
    };
    let text = "8 20 cpumap in virDomainPinEmulator must not be NULL | virDomainPinEmulator 0";
    assert_eq!(refusal(&mut client, &pin), text);
    let memory = DomainSetMemoryFlags {
        flags,
        ..DomainSetMemoryFlags::default()
    };
    let text = "8 20 memory in virDomainSetMemoryFlags must not be zero | virDomainSetMemoryFlags 0";
    assert_eq!(refusal(&mut client, &memory), text);
    let statistics = DomainGetJobStats {
        flags: flags | 2,
        ..DomainGetJobStats::default()
    };
    let text = "8 20 Flag 'VIR_DOMAIN_JOB_STATS_COMPLETED' is required by flag 'VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED' | virDomainGetJobStats 0";
    assert_eq!(refusal(&mut client, &statistics), text);
}

#[test]
fn a_guest_that_is_gone_is_named_as_the_call_names_it() {
    let front = Front::new();
    let mut client = front.open();
    let dom = NonnullDomain {
        name: "gone".into(),
        ..NonnullDomain::default()
    };
    let uuid = "00000000-0000-0000-0000-000000000000";
    let detail = format!("no domain with matching uuid '{uuid}' (gone)");
    let snap = NonnullDomainSnapshot {
        name: "s".into(),
        dom: dom.clone(),
    };
    let text = format!("42 10 Domain not found: {detail} | Domain not found: %1$s -1");
    assert_eq!(refusal(&mut client, &DomainIsActive { dom: dom.clone() }), text);
    let snapshot = DomainSnapshotIsCurrent { snap, flags: 0 };
    assert_eq!(snapshot.guest().unwrap().to_str(), "gone");
    let by_uuid = DomainLookupByUuid::default();
    let text =
        format!("42 10 Domain not found: no domain with matching uuid '{uuid}' | Domain not found: %1$s -1");
    assert_eq!(refusal(&mut client, &by_uuid), text);
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let front = Front::new();
    let mut client = front.open();
    let both = DomainGetVcpusFlags {
        flags: 3,
        ..DomainGetVcpusFlags::default()
    };
    let text = "8 20 Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive | virDomainGetVcpusFlags 0";
    assert_eq!(refusal(&mut client, &both), text);
    let maximum = DomainSetVcpusFlags {
        nvcpus: 1,
        flags: 4,
        ..DomainSetVcpusFlags::default()
    };
    let text = "8 20 Flag 'VIR_DOMAIN_AFFECT_CONFIG' is required by flag 'VIR_DOMAIN_VCPU_MAXIMUM' | virDomainSetVcpusFlags 0";
    assert_eq!(refusal(&mut client, &maximum), text);
}

#[test]
fn arguments_out_of_range_are_refused() {
    let front = Front::new();
    let mut client = front.open();
    let none = DomainSetMemory::default();
    let text = "8 20 memory in virDomainSetMemory must not be zero | virDomainSetMemory 0";
    assert_eq!(refusal(&mut client, &none), text);
    let unnamed = DomainRename {
        new_name: Some("".into()),
        ..DomainRename::default()
    };
    let text = "8 20 string new_name in virDomainRename must not be empty | virDomainRename 0";
    assert_eq!(refusal(&mut client, &unnamed), text);
    let title = DomainSetMetadata {
        r#type: 1,
        metadata: Some("a\nb".into()),
        ..DomainSetMetadata::default()
    };
    let text = "8 20 metadata title can't contain newlines | virDomainSetMetadata 0";
    assert_eq!(refusal(&mut client, &title), text);
    let many = DomainGetMemoryParameters {
        nparams: 17,
        ..DomainGetMemoryParameters::default()
    };
    let text = "1 7 internal error: nparams too large | internal error: %1$s -1";
    assert_eq!(refusal(&mut client, &many), text);
    let params = vec![TypedParam::new("bogus", 1_u64)].into();
    let bogus = DomainSetMemoryParameters {
        params,
        flags: 2,
        ..DomainSetMemoryParameters::default()
    };
    let text = "74 0 argument unsupported: parameter 'bogus' not supported | argument unsupported: %1$s -1";
    assert_eq!(refusal(&mut client, &bogus), text);
}
