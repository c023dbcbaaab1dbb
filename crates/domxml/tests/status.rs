//! Status files as libvirt 11.3.0 wrote them come out unchanged.

#![allow(clippy::unwrap_used, reason = "a helper of tests")]

use domxml::StatusDocument;

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
    assert_eq!(jobs[0].attr("type"), Some("copy"));
}

#[test]
fn a_guest_that_is_backed_up() {
    let status = check(include_str!("data/status/backing-up.xml"));
    assert!(status.backups.is_some_and(|b| b.child("domainbackup").is_some()));
}

#[test]
fn a_comment_before_it_is_no_matter() {
    let text = include_str!("data/status/copying.xml");
    let commented = format!("<!--\nDo not edit: <virsh>\n-->\n\n{text}");
    assert_eq!(StatusDocument::parse(&commented).unwrap().format(), text);
}
