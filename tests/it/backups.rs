//! Backups of a real guest's disks: written by QEMU and fetched by a client, whole and since a checkpoint, put back together
//! and compared; ended by callers, by the guest and by a daemon that is killed; refused; and taken over from libvirt's own
//! daemon and given back.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::skip::can_run_guests;
use testkit::{libvirtd, wait_until};

use crate::blockjobs::{LATE, PART, Place};
use crate::grpc::daemon;

const SOON: Duration = Duration::from_secs(30);
/// The same at the time of a later backup.
const LATER: u8 = 0x66;

pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program} {}: {said}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// Whether an image has a pattern at each of some offsets.
fn has(image: &str, patterns: &[(u64, u8)]) -> Result<()> {
    for (at, pattern) in patterns {
        let read = format!("read -P {pattern:#x} {at} {PART}");
        let said = run("qemu-io", &["-U", "-r", "-c", &read, image])?;
        ensure!(
            !said.contains("failed"),
            "{image} has not {pattern:#x} at {at}: {said}"
        );
    }
    Ok(())
}

/// What the disk has before anything is written late.
const FIRST: [(u64, u8); 5] = [
    (0, 0x11),
    (PART, 0x22),
    (2 * PART, 0x33),
    (3 * PART, 0x44),
    (5 * PART, 0),
];

impl Place {
    pub(crate) fn kill_guest(&self) -> Result<()> {
        let pid = std::fs::read_to_string(self.sandbox.path("/run/libvirt/qemu/g.pid"))?;
        run("kill", &["-9", pid.trim()]).map(drop)
    }

    fn is_off_without_scratch(&self) -> Result<()> {
        wait_until("the guest is off", SOON, || {
            let state = self.virsh().ok(&["domstate", "g"]);
            state.is_ok_and(|state| state.contains("shut off"))
        })?;
        ensure!(!self.file("scratch.qcow2").exists(), "the scratch file is left");
        Ok(())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.sandbox.dir().join(name)
    }

    pub(crate) fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn write_xml(&self, name: &str, text: &str) -> Result<String> {
        let path = self.file(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Begins a backup, and a checkpoint of that name.
    pub(crate) fn back_up(&self, inside: &str, checkpoint: Option<&str>) -> Result<String> {
        let mode = if inside.contains("<server") {
            "pull"
        } else {
            "push"
        };
        let text = format!("<domainbackup mode='{mode}'>{inside}</domainbackup>");
        let backup = self.write_xml("backup.xml", &text)?;
        let mut args = vec!["backup-begin", "g", &backup];
        let made = match checkpoint {
            Some(name) => Some(self.write_xml(
                "checkpoint.xml",
                &format!("<domaincheckpoint><name>{name}</name></domaincheckpoint>"),
            )?),
            None => None,
        };
        args.extend(made.as_deref());
        self.virsh().ok(&args)
    }

    pub(crate) fn target(&self, name: &str) -> String {
        let path = self.shown(name);
        format!(
            "<disks><disk name='vda' type='file'><target file='{path}'/><driver type='qcow2'/></disk></disks>"
        )
    }

    pub(crate) fn served(&self, scratch: &str, more: &str) -> String {
        format!(
            "<server transport='unix' socket='{}'/><disks><disk name='vda' type='file' {more}><scratch file='{}'/>
             </disk></disks>",
            self.shown("nbd.sock"),
            self.shown(scratch)
        )
    }

    fn export(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.shown("nbd.sock"))
    }

    /// Waits until no backup is under way.
    pub(crate) fn backed_up(&self) -> Result<()> {
        wait_until("the backup is over", SOON, || {
            let said = self.virsh().ok(&["domjobinfo", "g"]);
            said.is_ok_and(|said| said.contains("None"))
        })?;
        let status = std::fs::read_to_string(self.sandbox.path("/run/libvirt/qemu/g.xml"))?;
        ensure!(
            !status.contains("<backups>") && !status.contains("<job "),
            "the status file has a backup: {status}"
        );
        self.is_whole()
    }

    /// What is told of the last job, as `name: value` lines.
    fn told(&self) -> Result<String> {
        self.virsh()
            .ok(&["domjobinfo", "g", "--completed", "--rawstats", "--keep-completed"])
    }

    /// What a bitmap of an export says was written, bytes.
    fn dirty(&self, export: &str, bitmap: &str) -> Result<u64> {
        let options = format!(
            "driver=nbd,export={export},server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
            self.shown("nbd.sock")
        );
        let said = run("qemu-img", &["map", "--output=json", "--image-opts", &options])?;
        let map: Value = serde_json::from_str(&said)?;
        let parts = map.as_array().context("a list")?.iter();
        let dirty = parts.filter(|part| part["data"] == false);
        Ok(dirty.filter_map(|part| part["length"].as_u64()).sum())
    }

    /// A guest with a second disk that takes long to copy: its server gives 4 MiB a second.
    fn with_slow_disk() -> Result<(Self, Slow)> {
        let mut place = Self::new(daemon())?;
        place.sandbox.start()?;
        let slow = Slow::serve(&place)?;
        let disk = format!(
            "<disk type='network' device='disk'><driver name='qemu' type='raw'/>
             <source protocol='nbd'><host transport='unix' socket='{}'/></source>
             <target dev='vdb' bus='virtio'/></disk></devices>",
            place.shown("slow.sock")
        );
        place.virsh().define(&place.xml().replace("</devices>", &disk))?;
        place.virsh().ok(&["start", "g", "--paused"])?;
        Ok((place, slow))
    }

    /// Backs the slow disk up, and the other with it.
    fn back_up_slowly(&self) -> Result<()> {
        let targets = format!(
            "<disks><disk name='vda' type='file'><target file='{}'/></disk>
             <disk name='vdb' type='file'><target file='{}'/></disk></disks>",
            self.shown("fast.qcow2"),
            self.shown("slow.qcow2")
        );
        self.back_up(&targets, None)?;
        wait_until("the fast disk is done", SOON, || {
            let said = self.virsh().ok(&["blockjob", "g", "vda", "--raw"]);
            said.is_ok_and(|said| !said.contains("type="))
        })?;
        ensure!(self.file("fast.qcow2").exists(), "the fast disk's target is gone");
        Ok(())
    }
}

/// The server of a disk that is slow from its first byte on.
struct Slow(std::process::Child);

impl Slow {
    fn serve(place: &Place) -> Result<Self> {
        let (image, socket) = (place.shown("slow.raw"), place.file("slow.sock"));
        run("qemu-img", &["create", "-q", "-f", "raw", &image, "96M"])?;
        run("qemu-io", &["-f", "raw", "-c", "write -P 7 0 96M", &image])?;
        let server = std::process::Command::new("qemu-nbd")
            .args(["--persistent", "--shared=0", "--object", "throttle-group,id=slow,x-bps-total=4194304"])
            .arg("--socket")
            .arg(&socket)
            .arg("--image-opts")
            .arg(format!(
                "driver=throttle,throttle-group=slow,file.driver=raw,file.file.driver=file,file.file.filename={image}"
            ))
            .spawn()
            .context("qemu-nbd")?;
        let server = Self(server);
        wait_until("the slow disk's server", SOON, || socket.exists())?;
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        Ok(server)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_copied_can_be_put_back_together() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    let listener = place.virsh();
    let heard = std::thread::spawn(move || {
        listener.ok(&["event", "g", "--event", "job-completed", "--timeout", "25"])
    });
    // The listener is there before the first backup ends.
    testkit::wait::pause(Duration::from_secs(1));
    place.back_up(&place.target("full.qcow2"), Some("one"))?;
    place.backed_up()?;
    let heard = heard
        .join()
        .map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    for part in [
        "operation: 9",
        "disk_total: 8388608",
        "disk_processed: 8388608",
        "success: 1",
    ] {
        ensure!(heard.contains(part), "{part} is not told: {heard}");
        ensure!(
            place.told()?.contains(part),
            "{part} is not kept: {}",
            place.told()?
        );
    }
    place.write(LATE, 5 * PART)?;
    let since = |name: &str| format!("<incremental>{name}</incremental>");
    place.back_up(&(since("one") + &place.target("part.qcow2")), Some("two"))?;
    place.backed_up()?;
    place.write(LATE, 6 * PART)?;
    let (full, part) = (place.shown("full.qcow2"), place.shown("part.qcow2"));
    has(&full, &FIRST)?;
    // It holds no more than what was written since.
    run("qemu-img", &["rebase", "-u", "-F", "qcow2", "-b", &full, &part])?;
    has(&part, &FIRST[..4])?;
    has(&part, &[(5 * PART, LATE), (6 * PART, 0)])?;
    // A client fetches the rest, as it was when that began.
    let inside = since("two") + &place.served("scratch.qcow2", "exportname='disk' exportbitmap='late'");
    place.back_up(&inside, None)?;
    place.write(LATER, 6 * PART)?;
    place.write(LATER, 0)?;
    let shown = virsh.ok(&["backup-dumpxml", "g"])?;
    for part in [
        "mode='pull'",
        "exportname='disk' exportbitmap='late'",
        "incremental='two'",
    ] {
        ensure!(shown.contains(part), "{part} is not shown: {shown}");
    }
    assert_eq!(place.dirty("disk", "late")?, PART);
    let fetched = place.shown("fetched.qcow2");
    run(
        "qemu-img",
        &["convert", "-O", "qcow2", &place.export("disk"), &fetched],
    )?;
    has(&fetched, &FIRST[..4])?;
    has(&fetched, &[(5 * PART, LATE), (6 * PART, LATE)])?;
    let said = virsh.ok(&["domjobinfo", "g"])?;
    ensure!(said.contains("Temporary disk space total: 8.000 MiB"), "{said}");
    virsh.ok(&["domjobabort", "g"])?;
    place.backed_up()?;
    ensure!(!place.file("scratch.qcow2").exists(), "the scratch file is left");
    let told = place.told()?;
    ensure!(
        told.contains("success: 1") && told.contains("errmsg: Operation canceled"),
        "{told}"
    );
    // What the guest wrote meanwhile is its own.
    virsh.ok(&["destroy", "g"])?;
    let image = place.path("a");
    has(&image, &[(0, LATER), (5 * PART, LATE), (6 * PART, LATER)])
}

#[test]
fn a_disk_that_is_backed_up_is_not_touched_and_the_guest_goes_on() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    place.back_up(&place.served("scratch.qcow2", ""), Some("one"))?;
    for args in [
        &["resume", "g"][..],
        &["suspend", "g"],
        &["checkpoint-create-as", "g", "two"],
        &["checkpoint-delete", "g", "two"],
        &["domblkthreshold", "g", "vda", "1M"],
    ] {
        virsh.ok(args)?;
    }
    for args in [
        &["blockpull", "g", "vda"][..],
        &["blockcommit", "g", "vda", "--active"],
        &["detach-disk", "g", "vda"],
    ] {
        let error = virsh.ok(args).unwrap_err().to_string();
        ensure!(
            error.contains("disk 'vda' already in active block job"),
            "{args:?}: {error}"
        );
    }
    let said = virsh.ok(&["blockjob", "g", "vda", "--raw"])?;
    ensure!(said.contains("type=Backup"), "{said}");
    let error = virsh
        .ok(&["blockjob", "g", "vda", "--pivot"])
        .unwrap_err()
        .to_string();
    ensure!(
        error.contains("block job 'backup-vda-libvirt-1-format' not ready for pivot yet"),
        "{error}"
    );
    virsh.ok(&["blockjob", "g", "vda", "--abort"])?;
    place.backed_up()?;
    ensure!(!place.file("scratch.qcow2").exists(), "the scratch file is left");
    // The checkpoint that came with it stays.
    let said = virsh.ok(&["checkpoint-list", "g", "--name"])?;
    assert_eq!(said.trim(), "one");
    Ok(())
}

#[test]
fn what_can_not_be_backed_up_is_refused_in_libvirts_words() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let virsh = place.virsh();
    virsh.ok(&["checkpoint-create-as", "g", "one"])?;
    std::fs::write(place.file("there.qcow2"), "")?;
    let there = place.target("there.qcow2");
    let (store, nowhere) = (place.shown("there.qcow2"), place.shown("no/t.qcow2"));
    let exists = format!("store '{store}' for backup of 'vda' exists");
    let fails = format!("failed to create image file '{nowhere}'");
    let since = |name: &str| format!("<incremental>{name}</incremental>") + &place.target("new.qcow2");
    let tls = place
        .served("s.qcow2", "")
        .replace("<server", "<server tls='yes'");
    let far = "<server transport='tcp' name='203.0.113.1' port='1'/>";
    let tcp = place.served("s.qcow2", "");
    let (_, disks) = tcp.split_once("/>").context("a server")?;
    let table: &[(&str, Option<&str>, &str)] = &[
        (&there, None, &exists),
        (&place.target("no/t.qcow2"), None, &fails),
        (
            &since("zz"),
            None,
            "Domain checkpoint not found: Checkpoint 'zz' for incremental backup of disk 'vda' not found",
        ),
        (
            "<disks><disk name='vda' backup='no'/></disks>",
            None,
            "no disks selected for backup",
        ),
        ("<disks><disk name='vdz'/></disks>", None, "no disk named 'vdz'"),
        (
            "<disks><disk name='vda'/><disk name='vda'/></disks>",
            None,
            "disk 'vda' specified twice",
        ),
        (
            "<disks><disk name='vda' backupmode='incremental'/></disks>",
            None,
            "'incremental' backup mode of disk 'vda' requires setting 'incremental' field for disk or backup",
        ),
        (
            &place.target("new.qcow2"),
            Some("one"),
            "operation failed: domain moment one already exists",
        ),
        (
            &tcp.replace("</disk>", "<driver type='raw'/></disk>"),
            None,
            "Unable to validate doc against /usr/share/libvirt/schemas/domainbackup.rng",
        ),
        (
            &format!("<server transport='tcp' name='localhost'/>{disks}"),
            None,
            "Operation not supported: <domainbackup> must specify TCP port for now",
        ),
        (
            &format!("{far}{disks}"),
            None,
            "unable to execute QEMU command 'nbd-server-start': Failed to bind socket",
        ),
        (&tls, None, "unable to execute QEMU command 'object-add'"),
    ];
    for (inside, checkpoint, expected) in table {
        match place.back_up(inside, *checkpoint) {
            Ok(said) => bail!("{inside} was accepted: {said}"),
            Err(error) => ensure!(error.to_string().contains(expected), "{inside}: {error}"),
        }
        // Nothing is left of it.
        place.backed_up().with_context(|| (*inside).to_owned())?;
        ensure!(
            !place.file("new.qcow2").exists() && !place.file("s.qcow2").exists(),
            "{inside}"
        );
    }
    let error = virsh.ok(&["backup-dumpxml", "g"]).unwrap_err().to_string();
    ensure!(error.contains("no domain backup job present"), "{error}");
    let error = virsh.ok(&["domjobabort", "g"]).unwrap_err().to_string();
    ensure!(error.contains("no job is active on the domain"), "{error}");
    virsh.ok(&["destroy", "g"])?;
    let error = place
        .back_up(&place.target("new.qcow2"), None)
        .unwrap_err()
        .to_string();
    ensure!(
        error.contains("cannot perform disk backup for inactive domain"),
        "{error}"
    );
    Ok(())
}

/// Makes an authority and a certificate of localhost, which both ends show.
fn certify(dir: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let at = |name: &str| dir.join(name).display().to_string();
    let (ca, ca_key, request) = (at("ca-cert.pem"), at("ca-key.pem"), at("request.pem"));
    let key = at("server-key.pem");
    let new = ["req", "-new", "-nodes", "-newkey", "rsa:2048", "-keyout"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=authority", "-out"];
    run(
        "openssl",
        &[&new[..], &[&ca_key], &authority[..], &[&ca]].concat(),
    )?;
    run(
        "openssl",
        &[&new[..], &[&key, "-subj", "/CN=localhost", "-out", &request]].concat(),
    )?;
    let names = at("names");
    std::fs::write(&names, "subjectAltName=DNS:localhost\n")?;
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in"];
    let by = ["-CA", &ca, "-CAkey", &ca_key, "-extfile", &names, "-out"];
    run(
        "openssl",
        &[&sign[..], &[&request], &by[..], &[&at("server-cert.pem")]].concat(),
    )?;
    for kind in ["cert", "key"] {
        let made = at(&format!("server-{kind}.pem"));
        // Whoever QEMU runs as reads it.
        run("chmod", &["644", &made])?;
        std::fs::copy(&made, at(&format!("client-{kind}.pem")))?;
    }
    Ok(())
}

#[test]
fn a_client_fetches_over_an_encrypted_connection() -> Result<()> {
    if !can_run_guests() || Command::new("openssl").arg("version").output().is_err() {
        return Ok(());
    }
    let mut place = Place::new(daemon())?;
    let dir = place.file("pki");
    certify(&dir)?;
    let conf = place.sandbox.path("/etc/libvirt/qemu.conf");
    let before = std::fs::read_to_string(&conf).unwrap_or_default();
    let key = format!("backup_tls_x509_cert_dir = \"{}\"\n", dir.display());
    std::fs::create_dir_all(conf.parent().context("a directory")?)?;
    std::fs::write(&conf, before + &key)?;
    place.sandbox.start()?;
    place.virsh().define(&place.xml())?;
    place.virsh().ok(&["start", "g", "--paused"])?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let scratch = place.served("scratch.qcow2", "");
    let (_, disks) = scratch.split_once("/>").context("a server")?;
    let server = format!("<server transport='tcp' tls='yes' name='localhost' port='{port}'/>");
    place.back_up(&(server + disks), None)?;
    let status = std::fs::read_to_string(place.sandbox.path("/run/libvirt/qemu/g.xml"))?;
    ensure!(
        status.contains("<TLSx509 alias='objlibvirt_backup_tls0'/>"),
        "{status}"
    );
    let (object, fetched) = (
        format!("tls-creds-x509,id=t,endpoint=client,dir={}", dir.display()),
        place.shown("fetched.qcow2"),
    );
    let from = |tls: &str| {
        format!("driver=nbd,server.type=inet,server.host=localhost,server.port={port},export=vda{tls}")
    };
    let fetch = |tls: &str| {
        let options = from(tls);
        let args = [
            "convert",
            "--object",
            &object,
            "--image-opts",
            &options,
            "-O",
            "qcow2",
            &fetched,
        ];
        run("qemu-img", &args)
    };
    ensure!(fetch("").is_err(), "it was served in the clear");
    fetch(",tls-creds=t")?;
    has(&fetched, &FIRST)?;
    place.virsh().ok(&["domjobabort", "g"])?;
    place.backed_up()?;
    let objects = place.ask(r#"{"execute": "qom-list", "arguments": {"path": "/objects"}}"#)?;
    ensure!(
        !objects.to_string().contains("backup_tls"),
        "an object is left: {objects}"
    );
    Ok(())
}

#[test]
fn a_client_fetches_from_the_socket_that_it_handed_over() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::started(daemon())?;
    let socket = place.file("handed.sock");
    let scratch = place.served("scratch.qcow2", "");
    let (_, disks) = scratch.split_once("/>").context("a server")?;
    let server = "<server transport='fd' fdgroup='handed'/>";
    let text = format!("<domainbackup mode='pull'>{server}{disks}</domainbackup>");
    let file = place.write_xml("handed.xml", &text)?;
    let said = place.virsh().refused(&["backup-begin", "g", &file])?;
    ensure!(
        said.contains("file descriptor group 'handed' was not associated with the domain"),
        "{said}"
    );
    // QEMU removes it when its server stops.
    let with = |fds: &str| -> Result<std::process::Output> {
        let _ = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket)?;
        let commands = format!("dom-fd-associate g handed --pass-fds {fds}; backup-begin g {file}");
        let script = format!(
            "exec 5<&0 6<&0 </dev/null; exec virsh -q -c '{}' \"$1\"",
            place.sandbox.uri()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh", &commands]);
        Ok(shell.stdin(std::os::fd::OwnedFd::from(listener)).output()?)
    };
    let two = with("5,6")?;
    let said = String::from_utf8_lossy(&two.stderr).into_owned();
    ensure!(
        !two.status.success() && said.contains("one file descriptor"),
        "{said}"
    );
    for round in ["first", "second"] {
        let begun = with("5")?;
        let said = String::from_utf8_lossy(&begun.stderr).into_owned();
        ensure!(begun.status.success(), "{round}: {said}");
        let shown = place.virsh().ok(&["backup-dumpxml", "g"])?;
        ensure!(
            shown.contains("<server transport='fd' fdgroup='handed'/>"),
            "{shown}"
        );
        place.write(LATE, 0)?;
        let fetched = place.shown(round);
        let export = format!("nbd+unix:///vda?socket={}", socket.display());
        run("qemu-img", &["convert", "-O", "qcow2", &export, &fetched])?;
        if round == "first" {
            has(&fetched, &FIRST)?;
        }
        place.virsh().ok(&["domjobabort", "g"])?;
        place.backed_up()?;
    }
    Ok(())
}

#[test]
fn one_that_comes_to_nothing_leaves_no_file() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (place, _slow) = Place::with_slow_disk()?;
    let virsh = place.virsh();
    let files = ["fast.qcow2", "slow.qcow2"];
    let gone = |place: &Place, when: &str| {
        for name in files {
            ensure!(!place.file(name).exists(), "{name} is left {when}");
        }
        Ok(())
    };
    place.back_up_slowly()?;
    let said = virsh.ok(&["domjobinfo", "g"])?;
    ensure!(said.contains("Operation:        Backup"), "{said}");
    virsh.ok(&["domjobabort", "g"])?;
    place.backed_up()?;
    gone(&place, "by an abort")?;
    let told = virsh.ok(&["domjobinfo", "g", "--completed", "--keep-completed"])?;
    ensure!(told.contains("Cancelled"), "{told}");
    place.back_up_slowly()?;
    virsh.ok(&["blockjob", "g", "vdb", "--abort"])?;
    place.backed_up()?;
    gone(&place, "by the abort of one disk")?;
    // The guest is powered off, and the end of its backup is told.
    place.back_up_slowly()?;
    virsh.ok(&["destroy", "g"])?;
    gone(&place, "by the end of the guest")?;
    let told = virsh.ok(&["domjobinfo", "g", "--completed"])?;
    ensure!(told.contains("Failed"), "{told}");
    // Images that were there stay.
    virsh.ok(&["start", "g", "--paused"])?;
    let disks = place.target("kept.qcow2");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", &place.shown("kept.qcow2"), "8M"],
    )?;
    let file = place.write_xml("backup.xml", &format!("<domainbackup>{disks}</domainbackup>"))?;
    virsh.ok(&["backup-begin", "g", &file, "--reuse-external"])?;
    place.backed_up()?;
    has(&place.shown("kept.qcow2"), &FIRST)?;
    // QEMU dies.
    place.back_up(&place.served("scratch.qcow2", ""), None)?;
    place.kill_guest()?;
    place.is_off_without_scratch()
}

#[test]
fn the_next_daemon_goes_on() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let (mut place, _slow) = Place::with_slow_disk()?;
    place.back_up_slowly()?;
    place.sandbox.kill()?;
    place.sandbox.start()?;
    let virsh = place.virsh();
    let shown = virsh.ok(&["backup-dumpxml", "g"])?;
    ensure!(shown.contains("<target file="), "{shown}");
    let said = virsh.ok(&["domjobinfo", "g"])?;
    ensure!(said.contains("Operation:        Backup"), "{said}");
    place.backed_up()?;
    has(&place.shown("fast.qcow2"), &FIRST)?;
    has(&place.shown("slow.qcow2"), &[(0, 7), (95 * PART, 7)])?;
    ensure!(place.told()?.contains("success: 1"), "{}", place.told()?);
    // A client that fetches goes on as well.
    place.back_up(&place.served("scratch.qcow2", ""), None)?;
    let shown = virsh.ok(&["backup-dumpxml", "g"])?;
    place.sandbox.kill()?;
    place.sandbox.start()?;
    assert_eq!(virsh.ok(&["backup-dumpxml", "g"])?, shown);
    place.write(LATE, 0)?;
    let fetched = place.shown("fetched.qcow2");
    run(
        "qemu-img",
        &["convert", "-O", "qcow2", &place.export("vda"), &fetched],
    )?;
    has(&fetched, &FIRST)?;
    virsh.ok(&["domjobabort", "g"])?;
    place.backed_up()?;
    ensure!(!place.file("scratch.qcow2").exists(), "the scratch file is left");
    // The guest ends while nobody looks.
    place.back_up(&place.served("scratch.qcow2", ""), None)?;
    place.sandbox.kill()?;
    place.kill_guest()?;
    place.sandbox.start()?;
    place.is_off_without_scratch()
}

#[test]
fn libvirts_daemon_goes_on_with_our_backups_and_we_with_its() -> Result<()> {
    let Some(libvirtd) = libvirtd().filter(|_| can_run_guests()) else {
        return Ok(());
    };
    for (first, then) in [(libvirtd.clone(), daemon()), (daemon(), libvirtd)] {
        let mut place = Place::started(first)?;
        place.back_up(&place.served("scratch.qcow2", "exportname='disk'"), Some("one"))?;
        let shown = place.virsh().ok(&["backup-dumpxml", "g"])?;
        place.sandbox.hand_over(then)?;
        let virsh = place.virsh();
        assert_eq!(virsh.ok(&["backup-dumpxml", "g"])?, shown);
        place.write(LATE, 0)?;
        let fetched = place.shown("fetched.qcow2");
        run(
            "qemu-img",
            &["convert", "-O", "qcow2", &place.export("disk"), &fetched],
        )?;
        has(&fetched, &FIRST)?;
        virsh.ok(&["domjobabort", "g"])?;
        place.backed_up()?;
        ensure!(!place.file("scratch.qcow2").exists(), "the scratch file is left");
        // And begins the next, since the other's checkpoint.
        let inside = "<incremental>one</incremental>".to_owned() + &place.target("part.qcow2");
        place.back_up(&inside, None)?;
        place.backed_up()?;
        has(&place.shown("part.qcow2"), &[(0, LATE)])?;
    }
    Ok(())
}
