//! The daemon is killed in the midst of each operation, again and again. After each: what it says, its files, and what
//! QEMU says are the same, nothing is orphaned, and whoever watches has been told of everything once.
//!
//! `KILL_MATRIX` is how many kills an operation gets: "short" (as is its absence), "full", or a number, as
//! `scripts/kill-matrix.sh` sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use pb::event::Detail;
use testkit::skip::{can_run_guests, skip};
use testkit::{Sandbox, kill, process};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, QEMU, by_name, counter, daemon, small, word};
use crate::host::processes;

/// How long a daemon that came back may take until all is at rest.
const AT_REST: Duration = Duration::from_secs(30);

/// What the daemon is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Define,
    Start,
    Suspend,
    Resume,
    Destroy,
    Undefine,
    Rename,
    ChangeMedium,
    AttachDisk,
    DetachDisk,
    AttachInterface,
    SetLink,
    /// Of an interface that has an end on the host.
    SetLimits,
    SetPeriod,
    /// And a disk comes at the same time.
    DestroyBesideAttach,
    AttachRng,
    DetachChannel,
    PlugVcpu,
    AddIothread,
}

impl Operation {
    const ALL: [Self; 19] = [
        Self::Define,
        Self::Start,
        Self::Suspend,
        Self::Resume,
        Self::Destroy,
        Self::Undefine,
        Self::Rename,
        Self::ChangeMedium,
        Self::AttachDisk,
        Self::DetachDisk,
        Self::AttachInterface,
        Self::SetLink,
        Self::SetLimits,
        Self::SetPeriod,
        Self::DestroyBesideAttach,
        Self::AttachRng,
        Self::DetachChannel,
        Self::PlugVcpu,
        Self::AddIothread,
    ];

    /// Brings about what it begins from; "g" is the guest.
    async fn prepare(self, grpc: &Grpc) -> Answer<()> {
        if self == Self::Define {
            return Ok(());
        }
        let drive = match self {
            Self::ChangeMedium => drive("a"),
            Self::AttachDisk | Self::AttachInterface | Self::AttachRng | Self::DestroyBesideAttach => {
                ROOM.to_owned()
            }
            Self::DetachChannel => format!("{ROOM}{CHANNEL}"),
            Self::DetachDisk => format!("{ROOM}{}", disk()),
            Self::SetLink => format!("{ROOM}{CARD}"),
            Self::SetLimits => format!("{ROOM}{TAP}"),
            _ => String::new(),
        };
        let mut xml = small("g", Path::new(QEMU), "").replace("</devices>", &format!("{drive}</devices>"));
        if self == Self::SetPeriod {
            xml = xml.replace("<memballoon model='none'/>", "<memballoon model='virtio'/>");
        }
        if self == Self::PlugVcpu {
            xml = xml.replace("<vcpu>1</vcpu>", "<vcpu current='1'>2</vcpu>");
        }
        grpc.define(&xml).await?;
        match self {
            Self::Define | Self::Start | Self::Undefine | Self::Rename => Ok(()),
            Self::Resume => grpc.start_paused("g").await.map(drop),
            _ => grpc.start("g").await.map(drop),
        }
    }

    async fn carry_out(self, grpc: Grpc) -> Answer<()> {
        match self {
            Self::Define => grpc.define(&small("g", Path::new(QEMU), "")).await.map(drop),
            Self::Start => grpc.start("g").await.map(drop),
            Self::Suspend => grpc.suspend("g").await.map(drop),
            Self::Resume => grpc.resume("g").await.map(drop),
            Self::Destroy => grpc.power_off("g").await.map(drop),
            Self::Undefine => grpc.undefine("g").await.map(drop),
            Self::Rename => grpc.rename("g", "renamed").await.map(drop),
            Self::ChangeMedium => {
                let request = pb::UpdateDeviceRequest {
                    domain: by_name("g"),
                    xml: drive("b"),
                    scope: pb::Scope::LiveAndConfig.into(),
                    ..Default::default()
                };
                grpc.devices().update_device(request).await.map(drop)
            }
            Self::SetLink => {
                let request = pb::UpdateDeviceRequest {
                    domain: by_name("g"),
                    xml: CARD.replace("</interface>", &format!("{DOWN}</interface>")),
                    scope: pb::Scope::LiveAndConfig.into(),
                    ..Default::default()
                };
                grpc.devices().update_device(request).await.map(drop)
            }
            Self::SetLimits => {
                let request = pb::SetInterfaceLimitsRequest {
                    domain: by_name("g"),
                    interface: TAP_NAME.to_owned(),
                    scope: pb::Scope::LiveAndConfig.into(),
                    limits: Some(pb::InterfaceLimits {
                        inbound: Some(pb::interface_limits::Rate {
                            average: 1000,
                            ..Default::default()
                        }),
                        outbound: None,
                    }),
                    options: None,
                };
                grpc.devices().set_interface_limits(request).await.map(drop)
            }
            Self::SetPeriod => {
                let both = pb::Scope::LiveAndConfig;
                grpc.set_stats_period("g", both, PERIOD).await
            }
            Self::DestroyBesideAttach => {
                // The end of the run may be sooner than the disk.
                let (_, ended) = tokio::join!(attach(&grpc, disk()), grpc.power_off("g"));
                ended.map(drop)
            }
            Self::PlugVcpu => grpc.set_vcpus("g", pb::Scope::LiveAndConfig, 2).await,
            Self::AddIothread => grpc.add_iothread("g", pb::Scope::LiveAndConfig).await,
            Self::AttachDisk => attach(&grpc, disk()).await,
            Self::AttachInterface => attach(&grpc, CARD.to_owned()).await,
            Self::AttachRng => attach(&grpc, RNG.to_owned()).await,
            Self::DetachDisk | Self::DetachChannel => {
                let channel = self == Self::DetachChannel;
                let xml = if channel { CHANNEL.to_owned() } else { disk() };
                let request = pb::DetachDeviceRequest {
                    domain: by_name("g"),
                    device: Some(pb::detach_device_request::Device::Xml(xml)),
                    scope: pb::Scope::LiveAndConfig.into(),
                    ..Default::default()
                };
                grpc.detach(request).await.map(drop)
            }
        }
    }

    /// What it may have come to: names of guests and their states, before or after.
    fn outcomes(self) -> [&'static [(&'static str, pb::State)]; 2] {
        use pb::State::{Paused, Running, Shutoff};
        match self {
            Self::Define => [&[], &[("g", Shutoff)]],
            Self::Start => [&[("g", Shutoff)], &[("g", Running)]],
            Self::Suspend => [&[("g", Running)], &[("g", Paused)]],
            Self::Resume => [&[("g", Paused)], &[("g", Running)]],
            Self::Destroy | Self::DestroyBesideAttach => [&[("g", Running)], &[("g", Shutoff)]],
            Self::Undefine => [&[("g", Shutoff)], &[]],
            Self::Rename => [&[("g", Shutoff)], &[("renamed", Shutoff)]],
            Self::ChangeMedium
            | Self::AttachDisk
            | Self::DetachDisk
            | Self::AttachInterface
            | Self::SetLink
            | Self::SetLimits
            | Self::SetPeriod
            | Self::AttachRng
            | Self::DetachChannel
            | Self::PlugVcpu
            | Self::AddIothread => [&[("g", Running)], &[("g", Running)]],
        }
    }
}

/// Controllers for what comes: a disk that asks no system of the guest when it goes, and a card.
const ROOM: &str = "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>\
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// A card that comes.
const CARD: &str =
    "<interface type='user'><mac address='52:54:00:cc:00:01'/><model type='virtio'/></interface>";

/// An interface whose end on the host is limited.
const TAP: &str = "<interface type='ethernet'><mac address='52:54:00:cc:00:02'/><target dev='vqkill0'/><model type='virtio'/></interface>";
const TAP_NAME: &str = "vqkill0";

/// What the documents have of a CPU and an I/O thread that come.
const TWO_CPUS: &str = "<vcpu placement='static'>2</vcpu>";
const THREAD: &str = "<iothread id='7'/>";

/// A link that is set down.
const DOWN: &str = "<link state='down'/>";

/// Seconds between two looks at the memory statistics.
const PERIOD: i64 = 7;

/// A device without anything of the host's, and one that has a back end only.
const RNG: &str = "<rng model='virtio'><backend model='builtin'/></rng>";
const CHANNEL: &str = "<channel type='null'><target type='virtio' name='org.example.kill'/></channel>";

/// A disk that comes or goes.
fn disk() -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='sda' bus='scsi'/></disk>",
        medium_path("b").display()
    )
}

async fn attach(grpc: &Grpc, xml: String) -> Answer<()> {
    let request = pb::AttachDeviceRequest {
        domain: by_name("g"),
        xml,
        scope: pb::Scope::LiveAndConfig.into(),
        options: None,
    };
    grpc.devices().attach_device(request).await.map(drop)
}

/// A drive with one of two media.
fn drive(medium: &str) -> String {
    format!(
        "<disk type='file' device='cdrom'><source file='{}'/><target dev='sda' bus='sata'/></disk>",
        medium_path(medium).display()
    )
}

fn medium_path(medium: &str) -> PathBuf {
    std::env::temp_dir().join(format!("virtqemud-test-{}-{medium}.iso", std::process::id()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_comes_back_at_one_with_its_guests() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    for medium in ["a", "b"] {
        fs::write(medium_path(medium), [0; 4096])?;
    }
    let mut matrix = Matrix::begin().await?;
    let tries = kill::tries();
    let mut finished = BTreeMap::new();
    let can_limit = kernel_limits();
    if !can_limit {
        skip("limits in the kill matrix: the kernel has no sfq or no tap devices here");
    }
    let all = Operation::ALL.into_iter();
    for operation in all.filter(|operation| can_limit || *operation != Operation::SetLimits) {
        let whole = matrix.undisturbed(operation).await?;
        for number in 1..=tries {
            // Most kills fall into the operation, some around its end.
            let moment = whole.mul_f64(1.15 * f64::from(number) / f64::from(tries));
            let done = matrix.cut_off(operation, moment).await;
            let done = done.with_context(|| {
                format!(
                    "killed {moment:?} of {whole:?} into {operation:?}, try {number}; log:\n{}",
                    tail(&matrix.sandbox.log())
                )
            })?;
            *finished
                .entry(format!("{operation:?} ({whole:?}), finished: {done}"))
                .or_insert(0) += 1;
        }
    }
    for medium in ["a", "b"] {
        fs::remove_file(medium_path(medium))?;
    }
    report(&format!(
        "{} kills, 0 differences, {} events: {finished:#?}",
        finished.values().sum::<usize>(),
        matrix.model.seen
    ));
    Ok(())
}

/// Whether the kernel can limit what an interface gets as libvirt does it.
fn kernel_limits() -> bool {
    let run = |line: &str| {
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        let done = std::process::Command::new(program).args(words).output();
        done.is_ok_and(|done| done.status.success())
    };
    let can = run("ip tuntap add dev vqkill1 mode tap")
        && run("tc qdisc add dev vqkill1 root handle 1: htb default 1")
        && run("tc class add dev vqkill1 parent 1: classid 1:1 htb rate 1000kbps")
        && run("tc qdisc add dev vqkill1 parent 1:1 handle 2: sfq perturb 10");
    run("ip tuntap del dev vqkill1 mode tap");
    can
}

#[expect(clippy::print_stderr, reason = "figures of the long form")]
fn report(text: &str) {
    eprintln!("{text}");
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.contains("no PID file")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

struct Matrix {
    sandbox: Sandbox,
    grpc: Grpc,
    model: Model,
}

impl Matrix {
    async fn begin() -> Result<Self> {
        let sandbox = Sandbox::started(daemon())?;
        let grpc = Grpc::of(&sandbox).await?;
        let version = newest(&grpc).await?;
        let model = Model {
            seen: version.counter,
            epoch: version.epoch,
            guests: BTreeMap::new(),
        };
        Ok(Self { sandbox, grpc, model })
    }

    /// Carries out the operation in peace; how long it takes once the daemon has warmed up.
    async fn undisturbed(&mut self, operation: Operation) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..3 {
            operation.prepare(&self.grpc).await?;
            let begun = Instant::now();
            operation.carry_out(self.grpc.clone()).await?;
            times.push(begun.elapsed());
            self.check(operation)
                .await
                .with_context(|| format!("{operation:?}, undisturbed"))?;
            self.clear_up().await?;
        }
        // The first warms up, and the shortest would leave the end of most untried.
        times.into_iter().skip(1).max().context("no time")
    }

    /// Kills the daemon in the operation; whether the operation was finished.
    async fn cut_off(&mut self, operation: Operation, moment: Duration) -> Result<bool> {
        operation.prepare(&self.grpc).await.context("before")?;
        let pid = self.sandbox.pid().context("no daemon")?;
        let begun = Instant::now();
        // A timer is too coarse for what takes a millisecond.
        let killer = std::thread::spawn(move || {
            while begun.elapsed() < moment {
                std::hint::spin_loop();
            }
            process::signal(pid, Signal::SIGKILL);
        });
        let client = tokio::spawn(operation.carry_out(self.grpc.clone()));
        killer
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        self.sandbox.kill()?;
        let answered = matches!(client.await?, Ok(()));
        self.sandbox.start()?;
        self.grpc = Grpc::of(&self.sandbox).await?;
        let done = self.check(operation).await?;
        ensure!(
            done || !answered,
            "the client was told that it is done, and it is not"
        );
        self.clear_up().await.context("after")?;
        Ok(done)
    }

    /// Waits until all agree; whether the operation was finished.
    async fn check(&mut self, operation: Operation) -> Result<bool> {
        let end = Instant::now() + AT_REST;
        let done = loop {
            match self.agree(operation).await {
                Ok(done) => break done,
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.model.follow(&self.grpc).await?;
        self.model.same_as(&all(&self.grpc).await?)?;
        Ok(done)
    }

    /// Whether service, files, processes and QEMU say the same, and that it is what was before or after.
    async fn agree(&self, operation: Operation) -> Result<bool> {
        let guests = all(&self.grpc).await?;
        let states: Vec<_> = guests.iter().map(|g| (g.name.as_str(), g.state())).collect();
        let [before, after] = operation.outcomes();
        ensure!(
            states == before || states == after,
            "neither before nor after: {states:?}"
        );
        let active: Vec<_> = guests.iter().filter(|g| g.id != 0).collect();
        same(
            "configurations",
            names_of(&self.sandbox, "/etc/libvirt/qemu", ".xml"),
            guests.iter().filter(|g| g.persistent).map(|g| g.name.clone()),
        )?;
        for kind in [".xml", ".pid"] {
            same(
                "files of runs",
                names_of(&self.sandbox, "/run/libvirt/qemu", kind),
                active.iter().map(|g| g.name.clone()),
            )?;
        }
        same(
            "directories",
            names_of(&self.sandbox, "/var/lib/libvirt/qemu", ""),
            active.iter().map(|g| format!("domain-{}-{}", g.id, g.name)),
        )?;
        let left: Vec<_> = names_of(&self.sandbox, "/run/libvirt/qemu/virtqemud", "")
            .into_iter()
            .filter(|n| !n.starts_with("journal.") && !n.starts_with("answers."))
            .collect();
        ensure!(left.is_empty(), "left: {left:?}");
        let pids: Option<BTreeSet<_>> = active.iter().map(|g| self.sandbox.guest_pid(&g.name)).collect();
        let living: BTreeSet<_> = processes(&self.sandbox)?.into_iter().collect();
        ensure!(
            pids.as_ref() == Some(&living),
            "processes {living:?}, guests {pids:?}"
        );
        for guest in &guests {
            self.guest_agrees(guest).await?;
        }
        match operation {
            Operation::ChangeMedium => return self.medium_agrees().await,
            Operation::AttachDisk => return self.device_agrees("dev='sda'", "scsi0-0-0-0").await,
            Operation::DetachDisk => return Ok(!self.device_agrees("dev='sda'", "scsi0-0-0-0").await?),
            Operation::AttachInterface => return self.device_agrees("52:54:00:cc:00:01", "net0").await,
            Operation::AttachRng => return self.device_agrees("<rng ", "rng0").await,
            Operation::DetachChannel => return Ok(!self.device_agrees("example.kill", "channel0").await?),
            // QEMU does not tell of links.
            Operation::SetLink => return self.documents_agree(DOWN).await,
            Operation::SetLimits => return self.limits_agree().await,
            Operation::SetPeriod => return self.period_agrees().await,
            Operation::PlugVcpu => return self.count_agrees("query-cpus-fast", TWO_CPUS, 1).await,
            Operation::AddIothread => return self.count_agrees("query-iothreads", THREAD, 0).await,
            Operation::DestroyBesideAttach if states == before => {
                self.device_agrees("dev='sda'", "scsi0-0-0-0").await?;
            }
            _ => {}
        }
        Ok(states == after)
    }

    async fn guest_agrees(&self, guest: &pb::Domain) -> Result<()> {
        let text = fs::read_to_string(self.sandbox.path(format!("/etc/libvirt/qemu/{}.xml", guest.name)))?;
        ensure!(
            text.contains(&format!("<name>{}</name>", guest.name)) && text.contains(&guest.uuid),
            "not its configuration: {text}"
        );
        if guest.id == 0 {
            return Ok(());
        }
        let status = fs::read_to_string(self.sandbox.path(format!("/run/libvirt/qemu/{}.xml", guest.name)))?;
        let wanted = if guest.state() == pb::State::Running {
            "running"
        } else {
            "paused"
        };
        ensure!(
            status.contains(&format!("state='{wanted}'")),
            "status file: {status}"
        );
        let request = pb::ExecuteRequest {
            domain: by_name(&guest.name),
            command: "{\"execute\": \"query-status\"}".to_owned(),
            human: false,
            options: None,
        };
        let reply = self.grpc.monitor().execute(request).await?.into_inner().reply;
        let reply: serde_json::Value = serde_json::from_str(&reply)?;
        ensure!(
            reply["return"]["running"] == (wanted == "running"),
            "QEMU says {reply}, the daemon {wanted}"
        );
        Ok(())
    }

    /// Whether the drive has the medium of both documents, closed, and no other image is open; whether it is the new one.
    async fn medium_agrees(&self) -> Result<bool> {
        let live = self.grpc.xml("g").await?;
        let stored = fs::read_to_string(self.sandbox.path("/etc/libvirt/qemu/g.xml"))?;
        let new = medium_path("b").display().to_string();
        let changed = live.contains(&new);
        ensure!(
            changed == stored.contains(&new),
            "documents differ: {live} {stored}"
        );
        ensure!(
            !live.contains("tray='open'"),
            "the tray is open in the document: {live}"
        );
        let drives = self.ask_qemu("query-block").await?;
        let drive = &drives["return"][0];
        let file = drive["inserted"]["file"].as_str().unwrap_or_default();
        ensure!(
            (file == new) == changed && !file.is_empty(),
            "QEMU has {file}, the document {live}"
        );
        ensure!(drive["tray_open"] == false, "the tray is open: {drives}");
        let nodes = self.ask_qemu("query-named-block-nodes").await?;
        let count = nodes["return"].as_array().map_or(0, Vec::len);
        ensure!(count == 1, "images that nobody has: {nodes}");
        Ok(changed)
    }

    /// Whether both documents and the status file have something, or none of them; whether they have it.
    async fn documents_agree(&self, mark: &str) -> Result<bool> {
        let live = self.grpc.xml("g").await?;
        let stored = fs::read_to_string(self.sandbox.path("/etc/libvirt/qemu/g.xml"))?;
        let status = fs::read_to_string(self.sandbox.path("/run/libvirt/qemu/g.xml"))?;
        let is_there = live.contains(mark);
        ensure!(
            is_there == stored.contains(mark) && is_there == status.contains(mark),
            "documents differ: {live} {stored} {status}"
        );
        Ok(is_there)
    }

    /// Whether documents and the kernel have the same limits; whether they are the new ones.
    async fn limits_agree(&self) -> Result<bool> {
        let is_new = self.documents_agree("<inbound average='1000'/>").await?;
        let command = ["qdisc", "show", "dev", TAP_NAME];
        let shown = std::process::Command::new("tc").args(command).output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        ensure!(
            shown.contains("htb") == is_new,
            "the kernel has {shown}, the documents limits: {is_new}"
        );
        Ok(is_new)
    }

    /// Whether documents and QEMU have the same period of statistics; whether it is the new one.
    async fn period_agrees(&self) -> Result<bool> {
        let is_new = self
            .documents_agree(&format!("<stats period='{PERIOD}'/>"))
            .await?;
        let get = r#"{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"}}"#;
        let told = self.ask(get).await?;
        let wanted = if is_new { PERIOD } else { 0 };
        ensure!(
            told["return"] == wanted,
            "QEMU has {told}, the documents {wanted}"
        );
        Ok(is_new)
    }

    /// Whether the documents have something where QEMU lists one more than before.
    async fn count_agrees(&self, query: &str, mark: &str, before: usize) -> Result<bool> {
        let is_new = self.documents_agree(mark).await?;
        let told = self.ask_qemu(query).await?;
        let count = told["return"].as_array().map_or(0, Vec::len);
        ensure!(
            count == before + usize::from(is_new),
            "QEMU has {told}, new: {is_new}"
        );
        Ok(is_new)
    }

    /// Whether both documents, the status file and QEMU have a device, or none of them; whether they have it.
    async fn device_agrees(&self, mark: &str, alias: &str) -> Result<bool> {
        let is_there = self.documents_agree(mark).await?;
        let status = fs::read_to_string(self.sandbox.path("/run/libvirt/qemu/g.xml"))?;
        ensure!(
            is_there == status.contains(&format!("<device alias='{alias}'/>")),
            "the status file's list differs: {status}"
        );
        let list = r#"{"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}"#;
        let devices = self.ask(list).await?;
        let devices = devices["return"].as_array().cloned().unwrap_or_default();
        ensure!(
            is_there == devices.iter().any(|d| d["name"] == alias),
            "QEMU has other devices than the document: {devices:?}"
        );
        let nodes = self.ask_qemu("query-named-block-nodes").await?;
        let count = nodes["return"].as_array().map_or(0, Vec::len);
        let wanted = usize::from(is_there && alias.starts_with("scsi"));
        ensure!(count == wanted, "images that nobody has: {nodes}");
        Ok(is_there)
    }

    async fn ask_qemu(&self, command: &str) -> Result<serde_json::Value> {
        self.ask(&format!("{{\"execute\": \"{command}\"}}")).await
    }

    async fn ask(&self, command: &str) -> Result<serde_json::Value> {
        let request = pb::ExecuteRequest {
            domain: by_name("g"),
            command: command.to_owned(),
            human: false,
            options: None,
        };
        let reply = self.grpc.monitor().execute(request).await?.into_inner().reply;
        Ok(serde_json::from_str(&reply)?)
    }

    async fn clear_up(&mut self) -> Result<()> {
        for guest in all(&self.grpc).await? {
            if guest.id != 0 {
                self.grpc.power_off(&guest.name).await?;
            }
            self.grpc.undefine(&guest.name).await?;
        }
        Ok(())
    }
}

async fn all(grpc: &Grpc) -> Result<Vec<pb::Domain>> {
    let view = pb::View::Full.into();
    let request = pb::ListRequest {
        view,
        ..Default::default()
    };
    Ok(grpc.list(request).await?.domains)
}

async fn newest(grpc: &Grpc) -> Result<pb::Version> {
    grpc.list(pb::ListRequest::default())
        .await?
        .version
        .context("a list without a version")
}

fn same(what: &str, found: BTreeSet<String>, wanted: impl Iterator<Item = String>) -> Result<()> {
    let wanted: BTreeSet<_> = wanted.collect();
    ensure!(found == wanted, "{what}: {found:?}, not {wanted:?}");
    Ok(())
}

/// Names in a directory, without an ending: of files with that ending, or with an empty one of what a run or we left.
fn names_of(sandbox: &Sandbox, dir: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(sandbox.path(dir)).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let wanted = |name: &String| match ending {
        "" => name.starts_with("domain-") || dir.ends_with("virtqemud"),
        _ => name.ends_with(ending) && name != "driver.pid",
    };
    names
        .filter(wanted)
        .map(|n| n.strip_suffix(ending).unwrap_or(&n).to_owned())
        .collect()
}

/// What somebody knows who only watches.
struct Model {
    epoch: u64,
    seen: u64,
    guests: BTreeMap<String, Known>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    name: String,
    defined: bool,
    state: i32,
    running: bool,
    /// CPUs were let run, and that is part of a start.
    resumed: bool,
}

impl Model {
    /// Takes in all that was told since.
    async fn follow(&mut self, grpc: &Grpc) -> Result<()> {
        let newest = newest(grpc).await?;
        ensure!(newest.epoch == self.epoch, "a new epoch");
        let mut watch = grpc
            .watch_since(pb::Version {
                epoch: self.epoch,
                counter: self.seen,
            })
            .await?;
        let mut told = Vec::new();
        while self.seen < newest.counter {
            let event = watch.event().await?;
            told.push(format!("{} {}", event.name, word(&event)));
            ensure!(counter(&event) == self.seen + 1, "a gap in {told:?}");
            self.seen += 1;
            self.take(&event).with_context(|| format!("{told:?}"))?;
        }
        Ok(())
    }

    fn take(&mut self, event: &pb::Event) -> Result<()> {
        let Some(Detail::Lifecycle(change)) = &event.detail else {
            return Ok(());
        };
        let known = self.guests.entry(event.uuid.clone()).or_default();
        let what = word(event);
        let (kind, _) = what.split_once('/').unwrap_or((&what, ""));
        let fits = match (kind, what.as_str()) {
            (_, "defined/1") => known.defined,
            ("defined", _) => !known.defined,
            (_, "undefined/1") => known.defined && known.name == event.name,
            ("undefined", _) => known.defined,
            ("resumed", _) => !known.running || known.state == pb::State::Paused as i32,
            ("started", _) => !known.running,
            ("suspended", _) => {
                known.running && known.state != pb::State::Paused as i32 || known.state == 3 && known.resumed
            }
            ("shutdown" | "stopped", _) => known.running,
            _ => bail!("an event of no operation"),
        };
        ensure!(fits, "{what} of {known:?}");
        match (kind, what.as_str()) {
            ("defined", _) => (known.defined, known.name) = (true, event.name.clone()),
            ("undefined", _) => known.defined = false,
            ("started", _) => (known.running, known.resumed) = (true, true),
            ("stopped", _) => known.running = false,
            _ => {}
        }
        if kind != "started" {
            known.resumed = false;
        }
        known.state = change.state;
        if change.gone {
            ensure!(!known.defined && !known.running, "gone while {known:?}");
            self.guests.remove(&event.uuid);
        }
        Ok(())
    }

    /// That who watched knows what is.
    fn same_as(&self, guests: &[pb::Domain]) -> Result<()> {
        let told: Vec<_> = self
            .guests
            .iter()
            .map(|(uuid, k)| (uuid.clone(), k.name.clone(), k.defined, k.running, k.state))
            .collect();
        let mut are: Vec<_> = guests
            .iter()
            .map(|g| (g.uuid.clone(), g.name.clone(), g.persistent, g.id != 0, g.state))
            .collect();
        are.sort();
        ensure!(told == are, "told {told:?}, but there is {are:?}");
        Ok(())
    }
}
