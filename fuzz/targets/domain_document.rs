//! A domain document from a client: read, checked, completed with the recorded capabilities of QEMU 10.0.2, written.
//! What was written must be readable.
#![no_main]

use std::sync::{Arc, LazyLock};

use domxml::{Domain, FormatFlags, Kind, ParseFlags};
use libfuzzer_sys::fuzz_target;
use qemu_plan::address::Age;
use qemu_plan::caps::{Caps, Replies};
use qemu_plan::postparse::{self, Config, Context, Emulators, Ids};

const REPLIES: &str = include_str!("../../crates/qemu-plan/tests/data/caps/replies-10.0.2-x86_64.json");

static CAPS: LazyLock<Arc<Caps>> = LazyLock::new(|| {
    let replies: Replies = serde_json::from_str(REPLIES).expect("the recorded replies");
    Arc::new(Caps::derive(&replies).expect("the recorded replies"))
});

struct Host;

impl Emulators for Host {
    fn default_for(&self, _: &str) -> Option<String> {
        Some("/usr/bin/qemu-system-x86_64".into())
    }
    fn caps(&self, _: &str) -> Result<Arc<Caps>, qemu_plan::Error> {
        Ok(Arc::clone(&CAPS))
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

fn complete(mut domain: Domain) -> Option<Domain> {
    let config = Config {
        channel_dirs: vec!["/channel".into()],
        lib_dir: "/lib".into(),
        nvram_dir: "/nvram".into(),
        security_model: "none".into(),
        firmware: Vec::new(),
        legacy_firmware: Vec::new(),
        host_audio: Default::default(),
    };
    let mut ctx = Context {
        host_arch: "x86_64",
        emulators: &Host,
        config: &config,
        ids: &mut Fixed,
        age: Age::New,
    };
    postparse::define(&mut domain, &mut ctx).ok()?;
    Some(domain)
}

fuzz_target!(|text: &str| {
    let valid = Domain::check_schema(text).is_ok();
    let live = Domain::parse(text, ParseFlags::NONE);
    match live {
        Ok(live) => drop(live.format(FormatFlags::SECURE)),
        // What is of the right form may still make no sense.
        Err(error) => assert!(
            !valid || matches!(error.kind, Kind::Overflow | Kind::InvalidArg),
            "valid and yet not readable: {error}"
        ),
    }
    if let Ok(domain) = Domain::parse(text, ParseFlags::INACTIVE)
        && let Some(defined) = complete(domain)
    {
        let kept = defined.format(FormatFlags::INACTIVE | FormatFlags::SECURE);
        let again = Domain::parse(&kept, ParseFlags::INACTIVE);
        assert!(again.is_ok(), "{:?} of {kept}", again.err());
    }
});
