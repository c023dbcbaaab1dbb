//! What every read goes through: the registry, and the published view of a guest, also while it changes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what fails here fails the measurement"
)]

use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use criterion::{Criterion, criterion_group, criterion_main};
use domxml::ParseFlags;
use tokio::runtime::Runtime;
use uuid::Uuid;
use virtqemud::{
    domain::{Effects, Registry, Stored, View, store::Store},
    events::Journal,
    paths::Paths,
};

/// Guests in the registry.
const GUESTS: u128 = 1_000;

fn name(number: u128) -> String {
    format!("guest-{number:04}")
}

/// A registry of stored guests that touches no file: changes that write are not made here.
fn registry() -> Arc<Registry> {
    let paths = Arc::new(Paths::system(Path::new("/nonexistent")));
    let registry = Registry::new(Store::new(paths), Journal::in_memory(1), 0);
    for number in 0..GUESTS {
        let name = name(number);
        let uuid = Uuid::from_u128(number);
        let text = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory>1048576</memory></domain>"
        );
        let domain = domxml::Domain::parse(&text, ParseFlags::INACTIVE).unwrap();
        let view = View {
            config: Some(Stored::new(&domain)),
            ..View::new(uuid, name.into(), 0)
        };
        registry.enter(view);
    }
    registry
}

fn lookups(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let registry = registry();
    let (wanted, uuid) = (name(700), Uuid::from_u128(700));
    c.bench_function("registry/by_name", |b| {
        b.iter(|| registry.by_name(black_box(&wanted)).unwrap())
    });
    c.bench_function("registry/by_uuid", |b| {
        b.iter(|| registry.by_uuid(black_box(uuid)).unwrap())
    });
    c.bench_function("registry/absent", |b| {
        b.iter(|| registry.by_name(black_box("nobody")).unwrap_err())
    });
    c.bench_function("registry/views_of_1000", |b| {
        b.iter(|| black_box(registry.views()).len())
    });
    c.bench_function("registry/names_of_1000", |b| {
        b.iter(|| {
            registry
                .views()
                .iter()
                .map(|v| v.name.len() + v.etag().len())
                .sum::<usize>()
        });
    });
}

/// Reads of one guest: at rest, and while another thread commits changes to it without a pause.
fn reads(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    let registry = registry();
    let domain = registry.by_uuid(Uuid::from_u128(7)).unwrap();
    c.bench_function("view/at_rest", |b| b.iter(|| black_box(domain.view()).generation));
    c.bench_function("view/text", |b| {
        b.iter(|| {
            black_box(domain.view())
                .current()
                .map(|d| d.text().unwrap().len())
        })
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, ended) = (domain.clone(), Arc::clone(&stop));
    let writing = runtime.spawn(async move {
        let mut commits = 0_u64;
        while !ended.load(Ordering::Relaxed) {
            writer
                .commit(|view| {
                    view.condition = black_box(view.condition);
                    Ok(Effects::none())
                })
                .await
                .unwrap();
            commits += 1;
        }
        commits
    });
    c.bench_function("view/under_a_writer", |b| {
        b.iter(|| black_box(domain.view()).generation)
    });
    c.bench_function("registry/views_of_1000_under_a_writer", |b| {
        b.iter(|| black_box(registry.views()).len())
    });
    stop.store(true, Ordering::Relaxed);
    let commits = runtime.block_on(writing).unwrap();
    assert!(commits > 0, "nobody wrote");
}

criterion_group!(view, lookups, reads);
criterion_main!(view);
