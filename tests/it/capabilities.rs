//! What clients ask before they define anything, byte for byte as libvirt's daemon answers it on the same host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use testkit::{Answer, Sandbox, reference};

use pb::compare_cpu_response::Result as Compared;
use tonic::Code;
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, daemon, refused};

/// How CPUs are compared and put together. `@` stands for the file.
const OF_CPUS: [&str; 16] = [
    "cpu-compare @",
    "cpu-compare @ --error",
    "cpu-compare @ --validate",
    "cpu-baseline @",
    "cpu-baseline @ --features",
    "cpu-baseline @ --migratable",
    "hypervisor-cpu-compare @ --virttype qemu",
    "hypervisor-cpu-compare @ --virttype qemu --error",
    "hypervisor-cpu-compare @ --virttype kvm --error",
    "hypervisor-cpu-compare @ --arch i686 --machine pc",
    "hypervisor-cpu-baseline @",
    "hypervisor-cpu-baseline @ --virttype qemu",
    "hypervisor-cpu-baseline @ --virttype qemu --features --migratable",
    "hypervisor-cpu-baseline @ --virttype kvm --features",
    "hypervisor-cpu-baseline @ --virttype kvm --migratable",
    "--readonly hypervisor-cpu-baseline @",
];

/// Which hypervisor is meant, in every way of saying it.
const OF_HYPERVISORS: [&str; 18] = [
    "",
    "--machine microvm",
    "--machine nonsense",
    "--machine pc-i440fx-1.0",
    "--arch aarch64",
    "--arch nonsense",
    "--arch i686",
    "--virttype xen",
    "--virttype nonsense",
    "--virttype qemu",
    "--virttype kvm",
    "--emulatorbin /usr/bin/qemu-system-x86_64",
    "--emulatorbin /usr/bin/qemu-system-x86_64 --arch aarch64",
    "--emulatorbin /usr/bin/qemu-system-x86_64 --arch i686 --machine q35",
    "--emulatorbin /nonexistent",
    "--emulatorbin /etc/passwd",
    "--machine q35 --disable-deprecated-features",
    "--machine pc --virttype qemu --xpath //cpu",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_why_a_cpu_is_none_for_here() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let mut host = Grpc::of(&sandbox).await?.host();
    let model = |name: &str, more: &str| format!("<cpu><model>{name}</model>{more}</cpu>");
    let asked = |xml: String| pb::CompareCpuRequest {
        xml,
        ..Default::default()
    };
    let least = host.compare_cpu(asked(model("486", ""))).await?.into_inner();
    assert_eq!(least.result(), Compared::Superset);
    let ia64 = host
        .compare_cpu(asked(model("486", "<feature policy='require' name='ia64'/>")))
        .await?
        .into_inner();
    assert_eq!(
        (ia64.result(), ia64.reason.as_str()),
        (
            Compared::Incompatible,
            "Host CPU does not provide required features: ia64"
        )
    );
    refused(
        host.compare_cpu(asked(model("nonsense", ""))).await,
        Code::Internal,
        "INTERNAL_ERROR",
    )?;
    let strict = pb::CompareCpuRequest {
        validate: true,
        ..asked(model("486", "<other/>"))
    };
    refused(
        host.compare_cpu(strict).await,
        Code::InvalidArgument,
        "XML_INVALID_SCHEMA",
    )?;

    let hosts =
        ["Haswell", "Penryn"].map(|name| format!("<cpu><arch>x86_64</arch><model>{name}</model></cpu>"));
    let request = pb::BaselineCpuRequest {
        xml: hosts.to_vec(),
        ..Default::default()
    };
    let common = host.baseline_cpu(request).await?.into_inner().xml;
    ensure!(common.contains(">Penryn</model>"), "{common}");
    refused(
        host.baseline_cpu(pb::BaselineCpuRequest::default()).await,
        Code::InvalidArgument,
        "INVALID_ARG",
    )
    .map(drop)
}

struct Pair {
    ours: Sandbox,
    theirs: Sandbox,
}

impl Pair {
    /// Both daemons, if libvirt's is there to compare with.
    fn started() -> Result<Option<Self>> {
        let Some(theirs) = reference()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            ours: Sandbox::started(daemon())?,
            theirs,
        }))
    }

    /// That a command is answered alike by both.
    fn same(&self, command: &str) -> Result<()> {
        let (ours, theirs) = (told(&self.ours, command)?, told(&self.theirs, command)?);
        ensure!(
            ours == theirs,
            "virsh {command} {}",
            testkit::golden::difference(&theirs, &ours)
        );
        Ok(())
    }
}

fn told(sandbox: &Sandbox, command: &str) -> Result<String> {
    let args: Vec<&str> = command.split_whitespace().collect();
    let Answer {
        status,
        stdout,
        stderr,
    } = sandbox.virsh().run(&args)?;
    // libxml2's account of what does not fit is its own.
    let stderr = stderr
        .split_once("against schema:")
        .map_or(stderr.as_str(), |(before, _)| before);
    // The host's UUID is made up where the firmware has none.
    let stdout: Vec<&str> = stdout
        .lines()
        .filter(|line| !line.starts_with("    <uuid>"))
        .collect();
    Ok(format!("status {status:?}\n{}\n{stderr}", stdout.join("\n")))
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_are_those_that_libvirt_tells() -> Result<()> {
    let Some(pair) = Pair::started()? else {
        return Ok(());
    };
    for command in [
        "capabilities",
        "--readonly capabilities",
        "cpu-models x86_64",
        "cpu-models i686",
        "cpu-models aarch64",
        "cpu-models nonsense",
    ] {
        pair.same(command)?;
    }
    for arch in ["x86_64", "i686"] {
        for virt_type in ["kvm", "qemu"] {
            for machine in ["pc", "q35"] {
                pair.same(&format!(
                    "domcapabilities --arch {arch} --virttype {virt_type} --machine {machine}"
                ))?;
                pair.same(&format!(
                    "hypervisor-cpu-models --arch {arch} --virttype {virt_type} --machine {machine}"
                ))?;
            }
        }
    }
    for what in OF_HYPERVISORS {
        pair.same(&format!("domcapabilities {what}"))?;
    }
    pair.same("--readonly domcapabilities --machine q35")
}

#[tokio::test(flavor = "multi_thread")]
async fn cpus_are_compared_and_put_together_as_libvirt_does() -> Result<()> {
    let Some(pair) = Pair::started()? else {
        return Ok(());
    };
    let mut files = documents()?;
    ensure!(files.len() > 30, "documents are missing");
    files.extend(own(&pair)?);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let halves: Vec<_> = files
            .chunks(files.len().div_ceil(2))
            .map(|files| {
                scope.spawn(|| {
                    files
                        .iter()
                        .filter_map(|file| compare(&pair, file).err())
                        .map(|e| e.to_string())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        halves
            .into_iter()
            .flat_map(|half| {
                half.join()
                    .unwrap_or_else(|_| vec!["a thread panicked".to_owned()])
            })
            .collect()
    });
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn compare(pair: &Pair, file: &Path) -> Result<()> {
    let file = file.to_str().context("path")?;
    OF_CPUS
        .iter()
        .try_for_each(|command| pair.same(&command.replace('@', file)))
}

fn documents() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cpu");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

/// What the host says of itself, as clients hand it back.
fn own(pair: &Pair) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (name, command) in [
        ("capabilities.xml", "capabilities"),
        ("domcapabilities-qemu.xml", "domcapabilities --virttype qemu"),
        ("domcapabilities-kvm.xml", "domcapabilities --virttype kvm"),
    ] {
        let args: Vec<&str> = command.split_whitespace().collect();
        let answer = pair.theirs.virsh().run(&args)?;
        // There is no KVM everywhere.
        if answer.success() {
            files.push(pair.ours.dir().join(name));
            fs::write(files.last().context("just pushed")?, answer.stdout)?;
        }
    }
    Ok(files)
}
