//! Disks that are opened by a client's descriptors: at a start, by hot-plug, as media, beyond a restart of the daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::client::Answer;
use testkit::skip::can_run_guests;
use testkit::{Sandbox, Virsh};
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, QEMU, SOON, by_name, daemon, small};

/// Images, and virsh with them as its descriptors.
struct Client {
    uri: String,
    dir: PathBuf,
}

impl Client {
    fn of(sandbox: &Sandbox) -> Result<Self> {
        let dir = sandbox.dir().join("images");
        fs::create_dir(&dir)?;
        let here = Self {
            uri: sandbox.uri(),
            dir,
        };
        here.make("base", &["1M"])?;
        here.make("top", &["-b", "base", "-F", "qcow2", "1M"])?;
        fs::write(here.dir.join("raw"), vec![7; 1 << 20])?;
        fs::write(here.dir.join("medium"), vec![8; 1 << 20])?;
        Ok(here)
    }

    fn make(&self, name: &str, words: &[&str]) -> Result<()> {
        let mut make = Command::new("qemu-img");
        make.current_dir(&self.dir).args(["create", "-q", "-f", "qcow2"]);
        make.args(&words[..words.len() - 1])
            .arg(name)
            .arg(words[words.len() - 1]);
        ensure!(make.status()?.success(), "qemu-img {words:?}");
        Ok(())
    }

    /// virsh with the commands, which has the images as descriptors: 5 and 6 `top`, 7 and 8 `raw`, 9 `medium`, the
    /// former of two for writing too.
    fn virsh(&self, commands: &str) -> Result<Answer> {
        let script = format!(
            "cd '{}'; exec 5<>top 6<top 7<>raw 8<raw 9<medium; exec virsh -q -c '{}' \"$1\"",
            self.dir.display(),
            self.uri
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh", commands]);
        testkit::client::run(shell, Duration::from_secs(60))
    }
}

/// A disk of a group; its path is of nothing, but in the directory of the others.
fn disk(dir: &Path, group: &str, target: &str, format: &str) -> String {
    let dir = dir.display();
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
         <source file='{dir}/not-{group}' fdgroup='{group}'/><target dev='{target}' bus='virtio'/></disk>"
    )
}

fn drive(source: &str) -> String {
    format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>{source}<target dev='sda' bus='sata'/>\
         <readonly/></disk>"
    )
}

/// The names of the descriptors that QEMU has, set by set.
fn sets(virsh: &Virsh) -> Result<Vec<(u64, Vec<String>)>> {
    let answer = virsh.ok(&["qemu-monitor-command", "g", r#"{"execute": "query-fdsets"}"#])?;
    let answer: Value = serde_json::from_str(&answer)?;
    let sets = answer["return"].as_array().context("sets")?.clone();
    let mut found: Vec<_> = sets
        .iter()
        .map(|set| {
            let fds = set["fds"].as_array().into_iter().flatten();
            let names = fds.filter_map(|fd| fd["opaque"].as_str().map(str::to_owned));
            let mut names: Vec<_> = names.collect();
            names.sort();
            (set["fdset-id"].as_u64().unwrap_or(u64::MAX), names)
        })
        .collect();
    found.sort();
    Ok(found)
}

fn guest(devices: &str) -> String {
    small("g", Path::new(QEMU), "").replace(
        "</devices>",
        &format!(
            "<controller type='pci' model='pcie-root'/><controller type='pci' model='pcie-root-port'/>\
             <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>\
             <controller type='pci' model='pcie-root-port'/>{devices}</devices>"
        ),
    )
}

const TOP_AND_MEDIUM: &str = "dom-fd-associate g top --pass-fds 5,6; dom-fd-associate g medium --pass-fds 9";

#[test]
fn disks_are_opened_by_what_clients_hand_over() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let client = Client::of(&sandbox)?;
    let virsh = sandbox.virsh();
    let medium = "<source file='/nowhere/medium' fdgroup='medium'/>";
    virsh.define(&guest(
        &(disk(&client.dir, "top", "vda", "qcow2") + &drive(medium)),
    ))?;
    let missing = |group: &str| {
        format!("error: invalid argument: file descriptor group '{group}' was not associated with the domain")
    };
    // The last disk is looked at first.
    ensure!(virsh.refused(&["start", "g"])?.contains(&missing("medium")));
    let started = client.virsh(&format!("{TOP_AND_MEDIUM}; start g"))?;
    ensure!(started.success(), "{started:?}");
    let names = |of: &str, count: usize| (0..count).map(|at| format!("{of}{at}")).collect::<Vec<_>>();
    let at_start = vec![
        (0, names("libvirt-1-storage", 1)),
        (1, names("libvirt-2-storage", 2)),
    ];
    assert_eq!(sets(&virsh)?, at_start);
    let xml = virsh.ok(&["dumpxml", "g"])?;
    ensure!(xml.contains("fdgroup='top' index='2'/>"), "{xml}");
    // The image below was found by the head of the one that was handed over.
    ensure!(xml.contains("<backingStore type='file' index='3'>"), "{xml}");
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(status.contains("<fdset type='storage' id='1'/>"), "{status}");
    ensure!(status.contains("<fdset index='2'/>"), "{status}");
    let refused = virsh.refused(&["domblkinfo", "g", "vda"])?;
    ensure!(
        refused.contains("block info is not supported for FD passed disk image"),
        "{refused}"
    );

    // Another disk comes and goes, after an attempt that took a number; the daemon that takes it out is another one than that which put it in.
    let file = sandbox.dir().join("disk.xml");
    fs::write(&file, disk(&client.dir, "raw", "vdb", "raw"))?;
    let attach = format!("attach-device g {} --live", file.display());
    let refused = client.virsh(&attach)?;
    ensure!(refused.stderr.contains(&missing("raw")), "{refused:?}");
    let attached = client.virsh(&format!("dom-fd-associate g raw --pass-fds 7,8; {attach}"))?;
    ensure!(attached.success(), "{attached:?}");
    let with_raw = [at_start.clone(), vec![(2, names("libvirt-5-storage", 2))]].concat();
    assert_eq!(sets(&virsh)?, with_raw);
    sandbox.restart()?;
    assert_eq!(sets(&virsh)?, with_raw);
    let detach = ["detach-disk", "g", "vdb", "--live"];
    virsh.ok(&detach)?;
    // No system answers in this guest; a reset lets the device go.
    virsh.ok(&["reset", "g"])?;
    testkit::wait::wait_until("the disk to go", SOON, || {
        sets(&virsh).is_ok_and(|now| now == at_start)
    })?;

    medium_and_end(&sandbox, &client, &at_start)
}

/// The drive gets another medium and none; the groups went with their clients.
fn medium_and_end(sandbox: &Sandbox, client: &Client, at_start: &[(u64, Vec<String>)]) -> Result<()> {
    let virsh = sandbox.virsh();
    let file = sandbox.dir().join("drive.xml");
    fs::write(&file, drive("<source file='/elsewhere' fdgroup='other'/>"))?;
    let update = format!("update-device g {} --live", file.display());
    let changed = client.virsh(&format!("dom-fd-associate g other --pass-fds 9; {update}"))?;
    ensure!(changed.success(), "{changed:?}");
    let now = sets(&virsh)?;
    assert_eq!(now.len(), 2, "{now:?}");
    assert_eq!(now[0], at_start[1]);
    assert_eq!(now[1].0, 3, "{now:?}");
    let xml = virsh.ok(&["dumpxml", "g"])?;
    ensure!(xml.contains("<source file='/elsewhere' fdgroup='other'"), "{xml}");
    virsh.ok(&["change-media", "g", "sda", "--eject", "--live"])?;
    assert_eq!(sets(&virsh)?, at_start[1..]);
    virsh.ok(&["destroy", "g"])?;
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(
        refused.contains("was not associated with the domain"),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn descriptors_do_not_travel_over_grpc() -> Result<()> {
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    virsh.define(&small("g", Path::new(QEMU), ""))?;
    let grpc = Grpc::of(&sandbox).await?;
    let request = pb::AssociateDescriptorsRequest {
        domain: by_name("g"),
        group: "a".to_owned(),
        ..Default::default()
    };
    let refused = grpc.domains().associate_descriptors(request).await;
    let status = refused.err().context("it was taken")?;
    assert_eq!(status.code(), tonic::Code::Unimplemented, "{status}");
    Ok(())
}
