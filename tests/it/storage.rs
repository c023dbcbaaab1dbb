//! Guests on volumes of a neighbour's pools, with its secrets.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use testkit::skip::can_run_guests;
use testkit::{Neighbour, Sandbox, Virsh, wait_until};

use crate::blockjobs::run;
use crate::grpc::{QEMU, daemon, small};

/// How long a job or a run may take to its end.
const AT_REST: Duration = Duration::from_secs(40);

/// Also private secrets are for us: we are one of the host's daemons.
const SECRET: &str = "<secret ephemeral='no' private='yes'><uuid>33333333-3333-3333-3333-333333333333</uuid>\
    <usage type='volume'><volume>/luks</volume></usage></secret>";
const EMPTY_SECRET: &str = "<secret><uuid>33333333-3333-3333-3333-333333333334</uuid></secret>";
const LUKS: &str = "<volume><name>luks</name><capacity unit='MiB'>4</capacity><target><format type='raw'/>\
    <encryption format='luks'><secret type='passphrase' uuid='33333333-3333-3333-3333-333333333333'/></encryption></target></volume>";
/// One on each of the volumes.
pub(crate) const DISKS: &str = "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='raw'/><target dev='vda' bus='virtio'/></disk>\
    <disk type='volume' device='disk'><driver name='qemu'/><source pool='p' volume='cow'/><target dev='vdb' bus='virtio'/></disk>\
    <disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='luks'><encryption format='luks'>\
    <secret type='passphrase' uuid='33333333-3333-3333-3333-333333333333'/></encryption></source><target dev='vdc' bus='virtio'/></disk>";

/// A daemon and a neighbour with a pool of three volumes, one of them encrypted.
fn place() -> Result<Option<(Sandbox, Neighbour)>> {
    if !can_run_guests() {
        return Ok(None);
    }
    let sandbox = Sandbox::started(daemon())?;
    let Some(neighbour) = Neighbour::beside(&sandbox)? else {
        return Ok(None);
    };
    furnish(&sandbox, &neighbour)?;
    luks_by_pool(&sandbox, &neighbour)?;
    Ok(Some((sandbox, neighbour)))
}

/// Runs a command on a document.
fn document(sandbox: &Sandbox, virsh: &Virsh, command: &[&str], text: &str) -> Result<()> {
    let file = sandbox.dir().join("document.xml");
    fs::write(&file, text)?;
    let file = file.to_string_lossy();
    virsh.ok(&[command, &[&file]].concat()).map(drop)
}

/// The volume that is encrypted.
pub(crate) fn luks_by_pool(sandbox: &Sandbox, neighbour: &Neighbour) -> Result<()> {
    document(sandbox, &neighbour.virsh("storage"), &["vol-create", "p"], LUKS)
}

/// The same image, of which the pool does not know: libvirtd with the storage driver alone can't read one that has secrets.
pub(crate) fn luks_by_hand(sandbox: &Sandbox, _: &Neighbour) -> Result<()> {
    let file = sandbox.path("/var/lib/libvirt/pool/luks");
    let secret = [
        "create",
        "-q",
        "--object",
        "secret,id=s,data=secret",
        "-f",
        "luks",
        "-o",
        "key-secret=s",
    ];
    let status = Command::new("qemu-img")
        .args(secret)
        .arg(file)
        .arg("4M")
        .status()?;
    ensure!(status.success(), "qemu-img failed");
    Ok(())
}

/// Gives the neighbour the pool, the plain volumes and the secrets.
pub(crate) fn furnish(sandbox: &Sandbox, neighbour: &Neighbour) -> Result<()> {
    let secrets = neighbour.virsh("secret");
    let storage = neighbour.virsh("storage");
    storage.ok(&["pool-define-as", "p", "dir", "--target", "/var/lib/libvirt/pool"])?;
    storage.ok(&["pool-build", "p"])?;
    storage.ok(&["pool-start", "p"])?;
    storage.ok(&["vol-create-as", "p", "raw", "4M"])?;
    storage.ok(&["vol-create-as", "p", "cow", "4M", "--format", "qcow2"])?;
    document(sandbox, &secrets, &["secret-define"], SECRET)?;
    document(sandbox, &secrets, &["secret-define"], EMPTY_SECRET)?;
    secrets
        .ok(&[
            "secret-set-value",
            "33333333-3333-3333-3333-333333333333",
            "--base64",
            "c2VjcmV0",
        ])
        .map(drop)
}

fn guest(name: &str) -> String {
    small(name, Path::new(QEMU), "").replacen("<memballoon", &format!("{DISKS}<memballoon"), 1)
}

/// The name of the image below, which qemu-img writes back after a pull that nobody saw end, takes the image's secret.
#[test]
fn an_encrypted_image_names_the_one_below_again() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let Some(neighbour) = Neighbour::beside(&sandbox)? else {
        return Ok(());
    };
    furnish(&sandbox, &neighbour)?;
    let virsh = sandbox.virsh();
    let [base, top] = ["base", "top"].map(|name| format!("{}/{name}", sandbox.dir().display()));
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "8M"])?;
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 2M", &base])?;
    let encrypted = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let secret = "secret,id=s,data=secret";
    let image = [
        "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", "-o", encrypted,
    ];
    run("qemu-img", &[&image[..], &["--object", secret, &top]].concat())?;
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{top}'><encryption format='luks'>\
         <secret type='passphrase' uuid='33333333-3333-3333-3333-333333333333'/></encryption></source>\
         <target dev='vda' bus='virtio'/></disk><memballoon"
    );
    virsh.define(&small("g", Path::new(QEMU), "").replacen("<memballoon", &disk, 1))?;
    virsh.ok(&["start", "g", "--paused"])?;
    virsh.ok(&["blockpull", "g", "vda", "--bandwidth", "1000000", "--bytes"])?;
    let named = || -> Result<bool> {
        let info = run("qemu-img", &["info", "-U", &top])?;
        Ok(info.contains("backing file:"))
    };
    let daemon = sandbox.pid().context("no daemon")?;
    testkit::process::signal(daemon, Signal::SIGSTOP);
    let ended = wait_until("the end of the job", AT_REST, || {
        named().is_ok_and(|named| !named)
    });
    let killed = sandbox.guest_pid("g").context("no guest").map(|pid| {
        testkit::process::signal(pid, Signal::SIGKILL);
    });
    testkit::process::signal(daemon, Signal::SIGCONT);
    ended?;
    killed?;
    let status = sandbox.path("/run/libvirt/qemu/g.xml");
    wait_until("the guest's end", AT_REST, || !status.exists())?;
    ensure!(named()?, "the image names nothing below it");
    nothing_left(&sandbox)?;
    // It can be read as a whole.
    virsh.ok(&["start", "g", "--paused"])?;
    virsh.ok(&["blockpull", "g", "vda", "--wait"])?;
    virsh.ok(&["destroy", "g"])?;
    ensure!(!named()?, "the image names one below it");
    let file =
        format!("json:{{\"driver\":\"qcow2\",\"encrypt.key-secret\":\"s\",\"file.filename\":\"{top}\"}}");
    run("qemu-io", &["--object", secret, "-c", "read -P 7 0 2M", &file])?;
    Ok(())
}

/// A run leaves nothing in its directories.
pub(crate) fn nothing_left(sandbox: &Sandbox) -> Result<()> {
    let left = fs::read_dir(sandbox.path("/var/lib/libvirt/qemu"))?
        .flatten()
        .map(|e| e.file_name().display().to_string());
    let left: Vec<_> = left.filter(|name| name.starts_with("domain-")).collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn volumes_and_secrets_are_found_at_each_start() -> Result<()> {
    let Some((mut sandbox, _neighbour)) = place()? else {
        return Ok(());
    };
    let virsh = sandbox.virsh();
    virsh.define(&guest("g"))?;
    virsh.ok(&["start", "g"])?;
    let listed = virsh.ok(&["domblklist", "g"])?;
    let listed: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure!(
        [["vda", "raw"], ["vdb", "cow"], ["vdc", "luks"]]
            .iter()
            .all(|disk| listed.contains(&disk.to_vec())),
        "{listed:?}"
    );
    let status = fs::read_to_string(sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(
        status.contains("volume='cow' actualType='file' file='/var/lib/libvirt/pool/cow' index="),
        "{status}"
    );
    let live = virsh.ok(&["dumpxml", "g"])?;
    ensure!(
        !live.contains("actualType") && live.contains("<driver name='qemu' type='qcow2'/>"),
        "{live}"
    );
    // QEMU has opened what only the secret opens, and nobody has written the secret down.
    let log = fs::read_to_string(sandbox.path("/var/log/libvirt/qemu/g.log"))?;
    ensure!(
        log.contains("\"driver\":\"luks\",\"key-secret\":\"libvirt-1-format-encryption-secret0\""),
        "{log}"
    );
    for text in [&log, &sandbox.log(), &status] {
        ensure!(!text.contains("c2VjcmV0"), "{text}");
    }
    ensure!(
        virsh
            .ok(&["domblkinfo", "g", "vda", "--human"])?
            .contains("4.000 MiB")
    );
    sandbox.kill()?;
    sandbox.start()?;
    assert_eq!(sandbox.virsh().ok(&["dumpxml", "g"])?, live);
    sandbox.virsh().ok(&["destroy", "g"])?;
    nothing_left(&sandbox)
}

#[test]
fn what_is_missing_is_told_as_its_daemon_tells_it() -> Result<()> {
    let Some((sandbox, mut neighbour)) = place()? else {
        return Ok(());
    };
    let virsh = sandbox.virsh();
    // What is changed in the document, into what, and what is said then.
    let cases = [
        (
            "pool='p' volume='raw'",
            "pool='none' volume='raw'",
            "Storage pool not found: no storage pool with matching name 'none'",
        ),
        (
            "volume='raw'",
            "volume='none'",
            "Storage volume not found: no storage vol with matching name 'none'",
        ),
        (
            "-333333333333'",
            "-333333333335'",
            "Secret not found: no secret with matching uuid '33333333-3333-3333-3333-333333333335'",
        ),
        (
            "-333333333333'",
            "-333333333334'",
            "Secret not found: secret '33333333-3333-3333-3333-333333333334' does not have a value",
        ),
    ];
    for (before, after, said) in cases {
        virsh.define(&guest("g").replace(before, after))?;
        refused(&virsh, said).context(after)?;
        nothing_left(&sandbox)?;
        virsh.ok(&["undefine", "g"])?;
    }
    virsh.define(&guest("g"))?;
    neighbour.virsh("secret").ok(&[
        "secret-set-value",
        "33333333-3333-3333-3333-333333333333",
        "--base64",
        "d3Jvbmc=",
    ])?;
    refused(&virsh, "Invalid password, cannot unlock any keyslot")?;
    nothing_left(&sandbox)?;
    neighbour.virsh("storage").ok(&["pool-destroy", "p"])?;
    refused(
        &virsh,
        "unsupported configuration: storage pool 'p' containing volume '",
    )?;
    neighbour.kill()?;
    refused(
        &virsh,
        "Failed to connect socket to '/run/libvirt/virtstoraged-sock'",
    )
}

fn refused(virsh: &Virsh, said: &str) -> Result<()> {
    let refused = virsh.refused(&["start", "g"])?;
    ensure!(refused.contains(said), "{refused}");
    Ok(())
}
