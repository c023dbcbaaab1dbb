//! Questions that a listing asks about every guest, most of which are answered with "none".

use wire::consts::*;
use wire::remote::*;
use wire::typed::{TypedParam, TypedValue};

use crate::Front;
use crate::client::Client;

fn guest(client: &mut Client) -> NonnullDomain {
    client
        .call(&DomainLookupByName { name: "demo".into() })
        .unwrap()
        .dom
}

fn numbers(params: &[TypedParam]) -> Vec<(String, u64)> {
    let number = |param: &TypedParam| match &param.value {
        TypedValue::Ullong(value) => *value,
        TypedValue::Boolean(value) => u64::from(*value),
        _ => u64::MAX,
    };
    let named = |param: &TypedParam| (param.field.to_str().into_owned(), number(param));
    params.iter().map(named).collect()
}

#[test]
fn snapshots_are_listed_by_their_place_in_the_tree() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let mut number = |flags| {
        let args = DomainSnapshotNum {
            dom: dom.clone(),
            flags,
        };
        client
            .call(&args)
            .map(|reply| reply.num)
            .map_err(|error| error.code)
    };
    assert_eq!(number(0), Ok(2));
    assert_eq!(number(VIR_DOMAIN_SNAPSHOT_LIST_ROOTS), Ok(1));
    assert_eq!(number(VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA), Ok(0));
    assert_eq!(number(VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL), Ok(0));
    let current = DomainSnapshotCurrent {
        dom: dom.clone(),
        flags: 0,
    };
    let snap = client.call(&current).unwrap().snap;
    assert_eq!((snap.name.to_str().as_ref(), snap.dom.id), ("second", 3));
    let parent = DomainSnapshotGetParent {
        snap: snap.clone(),
        flags: 0,
    };
    let first = client.call(&parent).unwrap().snap;
    assert_eq!(first.name.to_str(), "first");
    let orphan = DomainSnapshotGetParent {
        snap: first,
        flags: 0,
    };
    assert_eq!(
        client.call(&orphan).unwrap_err().to_string(),
        "Domain snapshot not found: snapshot 'first' does not have a parent"
    );
    let both = VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN | VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY;
    let refused = client
        .call(&DomainSnapshotDelete { snap, flags: both })
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Flags 'VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN' and 'VIR_DOMAIN_SNAPSHOT_DELETE_CHILDREN_ONLY' are mutually \
         exclusive"
    );
    let unknown = DomainSnapshotLookupByName {
        dom,
        name: "third".into(),
        flags: 0,
    };
    let unknown = client.call(&unknown).unwrap_err().to_string();
    assert!(
        unknown.ends_with("no domain snapshot with matching name 'third'"),
        "{unknown}"
    );
}

#[test]
fn a_guest_without_checkpoints_has_none() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let all = DomainListAllCheckpoints {
        dom: dom.clone(),
        need_results: 1,
        flags: 0,
    };
    let reply = client.call(&all).unwrap();
    assert_eq!((reply.ret, reply.checkpoints.len()), (0, 0));
    let lookup = DomainCheckpointLookupByName {
        dom,
        name: "c".into(),
        flags: 0,
    };
    let unknown = client.call(&lookup).unwrap_err().to_string();
    assert!(
        unknown.ends_with("no domain checkpoint with matching name 'c'"),
        "{unknown}"
    );
}

#[test]
fn the_job_of_a_disk_is_told_in_the_unit_that_is_asked_for() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let mut job = |path: &str, flags| {
        let args = DomainGetBlockJobInfo {
            dom: dom.clone(),
            path: path.into(),
            flags,
        };
        let job = client.call(&args).unwrap();
        (job.found, job.r#type, job.bandwidth, job.cur, job.end)
    };
    assert_eq!(job("vda", 0), (0, 0, 0, 0, 0));
    assert_eq!(job("vdb", 0), (1, 2, 2, 5, 9));
    assert_eq!(job("vdb", 1), (1, 2, 1_048_577, 5, 9));
}

#[test]
fn the_limits_of_a_disk_come_in_libvirts_order() {
    let front = Front::new();
    let mut client = front.open();
    let mut limits = |nparams| DomainGetBlockIoTune {
        dom: guest(&mut client),
        disk: Some("vda".into()),
        nparams,
        flags: 0,
    };
    let (count, all, some) = (limits(0), limits(32), limits(2));
    assert_eq!(client.call(&count).unwrap().nparams, 20);
    let told = numbers(&client.call(&all).unwrap().params);
    let at = |index: usize| (told[index].0.as_str(), told[index].1);
    assert_eq!(
        (told.len(), at(0), at(5)),
        (20, ("total_bytes_sec", 1), ("write_iops_sec", 6))
    );
    assert_eq!(
        (at(12).0, at(13).0, at(14).0),
        ("size_iops_sec", "group_name", "total_bytes_sec_max_length")
    );
    assert_eq!(client.call(&some).unwrap().params.len(), 2);
}

#[test]
fn what_is_counted_hidden_and_saved() {
    let front = Front::new();
    let mut client = front.open();
    let dom = guest(&mut client);
    let perf = DomainGetPerfEvents {
        dom: dom.clone(),
        flags: 0,
    };
    let events = numbers(&client.call(&perf).unwrap().params);
    let counted: Vec<_> = events.iter().filter(|(_, on)| *on == 1).collect();
    assert_eq!(
        (events.len(), counted.len(), events[3].0.as_str()),
        (22, 1, "cpu_cycles")
    );
    let hidden = DomainGetLaunchSecurityInfo {
        dom: dom.clone(),
        flags: 0,
    };
    assert!(client.call(&hidden).unwrap().params.is_empty());
    let saved = DomainHasManagedSaveImage {
        dom: dom.clone(),
        flags: 0,
    };
    assert_eq!(client.call(&saved).unwrap().result, 1);
    let sizes = DomainGetBlockInfo {
        dom,
        path: "vda".into(),
        flags: 0,
    };
    let sizes = client.call(&sizes).unwrap();
    assert_eq!((sizes.allocation, sizes.physical, sizes.capacity), (1, 2, 3));
}
