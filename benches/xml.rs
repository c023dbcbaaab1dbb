//! Domain documents: read, completed, checked, written.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "what fails here fails the measurement"
)]

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use domxml::{Domain, FormatFlags, ParseFlags};
use qemu_plan::{
    address::Age,
    caps::{Caps, Replies},
    postparse::{self, Config, Context, Emulators, HostAudio, Ids},
};

/// A usual guest as libvirt keeps it, a little more than 4 KB.
const KEPT: &str = include_str!("../crates/qemu-plan/tests/data/define/tool-virt-manager-tuned/define.xml");
/// The same as it was asked for.
const ASKED: &str = include_str!("../crates/qemu-plan/tests/data/define/tool-virt-manager-tuned/input.xml");
/// What QEMU 10.0.2 said of itself.
const REPLIES: &str = include_str!("../crates/qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");

struct Host(Arc<Caps>);

impl Emulators for Host {
    fn default_for(&self, _: &str) -> Option<String> {
        Some("/usr/bin/qemu-system-x86_64".into())
    }
    fn caps(&self, _: &str) -> Result<Arc<Caps>, qemu_plan::Error> {
        Ok(Arc::clone(&self.0))
    }
}

struct Fixed;

impl Ids for Fixed {
    fn mac(&mut self) -> String {
        "52:54:00:00:00:01".into()
    }
    fn uuid(&mut self) -> uuid::Uuid {
        uuid::Uuid::from_u128(1)
    }
}

fn config() -> Config {
    Config {
        channel_dirs: vec!["/var/lib/libvirt/qemu/channel".into()],
        lib_dir: "/var/lib/libvirt/qemu".into(),
        nvram_dir: "/var/lib/libvirt/qemu/nvram".into(),
        security_model: "none".into(),
        firmware: Vec::new(),
        legacy_firmware: Vec::new(),
        host_audio: HostAudio::default(),
    }
}

fn documents(c: &mut Criterion) {
    let mut group = c.benchmark_group("document");
    group.throughput(Throughput::Bytes(KEPT.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| Domain::parse(black_box(KEPT), ParseFlags::INACTIVE).unwrap())
    });
    let domain = Domain::parse(KEPT, ParseFlags::INACTIVE).unwrap();
    group.bench_function("format", |b| {
        b.iter(|| black_box(&domain).format(FormatFlags::INACTIVE))
    });
    group.bench_function("check_schema", |b| {
        b.iter(|| Domain::check_schema(black_box(KEPT)).unwrap())
    });
    group.finish();
}

fn completing(c: &mut Criterion) {
    let replies: Replies = serde_json::from_str(REPLIES).unwrap();
    let host = Host(Arc::new(Caps::derive(&replies).unwrap()));
    let config = config();
    let asked = Domain::parse(ASKED, ParseFlags::INACTIVE).unwrap();
    c.bench_function("define", |b| {
        let complete = |mut domain: Domain| {
            let mut ctx = Context {
                host_arch: "x86_64",
                emulators: &host,
                config: &config,
                ids: &mut Fixed,
                age: Age::New,
            };
            postparse::define(&mut domain, &mut ctx).unwrap();
            domain
        };
        b.iter_batched(|| asked.clone(), complete, BatchSize::SmallInput);
    });
}

criterion_group!(xml, documents, completing);
criterion_main!(xml);
