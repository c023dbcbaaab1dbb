//! What can be seen of a running guest: its screens, its displays, its memory, its disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use testkit::Sandbox;
use testkit::skip::can_run_guests;
use virtqemud_client::proto::{self as pb, open_display_request::Message};

use crate::grpc::{Grpc, QEMU, by_name, daemon, small};

const DEVICES: &str =
    "<graphics type='vnc' autoport='yes' passwd='geheim'/><video><model type='vga'/></video>";
/// What every server of VNC says first.
const GREETING: &[u8] = b"RFB 003.008\n";
/// What a server says next of which no password is wanted: one way, "none".
const NO_PASSWORD: &[u8] = &[1, 1];

async fn started() -> Result<Option<(Sandbox, Grpc)>> {
    if !can_run_guests() {
        return Ok(None);
    }
    let mut sandbox = Sandbox::started(daemon())?;
    // Daemons of tests do not know of each other's displays.
    let first = 5900 + std::process::id() % 1000 * 50;
    let conf = sandbox.path("/etc/libvirt/qemu.conf");
    let text = fs::read_to_string(&conf)?;
    fs::write(&conf, format!("{text}remote_display_port_min = {first}\n"))?;
    sandbox.restart()?;
    let disk = sandbox.path("/var/lib/libvirt/raw");
    fs::write(&disk, b"0123456789abcdef".repeat(64))?;
    let disk = "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/var/lib/libvirt/raw'/><target dev='vda' bus='virtio'/></disk>";
    let grpc = Grpc::of(&sandbox).await?;
    let guest =
        small("seen", Path::new(QEMU), "").replacen("<memballoon", &format!("{disk}{DEVICES}<memballoon"), 1);
    grpc.define(&guest).await?;
    grpc.start("seen").await?;
    Ok(Some((sandbox, grpc)))
}

#[tokio::test(flavor = "multi_thread")]
async fn screens_memory_and_disks_are_seen() -> Result<()> {
    let Some((sandbox, grpc)) = started().await? else {
        return Ok(());
    };
    let domain = || by_name("seen");
    let mut consoles = pb::consoles_client::ConsolesClient::new(grpc.channel());
    let mut picture = consoles
        .screenshot(pb::ScreenshotRequest {
            domain: domain(),
            screen: 0,
        })
        .await?
        .into_inner();
    let first = picture.message().await?.context("no picture")?;
    assert_eq!((first.mime_type.as_str(), first.data.len()), ("image/png", 0));
    let mut bytes = Vec::new();
    while let Some(next) = picture.message().await? {
        bytes.extend_from_slice(&next.data);
    }
    ensure!(
        bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.ends_with(b"IEND\xaeB`\x82"),
        "no whole picture: {} bytes",
        bytes.len()
    );
    let refused = consoles
        .screenshot(pb::ScreenshotRequest {
            domain: domain(),
            screen: 1,
        })
        .await
        .err()
        .context("a second screen")?;
    assert!(refused.message().contains("no such screen ID"), "{refused}");

    let mut devices = grpc.devices();
    // Where the CPU begins, in firmware: a far jump.
    let request = pb::PeekMemoryRequest {
        domain: domain(),
        address: 0xffff_fff0,
        size: 1,
        physical: true,
    };
    assert_eq!(devices.peek_memory(request).await?.into_inner().data, [0xea]);
    let mut peek = async |disk: &str, offset, size| {
        let request = pb::PeekDiskRequest {
            domain: domain(),
            disk: disk.to_owned(),
            offset,
            size,
        };
        devices
            .peek_disk(request)
            .await
            .map(|answer| answer.into_inner().data)
    };
    assert_eq!(peek("vda", 10, 8).await?, b"abcdef01");
    assert!(
        peek("vda", 1020, 8)
            .await
            .unwrap_err()
            .message()
            .contains("has only 4 bytes available")
    );
    assert!(
        peek("vdb", 0, 8)
            .await
            .unwrap_err()
            .message()
            .contains("disk 'vdb' not found in domain")
    );
    let errors = grpc
        .devices()
        .list_disk_errors(pb::ListDiskErrorsRequest { domain: domain() })
        .await?
        .into_inner();
    assert_eq!((errors.disks, errors.errors.len()), (1, 0));
    let left = fs::read_dir(sandbox.path("/var/lib/libvirt/qemu/domain-1-seen"))?
        .flatten()
        .map(|entry| entry.file_name());
    let left: Vec<_> = left
        .filter(|name| {
            name.to_string_lossy().contains('.') && name != "master-key.aes" && name != "monitor.sock"
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_display_is_opened_with_and_without_its_password() -> Result<()> {
    let Some((_sandbox, grpc)) = started().await? else {
        return Ok(());
    };
    for skip in [false, true] {
        let (to_display, messages) = tokio::sync::mpsc::channel(4);
        let open = pb::open_display_request::Open {
            domain: by_name("seen"),
            index: 0,
            skip_authentication: skip,
        };
        to_display
            .send(pb::OpenDisplayRequest {
                message: Some(Message::Open(open)),
            })
            .await?;
        let requests = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut consoles = pb::consoles_client::ConsolesClient::new(grpc.channel());
        let mut answers = consoles.open_display(requests).await?.into_inner();
        let mut said = Vec::new();
        let mut read = async |length: usize| -> Result<Vec<u8>> {
            while said.len() < length {
                let next = tokio::time::timeout(Duration::from_secs(20), answers.next())
                    .await?
                    .context("the display hung up")??;
                said.extend_from_slice(&next.data);
            }
            Ok(said.drain(..length).collect())
        };
        assert_eq!(read(GREETING.len()).await?, GREETING);
        to_display
            .send(pb::OpenDisplayRequest {
                message: Some(Message::Data(GREETING.into())),
            })
            .await?;
        assert_eq!(read(2).await? == NO_PASSWORD, skip);
    }
    Ok(())
}

/// Images below the top one are told of with their numbers and sizes.
#[test]
fn statistics_tell_the_whole_chain() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let dir = sandbox.dir().join("chain");
    fs::create_dir(&dir)?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let image = |arguments: &[&str]| -> Result<()> {
        let made = std::process::Command::new("qemu-img").args(arguments).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    };
    image(&["create", "-q", "-f", "qcow2", &path("base"), "1M"])?;
    for (over, under) in [("middle", "base"), ("top", "middle")] {
        let (over, under) = (path(over), path(under));
        image(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &under, &over])?;
    }
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/></disk></devices>",
        path("top")
    );
    virsh.define(&small("g", Path::new(QEMU), "").replace("</devices>", &disk))?;
    virsh.ok(&["start", "g"])?;
    let told = virsh.ok(&["domstats", "g", "--block", "--backing"])?;
    let has = |line: String| told.lines().any(|l| l.trim() == line);
    ensure!(has("block.count=3".to_owned()), "{told}");
    for (at, name) in ["top", "middle", "base"].into_iter().enumerate() {
        ensure!(has(format!("block.{at}.path={}", path(name))), "{at}: {told}");
        ensure!(has(format!("block.{at}.capacity=1048576")), "{at}: {told}");
        let physical = fs::metadata(dir.join(name))?.blocks() * 512;
        ensure!(has(format!("block.{at}.physical={physical}")), "{at}: {told}");
    }
    ensure!(has("block.1.backingIndex=2".to_owned()), "{told}");
    ensure!(has("block.2.backingIndex=3".to_owned()), "{told}");
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descriptor_goes_with_a_command_to_the_monitor() -> Result<()> {
    let Some((sandbox, _grpc)) = started().await? else {
        return Ok(());
    };
    // virsh hands over what it was given: two ends of nothing.
    let virsh = |fds: &[&str], command: &str| {
        let mut words = vec![
            "exec 7</dev/null 8</dev/null; exec virsh -q -c".to_owned(),
            sandbox.uri(),
        ];
        words.push("qemu-monitor-command".to_owned());
        words.extend(fds.iter().map(|fd| format!("--pass-fds {fd}")));
        words.push(format!("seen '{command}'"));
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &words.join(" ")]);
        testkit::client::run(shell, Duration::from_secs(30))
    };
    let getfd = r#"{"execute":"getfd","arguments":{"fdname":"x"}}"#;
    let taken = virsh(&["7"], getfd)?;
    ensure!(
        taken.success() && taken.stdout.contains("\"return\":{}"),
        "{taken:?}"
    );
    let none = virsh(&[], getfd)?;
    ensure!(none.stdout.contains("No file descriptor supplied"), "{none:?}");
    let two = virsh(&["7,8"], getfd)?;
    ensure!(
        two.stderr
            .contains("at most 1 fd can be passed to qemu along with a command"),
        "{two:?}"
    );
    let close = virsh(&[], r#"{"execute":"closefd","arguments":{"fdname":"x"}}"#)?;
    ensure!(close.stdout.contains("\"return\":{}"), "{close:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn displays_have_addresses() -> Result<()> {
    let Some((sandbox, grpc)) = started().await? else {
        return Ok(());
    };
    let (virsh, port) = (sandbox.virsh(), grpc.secure_xml("seen").await?);
    let port = port
        .split("<graphics type='vnc' port='")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let screen = port.context("no port")?.parse::<u32>()?.checked_sub(5900);
    let screen = screen.context("no port of VNC")?;
    let at = |args: &[&str]| virsh.ok(&[&["domdisplay", "seen"], args].concat());
    assert_eq!(at(&[])?.trim(), format!("vnc://127.0.0.1:{screen}"));
    assert_eq!(
        at(&["--include-password"])?.trim(),
        format!("vnc://:geheim@127.0.0.1:{screen}")
    );
    Ok(())
}
