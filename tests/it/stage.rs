//! A daemon whose guests are scripted, and the ways in which they fail.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::Sandbox;
use testkit::fake_qemu::program::{install, read_record};
use virtqemud_client::proto as pb;

use crate::grpc::{Grpc, daemon, small};
use crate::host::{Host, root};

/// A daemon whose guests are scripted.
pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    pub(crate) grpc: Grpc,
    pub(crate) emulator: PathBuf,
}

impl Stage {
    pub(crate) async fn new() -> Result<Self> {
        Self::with_config("").await
    }

    pub(crate) async fn with_config(more: &str) -> Result<Self> {
        let mut sandbox = Sandbox::new(daemon())?;
        let conf = sandbox.path("/etc/libvirt/qemu.conf");
        std::fs::create_dir_all(conf.parent().context("no directory")?)?;
        let base =
            "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\n";
        std::fs::write(conf, format!("{base}{more}"))?;
        let dir = sandbox.dir().join("fake");
        std::fs::create_dir_all(&dir)?;
        let emulator = install(&dir, &json!({}))?;
        sandbox.start()?;
        let grpc = Grpc::of(&sandbox).await?;
        // An answer says that all is there that the daemon makes when it starts.
        grpc.list(pb::ListRequest::default()).await?;
        Ok(Self {
            sandbox,
            grpc,
            emulator,
        })
    }

    /// The daemon is killed, and another one comes.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.sandbox.kill()?;
        self.sandbox.start()?;
        self.grpc = Grpc::of(&self.sandbox).await?;
        Ok(())
    }

    pub(crate) fn script_path(&self, name: &str) -> PathBuf {
        self.sandbox.dir().join("fake").join(format!("{name}.json"))
    }

    pub(crate) fn script(&self, name: &str, script: &Value) -> Result<()> {
        Ok(std::fs::write(self.script_path(name), script.to_string())?)
    }

    pub(crate) fn xml(&self, name: &str, devices: &str) -> String {
        let script = self.script_path(name);
        let env = format!(
            "<qemu:commandline><qemu:env name='FAKE_QEMU_SCRIPT' value='{}'/></qemu:commandline>",
            script.display()
        );
        small(name, &self.emulator, &env).replace("</devices>", &format!("{devices}</devices>"))
    }

    /// Defines a guest that does as scripted.
    pub(crate) async fn define(&self, name: &str, script: &Value) -> Result<()> {
        self.script(name, script)?;
        self.grpc.define(&self.xml(name, "")).await?;
        Ok(())
    }

    /// What QMP commands a start takes, in order.
    pub(crate) async fn steps(&self) -> Result<Vec<String>> {
        let record = self.sandbox.dir().join("fake/record");
        self.define("probe", &json!({"record": record})).await?;
        self.grpc.start("probe").await?;
        let asked = read_record(&record)?;
        self.grpc.power_off("probe").await?;
        self.grpc.undefine("probe").await?;
        Ok(asked.into_iter().map(|a| a.execute).collect())
    }

    pub(crate) fn host(&self) -> Result<Host> {
        Host::of(&self.sandbox)
    }
}

/// Ways to fail at a command.
pub(crate) const FAULTS: [(&str, &str); 6] = [
    (
        "refused",
        r#"{"error": {"class": "GenericError", "desc": "injected refusal"}}"#,
    ),
    ("silent", r#"{"then": "silent"}"#),
    ("hang", r#"{"then": "hang"}"#),
    ("eof", r#"{"then": "eof"}"#),
    ("half", r#"{"then": "half"}"#),
    ("garbage", r#"{"then": "garbage"}"#),
];

/// A small file system over one of the daemon's directories.
pub(crate) struct Small {
    pub(crate) dir: PathBuf,
}

impl Small {
    pub(crate) fn mount(sandbox: &Sandbox, dir: &str) -> Result<Self> {
        let pid = sandbox.pid().context("no daemon")?.to_string();
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &pid,
            "-m",
            "mount",
            "-t",
            "tmpfs",
            "-o",
            "size=64k,mode=755",
            "tmpfs",
            dir,
        ]);
        ensure!(command.status()?.success(), "mount");
        Ok(Self {
            dir: root(sandbox)?.join(dir.trim_start_matches('/')),
        })
    }

    pub(crate) fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }

    pub(crate) fn fill(&self) -> Result<()> {
        use std::io::Write;
        let mut file = std::fs::File::create(self.filler())?;
        while file.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    pub(crate) fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }
}
