//! The guest agent's client against agents that err in the ways agents do.
#![expect(clippy::unwrap_used, reason = "tests; the helpers are none by name")]

use std::time::Duration;

use qmp::agent::Agent;
use qmp::{Error, agent};
use serde_json::{Value, json};
use tokio::net::UnixStream;

const SHORT: Duration = Duration::from_millis(80);
const SOON: Duration = Duration::from_secs(5);

/// What an agent says to a command; more than one line, or none.
type Answers = fn(&str, &Value) -> Vec<Vec<u8>>;

/// An agent that syncs as it should and answers by `answers`.
fn agent(answers: Answers) -> Agent {
    odd_agent(sync, answers)
}

/// An agent that syncs by `syncs` and answers by `answers`.
fn odd_agent(syncs: Answers, answers: Answers) -> Agent {
    let (ours, theirs) = UnixStream::pair().unwrap();
    tokio::spawn(serve(theirs, syncs, answers));
    Agent::new(ours)
}

fn sync(_: &str, arguments: &Value) -> Vec<Vec<u8>> {
    let answer = json!({"return": arguments["id"]});
    vec![[b"\xff", format!("{answer}\n").as_bytes()].concat()]
}

async fn serve(stream: UnixStream, syncs: Answers, answers: Answers) {
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let start = line.iter().rposition(|&byte| byte == 0xff).map_or(0, |at| at + 1);
            let command: Value = serde_json::from_slice(&line[start..]).unwrap();
            let name = command["execute"].as_str().unwrap();
            let said = match name {
                "guest-sync-delimited" => syncs(name, &command["arguments"]),
                name => answers(name, &command["arguments"]),
            };
            for bytes in said {
                if unixfd::send_with_fds(&stream, &bytes, &[]).await.is_err() {
                    return;
                }
            }
        }
        stream.readable().await.unwrap();
        match stream.try_read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
            Err(_) => {}
        }
    }
}

fn usual(name: &str, arguments: &Value) -> Vec<Vec<u8>> {
    let line = match name {
        "guest-info" => r#"{"return": {"version": "10.0.2"}}"#.to_owned(),
        "odd" => return vec![b"{\"return\": \"a\xffb\"}\n".to_vec()],
        "echo" => json!({"return": arguments["n"]}).to_string(),
        "guest-shutdown" | "slow" => return Vec::new(),
        _ => r#"{"error": {"class": "CommandNotFound", "desc": "no"}}"#.to_owned(),
    };
    vec![format!("{line}\n").into_bytes()]
}

#[tokio::test]
async fn commands_are_answered_and_refused() {
    let agent = agent(usual);
    let info = agent
        .execute_raw(r#"{"execute":"guest-info"}"#, SOON)
        .await
        .unwrap();
    assert_eq!(info, r#"{"return": {"version": "10.0.2"}}"#);
    let odd = agent.execute_raw(r#"{"execute":"odd"}"#, SOON).await.unwrap();
    assert_eq!(
        odd, "{\"return\": \"a\u{fffd}b\"}",
        "no sentinel within an answer"
    );
    let refused = agent.execute_raw(r#"{"execute":"guest-x"}"#, SOON).await.unwrap();
    assert!(refused.contains("CommandNotFound"), "{refused}");
    assert!(matches!(
        agent.execute_raw("{}", SOON).await,
        Err(Error::NotACommand(_))
    ));
}

#[tokio::test]
async fn many_at_once_get_their_own_answers() {
    let agent = std::sync::Arc::new(agent(usual));
    let asks: Vec<_> = (0..20)
        .map(|n| {
            let agent = std::sync::Arc::clone(&agent);
            tokio::spawn(async move {
                let command = json!({"execute": "echo", "arguments": {"n": n}}).to_string();
                let answer = agent.execute_raw(&command, SOON).await.unwrap();
                assert_eq!(answer, json!({ "return": n }).to_string());
            })
        })
        .collect();
    for ask in asks {
        ask.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_late_or_half_said_is_discarded() {
    let agent = agent(|name, arguments| match name {
        // Half an answer, cut off by the next sync's sentinel.
        "slow" => vec![b"{\"return\": \"la".to_vec()],
        name => usual(name, arguments),
    });
    let error = agent
        .execute_raw(r#"{"execute":"slow"}"#, SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
    let info = agent
        .execute_raw(r#"{"execute":"guest-info"}"#, SOON)
        .await
        .unwrap();
    assert!(info.contains("10.0.2"), "{info}");
}

#[tokio::test]
async fn silence_is_success_for_commands_that_are_not_answered() {
    let agent = agent(usual);
    let none = agent
        .execute_unanswered(r#"{"execute":"guest-shutdown"}"#, SHORT)
        .await;
    assert_eq!(none.unwrap(), None);
    let refused = agent.execute_unanswered(r#"{"execute":"guest-x"}"#, SOON).await;
    assert!(refused.unwrap().unwrap().contains("CommandNotFound"));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_not_there_is_told_by_the_sync() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let agent = Agent::new(ours);
    for _ in 0..2 {
        let error = agent
            .execute_raw(r#"{"execute":"guest-info"}"#, SOON)
            .await
            .unwrap_err();
        let Error::Timeout { command, after, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(
            (command.as_str(), after),
            ("guest-sync-delimited", agent::SYNC_DEADLINE)
        );
    }
}

#[tokio::test]
async fn the_end_of_the_channel_is_told_at_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let error = Agent::new(ours)
        .execute_raw(r#"{"execute":"guest-info"}"#, SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

/// Whether the agent answers as if nothing had been.
async fn is_well(agent: &Agent) -> bool {
    let info = agent.execute_raw(r#"{"execute":"guest-info"}"#, SOON).await;
    info.is_ok_and(|info| info.contains("10.0.2"))
}

#[tokio::test]
async fn a_sync_with_other_numbers_is_somebody_elses() {
    let agent = odd_agent(
        |name, arguments| {
            let id = arguments["id"].as_u64().unwrap();
            let others = [
                json!({"return": id + 1}),
                json!({"return": id.to_string()}),
                json!({"return": -1}),
                json!({"return": null}),
                json!({"return": {"id": id}}),
                json!({"error": {"class": "GenericError", "desc": "no"}}),
                json!({"id": id}),
                json!(id),
            ];
            let mut said: Vec<_> = others
                .iter()
                .map(|other| format!("{other}\n").into_bytes())
                .collect();
            said.extend(sync(name, arguments));
            said
        },
        usual,
    );
    for _ in 0..3 {
        assert!(is_well(&agent).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_syncs_with_other_numbers_alone_is_none() {
    let wrong: Answers = |_, _| vec![b"\xff{\"return\": 77}\n".to_vec()];
    let error = odd_agent(wrong, usual)
        .execute_raw(r#"{"execute":"guest-info"}"#, SOON)
        .await
        .unwrap_err();
    let Error::Timeout { command, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(command, "guest-sync-delimited");
}

#[tokio::test]
async fn garbage_before_an_answer_is_passed_over() {
    let agent = odd_agent(
        |name, arguments| {
            let mut said = vec![
                b"\0\0\0\n\r\n\n".to_vec(),
                b"{\"return\":\n".to_vec(),
                b"\xff\xff\xff\xc0\x80\n".to_vec(),
                b"]]]}}}\n\"\\ud800\"\n".to_vec(),
                (0..=255).filter(|byte| *byte != b'\n').chain(*b"\n").collect(),
            ];
            said.extend(sync(name, arguments));
            said
        },
        |name, arguments| {
            let mut said = vec![b"\xfe\xfe garbage \0\n{}\n[]\nnull\n1e999\n".to_vec()];
            said.extend(usual(name, arguments));
            said
        },
    );
    for _ in 0..3 {
        assert!(is_well(&agent).await);
    }
}

#[tokio::test]
async fn nesting_beyond_measure_is_no_answer_and_breaks_nothing() {
    let agent = agent(|name, arguments| match name {
        "deep" => vec![[b"{\"return\": ".as_slice(), &b"[".repeat(1 << 20), b"\n"].concat()],
        "deep-object" => vec![[b"{\"return\": {\"a\": ".repeat(1 << 16), b"\n".to_vec()].concat()],
        name => usual(name, arguments),
    });
    for name in ["deep", "deep-object"] {
        let command = json!({ "execute": name }).to_string();
        let error = agent.execute_raw(&command, SHORT).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { sent: true, .. }), "{error}");
        assert!(is_well(&agent).await, "{name}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_long_as_a_line_and_no_longer() {
    const ROOM: usize = qmp::MAX_LINE - "{\"return\": \"\"}".len();
    let agent = agent(|name, arguments| {
        let more = match name {
            "full" => 0,
            "endless" => 1,
            _ => return usual(name, arguments),
        };
        let end = if more == 0 { "\"}\n" } else { "" };
        vec![
            [
                b"{\"return\": \"".as_slice(),
                &b"x".repeat(ROOM + 4 * more),
                end.as_bytes(),
            ]
            .concat(),
        ]
    });
    let full = agent.execute_raw(r#"{"execute":"full"}"#, SOON).await.unwrap();
    assert_eq!(full.len(), qmp::MAX_LINE);
    assert!(is_well(&agent).await);
    let error = agent
        .execute_raw(r#"{"execute":"endless"}"#, SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}
