use std::{path::Path, time::Duration};

use super::*;

fn peers(directory: &Path) -> Peers {
    Peers {
        opening: Duration::from_millis(200),
        ..Peers::new(directory.to_path_buf(), directory.join("common"), true)
    }
}

#[tokio::test]
async fn nobody_there_is_no_answer_and_names_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let error = peers(dir.path()).networks().await.err().unwrap();
    assert!(
        is_unreachable(&error) && error.message.contains("virtnetworkd-sock"),
        "{error}"
    );
    assert_eq!((error.code, error.errno), (Code::System, Some(2)));
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = tokio::net::UnixListener::bind(dir.path().join("virtnetworkd-sock")).unwrap();
    let error = peers(dir.path()).networks().await.err().unwrap();
    assert!(
        is_unreachable(&error) && error.message.contains("network:///system"),
        "{error}"
    );
    assert_eq!(error.code, Code::OperationTimeout);
}

fn holder() -> Holder {
    Holder {
        uuid: uuid::Uuid::from_u128(1),
        name: "g".to_owned(),
        id: 1,
        pid: 1,
    }
}

#[tokio::test]
async fn a_lock_daemon_that_is_not_there_or_hangs_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let peers = peers(dir.path());
    let error = peers.locks(&holder()).await.err().unwrap();
    assert!(
        is_unreachable(&error) && error.message.contains("virtlockd-sock"),
        "{error}"
    );
    assert_eq!((error.code, error.errno), (Code::System, Some(2)));
    let listener = std::os::unix::net::UnixListener::bind(peers.lock_socket()).unwrap();
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    for error in [
        peers.locks(&holder()).await.err().unwrap(),
        peers.register_own(ours.into(), &holder()).await.err().unwrap(),
    ] {
        assert!(
            is_unreachable(&error) && error.message.contains("virtlockd"),
            "{error}"
        );
        assert_eq!(error.code, Code::OperationTimeout);
    }
    drop(listener);
}

#[test]
fn a_secret_does_not_show_itself() {
    let value = SecretValue::from(b"geheim".to_vec());
    assert_eq!(
        (value.as_bytes(), &*format!("{value:?}")),
        (&b"geheim"[..], "SecretValue(..)")
    );
}
