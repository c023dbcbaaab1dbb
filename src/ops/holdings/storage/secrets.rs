//! Secrets that a guest's disks need, fetched and encrypted for QEMU.

use std::path::{Path, PathBuf};

use qemu_plan::{
    block::{SecretFrom, SecretNeed},
    command::{self, Resources, Secret},
};
use uuid::Uuid;

use crate::{
    error::{Code, Error, Result},
    ops::{Driver, document::prepared::Prepared},
    peers::{SecretValue, Secrets},
    qemu::MasterKey,
};

/// Puts into `resources` what the command line will refer to.
///
/// # Errors
/// `NoSecret`, that nobody serves secrets, or what building the line meets.
pub(crate) async fn fetch(
    driver: &Driver,
    prepared: &Prepared,
    key: &MasterKey,
    resources: &mut Resources,
) -> Result<()> {
    let needs = command::needed_secrets(&prepared.document, &prepared.caps, resources)?;
    fetch_needed(driver, needs, key, resources).await
}

/// Puts into `resources` what one device needs.
///
/// # Errors
/// `NoSecret`, or that nobody serves secrets.
pub(crate) async fn fetch_needed(
    driver: &Driver,
    needs: Vec<SecretNeed>,
    key: &MasterKey,
    resources: &mut Resources,
) -> Result<()> {
    let mut connection = None;
    for SecretNeed { id, from } in needs {
        let value = value(driver, &mut connection, from).await?;
        resources.secrets.insert(id, encrypted(key, &value)?);
    }
    Ok(())
}

/// Puts into `resources` what objects of a guest's QEMU need that has been started; `dir` is the run's directory.
///
/// # Errors
/// The run's key can't be read; `NoSecret`, or that nobody serves secrets.
pub(crate) async fn fetch_for_run(
    driver: &Driver,
    dir: Option<&str>,
    needs: Vec<SecretNeed>,
    resources: &mut Resources,
) -> Result<()> {
    if needs.is_empty() {
        return Ok(());
    }
    let path = key_of_run(dir);
    let key = crate::blocking::file("reading the guest's key", move || {
        MasterKey::read(&path).map_err(|error| {
            Error::system(
                format_args!("cannot read the guest's key '{}'", path.display()),
                error,
            )
        })
    })
    .await?;
    fetch_needed(driver, needs, &key, resources).await
}

/// The file of the key that a run's secrets are encrypted with.
pub(crate) fn key_of_run(dir: Option<&str>) -> PathBuf {
    Path::new(dir.unwrap_or_default()).join("master-key.aes")
}

/// Asks for what a device needs, which is kept by nobody.
///
/// # Errors
/// As [`fetch_needed`].
pub(crate) async fn look_up(driver: &Driver, needs: Vec<SecretNeed>) -> Result<()> {
    let mut connection = None;
    for need in needs {
        value(driver, &mut connection, need.from).await?;
    }
    Ok(())
}

async fn value(driver: &Driver, connection: &mut Option<Secrets>, from: SecretFrom) -> Result<SecretValue> {
    match from {
        SecretFrom::Value(text) => Ok(SecretValue::from(text.into_bytes())),
        SecretFrom::Uuid(text) => {
            let uuid = Uuid::try_parse(&text)
                .map_err(|_| Error::new(Code::Xml, format!("malformed secret uuid '{text}'")))?;
            opened(driver, connection).await?.by_uuid(uuid).await
        }
        SecretFrom::Usage(kind, name) => opened(driver, connection).await?.by_usage(&kind, &name).await,
    }
}

/// The connection, opened by the first who needs it.
async fn opened<'a>(driver: &Driver, connection: &'a mut Option<Secrets>) -> Result<&'a mut Secrets> {
    match connection {
        Some(secrets) => Ok(secrets),
        none => Ok(none.insert(driver.peers.secrets().await?)),
    }
}

fn encrypted(key: &MasterKey, value: &SecretValue) -> Result<Secret> {
    key.encrypt(value.as_bytes())
        .map_err(|error| Error::system("cannot encrypt a secret", error))
}
