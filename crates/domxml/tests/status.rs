//! Status files as libvirt 11.3.0 wrote them come out unchanged.

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
