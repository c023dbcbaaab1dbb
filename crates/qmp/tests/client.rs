//! The client against a scripted QEMU: what goes right, and each thing that can go wrong.
#![expect(clippy::unwrap_used, reason = "tests; the helper is none by name")]

use std::time::Duration;

use qmp::commands::*;
use qmp::types::RunState;
use qmp::{Closed, Connection, Error, ErrorClass, Incoming};
use serde_json::json;
use testkit::FakeQemu;
use testkit::fake_qemu::script::Fault;
use testkit::fake_qemu::{Rule, Script};

const SHORT: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_secs(5);

async fn connect(rules: impl IntoIterator<Item = Rule>) -> (FakeQemu, Connection) {
    let (fake, stream) = FakeQemu::pair(Script::with(rules));
    (fake, Connection::handshake(stream, SOON).await.unwrap())
}

#[tokio::test]
async fn typed_commands_get_typed_replies_and_refusals() {
    let (fake, qemu) = connect([Rule::refuse("balloon", "No balloon device")]).await;
    assert_eq!(qemu.greeting.version.qemu.major, 10);
    let status = qemu.client.execute(QueryStatus {}).await.unwrap();
    assert_eq!((status.running, status.status), (false, RunState::Paused));
    let error = qemu.client.execute(Balloon { value: 1 << 20 }).await.unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused balloon: No balloon device");
    assert_eq!(error.class(), Some(&ErrorClass::GenericError));
    assert_eq!(fake.commands(), ["query-status", "balloon"]);
    assert_eq!(fake.asked()[2].arguments["value"], 1 << 20);
}

#[tokio::test]
async fn a_value_that_is_not_known_is_kept() {
    let reply = json!({"running": false, "status": "levitating", "novelty": 1});
    let (_fake, qemu) = connect([Rule::reply("query-status", reply)]).await;
    let status = qemu.client.execute(QueryStatus {}).await.unwrap();
    assert_eq!(status.status, RunState::Other("levitating".to_owned()));
}

#[tokio::test]
async fn a_reply_of_another_shape_is_an_error_of_that_command_alone() {
    let (_fake, qemu) = connect([Rule::reply("query-balloon", json!("odd"))]).await;
    let error = qemu.client.execute(QueryBalloon {}).await.unwrap_err();
    assert!(matches!(error, Error::Reply { .. }), "{error}");
    qemu.client.execute(QueryStatus {}).await.unwrap();
}

#[tokio::test]
async fn a_late_reply_disturbs_nobody() {
    let late = Rule::reply("query-balloon", json!({"actual": 1}))
        .delayed(150)
        .nth(1);
    let (_fake, qemu) = connect([late, Rule::reply("query-balloon", json!({"actual": 2}))]).await;
    let error = qemu
        .client
        .execute_within(QueryBalloon {}, SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
    assert_eq!(qemu.client.execute(QueryBalloon {}).await.unwrap().actual, 2);
}

#[tokio::test]
async fn many_at_once_get_their_own_replies() {
    let (_fake, qemu) = connect((0..50).map(|n| Rule {
        arguments: Some(json!({"path": format!("/p{n}")})),
        ..Rule::reply("qom-get", json!(n))
    }))
    .await;
    let asks = (0..50).map(|n| {
        let client = qemu.client.clone();
        tokio::spawn(async move {
            let get = QomGet {
                path: format!("/p{n}"),
                property: "x".into(),
            };
            assert_eq!(client.execute(get).await.unwrap(), n);
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap();
    }
}

#[tokio::test]
async fn a_hung_qemu_costs_each_command_its_deadline_and_says_what_was_sent() {
    let (_fake, qemu) = connect([Rule::fault("query-status", Fault::Hang)]).await;
    let sent = |error| match error {
        Error::Timeout { sent, .. } => sent,
        other => panic!("{other}"),
    };
    let first = qemu.client.execute_within(QueryStatus {}, SHORT).await;
    assert!(sent(first.unwrap_err()));
    // As much as socket buffers hold is written; what is left in our queue never is, and has not happened.
    let big = || QomSet {
        path: "x".repeat(1 << 20),
        property: String::new(),
        value: json!(0),
    };
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(sent(qemu.client.execute_within(big(), SHORT).await.unwrap_err()));
    }
    assert_eq!(outcomes, [true, false, false]);
}

#[tokio::test]
async fn the_end_fails_all_who_wait_and_is_reported_once_after_the_last_event() {
    let last = Rule::fault("cont", Fault::Eof).event_before("SHUTDOWN", json!({"guest": true}));
    let (_fake, mut qemu) = connect([last]).await;
    let (one, two) = tokio::join!(qemu.client.execute(Cont {}), qemu.client.execute(QueryStatus {}));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(
            matches!(
                error,
                Error::Closed {
                    closed: Closed::EndOfFile,
                    ..
                }
            ),
            "{error}"
        );
    }
    assert!(qemu.client.is_closed());
    let error = qemu.client.execute(Cont {}).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "monitor closed before cont was answered: end of file from QEMU"
    );
    let Some(Incoming::Event(event)) = qemu.incoming.recv().await else {
        panic!()
    };
    let data = event.decode::<qmp::events::Shutdown>().unwrap().unwrap();
    assert!(data.guest);
    assert!(matches!(
        qemu.incoming.recv().await,
        Some(Incoming::Closed(Closed::EndOfFile))
    ));
    assert!(qemu.incoming.recv().await.is_none());
}

#[tokio::test]
async fn garbage_and_half_a_reply_end_the_connection_with_a_reason() {
    for (fault, words) in [(Fault::Garbage, "no QMP"), (Fault::Half, "end of file")] {
        let (_fake, mut qemu) = connect([Rule::fault("stop", fault)]).await;
        let error = qemu.client.execute(Stop {}).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(matches!(qemu.incoming.recv().await, Some(Incoming::Closed(_))));
    }
}

#[tokio::test]
async fn no_event_is_lost_when_their_receiver_is_slow() {
    let (fake, mut qemu) = connect([]).await;
    for n in 0..2000 {
        fake.event("BALLOON_CHANGE", json!({"actual": n}));
    }
    tokio::time::sleep(SHORT).await;
    for n in 0..2000 {
        let Some(Incoming::Event(event)) = qemu.incoming.recv().await else {
            panic!()
        };
        assert_eq!(
            event
                .decode::<qmp::events::BalloonChange>()
                .unwrap()
                .unwrap()
                .actual,
            n
        );
    }
    qemu.client.execute(QueryStatus {}).await.unwrap();
}

#[tokio::test]
async fn commands_go_on_when_nobody_wants_events() {
    let (fake, qemu) = connect([]).await;
    drop(qemu.incoming);
    for _ in 0..500 {
        fake.event("STOP", json!(null));
    }
    qemu.client.execute(QueryStatus {}).await.unwrap();
}

#[tokio::test]
async fn a_command_out_of_band_is_answered_though_another_hangs() {
    let (fake, qemu) = connect([Rule::fault("stop", Fault::Busy)]).await;
    let hung = qemu.client.execute_within(Stop {}, SHORT).await;
    assert!(matches!(hung, Err(Error::Timeout { .. })));
    let instances = vec![json!({"type": "migration"})];
    qemu.client.execute(Yank { instances }).await.unwrap();
    let asked = fake.asked().pop().unwrap();
    assert_eq!((asked.execute.as_str(), asked.out_of_band), ("yank", true));
    assert_eq!(fake.asked()[0].arguments["enable"], json!(["oob"]));
}

#[tokio::test]
async fn descriptors_go_with_their_command() {
    let (fake, qemu) = connect([]).await;
    let fd = unixfd::memfd("test").unwrap();
    let get = Getfd {
        fdname: "migrate".into(),
    };
    qemu.client.execute_with_fds(get, vec![fd.into()]).await.unwrap();
    qemu.client.execute(QueryStatus {}).await.unwrap();
    let fds: Vec<_> = fake.asked().iter().map(|asked| asked.fds).collect();
    assert_eq!(fds, [0, 1, 0]);
}

#[tokio::test]
async fn a_raw_command_gets_the_whole_answer_with_an_id() {
    let (_fake, qemu) = connect([Rule::refuse("stop", "no")]).await;
    let raw = |json: &'static str| qemu.client.execute_raw(json, Vec::new(), SOON);
    assert_eq!(
        raw(r#"{"execute":"query-status","id":7}"#).await.unwrap(),
        r#"{"return":{"running":false,"status":"paused"},"id":"libvirt-2"}"#
    );
    let refused = raw(r#"{"execute":"stop"}"#).await.unwrap();
    assert!(refused.contains(r#""class":"GenericError""#), "{refused}");
    for bad in ["", "info", "[]", r#"{"execute":1}"#, r#"{"exec":"stop"}"#] {
        assert!(matches!(raw(bad).await, Err(Error::NotACommand(_))), "{bad}");
    }
}

#[tokio::test]
async fn a_handshake_fails_in_time_and_with_the_reason() {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let error = Connection::handshake(ours, SHORT).await.unwrap_err();
    assert!(error.to_string().contains("no greeting"), "{error}");
    drop(theirs);
    for (said, words) in [
        ("hello\n", "no QMP"),
        ("", "end of file"),
        ("{\"return\":{}}\n", "no greeting but"),
    ] {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        unixfd::send_with_fds(&theirs, said.as_bytes(), &[])
            .await
            .unwrap();
        drop(theirs);
        let error = Connection::handshake(ours, SOON).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let (_fake, stream) = FakeQemu::pair(Script::with([Rule::refuse("qmp_capabilities", "no")]));
    assert!(matches!(
        Connection::handshake(stream, SOON).await,
        Err(Error::Refused { .. })
    ));
}

#[tokio::test]
async fn the_connection_closes_with_its_last_client() {
    let (_fake, qemu) = connect([]).await;
    let Connection {
        client, mut incoming, ..
    } = qemu;
    let other = client.clone();
    drop(client);
    other.execute(QueryStatus {}).await.unwrap();
    drop(other);
    assert!(matches!(
        incoming.recv().await,
        Some(Incoming::Closed(Closed::Dropped))
    ));
}

#[tokio::test]
async fn connecting_waits_for_a_socket_that_is_yet_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("monitor.sock");
    let error = qmp::connect(&path, SHORT).await.unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    let listen = async {
        tokio::time::sleep(SHORT).await;
        unixfd::bind_listener(&path, 0o700, None).unwrap()
    };
    let (connected, _listener) = tokio::join!(qmp::connect(&path, SOON), listen);
    connected.unwrap();
}
