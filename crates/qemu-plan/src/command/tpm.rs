//! `<tpm>`.

use domxml::devices::tpm::{Tpm, TpmBackend, TpmBackendKind, TpmModel};

use super::address;
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::props::{Keyval, Props};
use crate::{Error, Result};

/// Appends a TPM. In a native conversion the emulator is a placeholder, as it does not run.
///
/// # Errors
/// When the emulator's socket or the host's device was not prepared.
pub fn build(cx: Context<'_>, tpm: &Tpm, line: &mut CommandLine) -> Result<()> {
    let model = tpm.model.unwrap_or(TpmModel::TpmTis);
    if model == TpmModel::SpaprTpmProxy {
        return proxy(cx, tpm, line);
    }
    let backend = tpm.backend.clone().unwrap_or_default();
    match backend.kind {
        TpmBackendKind::Passthrough => passthrough(cx, tpm, &backend, line)?,
        TpmBackendKind::Emulator | TpmBackendKind::External => emulator(cx, tpm, &backend, line)?,
    }
    let id = alias(&tpm.info)?;
    let mut props = Props::driver(model.as_str())
        .with("tpmdev", format!("tpm-{id}"))
        .with("id", id);
    address::put(cx, &tpm.info, &mut props)?;
    line.device(props);
    Ok(())
}

fn proxy(cx: Context<'_>, tpm: &Tpm, line: &mut CommandLine) -> Result<()> {
    let path = tpm
        .backend
        .as_ref()
        .and_then(|backend| backend.device.as_ref()?.path.clone());
    let mut props = Props::driver("spapr-tpm-proxy")
        .with("id", alias(&tpm.info)?)
        .with("host-path", path.unwrap_or_default());
    address::put(cx, &tpm.info, &mut props)?;
    line.device(props);
    Ok(())
}

fn emulator(cx: Context<'_>, tpm: &Tpm, backend: &TpmBackend, line: &mut CommandLine) -> Result<()> {
    let id = alias(&tpm.info)?;
    let named = backend.source.as_ref().and_then(|source| source.path.clone());
    let path = match backend.kind {
        TpmBackendKind::External => named,
        _ => cx.res.device(id).socket,
    };
    let chardev = match path {
        Some(path) => Keyval::implied("socket").with("id", "chrtpm").with("path", path),
        None if cx.res.is_native() => Keyval::implied("null").with("id", "chrtpm"),
        None => return Err(Error::internal_qemu("no socket of the TPM emulator")),
    };
    line.push("-chardev", chardev);
    line.push(
        "-tpmdev",
        Keyval::implied("emulator")
            .with("id", format!("tpm-{id}"))
            .with("chardev", "chrtpm"),
    );
    Ok(())
}

fn passthrough(cx: Context<'_>, tpm: &Tpm, backend: &TpmBackend, line: &mut CommandLine) -> Result<()> {
    let id = alias(&tpm.info)?;
    let given = cx.res.device(id);
    let named = backend.device.as_ref().and_then(|device| device.path.clone());
    let path = match given.fd {
        Some(fd) => line.add_fd(fd, &format!("{id}-tpm")),
        None => named.unwrap_or_else(|| "/dev/tpm0".to_owned()),
    };
    let cancel = match given.log_fd {
        Some(fd) => line.add_fd(fd, &format!("{id}-cancel")),
        None => "/dev/null".to_owned(),
    };
    let mut tpmdev = Keyval::implied("passthrough");
    tpmdev
        .set("id", format!("tpm-{id}"))
        .set("path", path)
        .set("cancel-path", cancel);
    line.push("-tpmdev", tpmdev);
    Ok(())
}
