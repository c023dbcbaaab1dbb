//! How long the first and later answers about an emulator take, ours against libvirt's own daemon on the same host, in
//! turns: `cargo run --release --example compare-caps [ROUNDS [VIRTQEMUD]]`. Needs root and libvirtd.
//!
//! cold: a new daemon, nothing cached. warm: a new daemon, the cache on disk. again: the same question once more.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::{Daemon, Sandbox};
use wire::client::Client;
use wire::remote::ConnectGetDomainCapabilities;

/// Later answers to time.
const AGAIN: u32 = 200;

/// The three times of one round.
type Times = [Duration; 3];

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().map_or(Ok(7), |text| text.parse())?;
    let ours = args.next().map_or_else(
        || testkit::place::target().join("release/virtqemud"),
        PathBuf::from,
    );
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut theirs = testkit::reference()?.context("libvirtd is not installed")?;
        their_times.push(round(&mut theirs).await?);
        drop(theirs);
        our_times.push(round(&mut Sandbox::started(Daemon::virtqemud(&ours))?).await?);
    }
    for (at, name) in ["cold", "warm", "again"].into_iter().enumerate() {
        let median = |times: &[Times]| {
            let mut column: Vec<f64> = times.iter().map(|round| round[at].as_secs_f64() * 1e3).collect();
            column.sort_by(f64::total_cmp);
            column[column.len() / 2]
        };
        let (ours, theirs) = (median(&our_times), median(&their_times));
        print(&format!(
            "{name:6} ours {ours:9.3} ms  libvirt {theirs:9.3} ms  ours/libvirt {:.3}",
            ours / theirs
        ));
    }
    Ok(())
}

async fn round(sandbox: &mut Sandbox) -> Result<Times> {
    let cold = first(sandbox).await?.0;
    sandbox.restart()?;
    let (warm, mut client) = first(sandbox).await?;
    let begin = Instant::now();
    for _ in 0..AGAIN {
        client.call(&question()).await?;
    }
    Ok([cold, warm, begin.elapsed() / AGAIN])
}

async fn first(sandbox: &Sandbox) -> Result<(Duration, Client)> {
    let mut client = Client::open(&sandbox.socket(), "qemu:///system").await?;
    let begin = Instant::now();
    client.call(&question()).await?;
    Ok((begin.elapsed(), client))
}

fn question() -> ConnectGetDomainCapabilities {
    ConnectGetDomainCapabilities {
        emulatorbin: None,
        arch: None,
        machine: None,
        virttype: None,
        flags: 0,
    }
}

#[expect(clippy::print_stdout, reason = "what the tool is for")]
fn print(line: &str) {
    println!("{line}");
}
