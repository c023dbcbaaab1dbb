//! A real guest that boots in seconds without KVM: see `scripts/guest-image.sh` for what it does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;

use crate::client::run;
use crate::sandbox::Sandbox;
use crate::skip;
use crate::wait::wait_until;
use crate::{place, skip::can_run_guests};

/// What the guest prints on its serial console when its shell is ready.
pub const READY: &str = "GUEST-READY";

/// Time for a guest to boot on a slow and busy machine.
pub const BOOT: Duration = Duration::from_secs(90);

/// The guest's kernel and initial root file system.
#[derive(Debug, Clone)]
pub struct Image {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Image {
    /// The image, built when it is not there yet. `None`, with the calling test noted as skipped, where
    /// guests cannot be run or `scripts/install-deps.sh` was not.
    ///
    /// # Errors
    /// When it can be built but building fails.
    pub fn find() -> Result<Option<Self>> {
        if !can_run_guests() {
            return Ok(None);
        }
        if !place::target().join("tools/kernel/boot").is_dir() {
            skip("no guest kernel: scripts/install-deps.sh was not run");
            return Ok(None);
        }
        let answer = run(
            Command::new(place::script("guest-image.sh")),
            Duration::from_secs(60),
        )?;
        ensure!(answer.success(), "guest-image.sh: {}", answer.stderr);
        let dir = std::env::var_os("GUEST_DIR").map_or(place::target().join("guest"), PathBuf::from);
        Ok(Some(Self {
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd.gz"),
        }))
    }

    /// The kernel's file.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The initial root file system's file.
    pub fn initrd(&self) -> &Path {
        &self.initrd
    }
}

/// A domain that boots the image under emulation, with one vCPU and a serial console that is also logged.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// The domain's name.
    pub name: String,
    /// Memory in MiB; 128 is about the least.
    pub memory: u32,
    /// Words added to the kernel's command line, such as `guest.loop`.
    pub cmdline: String,
    /// Device elements added as they are.
    pub devices: String,
}

impl GuestSpec {
    /// A guest with 160 MiB and nothing but a console.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory: 160,
            cmdline: String::new(),
            devices: String::new(),
        }
    }

    /// With device elements more.
    #[must_use]
    pub fn device(mut self, xml: &str) -> Self {
        let _ = writeln!(self.devices, "    {xml}");
        self
    }

    /// With the guest agent's channel.
    #[must_use]
    pub fn agent(self) -> Self {
        self.device("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>")
    }

    /// With words more for the kernel.
    #[must_use]
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline.push(' ');
        self.cmdline.push_str(words);
        self
    }

    /// The domain's document.
    pub fn xml(&self, image: &Image) -> String {
        format!(
            "<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=-1{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>restart</on_reboot>
  <devices>
    <serial type='pty'><log file='{log}' append='on'/></serial>
    <controller type='usb' model='none'/>
{devices}  </devices>
</domain>
",
            name = self.name,
            memory = self.memory,
            kernel = image.kernel.display(),
            initrd = image.initrd.display(),
            cmdline = self.cmdline,
            log = console_log(&self.name),
            devices = self.devices,
        )
    }

    /// Defines and starts the guest and waits until its shell is ready.
    ///
    /// # Errors
    /// When one of these fails, with what the guest printed.
    pub fn boot(&self, sandbox: &Sandbox, image: &Image) -> Result<Console> {
        let virsh = sandbox.virsh();
        virsh.define(&self.xml(image))?;
        virsh.ok(&["start", &self.name])?;
        let mut console = Console::open(sandbox, &self.name)?;
        console.wait_printed(READY, BOOT)?;
        Ok(console)
    }
}

/// A guest's serial console.
///
/// What is printed comes from the log beside the pty, so nothing is missed that was printed before. The pty is
/// held open, since QEMU takes a while to see that somebody has opened it, and is read so that it never fills.
#[derive(Debug)]
pub struct Console {
    tty: File,
    log: PathBuf,
}

impl Console {
    /// Opens the console of a running domain made from a [`GuestSpec`].
    ///
    /// # Errors
    /// When the domain is off or has no pty.
    pub fn open(sandbox: &Sandbox, domain: &str) -> Result<Self> {
        let tty = sandbox.virsh().ok(&["ttyconsole", domain])?;
        let flags = (OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits();
        let tty = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(tty.trim())?;
        Ok(Self {
            tty,
            log: sandbox.path(console_log(domain)),
        })
    }

    /// Types a line.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.drain();
        Ok(self.tty.write_all(format!("{line}\n").as_bytes())?)
    }

    /// All that was printed since the domain was defined.
    pub fn printed(&mut self) -> String {
        self.drain();
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until `text` was printed.
    ///
    /// # Errors
    /// When it was not in time, with what was.
    pub fn wait_printed(&mut self, text: &str, within: Duration) -> Result<()> {
        let what = format!("{text:?} on the console");
        wait_until(&what, within, || self.printed().contains(text))
            .with_context(|| format!("it printed: {}", self.printed()))
    }

    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while self.tty.read(&mut buffer).is_ok_and(|length| length > 0) {}
    }
}

fn console_log(domain: &str) -> String {
    format!("/var/log/libvirt/{domain}-console.log")
}
