//! What a running QEMU is told once, in one command that leaves nothing half done: to measure how fast the guest writes its
//! memory, to read a display's certificates anew, to give a protected guest its secret.

use std::sync::Arc;

use domxml::{
    devices::{GraphicsKind, OnOff},
    security::LaunchSecurity,
};
use qmp::commands;
use serde_json::{Map, Value};

use super::power::begin;
use crate::{
    domain::{Domain, RunState, jobs::Kind},
    error::{Code, Error, Result},
    ops::{Conditions, Driver, operation::Context},
};

/// Seconds that a measurement may take.
const SECONDS: std::ops::RangeInclusive<i64> = 1..=60;

/// How writes to memory are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyMode {
    /// By samples of pages.
    PageSampling,
    /// By a bit for each page.
    DirtyBitmap,
    /// By a ring of each CPU.
    DirtyRing,
}

fn unsupported(text: &'static str) -> Error {
    Error::new(Code::OperationUnsupported, text)
}

/// Begins to measure how fast a running guest writes its memory; statistics tell the result.
///
/// # Errors
/// `ConfigUnsupported` for a time that is too long or too short, `OperationUnsupported` if the guest has no rings, what QEMU
/// refuses.
pub async fn measure_dirty_rate(
    driver: &Arc<Driver>,
    domain: &Domain,
    (seconds, mode): (i64, DirtyMode),
    conditions: &Conditions,
) -> Result<()> {
    if !SECONDS.contains(&seconds) {
        let (least, most) = (SECONDS.start(), SECONDS.end());
        return Err(Error::new(
            Code::ConfigUnsupported,
            format!("seconds={seconds} is invalid, please choose value within [{least}, {most}]."),
        ));
    }
    let (operation, guest) = begin(driver, domain, ("measure-dirty-rate", Kind::Modify), conditions).await?;
    let view = operation.view();
    let features = view.running()?.document.domain.features.as_ref();
    let ring = features.and_then(|features| features.kvm?.dirty_ring);
    if mode == DirtyMode::DirtyRing && ring.is_none_or(|ring| ring.state != OnOff::On) {
        return Err(unsupported(
            "dirty-ring calculation mode requires dirty-ring feature enabled.",
        ));
    }
    if operation.is_trial() {
        return Ok(());
    }
    let mode = match mode {
        DirtyMode::PageSampling => None,
        DirtyMode::DirtyBitmap => Some("dirty-bitmap".to_owned()),
        DirtyMode::DirtyRing => Some("dirty-ring".to_owned()),
    };
    let command = commands::CalcDirtyRate {
        calc_time: seconds,
        mode,
    };
    let work = |_: Arc<Context>| async move { guest.execute(command).await.map(drop) };
    operation.carry_out(work).await
}

/// Has a running guest's VNC server read its certificates anew. A guest without one has nothing to read.
///
/// # Errors
/// `OperationInvalid` if it does not run; what QEMU refuses.
pub async fn reload_display(driver: &Arc<Driver>, domain: &Domain, conditions: &Conditions) -> Result<()> {
    let (operation, guest) = begin(driver, domain, ("reload-display", Kind::Modify), conditions).await?;
    let view = operation.view();
    let displays = &view.running()?.document.domain.devices.graphics;
    let has_vnc = displays.iter().any(|display| display.kind == GraphicsKind::Vnc);
    if operation.is_trial() || !has_vnc {
        return Ok(());
    }
    let command = commands::DisplayReload {
        r#type: "vnc".to_owned(),
        tls_certs: true,
    };
    let work = |_: Arc<Context>| async move { guest.execute(command).await.map(drop) };
    operation.carry_out(work).await
}

/// A secret for a guest whose memory is hidden from the host.
#[derive(Clone, Debug, Default)]
pub struct LaunchSecret {
    /// What the guest's owner has signed, base64.
    pub header: Option<String>,
    /// The secret as the owner has encrypted it, base64.
    pub secret: Option<String>,
    /// Where in the guest's memory it is put.
    pub address: Option<u64>,
}

/// Gives a guest that waits paused its secret.
///
/// # Errors
/// `OperationUnsupported` if the guest is not protected by SEV, `OperationInvalid` if it is not paused, what QEMU refuses.
pub async fn set_launch_secret(
    driver: &Arc<Driver>,
    domain: &Domain,
    secret: LaunchSecret,
    conditions: &Conditions,
) -> Result<()> {
    let view = domain.view();
    let document = view
        .current()
        .ok_or_else(|| Error::internal("the domain has no document"))?
        .domain()?;
    if !matches!(document.launch_security, Some(LaunchSecurity::Sev(_))) {
        return Err(unsupported(
            "setting a launch secret is only supported in SEV-enabled domains",
        ));
    }
    let (Some(header), Some(text)) = (secret.header, secret.secret) else {
        return Err(Error::internal("Both secret and the secret header are required"));
    };
    let (operation, guest) = begin(driver, domain, ("set-launch-secret", Kind::Modify), conditions).await?;
    if operation.view().condition.state() != RunState::Paused {
        return Err(Error::invalid("domain must be in a paused state"));
    }
    if operation.is_trial() {
        return Ok(());
    }
    let mut arguments = Map::new();
    arguments.insert("packet-header".to_owned(), header.into());
    arguments.insert("secret".to_owned(), text.into());
    if let Some(address) = secret.address {
        arguments.insert("gpa".to_owned(), Value::from(address));
    }
    let command = commands::SevInjectLaunchSecret(arguments);
    let work = |_: Arc<Context>| async move { guest.execute(command).await.map(drop) };
    operation.carry_out(work).await
}
