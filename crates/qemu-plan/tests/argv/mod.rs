//! Runs one recorded case: read, name, build, compare token by token.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test helper; what fails, fails the test"
)]

mod mask;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use domxml::devices::{Chardev, ChardevKind, ChardevMode, Family, InterfaceKind};
use domxml::{Domain, ParseFlags};
use mask::{compare, mask, mask_fds, split};
use qemu_plan::address::Age;
use qemu_plan::alias;
use qemu_plan::caps::{Caps, Flag, Replies};
use qemu_plan::command::plug::{Given, plug};
use qemu_plan::command::{self, DeviceResources, Dirs, FdRef, Purpose, Resources, Secret, native};
use qemu_plan::postparse::{Config, Context, Emulators, Firmware, HostAudio, Ids, post_parse};
use serde_json::Value;

/// A document that libvirt kept, and the command line it made of it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) tier: u64,
    /// The document as it was submitted: what is not in it was made up.
    pub(crate) input: String,
    pub(crate) define: String,
    pub(crate) argv: Vec<String>,
}

/// How ours compares.
pub(crate) enum Outcome {
    Equal,
    /// The first difference.
    Different(String),
    /// We refuse.
    Refused(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => f.write_str("equal"),
            Self::Different(diff) => write!(f, "different:\n{diff}"),
            Self::Refused(error) => write!(f, "refused: {error}"),
        }
    }
}

/// Cases of a directory with `NAME.xml` and `NAME.args`, a token a line.
pub(crate) fn golden(dir: &Path) -> Vec<Case> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| {
            Some(
                entry
                    .unwrap()
                    .file_name()
                    .to_str()?
                    .strip_suffix(".args")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    let read =
        |name: &str, suffix: &str| std::fs::read_to_string(dir.join(format!("{name}.{suffix}"))).unwrap();
    let case = |name: String| {
        let define = read(&name, "xml");
        let argv = read(&name, "args").lines().map(str::to_owned).collect();
        Case {
            tier: 0,
            input: define.clone(),
            define,
            argv,
            name,
        }
    };
    names.into_iter().map(case).collect()
}

/// Keeps what we make of a case.
pub(crate) fn bless(dir: &Path, case: &Case) {
    if let Ok(ours) = native(case) {
        std::fs::write(
            dir.join(format!("{}.args", case.name)),
            mask(&ours, case).join("\n") + "\n",
        )
        .unwrap();
    }
}

/// The cases of a corpus that have a command line.
pub(crate) fn corpus(dir: &Path) -> Vec<Case> {
    let mut cases: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let argv = std::fs::read_to_string(path.join("argv.txt")).ok()?;
            let meta: Value =
                serde_json::from_str(&std::fs::read_to_string(path.join("meta.json")).ok()?).ok()?;
            Some(Case {
                name: path.file_name()?.to_str()?.to_owned(),
                tier: meta["tier"].as_u64()?,
                input: std::fs::read_to_string(path.join("input.xml")).ok()?,
                define: std::fs::read_to_string(path.join("define.xml")).ok()?,
                argv: split(&argv),
            })
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// All documents of a corpus, those that libvirt refuses too.
pub(crate) fn inputs(dir: &Path) -> Vec<String> {
    let paths = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("input.xml"));
    paths
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect()
}

/// Builds a line of a document as it is.
pub(crate) fn survive(input: &str) {
    let Ok(mut def) = Domain::parse(input, ParseFlags::INACTIVE) else {
        return;
    };
    let resources = resources(&def, "x", Purpose::Native);
    let _ = command::build(&def, recorded(), &resources);
    if native::prepare(&mut def, recorded()).is_err() {
        alias::assign(&mut def.devices);
    }
    let _ = command::build(&def, recorded(), &resources);
}

/// Runs a case as a native conversion.
pub(crate) fn run(case: &Case) -> Outcome {
    match native(case) {
        Ok(ours) => compare(&mask(&ours, case), &mask(&case.argv, case)),
        Err(error) => Outcome::Refused(error),
    }
}

/// Runs a case whose block nodes were numbered before.
pub(crate) fn run_numbered(case: &Case) -> Outcome {
    let mut def = Domain::parse(&case.define, ParseFlags::INACTIVE).unwrap();
    qemu_plan::block::number_guest(&mut def, 1);
    match native_of(def, case) {
        Ok(ours) => compare(&mask(&ours, case), &mask(&case.argv, case)),
        Err(error) => Outcome::Refused(error),
    }
}

/// Runs a case as a start of the guest with id 2. Numbers of descriptors are not compared.
pub(crate) fn run_start(case: &Case) -> Outcome {
    let mut def = Domain::parse(&case.define, ParseFlags::INACTIVE).unwrap();
    alias::assign(&mut def.devices);
    let mut resources = resources(&def, &case.name, Purpose::Start);
    resources.monitor_fd = Some(9);
    for graphics in def
        .devices
        .graphics
        .iter_mut()
        .filter(|graphics| graphics.port == Some(-1))
    {
        graphics.port = Some(5900);
    }
    resources.devices = descriptors(&def);
    match command::build(&def, recorded(), &resources) {
        Ok(line) => compare(&mask_fds(&line.argv()), &mask_fds(&case.argv)),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// What a daemon opens before it starts the guest.
fn descriptors(def: &Domain) -> BTreeMap<String, DeviceResources> {
    let mut given = BTreeMap::new();
    let mut add = |alias: &Option<String>, resources: DeviceResources| {
        given.extend(alias.clone().map(|alias| (alias, resources)));
    };
    for net in def
        .devices
        .interfaces
        .iter()
        .filter(|net| net.kind == InterfaceKind::Ethernet)
    {
        let queues = net.driver.as_ref().and_then(|driver| driver.queues).unwrap_or(1);
        add(
            &net.info.alias,
            DeviceResources {
                tap_fds: vec![FdRef::Number(9); queues as usize],
                ..DeviceResources::default()
            },
        );
    }
    // Files, and sockets on which QEMU listens, are opened for it.
    let opened = |chardev: &Chardev| match chardev.kind {
        ChardevKind::File => true,
        ChardevKind::Unix => chardev.source().and_then(|source| source.mode) != Some(ChardevMode::Connect),
        _ => false,
    };
    let serials = def
        .devices
        .serials
        .iter()
        .map(|serial| (&serial.info.alias, &serial.chardev));
    let channels = def
        .devices
        .channels
        .iter()
        .map(|channel| (&channel.info.alias, &channel.chardev));
    for (alias, chardev) in serials.chain(channels) {
        let log_fd = chardev.log.as_ref().map(|_| 9);
        add(
            alias,
            DeviceResources {
                fd: opened(chardev).then_some(9),
                listener: opened(chardev).then_some(FdRef::Number(9)),
                log_fd,
                ..DeviceResources::default()
            },
        );
    }
    given
}

/// Plugs in every device of a case; answers how many there were.
pub(crate) fn plug_all(case: &Case) -> usize {
    /// Families that cannot be plugged in.
    const FIXED: [Family; 11] = [
        Family::Lease,
        Family::Graphics,
        Family::Audio,
        Family::Video,
        Family::Redirfilter,
        Family::Hub,
        Family::Memballoon,
        Family::Nvram,
        Family::Panic,
        Family::Iommu,
        Family::Pstore,
    ];
    let mut def = Domain::parse(&case.define, ParseFlags::INACTIVE).unwrap();
    let caps = caps(case.name.ends_with(".rich"));
    native::prepare(&mut def, &caps).unwrap();
    let res = resources(&def, &case.name, Purpose::Native);
    let line = without_nodes(
        command::build(&def, &caps, &with_secrets(&def, &caps, res.clone()))
            .unwrap()
            .argv(),
    );
    let given = Given {
        caps: &caps,
        res: &res,
        next_node: 1,
    };
    let devices = def
        .devices
        .iter()
        .filter(|device| !FIXED.contains(&device.family()));
    let mut seen = 0;
    for device in devices {
        let plan = match plug(&def, &device.to_device(), given) {
            Ok(plan) => plan,
            Err(error) if error.message.contains("cannot be given to a running guest") => continue,
            Err(error) => panic!("{}: {:?}: {error}", case.name, device.info()),
        };
        for step in plan.steps {
            let ("device_add", props) = step.command() else {
                continue;
            };
            let props = without_nodes(vec![props.to_string()]).remove(0);
            let later = props.contains("virtio-disk") && case.define.contains("shareBacking");
            assert!(
                later || line.contains(&props),
                "{}: {props} is not on the line",
                case.name
            );
            seen += 1;
        }
    }
    seen
}

fn with_secrets(def: &Domain, caps: &Caps, mut resources: Resources) -> Resources {
    let needs = command::needed_secrets(def, caps, &resources).unwrap();
    resources.secrets = needs
        .into_iter()
        .map(|need| (need.id, Secret::default()))
        .collect();
    resources
}

/// Takes names of block nodes out: they are numbered anew when a disk is plugged in.
fn without_nodes(tokens: Vec<String>) -> Vec<String> {
    let strip = |token: String| match serde_json::from_str::<Value>(&token) {
        Ok(Value::Object(mut map)) => {
            map.shift_remove("drive");
            Value::Object(map).to_string()
        }
        _ => token,
    };
    tokens.into_iter().map(strip).collect()
}

/// What a native conversion says of a document: `ok`, or the error's code, domain and message.
pub(crate) fn answer(input: &str) -> String {
    let case = Case {
        name: "small".to_owned(),
        input: input.to_owned(),
        tier: 0,
        define: String::new(),
        argv: Vec::new(),
    };
    let mut def = submitted(&case).unwrap_or_else(|error| panic!("{error}: {input}"));
    let host = Host { rich: false };
    let caps = host
        .caps(def.devices.emulator.as_deref().unwrap_or_default())
        .unwrap();
    let resources = resources(&def, "small", Purpose::Native);
    let made = native::prepare(&mut def, &caps).and_then(|()| {
        let needs = command::needed_secrets(&def, &caps, &resources)?;
        let secrets = needs
            .into_iter()
            .map(|need| (need.id, Secret::default()))
            .collect();
        command::build(&def, &caps, &Resources { secrets, ..resources })
    });
    match made {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{} {} {error}", error.code.number(), error.area.number()),
    }
}

/// Runs a case from the document as it was submitted: defaults, places, line.
pub(crate) fn run_submitted(case: &Case) -> Outcome {
    let result = submitted(case).and_then(|def| native_of(def, case));
    match result {
        Ok(ours) => compare(&mask(&ours, case), &mask(&case.argv, case)),
        Err(error) => Outcome::Refused(error),
    }
}

fn submitted(case: &Case) -> Result<Domain, String> {
    let mut def = Domain::parse(&case.input, ParseFlags::INACTIVE).map_err(|error| error.message)?;
    let host = Host {
        rich: case.name.ends_with(".rich"),
    };
    let config = Config {
        channel_dirs: vec!["/var/lib/libvirt/qemu/channel".into()],
        lib_dir: "/var/lib/libvirt/qemu".into(),
        nvram_dir: "/var/lib/libvirt/qemu/nvram".into(),
        security_model: "none".into(),
        firmware: firmware(),
        legacy_firmware: Vec::new(),
        host_audio: HostAudio::default(),
    };
    let mut ids = MadeUp(0);
    let mut context = Context {
        host_arch: "x86_64",
        emulators: &host,
        config: &config,
        ids: &mut ids,
        age: Age::New,
    };
    post_parse(&mut def, &mut context).map_err(|error| error.to_string())?;
    Ok(def)
}

fn firmware() -> Vec<Firmware> {
    let all: [&str; 3] = [
        include_str!("../data/firmware/40-edk2-x86_64-secure-enrolled.json"),
        include_str!("../data/firmware/50-edk2-x86_64-secure.json"),
        include_str!("../data/firmware/60-edk2-x86_64.json"),
    ];
    all.iter().map(|json| Firmware::parse(json).unwrap()).collect()
}

struct MadeUp(u32);

impl Ids for MadeUp {
    fn mac(&mut self) -> String {
        self.0 += 1;
        format!("52:54:00:00:{:02x}:{:02x}", self.0 >> 8 & 0xff, self.0 & 0xff)
    }

    fn uuid(&mut self) -> uuid::Uuid {
        uuid::Uuid::from_u128(1)
    }
}

struct Host {
    rich: bool,
}

impl Emulators for Host {
    fn default_for(&self, arch: &str) -> Option<String> {
        match arch {
            "x86_64" => Some("/usr/bin/qemu-system-x86_64".into()),
            "i686" => Some("/usr/bin/qemu-system-i386".into()),
            _ => None,
        }
    }

    fn caps(&self, path: &str) -> qemu_plan::Result<Arc<Caps>> {
        Ok(Arc::new(if path.ends_with("-i386") {
            i386()
        } else {
            caps(self.rich)
        }))
    }
}

/// The 32-bit binary of the same build, as far as it differs: its CPU models are not asked for properties.
fn i386() -> Caps {
    let replies = include_str!("../data/caps/replies-10.0.2-x86_64.json")
        .replace("\"arch\":\"x86_64\"", "\"arch\":\"i386\"")
        .replace(
            "default-cpu-type\":\"qemu64-x86_64-cpu",
            "default-cpu-type\":\"qemu32-i386-cpu",
        )
        .replace("max-x86_64", "max-i386");
    Caps::derive(&serde_json::from_str::<Replies>(&replies).unwrap()).unwrap()
}

fn native(case: &Case) -> Result<Vec<String>, String> {
    let def = Domain::parse(&case.define, ParseFlags::INACTIVE).map_err(|error| error.message)?;
    native_of(def, case)
}

fn native_of(mut def: Domain, case: &Case) -> Result<Vec<String>, String> {
    let host = Host {
        rich: case.name.ends_with(".rich"),
    };
    let caps = host
        .caps(def.devices.emulator.as_deref().unwrap_or_default())
        .unwrap();
    native::prepare(&mut def, &caps).map_err(|error| error.to_string())?;
    let mut resources = resources(&def, &case.name, Purpose::Native);
    let needs = command::needed_secrets(&def, &caps, &resources).map_err(|error| error.to_string())?;
    resources.secrets = needs
        .into_iter()
        .map(|need| (need.id, Secret::default()))
        .collect();
    let line = command::build(&def, &caps, &resources).map_err(|error| error.to_string())?;
    // The text must say the same as the vector.
    Ok(split(&line.to_native()))
}

fn resources(def: &Domain, case: &str, purpose: Purpose) -> Resources {
    let id = if purpose == Purpose::Native { -1 } else { 2 };
    let short: String = format!("{id}-{}", def.name.chars().take(20).collect::<String>());
    let mut devices = BTreeMap::new();
    for alias in ["hostdev0", "hostdev1", "hostdev2"] {
        let scsi = def.devices.hostdevs.iter().any(|device| {
            device.info.alias.as_deref() == Some(alias) && device.kind == domxml::devices::HostdevKind::Scsi
        });
        if scsi {
            devices.insert(
                alias.to_owned(),
                DeviceResources {
                    path: Some("/dev/sg0".into()),
                    ..DeviceResources::default()
                },
            );
        }
    }
    let rich = case.ends_with(".rich");
    Resources {
        purpose,
        dirs: Dirs {
            lib: format!("/var/lib/libvirt/qemu/domain-{short}"),
            channel: format!("/run/libvirt/qemu/channel/{short}"),
            memory: format!("/var/lib/libvirt/qemu/ram/{short}"),
            hugepages: if rich {
                vec![(2048, format!("/dev/hugepages/libvirt/qemu/{short}"))]
            } else {
                Vec::new()
            },
            dbus_socket: format!("/run/libvirt/qemu/dbus/{short}-dbus.sock"),
        },
        env: vec![("PATH".into(), "/bin".into())],
        devices,
        rtc_base: Some("1970-01-01T00:00:00".into()),
        rendernode: rich.then(|| "/dev/dri/renderD128".into()),
        ..Resources::default()
    }
}

fn recorded() -> &'static Caps {
    static CAPS: OnceLock<Caps> = OnceLock::new();
    CAPS.get_or_init(|| {
        let replies: Replies =
            serde_json::from_str(include_str!("../data/caps/replies-10.0.2-x86_64.json")).unwrap();
        Caps::derive(&replies).unwrap()
    })
}

fn caps(rich: bool) -> Caps {
    const RICH: [Flag; 4] = [
        Flag::Spice,
        Flag::SpiceGl,
        Flag::VirtioGpuGlPci,
        Flag::VirtioVgaGl,
    ];
    let caps = recorded().clone();
    let mut flags = *caps.flags();
    if rich {
        RICH.iter().for_each(|flag| flags.set(*flag));
    }
    caps.with_flags(flags)
}
