//! Logs through libvirt's virtlogd.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::place::{program, script};
use testkit::{Sandbox, skip, wait_until};

use crate::grpc::{QEMU, daemon, small};

const SOON: Duration = Duration::from_secs(20);

/// virtlogd in a sandbox; ended with the test.
struct Logd(Child);

impl Logd {
    fn in_sandbox(sandbox: &Sandbox) -> Result<Option<Self>> {
        let Some(virtlogd) = program("virtlogd") else {
            skip("virtlogd is not installed");
            return Ok(None);
        };
        let mut command = Command::new(script("sandbox.sh"));
        command
            .arg(sandbox.dir())
            .arg(virtlogd)
            .args(["-p", "/run/libvirt/virtlogd.pid"]);
        let logd = Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        wait_until("virtlogd's socket", SOON, || {
            sandbox.path("run/libvirt/virtlogd-sock").exists()
        })?;
        Ok(Some(logd))
    }
}

impl Drop for Logd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// qemu.conf of guests that run as root, with a line more.
fn configure(sandbox: &Sandbox, line: &str) -> Result<()> {
    let conf = sandbox.path("etc/libvirt");
    fs::create_dir_all(&conf)?;
    fs::write(
        conf.join("qemu.conf"),
        format!("user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n{line}\n"),
    )?;
    Ok(fs::write(
        conf.join("virtqemud.conf"),
        "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n",
    )?)
}

/// A guest whose QEMU complains and ends, so that its words are in the log.
fn complaining(name: &str) -> String {
    let xml = small(name, std::path::Path::new(QEMU), "");
    let bad = "<qemu:commandline><qemu:arg value='-no-such-switch'/></qemu:commandline></domain>";
    xml.replace("</domain>", bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_words_come_into_its_log_through_virtlogd() -> Result<()> {
    let mut sandbox = Sandbox::new(daemon())?;
    configure(&sandbox, "stdio_handler = \"logd\"")?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    virsh.define(&complaining("talker"))?;
    let refused = virsh.refused(&["start", "talker"])?;
    ensure!(
        refused.contains("virtlogd-sock") && refused.contains("No such file"),
        "without virtlogd: {refused}"
    );
    let Some(logd) = Logd::in_sandbox(&sandbox)? else {
        return Ok(());
    };
    let refused = virsh.refused(&["start", "talker"])?;
    ensure!(
        refused.contains("no-such-switch"),
        "QEMU's last words are missing: {refused}"
    );
    let log = fs::read_to_string(sandbox.path("var/log/libvirt/qemu/talker.log"))?;
    let (head, words) = (
        log.find("starting up libvirt version").context("head")?,
        log.rfind("no-such-switch: ").context("words")?,
    );
    ensure!(head < words, "the head comes after what QEMU says:\n{log}");

    // Whoever leaves it open gets the file where nobody serves the log.
    drop(logd);
    fs::remove_file(sandbox.path("run/libvirt/virtlogd-sock"))?;
    sandbox.stop()?;
    configure(&sandbox, "")?;
    sandbox.start()?;
    let refused = sandbox.virsh().refused(&["start", "talker"])?;
    ensure!(refused.contains("no-such-switch"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_character_devices_are_opened_for_qemu() -> Result<()> {
    let mut sandbox = Sandbox::new(daemon())?;
    configure(&sandbox, "stdio_handler = \"logd\"")?;
    sandbox.start()?;
    let Some(_logd) = Logd::in_sandbox(&sandbox)? else {
        return Ok(());
    };
    let virsh = sandbox.virsh();
    let logs = sandbox.path("var/log/libvirt/qemu");
    fs::create_dir_all(&logs)?;
    let devices = "<serial type='pty'><log file='/var/log/libvirt/qemu/fresh.log' append='off'/></serial>\
        <serial type='file'><source path='/var/log/libvirt/qemu/source.log'/><log file='/var/log/libvirt/qemu/kept.log' append='on'/></serial>";
    for name in ["fresh", "kept", "source"] {
        fs::write(logs.join(format!("{name}.log")), "before\n")?;
    }
    let xml = small("files", std::path::Path::new(QEMU), "");
    virsh.define(&xml.replacen("<memballoon", &format!("{devices}<memballoon"), 1))?;
    for (handler, content) in [("logd", ""), ("file", "")] {
        virsh.ok(&["start", "files"])?;
        let sizes = || {
            ["fresh", "kept", "source"]
                .map(|name| fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default())
        };
        wait_until("files that begin as they should", SOON, || {
            sizes() == [content, "before\n", content].map(String::from)
        })
        .with_context(|| format!("{handler}: {:?}", sizes()))?;
        let log = fs::read_to_string(logs.join("files.log"))?;
        for opened in ["serial0-log", "serial1-source", "serial1-log"] {
            ensure!(
                log.contains(&format!("opaque={opened}")),
                "{handler}: no {opened}: {log}"
            );
        }
        ensure!(
            log.contains("id=charserial1,path=/dev/fdset/1,append=on,logfile=/dev/fdset/2,logappend=on"),
            "{log}"
        );
        virsh.ok(&["destroy", "files"])?;
        if handler == "logd" {
            sandbox.stop()?;
            configure(&sandbox, "stdio_handler = \"file\"")?;
            fs::write(logs.join("fresh.log"), "before\n")?;
            fs::write(logs.join("source.log"), "before\n")?;
            sandbox.start()?;
        }
    }
    Ok(())
}
