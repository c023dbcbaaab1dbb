//! Runs one recorded case: parse, fill in, format, compare.
#![allow(clippy::unwrap_used, reason = "a test helper; what fails, fails the test")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use domxml::{Domain, FormatFlags, Kind};
use qemu_plan::address::Age;
use qemu_plan::caps::{Caps, Flag, Replies};
use qemu_plan::postparse::{self, Config, Context, Emulators, Firmware, HostAudio, Ids};
use qemu_plan::{Area, Code, Error};
use serde_json::Value;

/// A recorded document and its outcome.
pub(crate) struct Case {
    pub name: String,
    pub tier: u64,
    dir: PathBuf,
}

impl Case {
    /// The document as it was handed in.
    pub(crate) fn input(&self) -> String {
        std::fs::read_to_string(self.dir.join("input.xml")).unwrap()
    }
}

/// How ours compares.
pub(crate) enum Outcome {
    Equal,
    /// Both accept; the first difference.
    Different(String),
    /// Only we refuse.
    Refused(String),
    /// Only libvirt refuses.
    Accepted(String),
    /// Both refuse, with other codes.
    OtherError {
        ours: String,
        theirs: String,
    },
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => f.write_str("equal"),
            Self::Different(diff) => write!(f, "different:\n{diff}"),
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Accepted(error) => write!(f, "accepted; libvirt: {error}"),
            Self::OtherError { ours, theirs } => write!(f, "ours: {ours}; libvirt: {theirs}"),
        }
    }
}

/// The cases below a directory, sorted.
pub(crate) fn cases(dir: &Path) -> Vec<Case> {
    let mut all: Vec<Case> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| case(entry.unwrap().path()))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn case(dir: PathBuf) -> Case {
    let meta = std::fs::read_to_string(dir.join("meta.json")).ok();
    let meta: Value = meta.map_or(Value::Null, |m| serde_json::from_str(&m).unwrap());
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    Case {
        name,
        tier: meta["tier"].as_u64().unwrap_or(0),
        dir,
    }
}

/// Runs a case.
pub(crate) fn run(case: &Case) -> Outcome {
    let input = std::fs::read_to_string(case.dir.join("input.xml")).unwrap();
    let ours = define(&input, case.name.ends_with(".rich"));
    let define = std::fs::read_to_string(case.dir.join("define.xml"));
    match (ours, define) {
        (Ok(ours), Ok(theirs)) => match difference(&mask(&ours, &input), &mask(&theirs, &input)) {
            None => Outcome::Equal,
            Some(diff) => Outcome::Different(diff),
        },
        (Ok(_), Err(_)) => Outcome::Accepted(recorded_error(case).2),
        (Err((code, _, text)), Ok(_)) => Outcome::Refused(format!("{code}: {text}")),
        (Err((code, area, text)), Err(_)) => {
            let (their_code, their_area, theirs) = recorded_error(case);
            if code == their_code && area.is_none_or(|a| a == their_area) {
                return Outcome::Equal;
            }
            Outcome::OtherError {
                ours: format!("{code}/{area:?} {text}"),
                theirs: format!("{their_code}/{their_area} {theirs}"),
            }
        }
    }
}

/// Whether what libvirt keeps of a case comes out unchanged, handed in again and read from its own files.
pub(crate) fn is_stable(case: &Case) -> bool {
    let Ok(defined) = std::fs::read_to_string(case.dir.join("define.xml")) else {
        return true;
    };
    let again = std::fs::read_to_string(case.dir.join("redefine.xml")).unwrap_or_else(|_| defined.clone());
    let rich = case.name.ends_with(".rich");
    let same = |age, wanted: &str| define_as(&defined, rich, age).is_ok_and(|ours| ours == wanted);
    same(Age::New, &again) && same(Age::Known, &defined)
}

/// Keeps what we make of a document.
pub(crate) fn bless(case: &Case) {
    let input = std::fs::read_to_string(case.dir.join("input.xml")).unwrap();
    if let Ok(ours) = define(&input, case.name.ends_with(".rich")) {
        std::fs::write(case.dir.join("define.xml"), ours).unwrap();
    }
}

fn recorded_error(case: &Case) -> (i64, i64, String) {
    let error = std::fs::read_to_string(case.dir.join("define.err")).unwrap();
    let error: Value = serde_json::from_str(&error).unwrap();
    let text = error["message"].as_str().unwrap_or_default().to_owned();
    (
        error["code"].as_i64().unwrap(),
        error["domain"].as_i64().unwrap(),
        text,
    )
}

pub(crate) type Refusal = (i64, Option<i64>, String);

fn define(input: &str, rich: bool) -> Result<String, Refusal> {
    define_as(input, rich, Age::New)
}

/// A refusal by the reader, with libvirt's prefix for its kind.
fn refusal(error: domxml::Error) -> Refusal {
    let prefix = match error.kind {
        Kind::Internal => Code::Internal.prefix(),
        Kind::InvalidArg => Code::InvalidArg.prefix(),
        Kind::Xml => Code::Xml.prefix(),
        Kind::Overflow => Code::Overflow.prefix(),
        Kind::Unsupported => Code::ConfigUnsupported.prefix(),
        _ => "",
    };
    (
        i64::from(error.kind.number()),
        Some(i64::from(error.area.number())),
        format!("{prefix}{}", error.message),
    )
}

/// What a document becomes, as the daemon of the recording host would have it.
pub(crate) fn define_as(input: &str, rich: bool, age: Age) -> Result<String, Refusal> {
    let mut def = Domain::given(input).map_err(refusal)?;
    let done = in_context(rich, age, |ctx| postparse::define(&mut def, ctx));
    done.map_err(|e| {
        (
            i64::from(e.code.number()),
            Some(i64::from(e.area.number())),
            e.to_string(),
        )
    })?;
    Ok(def.format(FormatFlags::INACTIVE | FormatFlags::SECURE))
}

/// What a document becomes on a host with these descriptors.
pub(crate) fn define_with(input: &str, firmware: Vec<Firmware>) -> Result<Domain, Refusal> {
    let mut def = Domain::given(input).map_err(refusal)?;
    let done = in_context(false, Age::New, |ctx| {
        let config = Config {
            firmware,
            ..ctx.config.clone()
        };
        let (host_arch, emulators, age) = (ctx.host_arch, ctx.emulators, ctx.age);
        postparse::define(
            &mut def,
            &mut Context {
                host_arch,
                emulators,
                config: &config,
                ids: &mut Counter(0),
                age,
            },
        )
    });
    done.map_err(|e| {
        (
            i64::from(e.code.number()),
            Some(i64::from(e.area.number())),
            e.to_string(),
        )
    })?;
    Ok(def)
}

/// The recording host's descriptors.
fn firmware() -> Vec<Firmware> {
    let all: [&str; 3] = [
        include_str!("../data/firmware/40-edk2-x86_64-secure-enrolled.json"),
        include_str!("../data/firmware/50-edk2-x86_64-secure.json"),
        include_str!("../data/firmware/60-edk2-x86_64.json"),
    ];
    all.iter().map(|json| Firmware::parse(json).unwrap()).collect()
}

fn legacy() -> Vec<(String, String)> {
    let pair = |code: &str| {
        (
            format!("/usr/share/OVMF/{code}.fd"),
            "/usr/share/OVMF/OVMF_VARS.fd".to_owned(),
        )
    };
    vec![pair("OVMF_CODE"), pair("OVMF_CODE.secboot")]
}

/// Runs something with the recorded capabilities of the x86_64 binary.
pub(crate) fn with_context<T>(run: impl FnOnce(&Caps, &mut Context<'_>) -> T) -> T {
    in_context(false, Age::Known, |ctx| run(recorded(), ctx))
}

fn in_context<T>(rich: bool, age: Age, run: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let config = Config {
        channel_dirs: vec!["/var/lib/libvirt/qemu/channel".into()],
        lib_dir: "/var/lib/libvirt/qemu".into(),
        nvram_dir: "/var/lib/libvirt/qemu/nvram".into(),
        security_model: "none".into(),
        firmware: firmware(),
        legacy_firmware: legacy(),
        host_audio: HostAudio::default(),
    };
    run(&mut Context {
        host_arch: "x86_64",
        emulators: &Host { rich },
        config: &config,
        ids: &mut Counter(0),
        age,
    })
}

struct Host {
    rich: bool,
}

/// What the stand-ins for modules that the recording host lacked add.
const RICH: &[Flag] = &[
    Flag::Spice,
    Flag::Qxl,
    Flag::SpiceGl,
    Flag::SpiceRendernode,
    Flag::UsbRedir,
    Flag::UsbRedirFilter,
    Flag::VirtioGpuGlPci,
    Flag::VirtioVgaGl,
    Flag::EglHeadless,
];

fn recorded() -> &'static Caps {
    static CAPS: OnceLock<Caps> = OnceLock::new();
    CAPS.get_or_init(|| {
        let replies: Replies =
            serde_json::from_str(include_str!("../data/caps/replies-10.0.2-x86_64.json")).unwrap();
        Caps::derive(&replies).unwrap()
    })
}

/// The 32-bit binary of the same build, as far as it differs.
fn i386() -> &'static Caps {
    static CAPS: OnceLock<Caps> = OnceLock::new();
    CAPS.get_or_init(|| {
        let text = include_str!("../data/caps/replies-10.0.2-x86_64.json")
            .replace("\"arch\":\"x86_64\"", "\"arch\":\"i386\"")
            .replace(
                "default-cpu-type\":\"qemu64-x86_64-cpu",
                "default-cpu-type\":\"qemu32-i386-cpu",
            )
            .replace("max-x86_64", "max-i386");
        Caps::derive(&serde_json::from_str(&text).unwrap()).unwrap()
    })
}

impl Emulators for Host {
    fn default_for(&self, arch: &str) -> Option<String> {
        match arch {
            "x86_64" => Some("/usr/bin/qemu-system-x86_64".into()),
            "i686" => Some("/usr/bin/qemu-system-i386".into()),
            _ => None,
        }
    }

    fn caps(&self, path: &str) -> Result<Arc<Caps>, Error> {
        let caps = match path {
            "/usr/bin/qemu-system-x86_64" => recorded().clone(),
            "/usr/bin/qemu-system-i386" => i386().clone(),
            _ => {
                let text = format!("Cannot check QEMU binary {path}: No such file or directory");
                return Err(Error::new(Code::System, Area::Qemu, text));
            }
        };
        let mut flags = *caps.flags();
        if self.rich {
            RICH.iter().for_each(|f| flags.set(*f));
        }
        Ok(Arc::new(caps.with_flags(flags)))
    }
}

struct Counter(u32);

impl Ids for Counter {
    fn mac(&mut self) -> String {
        self.0 += 1;
        format!("52:54:00:00:{:02x}:{:02x}", self.0 >> 8 & 0xff, self.0 & 0xff)
    }

    fn uuid(&mut self) -> uuid::Uuid {
        self.0 += 1;
        uuid::Uuid::from_u128(u128::from(self.0))
    }
}

/// Replaces MACs and UUIDs that the input does not have: they were made up.
fn mask(text: &str, input: &str) -> String {
    let input = input.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let mut line = line.to_owned();
        for (open, close) in [("<mac address='", "'"), ("<uuid>", "</uuid>")] {
            if let Some((before, rest)) = line.split_once(open)
                && let Some((value, after)) = rest.split_once(close)
                && !input.contains(&value.to_ascii_lowercase())
            {
                line = format!("{before}{open}@{close}{after}");
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The lines around the first difference.
fn difference(ours: &str, theirs: &str) -> Option<String> {
    let (ours, theirs): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let at = (0..ours.len().max(theirs.len())).find(|i| ours.get(*i) != theirs.get(*i))?;
    let mut text = String::new();
    for (sign, lines) in [('-', &theirs), ('+', &ours)] {
        for line in lines.iter().skip(at.saturating_sub(1)).take(5) {
            text.push_str(&format!("{sign}{line}\n"));
        }
    }
    Some(text)
}
