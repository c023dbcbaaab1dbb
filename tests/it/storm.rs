//! A storm of retries: many clients that hang up at random and repeat their requests until they are answered. Nothing is
//! done twice, and every id has one answer, whoever asks for it.
//!
//! `RETRY_STORM` is how many calls are answered at least: "short" (as is its absence), "full", or a number.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::json;
use testkit::sandbox::GRPC_SOCKET;
use tokio::time::timeout;
use tonic::{Response, Status};
use virtqemud_client::{Channel, Services, connect, proto as pb};

use crate::grpc::{Watch, by_name, word};
use crate::hotplug::{CARD, with_room};
use crate::stage::Stage;

const CLIENTS: u64 = 200;
/// Clients that make the same requests with the same ids.
const TOGETHER: u64 = 4;
/// How often each of them asks.
const ASKED: u64 = 3;
/// Calls of the long form.
const FULL: u64 = 10_000;

/// What is asked for on each guest, in order.
const CALLS: [Call; 4] = [Call::Define, Call::Start, Call::Attach, Call::PowerOff];

#[derive(Clone, Copy, Debug)]
enum Call {
    Define,
    Start,
    Attach,
    PowerOff,
}

impl Call {
    async fn make(self, services: &Services<Channel>, name: &str, xml: &str) -> Result<Vec<u8>, Status> {
        let options = Some(pb::MutationOptions {
            request_id: format!("{self:?} {name}"),
            ..Default::default()
        });
        let (domain, mut domains) = (by_name(name), services.domains());
        fn bytes<M: Message>(answer: Response<M>) -> Vec<u8> {
            answer.into_inner().encode_to_vec()
        }
        match self {
            Self::Define => {
                let (xml, autostart) = (xml.to_owned(), pb::DefineRequest::default());
                let request = pb::DefineRequest {
                    xml,
                    options,
                    ..autostart
                };
                domains.define(request).await.map(bytes)
            }
            Self::Start => {
                let request = pb::StartRequest {
                    domain,
                    options,
                    ..Default::default()
                };
                domains.start(request).await.map(bytes)
            }
            Self::Attach => {
                let request = pb::AttachDeviceRequest {
                    domain,
                    options,
                    xml: CARD.to_owned(),
                    scope: pb::Scope::LiveAndConfig.into(),
                };
                services.devices().attach_device(request).await.map(bytes)
            }
            Self::PowerOff => {
                let request = pb::PowerOffRequest {
                    domain,
                    options,
                    ..Default::default()
                };
                domains.power_off(request).await.map(bytes)
            }
        }
    }
}

/// What all clients share.
struct Storm {
    socket: PathBuf,
    /// The document of a guest whose name is to be put in.
    xml: String,
    /// The first answer to each id.
    answers: Mutex<HashMap<String, Vec<u8>>>,
    answered: AtomicU64,
    hung_up: AtomicU64,
}

impl Storm {
    /// One client: asks for everything in each round.
    async fn client(self: Arc<Self>, number: u64, rounds: u64) -> Result<()> {
        let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for round in 0..rounds {
            let name = format!("storm-{}-{round}", number / TOGETHER);
            let xml = self.xml.replace("NAME", &name);
            for call in CALLS {
                for _ in 0..ASKED {
                    let answer = self.ask(call, (&name, &xml), &mut random).await;
                    let answer = answer.with_context(|| format!("{call:?} {name}"))?;
                    self.compare(&format!("{call:?} {name}"), answer)?;
                }
            }
        }
        Ok(())
    }

    /// Asks until there is an answer, and hangs up in between.
    async fn ask(&self, call: Call, (name, xml): (&str, &str), random: &mut u64) -> Result<Vec<u8>> {
        loop {
            let services = connect(&self.socket).await?;
            let patience = match next(random) % 4 {
                0 => Duration::from_secs(300),
                _ => Duration::from_millis(next(random) % 60),
            };
            match timeout(patience, call.make(&services, name, xml)).await {
                Ok(answer) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer?);
                }
                Err(_) => self.hung_up.fetch_add(1, Ordering::Relaxed),
            };
        }
    }

    fn compare(&self, id: &str, answer: Vec<u8>) -> Result<()> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = answers.entry(id.to_owned()).or_insert_with(|| answer.clone());
        ensure!(*first == answer, "{id}: two answers\n{first:?}\n{answer:?}");
        Ok(())
    }
}

/// xorshift: every run is the same.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Rounds that have so many calls.
fn rounds() -> u64 {
    let calls = match std::env::var("RETRY_STORM").as_deref() {
        Ok("full") => FULL,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    };
    calls.div_ceil(CLIENTS * ASKED * CALLS.len() as u64).max(1)
}

/// How often each guest was told of each event.
async fn told(watch: &mut Watch, guests: usize) -> Result<BTreeMap<(String, String), u32>> {
    let (mut told, mut stopped) = (BTreeMap::new(), 0);
    while stopped < guests {
        let event = watch.event().await?;
        let word = word(&event);
        stopped += usize::from(word.starts_with("stopped"));
        *told.entry((event.name, word)).or_default() += 1;
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_hang_ups_and_repeats_does_nothing_twice() -> Result<()> {
    let stage = Stage::new().await?;
    stage.script("any", &json!({}))?;
    let xml = with_room(&stage.xml("NAME", "").replace("/NAME.json", "/any.json"));
    let mut watch = stage.grpc.watch().await?;
    let storm = Arc::new(Storm {
        socket: stage.sandbox.path(GRPC_SOCKET),
        xml,
        answers: Mutex::default(),
        answered: AtomicU64::new(0),
        hung_up: AtomicU64::new(0),
    });
    let (rounds, begun) = (rounds(), Instant::now());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Arc::clone(&storm).client(number, rounds));
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let guests = usize::try_from(CLIENTS / TOGETHER * rounds)?;
    let (answered, hung_up) = (&storm.answered, &storm.hung_up);
    eprintln!(
        "{} calls answered, {} hang-ups, {guests} guests, {:?}",
        answered.load(Ordering::Relaxed),
        hung_up.load(Ordering::Relaxed),
        begun.elapsed()
    );
    assert_eq!(stage.grpc.names().await?.len(), guests);
    let told = told(&mut watch, guests).await?;
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times != 1).collect();
    ensure!(twice.is_empty(), "told more than once: {twice:?}");
    for word in ["defined/0", "started/0", "device_added"] {
        let times = told.keys().filter(|(_, told)| told == word).count();
        assert_eq!(times, guests, "{word}: {told:?}");
    }
    for name in stage.grpc.names().await? {
        let cards = stage.grpc.xml(&name).await?.matches("<interface ").count();
        assert_eq!(cards, 1, "{name}");
    }
    Ok(())
}
