//! Devices come and go: in a real guest that answers, through both fronts; in one that does not; and with a QEMU that
//! fails at each step.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pb::detach_device_result::Outcome;
use pb::operation::Result as Ended;
use serde_json::{Value, json};
use testkit::fake_qemu::program::{install, read_record};
use testkit::guest::{Image, READY};
use testkit::skip::can_run_guests;
use testkit::{GuestSpec, Sandbox, Virsh};
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, QEMU, SOON, by_name, daemon, small};
use crate::host::Host;

/// Controllers for devices to come.
const ROOM: &str = "<controller type='usb' index='0' model='qemu-xhci'/>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    <controller type='virtio-serial' index='0'/>
    <controller type='pci' index='0' model='pcie-root'/><controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/><controller type='pci' model='pcie-root-port'/>";

/// The same guest with them in the place of the controller that says there is no USB.
pub(crate) fn with_room(xml: &str) -> String {
    xml.replace("<controller type='usb' model='none'/>", ROOM)
}

pub(crate) const CARD: &str =
    "<interface type='user'><mac address='52:54:00:bb:00:01'/><model type='virtio'/></interface>";

const RNG: &str = "<rng model='virtio'><backend model='builtin'/></rng>";

/// An image, and a disk that it is in.
struct Medium {
    path: PathBuf,
}

impl Medium {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(format!("{name}.raw"));
        fs::File::create(&path)?.set_len(1 << 20)?;
        Ok(Self { path })
    }

    fn disk(&self, target: &str, bus: &str) -> String {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='{target}' bus='{bus}'/></disk>",
            self.path.display()
        )
    }
}

/// What QEMU answers to a command.
fn ask(virsh: &Virsh, guest: &str, command: &str) -> Result<Value> {
    let answer = virsh.ok(&["qemu-monitor-command", guest, command])?;
    let mut answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["return"].take())
}

/// Devices and block nodes that QEMU has.
fn parts(virsh: &Virsh, guest: &str) -> Result<BTreeSet<String>> {
    let names = |list: Value, key: &str| {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|e| e[key].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let devices = r#"{"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}"#;
    let nodes = r#"{"execute": "query-named-block-nodes", "arguments": {"flat": true}}"#;
    let devices = names(ask(virsh, guest, devices)?, "name");
    Ok(devices
        .into_iter()
        .chain(names(ask(virsh, guest, nodes)?, "node-name"))
        .collect())
}

/// The documents of the run and of the next start, and the status file.
fn documents(sandbox: &Sandbox, guest: &str) -> Result<[String; 3]> {
    let virsh = sandbox.virsh();
    Ok([
        virsh.ok(&["dumpxml", guest])?,
        virsh.ok(&["dumpxml", guest, "--inactive"])?,
        fs::read_to_string(sandbox.path(format!("/run/libvirt/qemu/{guest}.xml")))?,
    ])
}

fn boot(sandbox: &Sandbox, image: &Image) -> Result<()> {
    let spec = GuestSpec::new("g");
    let xml = spec
        .xml(image)
        .replace("<controller type='usb' model='none'/>", ROOM);
    let virsh = sandbox.virsh();
    virsh.define(&xml)?;
    virsh.ok(&["start", "g"])?;
    let mut console = testkit::guest::Console::open(sandbox, "g")?;
    console.wait_printed(READY, Duration::from_secs(120))
}

#[test]
fn devices_come_and_go_in_a_guest_that_answers() -> Result<()> {
    let Some(image) = Image::find()? else {
        return Ok(());
    };
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    boot(&sandbox, &image)?;
    let medium = Medium::new(sandbox.dir(), "a")?;
    let at = |name: &str| {
        format!(
            "<source mode='bind' path='{}'/>",
            sandbox.dir().join(name).display()
        )
    };
    let channel = format!(
        "<channel type='unix'>{}<target type='virtio' name='org.example.late'/></channel>",
        at("channel")
    );
    let redirected = format!("<redirdev bus='usb' type='unix'>{}</redirdev>", at("redirected"));
    let far = medium.disk("sdc", "scsi").replace(
        "</disk>",
        "<address type='drive' controller='1' bus='0' target='0' unit='0'/></disk>",
    );
    let (before, had) = (documents(&sandbox, "g")?, parts(&virsh, "g")?);
    // table: the device, its alias, what tells it in the documents.
    for (xml, alias, mark) in [
        (medium.disk("vdb", "virtio"), "virtio-disk1", "<target dev='vdb'"),
        (medium.disk("sda", "scsi"), "scsi0-0-0-0", "<target dev='sda'"),
        (medium.disk("sdb", "usb"), "usb-disk1", "<target dev='sdb'"),
        (CARD.to_owned(), "net0", "52:54:00:bb:00:01"),
        (RNG.to_owned(), "rng0", "<rng model='virtio'>"),
        (
            "<input type='tablet' bus='usb'/>".to_owned(),
            "input2",
            "type='tablet'",
        ),
        (channel.clone(), "channel0", "org.example.late"),
        (redirected.clone(), "redir0", "<redirdev bus='usb'"),
    ] {
        let file = sandbox.dir().join("device.xml");
        fs::write(&file, &xml)?;
        let file = file.to_string_lossy().into_owned();
        virsh.ok(&["attach-device", "g", &file, "--live", "--config"])?;
        let all = documents(&sandbox, "g")?;
        ensure!(
            all.iter().all(|text| text.contains(mark)),
            "{alias} did not come: {all:?}"
        );
        ensure!(all[0].contains(&format!("<alias name='{alias}'/>")), "{}", all[0]);
        ensure!(parts(&virsh, "g")?.contains(alias), "QEMU has no {alias}");
        virsh.ok(&["detach-device", "g", &file, "--live", "--config"])?;
        let gone = || -> Result<bool> {
            Ok(parts(&virsh, "g")? == had && documents(&sandbox, "g")?[..2] == before[..2])
        };
        testkit::wait::wait_until(&format!("{alias} to go"), SOON, || gone().unwrap_or(false))
            .with_context(|| format!("{:?}, {:?}", parts(&virsh, "g"), documents(&sandbox, "g")))?;
        let status = &documents(&sandbox, "g")?[2];
        ensure!(!status.contains(mark) && !status.contains(alias), "{status}");
    }
    // A controller that a disk brings stays when the disk goes.
    let file = sandbox.dir().join("device.xml");
    fs::write(&file, &far)?;
    let file = file.to_string_lossy().into_owned();
    virsh.ok(&["attach-device", "g", &file, "--live"])?;
    virsh.ok(&["detach-disk", "g", "sdc", "--live"])?;
    ensure!(parts(&virsh, "g")?.contains("scsi1"));
    ensure!(documents(&sandbox, "g")?[0].contains("<alias name='scsi1'/>"));
    ensure!(!documents(&sandbox, "g")?[1].contains("<controller type='scsi' index='1'"));
    let status = fs::metadata(&medium.path)?;
    ensure!(
        std::os::unix::fs::MetadataExt::uid(&status) == 0,
        "the image is QEMU's still"
    );
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

async fn attach(grpc: &Grpc, xml: &str, scope: pb::Scope) -> Answer<pb::Device> {
    let request = pb::AttachDeviceRequest {
        domain: by_name("g"),
        xml: xml.to_owned(),
        scope: scope.into(),
        options: None,
    };
    Ok(grpc.devices().attach_device(request).await?.into_inner())
}

fn detachment(alias: &str, seconds: i64) -> pb::DetachDeviceRequest {
    pb::DetachDeviceRequest {
        domain: by_name("g"),
        device: Some(pb::detach_device_request::Device::Alias(alias.to_owned())),
        scope: pb::Scope::Live.into(),
        wait: Some(prost_types::Duration { seconds, nanos: 0 }),
        options: None,
    }
}

async fn detach(grpc: &Grpc, alias: &str) -> Answer<Outcome> {
    match grpc.detach(detachment(alias, 1)).await?.result {
        Some(Ended::DetachDevice(detached)) => Ok(detached.outcome()),
        other => Err(tonic::Status::internal(format!("{other:?}"))),
    }
}

/// A guest of a real QEMU that boots nothing: it lets no PCI device go.
fn without_system(name: &str) -> String {
    with_room(&small(name, Path::new(QEMU), ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_guest_keeps_goes_later() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::started(daemon())?;
    let mut grpc = Grpc::of(&sandbox).await?;
    grpc.define(&without_system("g")).await?;
    grpc.start("g").await?;
    let attached = attach(&grpc, CARD, pb::Scope::Live).await?;
    ensure!(attached.xml.contains("<alias name='net0'/>"), "{attached:?}");
    assert_eq!(attached.alias, "net0");
    assert_eq!(detach(&grpc, "net0").await?, Outcome::Pending);
    ensure!(grpc.xml("g").await?.contains("net0"));
    // A reset makes QEMU let it go, whoever is the daemon then.
    sandbox.restart()?;
    grpc = Grpc::of(&sandbox).await?;
    let mut watch = grpc.watch().await?;
    sandbox.virsh().ok(&["reset", "g"])?;
    let told = loop {
        let event = crate::grpc::word(&watch.event().await?);
        if event.starts_with("device_removed") {
            break event;
        }
    };
    ensure!(told.contains("device_removed"), "{told}");
    ensure!(!grpc.xml("g").await?.contains("net0"));
    // SCSI and USB ask nobody.
    let medium = Medium::new(sandbox.dir(), "b")?;
    for bus in ["scsi", "usb"] {
        let disk = attach(&grpc, &medium.disk("sdd", bus), pb::Scope::Live).await?;
        assert_eq!(detach(&grpc, &disk.alias).await?, Outcome::Removed, "{bus}");
    }
    grpc.power_off("g").await?;
    Ok(())
}

#[test]
fn memory_and_character_devices_are_shown_as_qemu_has_them() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    let plain = without_system("g");
    let text = plain.replacen(
        "<memory",
        "<maxMemory slots='4' unit='MiB'>2048</maxMemory><memory",
        1,
    );
    // Firmware that tells the guest of memory that comes.
    let text = text.replacen("<devices>", "<features><acpi/></features><devices>", 1);
    let first = "<graphics type='vnc' passwd='first'><listen type='address' address='127.0.0.1'/></graphics>";
    let text = text.replacen("</devices>", &format!("{first}</devices>"), 1);
    virsh.define(&text)?;
    virsh.ok(&["start", "g"])?;
    let file = sandbox.dir().join("device.xml");
    let attach = |xml: &str| -> Result<String> {
        fs::write(&file, xml)?;
        virsh.ok(&["attach-device", "g", &file.to_string_lossy(), "--live"])?;
        virsh.ok(&["dumpxml", "g"])
    };
    let before = virsh.ok(&["dumpxml", "g"])?;
    let total = |xml: &str| -> Result<u64> {
        let (_, rest) = xml.split_once("<memory unit='KiB'>").context("no memory")?;
        Ok(rest.split('<').next().unwrap_or_default().parse()?)
    };
    let dimm = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>";
    let live = attach(dimm)?;
    ensure!(live.contains("slot='0' base='0x"), "{live}");
    assert_eq!(total(&live)?, total(&before)? + (128 << 10));
    let growing = "<memory model='virtio-mem'><target><size unit='MiB'>128</size><node>0</node><block unit='MiB'>2</block>\
                   <requested unit='MiB'>0</requested></target></memory>";
    let live = attach(growing)?;
    ensure!(live.contains("<current unit='KiB'>0</current>"), "{live}");
    virsh.ok(&[
        "update-memory-device",
        "g",
        "--live",
        "--alias",
        "virtiomem0",
        "--requested-size",
        "64MiB",
    ])?;
    let property = r#"{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/virtiomem0", "property": "requested-size"}}"#;
    assert_eq!(ask(&virsh, "g", property)?, json!(64 << 20));
    ensure!(
        virsh
            .ok(&["dumpxml", "g"])?
            .contains("<requested unit='KiB'>65536</requested>")
    );
    let display = "<graphics type='vnc' port='-1' autoport='yes' passwd='second'><listen type='address' address='127.0.0.1'/></graphics>";
    fs::write(&file, display)?;
    virsh.ok(&["update-device", "g", &file.to_string_lossy(), "--live"])?;
    ensure!(
        virsh
            .ok(&["dumpxml", "g", "--security-info"])?
            .contains("passwd='second'")
    );
    let live = attach("<channel type='pty'><target type='virtio' name='org.example.pty'/></channel>")?;
    let (_, shown) = live.split_once("<channel type='pty'>").context("no channel")?;
    ensure!(
        shown.trim_start().starts_with("<source path='/dev/pts/"),
        "{shown}"
    );
    // That is only asked for: the device goes a moment later.
    let go = || -> Result<()> {
        virsh.ok(&["detach-device-alias", "g", "channel0", "--live"])?;
        let gone = || {
            virsh
                .ok(&["dumpxml", "g"])
                .is_ok_and(|xml| !xml.contains("channel0"))
        };
        testkit::wait::wait_until("the channel to go", SOON, gone)
    };
    go()?;
    let output = sandbox.dir().join("output");
    attach(&format!(
        "<channel type='file'><source path='{}'/><target type='virtio' name='org.example.file'/></channel>",
        output.display()
    ))?;
    ensure!(output.exists());
    let sets = r#"{"execute": "query-fdsets"}"#;
    assert_eq!(ask(&virsh, "g", sets)?.as_array().map(Vec::len), Some(1));
    go()?;
    assert_eq!(ask(&virsh, "g", sets)?, json!([]));
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

#[test]
fn what_can_not_be_attached_or_detached_is_refused_and_changes_nothing() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let sandbox = Sandbox::started(daemon())?;
    let virsh = sandbox.virsh();
    virsh.define(&without_system("g"))?;
    virsh.ok(&["start", "g"])?;
    let medium = Medium::new(sandbox.dir(), "c")?;
    let missing = Medium {
        path: sandbox.dir().join("missing.raw"),
    };
    let (before, had) = (documents(&sandbox, "g")?, parts(&virsh, "g")?);
    let not_qcow2 = medium.disk("vdc", "virtio").replace("type='raw'", "type='qcow2'");
    // table: the call, the device, the refusal.
    for (call, xml, refusal) in [
        (
            "attach-device",
            medium.disk("sdb", "sata"),
            "disk bus 'sata' cannot be hotplugged.",
        ),
        (
            "attach-device",
            missing.disk("vdc", "virtio"),
            "No such file or directory",
        ),
        (
            "attach-device",
            not_qcow2,
            "unable to execute QEMU command 'blockdev-add': Image is not in qcow2 format",
        ),
        (
            "attach-device",
            "<interface type='mcast'><source address='230.0.0.1' port='5558'/></interface>".to_owned(),
            "No more available PCI slots",
        ),
        (
            "attach-device",
            "<interface type='mcast'><source address='230.0.0.1' port='5558'/><model type='usb-net'/></interface>"
                .to_owned(),
            "hotplug of interface type of mcast is not implemented yet",
        ),
        (
            "attach-device",
            "<interface type='user'><model type='nope'/></interface>".to_owned(),
            "'nope' is not a valid device model name",
        ),
        (
            "attach-device",
            "<input type='passthrough' bus='virtio'><source evdev='/nowhere'/></input>".to_owned(),
            "/nowhere",
        ),
        (
            "attach-device",
            "<video><model type='virtio'/></video>".to_owned(),
            "live attach of device 'video' is not supported",
        ),
        (
            "detach-device",
            medium.disk("vdz", "virtio"),
            "disk vdz not found",
        ),
        (
            "detach-device",
            CARD.to_owned(),
            "no device found at address '(<null>)' matching MAC address '52:54:00:bb:00:01'",
        ),
    ] {
        let file = sandbox.dir().join("device.xml");
        fs::write(&file, &xml)?;
        let refused = virsh.refused(&[call, "g", &file.to_string_lossy(), "--live"])?;
        ensure!(refused.contains(refusal), "{call} {xml}: {refused}");
        ensure!(
            documents(&sandbox, "g")?[..2] == before[..2] && parts(&virsh, "g")? == had,
            "after {xml}"
        );
    }
    let refused = virsh.refused(&["detach-device-alias", "g", "nope", "--live"])?;
    ensure!(refused.contains("no device found with alias nope"), "{refused}");
    virsh.ok(&["destroy", "g"])?;
    Ok(())
}

/// A daemon with one scripted guest that runs.
struct Stage {
    sandbox: Sandbox,
    grpc: Grpc,
    record: PathBuf,
}

impl Stage {
    async fn with(rules: Vec<Value>) -> Result<Self> {
        let mut sandbox = Sandbox::new(daemon())?;
        let conf = sandbox.path("/etc/libvirt/qemu.conf");
        fs::create_dir_all(conf.parent().context("no directory")?)?;
        fs::write(
            conf,
            "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\n",
        )?;
        let dir = sandbox.dir().join("fake");
        fs::create_dir_all(&dir)?;
        let emulator = install(&dir, &json!({}))?;
        let (script, record) = (dir.join("g.json"), dir.join("record"));
        fs::write(&script, json!({"rules": rules, "record": record}).to_string())?;
        sandbox.start()?;
        let grpc = Grpc::of(&sandbox).await?;
        let env = format!(
            "<qemu:commandline><qemu:env name='FAKE_QEMU_SCRIPT' value='{}'/></qemu:commandline>",
            script.display()
        );
        let xml = with_room(&small("g", &emulator, &env));
        grpc.define(&xml).await?;
        grpc.start("g").await?;
        Ok(Self {
            sandbox,
            grpc,
            record,
        })
    }

    /// What QEMU was asked since the guest ran.
    fn asked(&self) -> Result<Vec<String>> {
        let asked = read_record(&self.record)?;
        let begin = asked
            .iter()
            .position(|a| a.execute == "cont")
            .map_or(0, |at| at + 1);
        Ok(asked[begin..].iter().map(|a| a.execute.clone()).collect())
    }
}

/// QEMU lets a device go at once.
fn lets_go() -> Value {
    json!({"execute": "device_del", "after": [{"event": "DEVICE_DELETED",
        "data": {"device": "scsi0-0-0-0", "path": "/machine/peripheral/scsi0-0-0-0"}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_fails_at_any_step_leaves_nothing() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let refusal = json!({"class": "GenericError", "desc": "injected refusal"});
    // table: the step that is refused, what is taken back then.
    for (step, nth, undone) in [
        ("blockdev-add", 1, &[][..]),
        ("blockdev-add", 2, &["blockdev-del"]),
        ("device_add", 1, &["blockdev-del", "blockdev-del"]),
    ] {
        let rules = vec![json!({"execute": step, "nth": nth, "error": refusal}), lets_go()];
        let stage = Stage::with(rules).await?;
        let medium = Medium::new(stage.sandbox.dir(), "d")?;
        let disk = medium.disk("sda", "scsi").replace("type='raw'", "type='qcow2'");
        let (before, host) = (stage.grpc.xml("g").await?, Host::of(&stage.sandbox)?);
        let status = attach(&stage.grpc, &disk, pb::Scope::LiveAndConfig)
            .await
            .err()
            .context("it was attached")?;
        ensure!(status.message().contains("injected refusal"), "{status:?}");
        let asked = stage.asked()?;
        let removals: Vec<_> = asked
            .iter()
            .filter(|a| a.ends_with("-del"))
            .map(String::as_str)
            .collect();
        assert_eq!(removals, undone, "{step} {nth}: {asked:?}");
        assert_eq!(stage.grpc.xml("g").await?, before);
        host.is_same(&Host::of(&stage.sandbox)?)?;
        // The same again works: it was refused once.
        attach(&stage.grpc, &disk, pb::Scope::LiveAndConfig).await?;
        assert_eq!(detach(&stage.grpc, "scsi0-0-0-0").await?, Outcome::Removed);
        assert_eq!(stage.grpc.xml("g").await?, before);
        stage.grpc.power_off("g").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detach_that_is_refused_changes_nothing() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let rejected = json!({"execute": "device_del", "nth": 1, "after": [{"event": "DEVICE_UNPLUG_GUEST_ERROR",
        "data": {"device": "scsi0-0-0-0", "path": "/machine/peripheral/scsi0-0-0-0"}}]});
    let refused = json!({"execute": "device_del", "nth": 1, "error": {"class": "GenericError", "desc": "injected refusal"}});
    for (rule, words) in [
        (rejected, "unplug of device was rejected by the guest"),
        (refused, "injected refusal"),
    ] {
        let stage = Stage::with(vec![rule, lets_go()]).await?;
        let medium = Medium::new(stage.sandbox.dir(), "e")?;
        let disk = attach(&stage.grpc, &medium.disk("sda", "scsi"), pb::Scope::Live).await?;
        let before = stage.grpc.xml("g").await?;
        let status = detach(&stage.grpc, &disk.alias)
            .await
            .err()
            .context("it was detached")?;
        ensure!(status.message().contains(words), "{status:?}");
        assert_eq!(stage.grpc.xml("g").await?, before);
        assert_eq!(detach(&stage.grpc, &disk.alias).await?, Outcome::Removed);
        ensure!(!stage.grpc.xml("g").await?.contains(&disk.alias));
        let asked = stage.asked()?;
        assert_eq!(
            asked.iter().filter(|a| *a == "blockdev-del").count(),
            1,
            "{asked:?}"
        );
        stage.grpc.power_off("g").await?;
    }
    Ok(())
}

/// The phases that an operation went through.
fn phases(operation: &pb::Operation) -> Vec<&str> {
    let metadata = operation.metadata.iter();
    metadata
        .flat_map(|m| &m.phases)
        .map(|phase| phase.word.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detach_is_followed_by_its_operation() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let rejected = json!({"execute": "device_del", "nth": 1, "after": [{"event": "DEVICE_UNPLUG_GUEST_ERROR",
        "data": {"device": "scsi0-0-0-0", "path": "/machine/peripheral/scsi0-0-0-0"}}]});
    // Each counts what those before it have left. What is answered so tells of nothing later.
    let silent = json!({"execute": "device_del", "nth": 1, "return": {}});
    let later = silent.clone();
    let stage = Stage::with(vec![rejected, silent, later, lets_go()]).await?;
    let (grpc, mut operations) = (&stage.grpc, stage.grpc.operations());
    let medium = Medium::new(stage.sandbox.dir(), "f")?;
    let alias = attach(grpc, &medium.disk("sda", "scsi"), pb::Scope::Live)
        .await?
        .alias;
    let get = |id: &str| pb::GetOperationRequest { id: id.to_owned() };
    // The guest refuses; whoever watches sees the end.
    let begun = grpc
        .devices()
        .detach_device(detachment(&alias, 60))
        .await?
        .into_inner();
    let watch = pb::WatchOperationRequest { id: begun.id.clone() };
    let (mut watch, mut last) = (operations.watch_operation(watch).await?.into_inner(), None);
    while let Some(seen) = watch.message().await? {
        last = Some(seen);
    }
    let last = last.context("nothing was seen")?;
    assert_eq!(phases(&last), ["requested", "acknowledged", "rejected"]);
    let Some(Ended::Error(error)) = &last.result else {
        anyhow::bail!("{last:?}")
    };
    assert_eq!(error.reason, "UNPLUG_REJECTED");
    assert_eq!(operations.get_operation(get(&begun.id)).await?.into_inner(), last);
    // It does not answer: the operation can be cancelled, once.
    let begun = grpc
        .devices()
        .detach_device(detachment(&alias, 600))
        .await?
        .into_inner();
    let wait = |id: &str, seconds| pb::WaitOperationRequest {
        id: id.to_owned(),
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let cancel = |id: &str| pb::CancelOperationRequest {
        id: id.to_owned(),
        options: None,
    };
    let end = tokio::time::Instant::now() + SOON;
    let waiting = loop {
        let seen = operations.get_operation(get(&begun.id)).await?.into_inner();
        match &seen.metadata {
            Some(metadata) if metadata.cancellable => break seen,
            _ => ensure!(tokio::time::Instant::now() < end, "{seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(
        (phases(&waiting), waiting.done),
        (vec!["requested", "acknowledged"], false)
    );
    let waited = operations.wait_operation(wait(&begun.id, 0)).await?.into_inner();
    ensure!(!waited.done);
    operations.cancel_operation(cancel(&begun.id)).await?;
    let ended = operations.wait_operation(wait(&begun.id, 60)).await?.into_inner();
    let Some(Ended::Error(error)) = &ended.result else {
        anyhow::bail!("{ended:?}")
    };
    assert_eq!(error.code, i32::from(tonic::Code::Aborted), "{error:?}");
    let again = operations.cancel_operation(cancel(&begun.id)).await;
    crate::grpc::refused(again, tonic::Code::FailedPrecondition, "OPERATION_INVALID")?;
    // It has no time left, and then lets it go.
    let late = grpc.detach(detachment(&alias, 0)).await?;
    assert_eq!(phases(&late), ["requested", "acknowledged", "timed-out"]);
    let gone = grpc.detach(detachment(&alias, 60)).await?;
    assert_eq!(phases(&gone), ["requested", "acknowledged", "removed"]);
    let Some(Ended::DetachDevice(result)) = &gone.result else {
        anyhow::bail!("{gone:?}")
    };
    assert_eq!(
        (result.outcome(), &result.etag),
        (Outcome::Removed, &grpc.get("g").await?.etag)
    );
    // All are listed, the newest first, in pages.
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListOperationsRequest {
            domain: by_name("g"),
            page_size: 2,
            page_token: token,
        };
        let page = operations.list_operations(request).await?.into_inner();
        listed.extend(page.operations);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let kinds: Vec<_> = listed
        .iter()
        .filter_map(|o| Some(o.metadata.as_ref()?.kind()))
        .collect();
    use pb::OperationKind::{AttachDevice, DetachDevice, Start};
    assert_eq!(
        kinds,
        [
            DetachDevice,
            DetachDevice,
            DetachDevice,
            DetachDevice,
            AttachDevice,
            Start
        ]
    );
    assert_eq!((&listed[0], &listed[2]), (&gone, &ended));
    let attached = operations.cancel_operation(cancel(&listed[4].id)).await;
    crate::grpc::refused(attached, tonic::Code::FailedPrecondition, "OPERATION_INVALID")?;
    for id in ["", "x", "00000000-0000-0000-0000-000000000000"] {
        let unknown = operations.get_operation(get(id)).await;
        crate::grpc::refused(unknown, tonic::Code::NotFound, "NO_OPERATION")?;
    }
    // A trial begins nothing, and what is not there is refused by the call.
    let missing = grpc.devices().detach_device(detachment("nope", 1)).await;
    ensure!(missing.is_err());
    stage.grpc.power_off("g").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_undone_is_shown() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let refusal = |desc| json!({"class": "GenericError", "desc": desc});
    let rules = vec![
        json!({"execute": "device_add", "nth": 1, "error": refusal("injected refusal")}),
        json!({"execute": "blockdev-del", "nth": 1, "error": refusal("it stays")}),
    ];
    let stage = Stage::with(rules).await?;
    let medium = Medium::new(stage.sandbox.dir(), "h")?;
    assert_eq!(stage.grpc.get("g").await?.degraded, "");
    let status = attach(&stage.grpc, &medium.disk("sda", "scsi"), pb::Scope::Live)
        .await
        .err()
        .context("it was attached")?;
    ensure!(
        status.message().contains("injected refusal") && status.message().contains("it stays"),
        "{status:?}"
    );
    let shown = stage.grpc.get("g").await?.degraded;
    ensure!(
        shown.contains("attach-device") && shown.contains("it stays"),
        "{shown}"
    );
    stage.grpc.power_off("g").await?;
    stage.grpc.start("g").await?;
    assert_eq!(stage.grpc.get("g").await?.degraded, "");
    stage.grpc.power_off("g").await?;
    Ok(())
}
