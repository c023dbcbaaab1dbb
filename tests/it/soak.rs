//! Guests that do what they like: they reboot, eject, unplug, crash and end at random while clients change them. At the
//! end nothing is left, nobody waits, and the daemon's view of each guest is QEMU's.
//!
//! `SOAK` is how many guests there are and for how many seconds: "short" (as is its absence), "full", or `GUESTS:SECONDS`.
//! `SOAK_SEED` makes the same choices again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::guest::{Console, Image};
use testkit::wait::pause;
use testkit::{GuestSpec, Sandbox, Virsh, process, wait_until};

use crate::grpc::daemon;
use crate::host::processes;

/// Clients that change guests at the same time.
const CLIENTS: u64 = 8;
/// How long any call may take: a detach waits for its guest, and others wait for the detach.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long it may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(60);
/// Descriptors more than before that are no leak: connections that are about to end.
const SPARE: usize = 12;

/// What a guest does to itself, on its console.
// table
const TRICKS: &[&str] = &[
    "eject /dev/sr0",
    "eject -t /dev/sr0",
    "for d in /sys/class/scsi_device/*/device; do echo 1 >$d/delete; done",
    "for s in /sys/bus/pci/slots/*; do echo 0 >$s/power; done",
    "for s in /sys/bus/pci/slots/*; do echo 1 >$s/power; done",
    "for d in /sys/bus/pci/devices/*/virtio*; do echo 1 >${d%/*}/remove; done; echo 1 >/sys/bus/pci/rescan",
    "dd if=/dev/urandom of=/dev/sda bs=4k count=100",
    "reboot -f",
    "echo c >/proc/sysrq-trigger",
    "poweroff -f",
];

/// What clients do to a guest; `DIR` stands for a directory of its own.
// table
const CHANGES: &[&str] = &[
    "attach-device NAME DIR/disk.xml --live",
    "attach-device NAME DIR/disk.xml --live",
    "detach-disk NAME sdb --live",
    "attach-device NAME DIR/card.xml --live",
    "detach-device NAME DIR/card.xml --live",
    "attach-device NAME DIR/channel.xml --live",
    "detach-device NAME DIR/channel.xml --live",
    "attach-device NAME DIR/rng.xml --live",
    "detach-device NAME DIR/rng.xml --live",
    "change-media NAME sda DIR/medium --update --live --force",
    "change-media NAME sda --eject --live",
    "blkdeviotune NAME sda --total-iops-sec 1000 --live",
    "domthrottlegroupset NAME limit --total-iops-sec 500 --live",
    "domthrottlegroupdel NAME limit --live",
    "iothreadadd NAME 3 --live",
    "iothreaddel NAME 3 --live",
    "setvcpus NAME 2 --live",
    "setvcpus NAME 1 --live",
    "suspend NAME",
    "resume NAME",
    "reset NAME",
    "destroy NAME",
    "start NAME",
    "start NAME",
    "start NAME",
    "dumpxml NAME",
    "domstats NAME",
    "domblklist NAME",
];

/// How long and how many.
struct Size {
    guests: u64,
    time: Duration,
}

impl Size {
    fn wanted() -> Result<Self> {
        let (guests, seconds) = match std::env::var("SOAK").as_deref() {
            Err(_) | Ok("short") => (2, 20),
            Ok("full") => (50, 600),
            Ok(other) => {
                let (guests, seconds) = other.split_once(':').context("SOAK is no GUESTS:SECONDS")?;
                (guests.parse()?, seconds.parse()?)
            }
        };
        let time = Duration::from_secs(seconds);
        Ok(Self { guests, time })
    }
}

/// Numbers that only look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end
    }

    fn of<'a>(&mut self, table: &[&'a str]) -> &'a str {
        table[self.below(table.len())]
    }
}

/// What all threads share.
struct Soak {
    sandbox: Sandbox,
    names: Vec<String>,
    end: Instant,
    made: AtomicU64,
    refused: AtomicU64,
    /// What must not be: calls that took too long.
    wrong: Mutex<Vec<String>>,
}

impl Soak {
    fn begin(size: &Size, image: &Image) -> Result<Self> {
        let sandbox = Sandbox::started(daemon())?;
        let names: Vec<_> = (0..size.guests).map(|number| format!("soak{number}")).collect();
        for name in &names {
            let dir = place(&sandbox, name);
            fs::create_dir_all(&dir)?;
            fill(&dir)?;
            sandbox.virsh().define(&document(name, &dir, image))?;
        }
        Ok(Self {
            sandbox,
            names,
            end: Instant::now() + size.time,
            made: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            wrong: Mutex::new(Vec::new()),
        })
    }

    fn virsh(&self) -> Virsh {
        self.sandbox.virsh().limit(PATIENCE)
    }

    /// One client.
    fn client(&self, mut random: Random) {
        while Instant::now() < self.end {
            let name = &self.names[random.below(self.names.len())];
            let dir = place(&self.sandbox, name);
            let line = random.of(CHANGES).replace("NAME", name);
            let line = line.replace("DIR", &dir.to_string_lossy());
            let words: Vec<_> = line.split(' ').collect();
            match self.virsh().run(&words) {
                Ok(answer) if answer.success() => self.made.fetch_add(1, Ordering::Relaxed),
                Ok(answer) if !answer.stderr.contains("internal error: panic") => {
                    self.refused.fetch_add(1, Ordering::Relaxed)
                }
                Ok(answer) => self.note(format!("{line}: {}", answer.stderr)),
                Err(error) => self.note(format!("{line}: {error:#}")),
            };
        }
    }

    fn note(&self, what: String) -> u64 {
        if let Ok(mut wrong) = self.wrong.lock() {
            wrong.push(what);
        }
        0
    }

    /// What all guests do to themselves, and what becomes of their processes.
    fn mischief(&self, mut random: Random) {
        while Instant::now() < self.end {
            pause(Duration::from_millis(50));
            let name = &self.names[random.below(self.names.len())];
            if random.below(40) == 0
                && let Some(pid) = self.sandbox.guest_pid(name)
            {
                process::signal(pid, Signal::SIGKILL);
                continue;
            }
            // It may be off.
            let _ = Console::open(&self.sandbox, name)
                .and_then(|mut console| console.type_line(random.of(TRICKS)));
        }
    }

    /// Whether the daemon's view of a guest that runs is QEMU's.
    fn agrees(&self, name: &str) -> Result<()> {
        let status = self.sandbox.path(format!("/run/libvirt/qemu/{name}.xml"));
        if !status.exists() {
            return Ok(());
        }
        let status = fs::read_to_string(status)?;
        let ask = |text: &str| -> Result<Value> {
            let answer = self.virsh().ok(&["qemu-monitor-command", name, text])?;
            let answer: Value = serde_json::from_str(&answer)?;
            Ok(answer["return"].clone())
        };
        let names = |list: &Value, key: &str| -> BTreeSet<String> {
            let list = list.as_array().into_iter().flatten();
            list.filter_map(|entry| entry[key].as_str().map(str::to_owned))
                .collect()
        };
        let told = |before: &str, until: char| -> BTreeSet<String> {
            let rest = status.split(before).skip(1);
            rest.filter_map(|rest| rest.split(until).next().map(str::to_owned))
                .collect()
        };
        let nodes = names(&ask(r#"{"execute": "query-named-block-nodes"}"#)?, "node-name");
        let known =
            &told("<nodename type='storage' name='", '\'') | &told("<nodename type='format' name='", '\'');
        ensure!(nodes == known, "{name}: nodes {nodes:?}, known {known:?}");
        let list = r#"{"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}"#;
        let mut devices = names(&ask(list)?, "name");
        // The list of devices is kept without CPUs, as libvirt keeps it.
        devices.retain(|name| name != "type" && !name.starts_with("vcpu"));
        let mut known = told("<device alias='", '\'');
        known.retain(|name| !name.starts_with("vcpu"));
        ensure!(devices == known, "{name}: devices {devices:?}, known {known:?}");
        let live = self.virsh().ok(&["dumpxml", name])?;
        let chardevs = names(&ask(r#"{"execute": "query-chardev"}"#)?, "label");
        let channels = chardevs
            .iter()
            .filter(|label| label.starts_with("charchannel"))
            .count();
        let shown = live.matches("<channel ").count();
        ensure!(channels == shown, "{name}: {chardevs:?}, but {shown} channels");
        let sets = ask(r#"{"execute": "query-fdsets"}"#)?;
        let sets = sets.as_array().map_or(0, Vec::len);
        // The first console is the serial port, shown again.
        let logs: BTreeSet<_> = live
            .split("<log file='")
            .skip(1)
            .filter_map(|rest| rest.split('\'').next())
            .collect();
        let files = shown + logs.len();
        ensure!(
            sets == files,
            "{name}: {sets} sets of descriptors for {files} files"
        );
        let threads = ask(r#"{"execute": "query-iothreads"}"#)?;
        let threads = threads.as_array().map_or(0, Vec::len);
        let shown = live.matches("<iothread id=").count();
        ensure!(threads == shown, "{name}: {threads} threads, {shown} shown");
        let cpus = ask(r#"{"execute": "query-cpus-fast"}"#)?;
        let cpus = cpus.as_array().map_or(0, Vec::len);
        let shown = live.matches("enabled='yes' hotpluggable=").count().max(1);
        ensure!(cpus == shown, "{name}: {cpus} CPUs, {shown} shown");
        Ok(())
    }

    fn descriptors(&self) -> Result<usize> {
        let pid = self.sandbox.pid().context("no daemon")?;
        Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// What is left of guests that are all off.
    fn is_clean(&self, before: usize) -> Result<()> {
        let living = processes(&self.sandbox)?;
        ensure!(living.is_empty(), "processes: {living:?}");
        let names = |dir: &str| -> Result<Vec<String>> {
            let entries = fs::read_dir(self.sandbox.path(dir))?.flatten();
            Ok(entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect())
        };
        let left: Vec<_> = [
            ("/run/libvirt/qemu", &["soak"][..]),
            ("/var/lib/libvirt/qemu", &["domain-"]),
            ("/run/libvirt/qemu/virtqemud", &["intent-", "redo-", "owed/"]),
            ("/run/libvirt/qemu/channel", &[""]),
        ]
        .into_iter()
        .filter_map(|(dir, begins)| Some((names(dir).ok()?, begins)))
        .flat_map(|(names, begins)| {
            let is_left = |name: &String| begins.iter().any(|begin| name.starts_with(begin));
            names.into_iter().filter(is_left).collect::<Vec<_>>()
        })
        .collect();
        ensure!(left.is_empty(), "files: {left:?}");
        let now = self.descriptors()?;
        ensure!(now <= before + SPARE, "{now} descriptors, {before} before");
        Ok(())
    }
}

fn place(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.dir().join("soak").join(name)
}

/// Images and devices that come and go.
fn fill(dir: &Path) -> Result<()> {
    for image in ["cd", "medium", "disk"] {
        fs::write(dir.join(image), vec![0; 1 << 20])?;
    }
    let at = |name: &str| dir.join(name).display().to_string();
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sdb' bus='scsi'/></disk>",
        at("disk")
    );
    let channel = format!(
        "<channel type='file'><source path='{}'/><target type='virtio' name='org.example.soak'/></channel>",
        at("output")
    );
    let devices = [
        ("disk.xml", disk.as_str()),
        ("channel.xml", &channel),
        (
            "card.xml",
            "<interface type='user'><mac address='52:54:00:0a:00:01'/><model type='virtio'/></interface>",
        ),
        ("rng.xml", "<rng model='virtio'><backend model='builtin'/></rng>"),
    ];
    for (name, xml) in devices {
        fs::write(dir.join(name), xml)?;
    }
    Ok(())
}

fn document(name: &str, dir: &Path, image: &Image) -> String {
    let ports = "<controller type='pci' model='pcie-root-port'/>".repeat(6);
    let drive = format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sda' bus='sata'/><readonly/></disk>",
        dir.join("cd").display()
    );
    let spec = GuestSpec::new(name)
        .device("<controller type='pci' index='0' model='pcie-root'/>")
        .device(&ports)
        .device("<controller type='scsi' index='0' model='virtio-scsi'/>")
        .device("<controller type='virtio-serial' index='0'/>")
        .device(&drive);
    spec.xml(image)
        .replace("<vcpu>1</vcpu>", "<vcpu current='1'>2</vcpu>")
        .replace("<on_reboot>", "<on_crash>restart</on_crash><on_reboot>")
}

fn seed() -> u64 {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |time| time.as_secs())
    };
    let given = std::env::var("SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(now)
}

#[test]
fn guests_that_do_what_they_like_leave_nothing_behind() -> Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let (size, seed) = (Size::wanted()?, seed());
    let soak = Soak::begin(&size, &image)?;
    // What it holds once it has run a guest.
    soak.virsh().ok(&["start", &soak.names[0]])?;
    soak.virsh().ok(&["destroy", &soak.names[0]])?;
    let before = soak.descriptors()?;
    std::thread::scope(|scope| {
        let of = |number: u64| Random((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        for client in 1..=CLIENTS {
            let (soak, random) = (&soak, of(client));
            scope.spawn(move || soak.client(random));
        }
        let (soak, random) = (&soak, of(0));
        scope.spawn(move || soak.mischief(random));
    });
    let told = || -> Result<()> {
        let wrong = soak
            .wrong
            .lock()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        ensure!(wrong.is_empty(), "{wrong:#?}");
        let made = soak.made.load(Ordering::Relaxed);
        ensure!(made > size.guests, "{made} changes were made");
        for name in &soak.names {
            let agrees = || soak.agrees(name);
            wait_until("the view", AT_REST, || agrees().is_ok()).or_else(|_| agrees())?;
            // It may be off.
            let _ = soak.virsh().ok(&["destroy", name]);
        }
        wait_until("all to be gone", AT_REST, || soak.is_clean(before).is_ok())
            .or_else(|_| soak.is_clean(before))
    };
    told().with_context(|| format!("SOAK_SEED={seed}"))
}
