//! Who stands in front of us: libvirt's remote driver in its ways of coming, the helper for ssh, and clients that are
//! none of libvirt's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::client::run;
use testkit::place::program;
use testkit::{Sandbox, skip};

use crate::grpc::{QEMU, daemon, small};

const LIMIT: Duration = Duration::from_secs(30);

/// Takes ssh's place: the remote command is run here, the words before it are ssh's own.
const SSH: &str = "#!/bin/bash\nwhile [ $# -gt 0 ]; do case $1 in -T|-e|-n|-q|none|--|localhost) shift;; *) break;; esac; done\nexec sh -c \"$*\"\n";

/// Runs virsh where the sandbox's sockets are the host's.
fn virsh_at_home(sandbox: &Sandbox, uri: &str) -> Result<String> {
    let home = format!(
        "mount --bind {} /run/libvirt && exec virsh -q -c \"$0\" list --all --name",
        sandbox.path("run/libvirt").display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &home, uri]);
    let answer = run(command, LIMIT)?;
    ensure!(answer.success(), "{uri}: {}", answer.stderr);
    Ok(answer.stdout.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirts_clients_come_in_every_way() -> Result<()> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/run/libvirt").is_dir() {
        skip("sockets can't be put in the place of the host's");
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    sandbox.virsh().define(&small("here", Path::new(QEMU), ""))?;
    let ssh = sandbox.dir().join("ssh");
    fs::write(&ssh, SSH)?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
    let mut uris = vec![
        "qemu:///system?mode=direct".to_owned(),
        "qemu:///system".to_owned(),
    ];
    if program("virt-ssh-helper").is_some() {
        uris.push(format!(
            "qemu+ssh://localhost/system?command={}&proxy=native",
            ssh.display()
        ));
        uris.push(format!("qemu+ssh://localhost/system?command={}", ssh.display()));
    }
    for uri in uris {
        assert_eq!(virsh_at_home(&sandbox, &uri)?, "here", "{uri}");
    }
    Ok(())
}

const PROGRAM: u32 = 0x2000_8086;

/// One call as a client would write it that knows nothing but the protocol; the reply's status.
fn call(stream: &mut UnixStream, procedure: u32, payload: &[u32], text: &[u8]) -> Result<u32> {
    let body: Vec<u8> = [PROGRAM, 1, procedure, 0, 1, 0]
        .iter()
        .chain(payload)
        .flat_map(|word| word.to_be_bytes())
        .chain(text.iter().copied())
        .collect();
    let length = u32::try_from(body.len() + 4)?;
    stream.write_all(&[&length.to_be_bytes(), body.as_slice()].concat())?;
    let mut head = [0; 28];
    stream.read_exact(&mut head)?;
    let word = |at: usize| {
        head.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
            .context("short")
    };
    let mut rest = vec![0; word(0)? as usize - head.len()];
    stream.read_exact(&mut rest)?;
    word(24)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_their_own_make_shake_hands_in_their_own_order() -> Result<()> {
    const AUTH_LIST: u32 = 66;
    const SUPPORTS_FEATURE: u32 = 60;
    const OPEN: u32 = 1;
    const GET_TYPE: u32 = 3;
    let sandbox = Sandbox::started(daemon())?;
    let uri = b"qemu:///system\0\0";
    // What stands for a URI that is there: libvirt's word, and one that clients in Go write.
    for there in [1, 0x0100_0000] {
        for open_first in [true, false] {
            let mut stream = UnixStream::connect(sandbox.socket())?;
            stream.set_read_timeout(Some(LIMIT))?;
            ensure!(call(&mut stream, AUTH_LIST, &[], b"")? == 0, "auth list");
            if !open_first {
                ensure!(
                    call(&mut stream, SUPPORTS_FEATURE, &[10], b"")? == 0,
                    "a feature before the connection is open"
                );
            }
            // The URI, its length, and no flags.
            let mut text = uri.to_vec();
            text.extend([0; 4]);
            ensure!(
                call(&mut stream, OPEN, &[there, 14], &text)? == 0,
                "open with {there:#x}"
            );
            ensure!(call(&mut stream, SUPPORTS_FEATURE, &[10], b"")? == 0, "a feature");
            ensure!(call(&mut stream, GET_TYPE, &[], b"")? == 0, "type");
        }
    }
    // libvirt's daemon opens nothing without a URI either.
    let mut stream = UnixStream::connect(sandbox.socket())?;
    stream.set_read_timeout(Some(LIMIT))?;
    ensure!(call(&mut stream, AUTH_LIST, &[], b"")? == 0, "auth list");
    ensure!(
        call(&mut stream, OPEN, &[0, 0], b"")? == 1 && call(&mut stream, GET_TYPE, &[], b"")? == 1,
        "open without a URI"
    );
    Ok(())
}
