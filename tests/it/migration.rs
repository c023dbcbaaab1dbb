//! What migrations of a guest may take: remembered before its run, QEMU's own while it runs, refused in libvirt's words.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::Sandbox;
use testkit::skip::can_run_guests;

use crate::grpc::{QEMU, daemon, small};

/// MiB a second that mean no limit.
const NO_LIMIT: &str = "8796093022207";

fn told(text: &str) -> &str {
    text.trim()
}

#[test]
fn what_migrations_may_take_is_remembered_and_set() -> Result<()> {
    if !can_run_guests() {
        return Ok(());
    }
    let mut sandbox = Sandbox::new(daemon())?;
    sandbox.start()?;
    let virsh = sandbox.virsh();
    virsh.define(&small("mig", Path::new(QEMU), ""))?;
    let refused = |args: &[&str], text: &str| -> Result<()> {
        let error = virsh.refused(args)?;
        ensure!(error.contains(text), "{args:?}: {error}");
        Ok(())
    };

    // Off, only the bandwidth is known.
    ensure!(told(&virsh.ok(&["migrate-getspeed", "mig"])?) == NO_LIMIT);
    let off = "Requested operation is not valid: domain is not running";
    refused(&["migrate-getspeed", "mig", "--postcopy"], off)?;
    refused(&["migrate-setspeed", "mig", "50", "--postcopy"], off)?;
    refused(&["migrate-getmaxdowntime", "mig"], off)?;
    refused(&["migrate-setmaxdowntime", "mig", "100"], off)?;
    refused(&["migrate-compcache", "mig"], off)?;
    virsh.ok(&["migrate-setspeed", "mig", "70"])?;
    let too_much = "numerical overflow: bandwidth must be less than 8796093022208";
    refused(&["migrate-setspeed", "mig", "8796093022208"], too_much)?;

    virsh.ok(&["start", "mig"])?;
    let parameter = |name: &str| -> Result<Option<u64>> {
        let asked = r#"{"execute":"query-migrate-parameters"}"#;
        let answer = virsh.ok(&["qemu-monitor-command", "mig", asked])?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["return"][name].as_u64())
    };
    ensure!(told(&virsh.ok(&["migrate-getspeed", "mig"])?) == "70");
    virsh.ok(&["migrate-setspeed", "mig", "100"])?;
    ensure!(parameter("max-bandwidth")? == Some(100 << 20));
    virsh.ok(&["migrate-setspeed", "mig", "50", "--postcopy"])?;
    ensure!(parameter("max-postcopy-bandwidth")? == Some(50 << 20));
    ensure!(told(&virsh.ok(&["migrate-getspeed", "mig", "--postcopy"])?) == "50");
    ensure!(told(&virsh.ok(&["migrate-getspeed", "mig"])?) == "100");
    ensure!(told(&virsh.ok(&["migrate-getmaxdowntime", "mig"])?) == "300");
    virsh.ok(&["migrate-setmaxdowntime", "mig", "123"])?;
    ensure!(parameter("downtime-limit")? == Some(123));
    refused(
        &["migrate-setmaxdowntime", "mig", "10000000"],
        "internal error: unable to execute QEMU command 'migrate-set-parameters': Parameter 'downtime_limit' expects",
    )?;
    ensure!(virsh.ok(&["migrate-compcache", "mig"])?.contains("64.000 MiB"));
    virsh.ok(&["migrate-compcache", "mig", "--size", "1048576"])?;
    ensure!(parameter("xbzrle-cache-size")? == Some(1 << 20));
    refused(
        &["migrate-compcache", "mig", "--size", "1000"],
        "Parameter 'xbzrle_cache_size' expects a power of two",
    )?;

    // The same over gRPC; a trial changes nothing.
    if let Some(grpc) = sandbox.grpcurl() {
        let method = "virtqemud.v1.Migrations/SetMigrationSettings";
        let set = json!({"domain": {"name": "mig"}, "settings": {"downtime": "0.2s"}, "options": {"validateOnly": true}});
        let shown = grpc.call(method, &set)?;
        ensure!(
            shown["downtime"] == "0.123s" && shown["bandwidth"] == "104857600",
            "{shown}"
        );
        let set = json!({"domain": {"name": "mig"}, "settings": {"downtime": "0.2s"}});
        let shown = grpc.call(method, &set)?;
        ensure!(
            shown["downtime"] == "0.200s" && parameter("downtime-limit")? == Some(200),
            "{shown}"
        );
    }

    virsh.ok(&["destroy", "mig"])?;
    ensure!(told(&virsh.ok(&["migrate-getspeed", "mig"])?) == "100");
    Ok(())
}
