//! The daemon is killed in the midst of each change of what a guest may use, and of where its interfaces are plugged in.
//! After each: the document of the run, the status file, the stored document and QEMU or the kernel say the same.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use confine::cgroup::{Group, Host, machine_name};
use serde_json::Value;
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, Virsh, kill, wait_until};

use crate::grpc::{QEMU, daemon, small};

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);
/// The end of an interface on the host.
const TAP: &str = "vqlive0";
/// Bridges that it is plugged into.
const BRIDGES: [&str; 2] = ["vqliveb0", "vqliveb1"];

/// The kernel's kind and number of what is counted.
const SOFTWARE: u32 = 1;
const CPU_CLOCK: u64 = 0;

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    DiskLimits,
    ThrottleGroup,
    Rewire,
    Perf,
    Shares,
}

/// A place for all tries: one guest that runs.
struct Place {
    sandbox: Sandbox,
    name: String,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::DiskLimits,
        Self::ThrottleGroup,
        Self::Rewire,
        Self::Perf,
        Self::Shares,
    ];

    /// Makes the change: the odd tries one way, the even ones back.
    fn carry_out(self, place: &Place, number: u32) -> Result<()> {
        let (virsh, name, new) = (place.virsh(), place.name.as_str(), !number.is_multiple_of(2));
        let count = if new { "700" } else { "900" };
        match self {
            Self::DiskLimits => {
                let args = ["blkdeviotune", name, "sda", "--total-iops-sec", count];
                virsh.ok(&[&args[..], &["--live", "--config"]].concat())
            }
            Self::ThrottleGroup => {
                let args = ["domthrottlegroupset", name, "limit", "--total-iops-sec", count];
                virsh.ok(&[&args[..], &["--live", "--config"]].concat())
            }
            Self::Rewire => {
                let file = place.sandbox.dir().join("card.xml");
                fs::write(&file, card(BRIDGES[usize::from(new)]))?;
                virsh.ok(&[
                    "update-device",
                    name,
                    &file.to_string_lossy(),
                    "--live",
                    "--config",
                ])
            }
            Self::Perf => {
                let how = if new { "--enable" } else { "--disable" };
                virsh.ok(&["perf", name, how, "cpu_clock", "--live", "--config"])
            }
            Self::Shares => {
                let set = format!("cpu_shares={count}");
                virsh.ok(&["schedinfo", name, "--set", &set, "--live", "--config"])
            }
        }
        .map(drop)
    }

    /// What the documents have after the change, and what before or after the one back.
    fn marks(self) -> [String; 2] {
        let pair = |text: &str| ["700", "900"].map(|count| text.replace("{}", count));
        match self {
            Self::DiskLimits | Self::ThrottleGroup => pair("<total_iops_sec>{}</total_iops_sec>"),
            Self::Rewire => [BRIDGES[1], BRIDGES[0]].map(|bridge| format!("<source bridge='{bridge}'/>")),
            Self::Perf => ["yes", "no"].map(|is| format!("<event name='cpu_clock' enabled='{is}'/>")),
            Self::Shares => pair("<shares>{}</shares>"),
        }
    }

    /// What QEMU or the kernel has, in the words of a mark.
    fn truth(self, place: &Place) -> Result<Option<String>> {
        let [new, old] = self.marks();
        let is_new = match self {
            Self::DiskLimits => place.ask("query-block", "")?[0]["inserted"]["iops"] == 700,
            Self::ThrottleGroup => {
                let property = "\"path\": \"/objects/throttle-limit\", \"property\": \"limits\"";
                place.ask("qom-get", property)?["iops-total"] == 700
            }
            Self::Rewire => {
                let master = fs::read_link(format!("/sys/class/net/{TAP}/master"))?;
                master.ends_with(BRIDGES[1])
            }
            // The kernel does not tell what is counted.
            Self::Perf => return Ok(None),
            Self::Shares => place.shares()? == Some(700),
        };
        Ok(Some(if is_new { new } else { old }))
    }

    /// Why it can't be tried here, if it can't.
    fn lacks(self) -> Option<&'static str> {
        let missing = match self {
            Self::Rewire => !has_bridges(),
            Self::Perf => {
                let own = i32::try_from(std::process::id()).unwrap_or(0);
                unixfd::perf::Counter::open(SOFTWARE, CPU_CLOCK, own).is_err()
            }
            Self::Shares => !has_groups(),
            _ => return None,
        };
        missing.then_some(match self {
            Self::Rewire => "bridges can't be made here",
            Self::Perf => "nothing is counted here",
            _ => "control groups can't be made here",
        })
    }
}

fn card(bridge: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='52:54:00:cc:00:07'/><source bridge='{bridge}'/>\
         <target dev='{TAP}'/><model type='virtio'/></interface>"
    )
}

fn ip(line: &str) -> bool {
    let done = Command::new("ip").args(line.split(' ')).output();
    done.is_ok_and(|done| done.status.success())
}

fn has_bridges() -> bool {
    BRIDGES.iter().all(|bridge| {
        let made = ip(&format!("link add {bridge} type bridge"));
        (made || fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or(false))
            && ip(&format!("link set {bridge} up"))
    })
}

fn has_groups() -> bool {
    let Ok(host) = Host::detect(std::path::Path::new("/")) else {
        return false;
    };
    let name = format!("killlive{}", std::process::id());
    let probe = Group::of_guest(&host, "/machine", &machine_name(1, &name));
    let made = probe.make(true);
    probe.remove().is_ok() && made.is_ok() && probe.has(confine::cgroup::Controller::Cpu)
}

impl Place {
    fn begin(operation: Operation) -> Result<Self> {
        let sandbox = Sandbox::new(daemon())?;
        let mut sandbox = match operation {
            Operation::Shares => sandbox.with_groups()?,
            _ => sandbox,
        };
        sandbox.start()?;
        // Control groups are the machine's.
        let name = format!("live{}", std::process::id());
        let image = sandbox.dir().join("image");
        fs::write(&image, [0; 4096])?;
        let mut devices = format!(
            "<controller type='scsi' index='0' model='virtio-scsi'/><disk type='file' device='disk'>\
             <driver name='qemu' type='raw'/><source file='{}'/><target dev='sda' bus='scsi'/></disk>",
            image.display()
        );
        if operation == Operation::Rewire {
            devices += &card(BRIDGES[0]);
        }
        let xml = small(&name, std::path::Path::new(QEMU), "")
            .replace("</devices>", &format!("{devices}</devices>"));
        let place = Self { sandbox, name };
        place.virsh().define(&xml)?;
        place.virsh().ok(&["start", &place.name])?;
        Ok(place)
    }

    fn virsh(&self) -> Virsh {
        self.sandbox.virsh()
    }

    fn ask(&self, command: &str, arguments: &str) -> Result<Value> {
        let text = format!("{{\"execute\": \"{command}\", \"arguments\": {{{arguments}}}}}");
        let text = text.replace(", \"arguments\": {}", "");
        let answer = self.virsh().ok(&["qemu-monitor-command", &self.name, &text])?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["return"].clone())
    }

    /// The kernel's shares of the guest.
    fn shares(&self) -> Result<Option<u64>> {
        let shown = self.virsh().ok(&["schedinfo", &self.name, "--live"])?;
        let line = shown.lines().find(|line| line.starts_with("cpu_shares"));
        Ok(line.and_then(|line| line.split(':').nth(1)?.trim().parse().ok()))
    }

    /// Whether all say the same; it is waited for.
    fn agrees(&self, operation: Operation) -> Result<()> {
        let check = || -> Result<()> {
            let live = self.virsh().ok(&["dumpxml", &self.name])?;
            let stored =
                fs::read_to_string(self.sandbox.path(format!("/etc/libvirt/qemu/{}.xml", self.name)))?;
            let status =
                fs::read_to_string(self.sandbox.path(format!("/run/libvirt/qemu/{}.xml", self.name)))?;
            let has = |text: &str| operation.marks().map(|mark| text.contains(&mark));
            ensure!(
                has(&live) == has(&stored) && has(&live) == has(&status),
                "documents differ: {live}\n{stored}\n{status}"
            );
            if let Some(truth) = operation.truth(self)?
                && has(&live) != [false, false]
            {
                ensure!(live.contains(&truth), "it is {truth}, the document says {live}");
            }
            ensure!(self.sandbox.intents()?.is_empty(), "a note is left");
            Ok(())
        };
        wait_until("all to agree", AT_REST, || check().is_ok()).or_else(|_| check())
    }

    fn cut_off(&mut self, operation: Operation, moment: Duration, number: u32) -> Result<()> {
        let pid = self.sandbox.pid().context("no daemon")?;
        let killer = kill::later(pid, moment);
        // The call fails where its daemon is killed first.
        let _ = operation.carry_out(self, number);
        killer
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        self.sandbox.kill()?;
        self.sandbox.start()?;
        self.agrees(operation)
    }
}

#[test]
fn a_daemon_killed_in_the_midst_of_a_change_of_limits_or_plugs_comes_back_at_one_with_it() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let tries = kill::tries();
    for operation in Operation::ALL {
        if let Some(lack) = operation.lacks() {
            skip(&format!("{operation:?} in the kill matrix: {lack}"));
            continue;
        }
        let mut place = Place::begin(operation)?;
        let mut times = Vec::new();
        for number in 1..=4 {
            let begun = Instant::now();
            operation.carry_out(&place, number)?;
            times.push(begun.elapsed());
            place
                .agrees(operation)
                .with_context(|| format!("{operation:?}, undisturbed"))?;
        }
        let whole = times.into_iter().skip(1).max().context("no time")?;
        for number in 1..=tries {
            let moment = whole.mul_f64(1.1 * f64::from(number) / f64::from(tries));
            place.cut_off(operation, moment, number).with_context(|| {
                format!("killed {moment:?} of {whole:?} into {operation:?}, try {number}")
            })?;
        }
        place.virsh().ok(&["destroy", &place.name])?;
    }
    for bridge in BRIDGES {
        ip(&format!("link del {bridge}"));
    }
    Ok(())
}

/// A part of a file as a disk, which is put in anew before each try: a change of its size makes it the whole file.
struct Part {
    place: Place,
    document: String,
}

impl Part {
    /// Bytes of the part, of its file, and of the file after the change.
    const SIZES: [u64; 3] = [1 << 20, 2 << 20, 3 << 20];

    fn begin() -> Result<Self> {
        let place = Place::begin(Operation::DiskLimits)?;
        let file = place.sandbox.dir().join("part");
        let [part, ..] = Self::SIZES;
        let xml = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'><slices>\
             <slice type='storage' offset='0' size='{part}'/></slices></source><target dev='sdb' bus='scsi'/></disk>",
            file.display()
        );
        let document = place.sandbox.dir().join("part.xml");
        fs::write(&document, xml)?;
        let document = document.to_string_lossy().into_owned();
        Ok(Self { place, document })
    }

    fn put_in(&self) -> Result<()> {
        let (virsh, name) = (self.place.virsh(), self.place.name.as_str());
        // It is not there at the first try.
        let _ = virsh.ok(&["detach-disk", name, "sdb", "--live"]);
        fs::write(
            self.place.sandbox.dir().join("part"),
            vec![0; usize::try_from(Self::SIZES[1])?],
        )?;
        virsh
            .ok(&["attach-device", name, &self.document, "--live"])
            .map(drop)
    }

    fn carry_out(&self) -> Result<()> {
        let size = format!("{}B", Self::SIZES[2]);
        let args = ["blockresize", &self.place.name, "sdb", &size];
        self.place.virsh().ok(&args).map(drop)
    }

    /// Whether document, status file and QEMU say the same of the part, and whether it is one still.
    fn agrees(&self) -> Result<bool> {
        let place = &self.place;
        let check = || -> Result<bool> {
            let live = place.virsh().ok(&["dumpxml", &place.name])?;
            let status = place
                .sandbox
                .path(format!("/run/libvirt/qemu/{}.xml", place.name));
            let status = fs::read_to_string(status)?;
            let is_part = live.contains("<slice ");
            ensure!(
                is_part == status.contains("<slice "),
                "documents differ: {live}\n{status}"
            );
            let drives = place.ask("query-block", "")?;
            let drives = drives.as_array().context("no drives")?;
            let file = place.sandbox.dir().join("part").to_string_lossy().into_owned();
            let drive = drives
                .iter()
                .find(|drive| drive["inserted"]["file"].to_string().contains(&file));
            let size = drive.context("no drive of the part")?["inserted"]["image"]["virtual-size"].as_u64();
            let wanted = Self::SIZES[if is_part { 0 } else { 2 }];
            ensure!(size == Some(wanted), "QEMU has {size:?} bytes, {live}");
            ensure!(place.sandbox.intents()?.is_empty(), "a note is left");
            Ok(is_part)
        };
        wait_until("all to agree", AT_REST, || check().is_ok()).or_else(|_| check().map(drop))?;
        check()
    }
}

#[test]
fn a_daemon_killed_as_a_part_of_a_file_becomes_the_whole_comes_back_at_one_with_it() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut part = Part::begin()?;
    let mut whole = Duration::ZERO;
    for _ in 0..3 {
        part.put_in()?;
        ensure!(part.agrees()?, "the part is not in the document");
        let begun = Instant::now();
        part.carry_out()?;
        whole = begun.elapsed();
        ensure!(!part.agrees()?, "the part is a part still");
    }
    let tries = kill::tries();
    for number in 1..=tries {
        let moment = whole.mul_f64(1.1 * f64::from(number) / f64::from(tries));
        part.put_in()?;
        let pid = part.place.sandbox.pid().context("no daemon")?;
        let killer = kill::later(pid, moment);
        // The call fails where its daemon is killed first.
        let _ = part.carry_out();
        killer
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        part.place.sandbox.kill()?;
        part.place.sandbox.start()?;
        part.agrees()
            .with_context(|| format!("killed {moment:?} of {whole:?} into the change, try {number}"))?;
    }
    part.place.virsh().ok(&["destroy", &part.place.name])?;
    Ok(())
}
