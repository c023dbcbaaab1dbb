//! The server of a pull backup: QEMU's NBD server, which has an export a disk.

use std::{os::fd::OwnedFd, sync::Arc};

use domxml::{
    devices::{SecretObject, SourceObjects},
    moment::{Backup, BackupDisk, BackupPrivate, BackupServer, BackupTransport},
};
use qemu_plan::{
    block::{End, credentials},
    command::Props,
};
use qmp::commands;
use serde_json::{Value, json};

use super::store;
use crate::{
    error::{Code, Error, Result},
    ops::{Driver, document::resources, graph::images, operation::Context, run::guest::Guest},
};

/// The object that connections are encrypted with, and the secret that opens its key.
const TLS: (&str, &str) = ("objlibvirt_backup_tls0", "libvirt_backup_tls0-secret0");
/// The name of a descriptor that it listens on, in QEMU.
const DESCRIPTOR: &str = "libvirt-backup-nbd";
/// Where its certificates are, where qemu.conf does not say.
const CERTIFICATES: &str = "/etc/pki/libvirt-backup";

/// A server that can be started.
pub(super) struct Server {
    address: Value,
    /// Objects that are made for it, in order.
    objects: Vec<Props>,
    is_encrypted: bool,
    /// What it listens on, of a client that handed it over.
    listener: Option<OwnedFd>,
}

impl Server {
    /// Completes what a document says of its server.
    ///
    /// # Errors
    /// It says too little, or what is not built.
    pub(super) fn complete(backup: &mut Backup) -> Result<()> {
        let server = backup.server.get_or_insert_with(BackupServer::default);
        match server.transport.known() {
            Some(BackupTransport::Tcp) => {
                server.name.get_or_insert_with(|| "localhost".to_owned());
                if server.port.unwrap_or(0) == 0 {
                    let said = "<domainbackup> must specify TCP port for now";
                    return Err(Error::new(Code::OperationUnsupported, said));
                }
                Ok(())
            }
            Some(BackupTransport::Unix | BackupTransport::Fd) => Ok(()),
            None => Err(Error::argument(
                "the transport of the backup's server is not known",
            )),
        }
    }

    /// What QEMU is told of the server of a document.
    ///
    /// # Errors
    /// The secret of its key is not there, or no client has handed over what it is to listen on.
    pub(super) async fn of(driver: &Arc<Driver>, guest: &Guest, backup: &mut Backup) -> Result<Option<Self>> {
        let Some(server) = backup.server.as_ref().filter(|_| backup.is_pull()) else {
            return Ok(None);
        };
        let listener = match (server.transport.known(), server.fdgroup.as_deref()) {
            (Some(BackupTransport::Fd), group) => {
                let group = group.unwrap_or_default();
                Some(driver.groups.only(guest.domain.view().uuid, group)?)
            }
            _ => None,
        };
        let address = match server.transport.known() {
            Some(BackupTransport::Fd) => json!({ "type": "fd", "data": { "str": DESCRIPTOR } }),
            Some(BackupTransport::Unix) => json!({ "type": "unix", "data": { "path": server.socket } }),
            _ => json!({
                "type": "inet",
                "data": { "host": server.name, "port": server.port.unwrap_or(0).to_string() },
            }),
        };
        let is_encrypted = server.tls.is_some_and(domxml::devices::YesNo::is_yes);
        let mut objects = Vec::new();
        if is_encrypted {
            let files = resources::files(&driver.config().backup_tls, CERTIFICATES);
            let (_, need) = credentials(&Default::default(), &files, TLS, End::Server);
            let has_secret = need.is_some();
            let given = images::secrets(driver, guest, Vec::from_iter(need)).await?;
            objects = credentials(&given, &files, TLS, End::Server).0;
            let secret = || SecretObject {
                kind: "tlskey".to_owned(),
                alias: TLS.1.to_owned(),
            };
            backup.private_data = Some(BackupPrivate {
                objects: Some(SourceObjects {
                    secrets: has_secret.then(secret).into_iter().collect(),
                    tls: Some(TLS.0.to_owned()),
                    ..SourceObjects::default()
                }),
                ..BackupPrivate::default()
            });
        }
        Ok(Some(Self {
            address,
            objects,
            is_encrypted,
            listener,
        }))
    }

    /// Starts it.
    ///
    /// # Errors
    /// What QEMU refuses.
    pub(super) async fn start(&self, context: &Context, guest: &Arc<Guest>) -> Result<()> {
        for object in &self.objects {
            let id = object
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let add = guest.execute(commands::ObjectAdd(images::object(object.clone().into_value())));
            let (guest, remove) = (Arc::clone(guest), commands::ObjectDel { id });
            let remove = async move { guest.execute(remove).await.map(drop) };
            context.step("an object of the server", add, remove).await?;
        }
        self.hand_over(context, guest).await?;
        let mut arguments = json!({ "addr": self.address });
        if self.is_encrypted {
            arguments["tls-creds"] = TLS.0.into();
        }
        let start = guest.execute(commands::NbdServerStart(images::object(arguments)));
        let guest = Arc::clone(guest);
        let stop = async move {
            guest
                .execute(commands::NbdServerStop(Default::default()))
                .await
                .map(drop)
        };
        context.step("the server", start, stop).await.map(drop)
    }

    /// Gives QEMU what the server listens on. The server takes it away, if it starts.
    async fn hand_over(&self, context: &Context, guest: &Arc<Guest>) -> Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        let copy = listener.try_clone();
        let copy = copy.map_err(|error| Error::system("cannot duplicate a descriptor", error))?;
        let fdname = || DESCRIPTOR.to_owned();
        let (give, again) = (commands::Getfd { fdname: fdname() }, Arc::clone(guest));
        let give = async {
            let monitor = guest.monitor()?;
            monitor.client().execute_with_fds(give, vec![copy]).await?;
            Ok(())
        };
        let take = async move {
            // One that the server had is not there any more.
            let _ = again.execute(commands::Closefd { fdname: fdname() }).await;
            Ok(())
        };
        context
            .step("the server's descriptor", give, take)
            .await
            .map(drop)
    }
}

/// Exports the disks of a backup that are not exported yet.
///
/// # Errors
/// What QEMU refuses.
pub(super) async fn export(guest: &Guest, backup: &Backup, known: &[String]) -> Result<()> {
    for part in backup.parts().filter(|part| !part.is_over()) {
        let Some(arguments) = export_of(part) else {
            continue;
        };
        let id = arguments["id"].as_str().unwrap_or_default();
        if !known.iter().any(|known| known == id) {
            guest
                .execute(commands::BlockExportAdd(images::object(arguments)))
                .await?;
        }
    }
    Ok(())
}

fn export_of(part: &BackupDisk) -> Option<Value> {
    let layer = store(part)?;
    let node = layer.node()?;
    let mut arguments = json!({
        "type": "nbd", "id": format!("libvirt-nbd-{node}"), "node-name": node, "writable": false,
        "name": part.exportname.as_ref().unwrap_or(&part.name),
    });
    if let Some(bitmap) = &part.exportbitmap {
        arguments["bitmaps"] = json!([bitmap]);
    }
    Some(arguments)
}

/// Stops the server, which drops its exports, and takes its objects away. It may be gone already.
pub(super) async fn stop(guest: &Guest, backup: &Backup) {
    if let Err(error) = guest.execute(commands::NbdServerStop(Default::default())).await {
        tracing::debug!(%error, "the server of a backup is not stopped");
    }
    for id in objects(backup) {
        if let Err(error) = guest.execute(commands::ObjectDel { id }).await {
            tracing::debug!(%error, "an object of the server of a backup is not taken away");
        }
    }
}

/// Ids of the objects of a backup's server, those that refer to others first.
pub(super) fn objects(backup: &Backup) -> Vec<String> {
    let objects = backup
        .private_data
        .as_ref()
        .and_then(|private| private.objects.as_ref());
    let of = |objects: &SourceObjects| {
        let secrets = objects.secrets.iter().map(|secret| secret.alias.clone());
        objects.tls.clone().into_iter().chain(secrets).collect()
    };
    objects.map(of).unwrap_or_default()
}
