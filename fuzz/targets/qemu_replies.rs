//! A QEMU's reply to one question of a probe, the others being as recorded: capabilities or an error, and a guest that is
//! completed with such capabilities.
#![no_main]

use std::sync::{Arc, LazyLock};

use domxml::{Domain, FormatFlags, ParseFlags};
use libfuzzer_sys::fuzz_target;
use qemu_plan::address::Age;
use qemu_plan::caps::probe::{self, Stage};
use qemu_plan::caps::{Accel, Caps, Flag, Replies};
use qemu_plan::postparse::{self, Config, Context, Emulators, Ids};

const REPLIES: &str = include_str!("../../crates/qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");

static RECORDED: LazyLock<Replies> =
    LazyLock::new(|| serde_json::from_str(REPLIES).expect("the recorded replies"));

const GUEST: &str = "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os><devices>\
    <disk><source file='/a'/><target dev='vda'/></disk><video/><input type='tablet'/></devices></domain>";

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

fn complete(caps: Caps) {
    let config = Config {
        channel_dirs: vec!["/channel".into()],
        lib_dir: "/lib".into(),
        nvram_dir: "/nvram".into(),
        security_model: "none".into(),
        firmware: Vec::new(),
        legacy_firmware: Vec::new(),
        host_audio: Default::default(),
    };
    let host = Host(Arc::new(caps));
    let mut ctx = Context {
        host_arch: "x86_64",
        emulators: &host,
        config: &config,
        ids: &mut Fixed,
        age: Age::New,
    };
    let mut domain = Domain::parse(GUEST, ParseFlags::INACTIVE).expect("the guest");
    if postparse::define(&mut domain, &mut ctx).is_ok() {
        drop(domain.format(FormatFlags::INACTIVE));
    }
}

fuzz_target!(|input: (u8, &str)| {
    let (number, text) = input;
    let Ok(reply) = serde_json::from_str(text) else {
        return;
    };
    let mut replies = RECORDED.clone();
    let run = usize::from(number >> 7);
    let exchanges = &mut replies.runs[run].exchanges;
    let at = usize::from(number & 0x7f) % exchanges.len();
    exchanges[at].reply = reply;
    for stage in [Stage::Basics, Stage::Schema, Stage::Details, Stage::TcgOnly] {
        assert!(probe::queries(stage, &replies.runs[0]).len() < 100);
    }
    probe::needs_tcg_run(&replies.runs[0]);
    if let Ok(caps) = Caps::derive(&replies) {
        for accel in [Accel::Kvm, Accel::Tcg] {
            caps.default_machine(accel);
            caps.cpu(accel, "max");
        }
        assert_eq!(
            caps.flags().iter().count() > 0,
            Flag::ALL.iter().any(|f| caps.has(*f))
        );
        complete(caps);
    }
    replies.compact();
    drop(Caps::derive(&replies));
});
