//! Status files as libvirt 11.3.0 wrote them come out unchanged.

#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use domxml::{StatusDocument, status::BlockJobKind};

fn check(text: &str) -> StatusDocument {
    let status = StatusDocument::parse(text).unwrap();
    assert_eq!(status.format(), text);
    status
}

#[test]
fn a_paused_guest() {
    let status = check(include_str!("data/status/paused.xml"));
    assert_eq!((status.reason.as_str(), status.vcpus.len()), ("user", 1));
    assert_eq!(status.domain.id, Some(1));
    assert!(status.qemu_caps.iter().any(|f| f.name == "tcg"));
}

#[test]
fn a_guest_whose_disk_is_copied() {
    let status = check(include_str!("data/status/copying.xml"));
    let jobs = status.blockjobs.map(|b| b.jobs).unwrap_or_default();
    assert_eq!(jobs[0].kind.known(), Some(BlockJobKind::Copy));
}

#[test]
fn a_guest_that_is_backed_up() {
    let status = check(include_str!("data/status/backing-up.xml"));
    assert!(status.backups.is_some_and(|b| !b.backups.is_empty()));
}

#[test]
fn a_comment_before_it_is_no_matter() {
    let text = include_str!("data/status/copying.xml");
    let commented = format!("<!--\nDo not edit: <virsh>\n-->\n\n{text}");
    assert_eq!(StatusDocument::parse(&commented).unwrap().format(), text);
}

#[test]
fn a_guest_with_every_kind_of_node() {
    let status = check(include_str!("data/status/rich.xml"));
    let disks = &status.domain.devices.disks;
    let names = |target: &str| {
        let disk = disks.iter().find(|d| d.target.dev == target).unwrap();
        let private = disk.private_data.as_ref().unwrap();
        private.nodenames.as_ref().unwrap().names.clone()
    };
    assert_eq!(names("vda")[0].name, "libvirt-CoR-vda");
    assert_eq!(names("vdb")[0].group.as_deref(), Some("limit0"));
}

#[test]
fn a_guest_that_is_copied_and_backed_up() {
    let status = check(include_str!("data/status/jobs.xml"));
    let jobs = status.blockjobs.unwrap().jobs;
    let copy = jobs
        .iter()
        .find(|j| j.kind.known() == Some(BlockJobKind::Copy))
        .unwrap();
    assert_eq!(copy.disk.as_ref().unwrap().dst, "vda");
    assert_eq!(
        status.job.unwrap().async_kind.known(),
        Some(domxml::status::AsyncJob::Backup)
    );
    let backup = &status.backups.unwrap().backups[0];
    assert_eq!((backup.disks[0].index, backup.disks.len()), (Some(6), 2));
}

/// Elements, attributes and words that we do not know stay, at every level where another daemon may add some.
#[test]
fn what_another_daemon_wrote_is_kept() {
    let text = include_str!("data/status/jobs.xml");
    let additions = [
        (
            "<job type='none' async='backup'",
            "<job type='none' async='teleport' carrier='pigeon'",
        ),
        (
            "  <rememberOwner/>\n",
            "  <rememberOwner/>\n  <later a='1'>\n    <deep>text</deep>\n  </later>\n",
        ),
        ("type='copy' state='running'", "type='fold' state='humming'"),
        (
            "<disk name='vda' backup='no'/>",
            "<disk name='vda' backup='no' hue='red'/>",
        ),
        (
            "            <objects>\n",
            "            <tally n='3'/>\n            <objects>\n              <tape alias='t0'/>\n",
        ),
        ("<qom name=", "<aspect kind='new'/>\n          <qom name="),
    ];
    let mut changed = text.to_owned();
    for (old, new) in additions {
        assert!(changed.contains(old), "{old}");
        changed = changed.replace(old, new);
    }
    let written = StatusDocument::parse(&changed).unwrap().format();
    for (_, new) in additions {
        for part in new
            .lines()
            .map(str::trim)
            .filter(|part| !part.starts_with("<job"))
        {
            assert!(written.contains(part), "{part} in {written}");
        }
    }
    assert!(written.contains("async='teleport'") && written.contains("carrier='pigeon'"));
    assert_eq!(StatusDocument::parse(&written).unwrap().format(), written);
}
