//! Watches: nothing is lost, nothing comes twice, whoever is too slow is told.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pb::watch_response::Item;
use testkit::Sandbox;
use testkit::skip::can_run_guests;
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, QEMU, by_name, counter, daemon, refused, small, word};

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "")
}

async fn newest(grpc: &Grpc) -> Result<pb::Version> {
    let page = grpc.list(pb::ListRequest::default()).await?;
    page.version.context("a list without a version")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_exactly_where_it_stopped() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let mut grpc = Grpc::of(&sandbox).await?;
    let begin = newest(&grpc).await?;
    let mut told = Vec::new();
    let mut seen = begin;
    for round in 0..4 {
        let mut watch = grpc.watch_since(seen).await?;
        for n in 0..3 {
            grpc.define(&guest(&format!("g{round}-{n}"))).await?;
        }
        // Only some of it is seen before the daemon goes.
        for _ in 0..round {
            let event = watch.event().await?;
            seen = event.version.context("an event without a version")?;
            told.push(event);
        }
        drop(watch);
        if round % 2 == 0 {
            sandbox.kill()?;
            sandbox.start()?;
        } else {
            sandbox.restart()?;
        }
        grpc = Grpc::of(&sandbox).await?;
    }
    let end = newest(&grpc).await?;
    let mut watch = grpc.watch_since(seen).await?;
    while told.last().map_or(begin.counter, counter) < end.counter {
        told.push(watch.event().await?);
    }
    let counters: Vec<_> = told.iter().map(counter).collect();
    assert_eq!(
        counters,
        (begin.counter + 1..=begin.counter + 12).collect::<Vec<_>>()
    );
    let names: Vec<_> = told.iter().map(|e| e.name.clone()).collect();
    let wanted: Vec<_> = (0..4)
        .flat_map(|r| (0..3).map(move |n| format!("g{r}-{n}")))
        .collect();
    assert_eq!(names, wanted);
    // From any place, the rest and nothing else.
    for from in 0..12 {
        let version = pb::Version {
            counter: begin.counter + from,
            ..begin
        };
        let first = grpc.watch_since(version).await?.event().await?;
        assert_eq!(counter(&first), version.counter + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_resumed_is_refused() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.define(&guest("a")).await?;
    let here = newest(&grpc).await?;
    let other_epoch = pb::Version {
        epoch: here.epoch + 1,
        ..here
    };
    let future = pb::Version {
        counter: here.counter + 1,
        ..here
    };
    for version in [other_epoch, future] {
        refused(
            grpc.watch_since(version).await.map(drop),
            Code::OutOfRange,
            "VERSION_EXPIRED",
        )?;
    }
    let both = pb::WatchRequest {
        send_initial_state: true,
        since_version: Some(here),
        ..Default::default()
    };
    refused(
        grpc.watch_for(both).await.map(drop),
        Code::InvalidArgument,
        "INVALID_ARG",
    )?;
    let nobody = pb::WatchRequest {
        domains: by_name("nobody").into_iter().collect(),
        ..Default::default()
    };
    refused(
        grpc.watch_for(nobody).await.map(drop),
        Code::NotFound,
        "NO_DOMAIN",
    )?;
    // A journal that is lost begins anew, and says so.
    sandbox.kill()?;
    std::fs::remove_dir_all(sandbox.path("/run/libvirt/qemu/virtqemud"))?;
    sandbox.start()?;
    let grpc = Grpc::of(&sandbox).await?;
    assert_ne!(newest(&grpc).await?.epoch, here.epoch);
    refused(
        grpc.watch_since(here).await.map(drop),
        Code::OutOfRange,
        "VERSION_EXPIRED",
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_initial_state_ends_with_a_bookmark_and_events_follow() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    for name in ["b", "a", "c"] {
        grpc.define(&guest(name)).await?;
    }
    let request = pb::WatchRequest {
        send_initial_state: true,
        ..Default::default()
    };
    let mut watch = grpc.watch_for(request.clone()).await?;
    let mut names = Vec::new();
    let mark = loop {
        match watch.item().await? {
            Item::Initial(guest) => names.push(guest.name),
            Item::Bookmark(mark) => break mark,
            Item::Event(event) => anyhow::bail!("{event:?}"),
        }
    };
    assert_eq!(names, ["a", "b", "c"]);
    grpc.undefine("b").await?;
    let event = watch.event().await?;
    assert_eq!(
        (word(&event).as_str(), counter(&event)),
        ("undefined/0", mark.counter + 1)
    );
    // Only one guest, only some kinds.
    let one = pb::WatchRequest {
        domains: by_name("c").into_iter().collect(),
        kinds: vec![pb::EventKind::Lifecycle.into()],
        ..request
    };
    let mut watch = grpc.watch_for(one).await?;
    ensure!(matches!(watch.item().await?, Item::Initial(guest) if guest.name == "c"));
    ensure!(matches!(watch.item().await?, Item::Bookmark(_)));
    grpc.undefine("a").await?;
    grpc.undefine("c").await?;
    assert_eq!(watch.event().await?.name, "c");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watches_see_the_same() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    const WATCHES: usize = 200;
    const EVENTS: usize = 20;
    let sandbox = Sandbox::started(daemon())?;
    let mut watches = Vec::new();
    for _ in 0..4 {
        let grpc = Grpc::of(&sandbox).await?;
        for _ in 0..WATCHES / 4 {
            watches.push(grpc.watch().await?);
        }
    }
    let grpc = Grpc::of(&sandbox).await?;
    for n in 0..EVENTS {
        grpc.define(&guest(&format!("g{n:02}"))).await?;
    }
    let begun = Instant::now();
    for watch in &mut watches {
        for n in 0..EVENTS {
            assert_eq!(watch.event().await?.name, format!("g{n:02}"));
        }
    }
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_does_not_keep_up_is_told_and_resumes() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let grpc = Grpc::of(&sandbox).await?;
    grpc.define(&guest("a")).await?;
    let mut slow = grpc.watch().await?;
    let mut seen = newest(&grpc).await?;
    // Events of 60 kB each: what waits for the slow one, and for everybody, is bounded.
    let uri = format!("urn:{}", "x".repeat(60_000));
    for n in 0..400 {
        let metadata = pb::configure_request::Metadata {
            uri: uri.clone(),
            key: "k".to_owned(),
            xml: Some(format!("<n>{n}</n>")),
        };
        let request = pb::ConfigureRequest {
            domain: by_name("a"),
            scope: pb::Scope::Config.into(),
            change: Some(pb::configure_request::Change::Metadata(metadata)),
            options: None,
        };
        grpc.domains().configure(request).await?;
    }
    let mut got = 0;
    let status = loop {
        match slow.event().await {
            Ok(event) => {
                ensure!(counter(&event) == seen.counter + 1, "a gap before the end");
                seen = event.version.context("no version")?;
                got += 1;
            }
            Err(error) => break error.downcast::<tonic::Status>()?,
        }
    };
    ensure!(got < 400, "it kept up");
    refused::<()>(Err(status), Code::ResourceExhausted, "SLOW_WATCHER")?;
    // Where it stopped is no longer kept; what is kept can be had.
    refused(
        grpc.watch_since(seen).await.map(drop),
        Code::OutOfRange,
        "VERSION_EXPIRED",
    )?;
    let end = newest(&grpc).await?;
    let recent = pb::Version {
        counter: end.counter - 10,
        ..end
    };
    let mut watch = grpc.watch_since(recent).await?;
    for n in 1..=10 {
        assert_eq!(counter(&watch.event().await?), recent.counter + n);
    }
    Ok(())
}
