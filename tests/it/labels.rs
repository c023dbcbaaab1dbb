//! Whom a guest runs as by its document's label of owners, and whose its files are meanwhile and afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::Sandbox;
use testkit::skip::can_run_guests;

use crate::grpc::{Grpc, QEMU, daemon, small};

/// Whose files are before a guest has them.
const BEFORE: (u32, u32) = (12, 13);
/// Whom qemu.conf names, and labels.
const ROOT: (u32, u32) = (0, 0);
const LABEL: (u32, u32) = (107, 108);
const OTHER: (u32, u32) = (107, 109);

struct Place {
    sandbox: Sandbox,
    grpc: Grpc,
    dir: tempfile::TempDir,
}

impl Place {
    async fn new(config: &str) -> Result<Self> {
        let mut sandbox = Sandbox::new(daemon())?;
        let conf = sandbox.path("/etc/libvirt/qemu.conf");
        fs::create_dir_all(conf.parent().context("no directory")?)?;
        fs::write(
            conf,
            format!("user = \"root\"\ngroup = \"root\"\nstdio_handler = \"file\"\n{config}"),
        )?;
        sandbox.start()?;
        let grpc = Grpc::of(&sandbox).await?;
        grpc.stats(None).await?;
        let dir = tempfile::tempdir()?;
        // Whoever QEMU is finds its images here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { sandbox, grpc, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image that everybody may open.
    fn image(&self, name: &str, below: Option<&str>) -> Result<()> {
        let path = self.path(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        match below {
            Some(below) => command
                .arg("-b")
                .arg(self.path(below))
                .args(["-F", "qcow2"])
                .arg(&path),
            None => command.arg(&path).arg("1M"),
        };
        ensure!(command.status()?.success(), "no image {name}");
        chown(&path, Some(BEFORE.0), Some(BEFORE.1))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(())
    }

    fn owner(&self, name: &str) -> Result<(u32, u32)> {
        owner_of(&self.path(name))
    }

    /// The guest, with images of all kinds.
    fn guest(&self, label: &str, of_devices: bool) -> Result<String> {
        self.image("below", None)?;
        self.image("top", Some("below"))?;
        let mut disks = self.disk("top", "vda", "", "") + &self.disk("shown", "vdb", "", "<readonly/>");
        self.image("shown", None)?;
        if of_devices {
            self.image("alone", None)?;
            self.image("own", None)?;
            disks += &self.disk("alone", "vdc", "<seclabel model='dac' relabel='no'/>", "");
            let own = "<seclabel model='dac' relabel='yes'><label>+107:+109</label></seclabel>";
            disks += &self.disk("own", "vdd", own, "");
        }
        let file = self.path("written");
        let _ = fs::remove_file(&file);
        let serial = format!("<serial type='file'><source path='{}'/></serial>", file.display());
        let document = small("g", Path::new(QEMU), label);
        Ok(document.replace("</devices>", &format!("{disks}{serial}</devices>")))
    }

    fn disk(&self, name: &str, target: &str, label: &str, more: &str) -> String {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
             <source file='{}'>{label}</source><target dev='{target}' bus='virtio'/>{more}</disk>",
            self.path(name).display()
        )
    }

    /// User and group of the guest's process.
    fn process(&self) -> Result<(u32, u32)> {
        let pid = self.sandbox.guest_pid("g").context("no process")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let id = |name: &str| -> Result<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let ids: Vec<_> = line.context("no such line")?.split_whitespace().collect();
            ensure!(ids.iter().all(|id| *id == ids[0]), "{name} {ids:?}");
            Ok(ids[0].parse()?)
        };
        Ok((id("Uid:")?, id("Gid:")?))
    }
}

fn owner_of(path: &Path) -> Result<(u32, u32)> {
    let found = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok((found.uid(), found.gid()))
}

/// What a document shows of its own label.
fn shown(xml: &str) -> String {
    let at = xml.find("\n  <seclabel").unwrap_or(xml.len());
    xml[at..]
        .replace("</domain>", "")
        .replace('\n', "")
        .replace("  ", "")
}

/// A label, and what comes of it: whom the guest runs as, whose its images are, and what its live document shows.
struct Case {
    label: &'static str,
    of_devices: bool,
    process: (u32, u32),
    images: Option<(u32, u32)>,
    live: &'static str,
}

const CASES: &[Case] = &[
    Case {
        label: "",
        of_devices: true,
        process: ROOT,
        images: Some(ROOT),
        live: "<seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label><imagelabel>+0:+0</imagelabel></seclabel>",
    },
    Case {
        label: "<seclabel type='static' model='dac' relabel='yes'><label>+107:+108</label></seclabel>",
        of_devices: true,
        process: LABEL,
        images: Some(LABEL),
        live: "<seclabel type='static' model='dac' relabel='yes'><label>+107:+108</label>\
               <imagelabel>+107:+108</imagelabel></seclabel>",
    },
    Case {
        label: "<seclabel type='static' model='dac' relabel='no'><label>107:108</label></seclabel>",
        of_devices: false,
        process: LABEL,
        images: None,
        live: "<seclabel type='static' model='dac' relabel='no'><label>107:108</label></seclabel>",
    },
    Case {
        label: "<seclabel type='none' model='none'/><seclabel type='none' model='dac'/>",
        of_devices: false,
        process: ROOT,
        images: None,
        live: "<seclabel type='none' model='none'/><seclabel type='none' model='dac'/>",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_and_its_files_are_whose_its_label_says() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::new("").await?;
    for case in CASES {
        case.check(&place).await.with_context(|| case.label)?;
    }
    Ok(())
}

impl Case {
    async fn check(&self, place: &Place) -> Result<()> {
        let grpc = &place.grpc;
        grpc.define(&place.guest(self.label, self.of_devices)?).await?;
        grpc.start_paused("g").await?;
        assert_eq!(place.process()?, self.process);
        assert_eq!(shown(&grpc.xml("g").await?), self.live);
        let given = self.images.unwrap_or(BEFORE);
        for image in ["top", "below", "shown"] {
            assert_eq!(place.owner(image)?, given, "{image}");
        }
        assert_eq!(place.owner("written")?, self.images.unwrap_or(ROOT));
        if self.of_devices {
            assert_eq!(place.owner("alone")?, BEFORE);
            assert_eq!(place.owner("own")?, OTHER);
        }
        let id = grpc.get("g").await?.id;
        let directory = place.sandbox.path(format!("/var/lib/libvirt/qemu/domain-{id}-g"));
        assert_eq!(owner_of(&directory)?, self.process);
        assert_eq!(owner_of(&directory.join("master-key.aes"))?, self.process);
        grpc.power_off("g").await?;
        assert_eq!(place.owner("top")?, BEFORE);
        // Nobody remembers whose they were.
        assert_eq!((place.owner("below")?, place.owner("shown")?), (given, given));
        if self.of_devices {
            assert_eq!((place.owner("alone")?, place.owner("own")?), (BEFORE, BEFORE));
        }
        grpc.undefine("g").await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_names_nobody_refuses_the_start() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let place = Place::new("").await?;
    let of_guest = |label: &str| {
        format!("<seclabel type='static' model='dac' relabel='yes'><label>{label}</label></seclabel>")
    };
    for (label, text) in [
        ("whoever", "Failed to parse uid and gid from 'whoever'"),
        ("no-such-user:+1", "Failed to parse user 'no-such-user'"),
        ("+107:", "Failed to parse group ''"),
    ] {
        let text = format!("invalid argument: {text}");
        let own = format!("<seclabel model='dac' relabel='yes'><label>{label}</label></seclabel>");
        let plain = place.guest("", true)?;
        let of_device = plain.replace("<seclabel model='dac' relabel='no'/>", &own);
        for document in [place.guest(&of_guest(label), true)?, of_device] {
            place.grpc.define(&document).await?;
            let refused = place.grpc.start("g").await.err().context(text.clone())?;
            assert_eq!(refused.message(), text);
            assert_eq!(
                (place.owner("top")?, place.owner("own")?),
                (BEFORE, BEFORE),
                "{text}"
            );
            place.grpc.undefine("g").await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_conf_says_whether_files_change_hands_and_what_is_remembered() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let label = "<seclabel type='static' model='dac' relabel='yes'><label>+107:+108</label></seclabel>";
    for (config, meanwhile, after) in [
        ("dynamic_ownership = 0\n", BEFORE, BEFORE),
        ("remember_owner = 0\n", LABEL, ROOT),
        ("security_default_confined = 0\n", LABEL, BEFORE),
    ] {
        let place = Place::new(config).await?;
        let document = place.guest(label, false)?;
        place.grpc.define(&document).await?;
        place.grpc.start_paused("g").await.with_context(|| config)?;
        assert_eq!(
            (place.process()?, place.owner("top")?),
            (LABEL, meanwhile),
            "{config}"
        );
        place.grpc.power_off("g").await?;
        assert_eq!(place.owner("top")?, after, "{config}");
        if config.starts_with("security") {
            place.grpc.undefine("g").await?;
            place.grpc.define(&place.guest("", false)?).await?;
            place.grpc.start_paused("g").await?;
            assert_eq!(shown(&place.grpc.xml("g").await?), "");
            assert_eq!(place.owner("top")?, ROOT);
            place.grpc.power_off("g").await?;
        }
        place.grpc.undefine("g").await?;
    }
    Ok(())
}
