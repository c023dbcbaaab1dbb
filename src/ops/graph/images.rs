//! An image of a running guest's disk as QEMU's nodes: made, opened, and taken away again.
//!
//! The caller gives a disk that has the image on top, numbered and named, and below it what QEMU is to see there. A file
//! that does not exist is made first, formatted by QEMU's own job, and removed again if the operation fails.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::devices::{Disk, StorageFormat, StorageKind};
use qemu_plan::{
    block::{self, Image, Layer, Sources},
    command::Props,
};
use qmp::{commands, types::BlockDeviceInfo};
use serde_json::{Map, Value, json};

use crate::{
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::resources::{dirs, resources},
        graph::jobs,
        holdings::storage::{chain, claim, disk, secrets},
        host::files::{self, remove, remove_image},
        operation::Context,
        run::{cpus, guest::Guest},
    },
};

/// What an image is to have when it is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fresh {
    /// What the guest sees, bytes.
    pub(crate) size: u64,
    /// Size of a cluster, bytes, for formats that have clusters.
    pub(crate) cluster: Option<u64>,
    /// The image below: its name as it is written into the new one, and its format.
    pub(crate) backing: Option<(String, StorageFormat)>,
}

impl Fresh {
    /// An image like the one that a node is of.
    ///
    /// # Errors
    /// QEMU has no such node, or does not know its size.
    pub(crate) fn like(node: Option<&str>, nodes: &[BlockDeviceInfo]) -> Result<Self> {
        let missing = || {
            let name = node.unwrap_or("(null)");
            Error::internal(format!("failed to update capacity data for block node '{name}'"))
        };
        let found = nodes
            .iter()
            .find(|known| node.is_some() && known.node_name.as_deref() == node);
        let image = found.and_then(|node| node.image.as_ref()).ok_or_else(missing)?;
        Ok(Self {
            size: image.virtual_size,
            cluster: image.cluster_size,
            backing: None,
        })
    }
}

/// Said when the file of a new image, `{}`, can't be made.
pub(crate) const NOT_MADE: &str = "failed to create image file '{}'";

/// An image with its nodes, planned for one guest.
pub(crate) struct Planned {
    disk: Disk,
    image: Image,
}

/// Plans the nodes of the image on top of `disk`, with the secrets that they take.
///
/// # Errors
/// QEMU can't open such a source; a secret is not there.
pub(crate) async fn plan(driver: &Arc<Driver>, guest: &Guest, disk: Disk) -> Result<Planned> {
    if disk
        .source
        .as_ref()
        .is_some_and(|source| source.fdgroup.is_some())
    {
        let text = "images that are opened by a client's file descriptors can't be made for a running guest";
        return Err(Error::new(Code::OperationUnsupported, text));
    }
    let given = of_run(driver, guest)?;
    let (image, needs) = image_of(&disk, &given)?;
    if needs.is_empty() {
        return Ok(Planned { disk, image });
    }
    let given = secrets(driver, guest, needs).await?;
    let (image, _) = image_of(&disk, &given)?;
    Ok(Planned { disk, image })
}

/// What objects of a guest refer to.
fn of_run(driver: &Driver, guest: &Guest) -> Result<qemu_plan::command::Resources> {
    let view = guest.domain.view();
    let document = &view.running()?.document.domain;
    let names = crate::ops::document::plan::short_name(guest.id, &document.name);
    Ok(resources(driver, document, dirs(driver, &names)))
}

/// The same with secrets, as this guest's QEMU can read them.
///
/// # Errors
/// A secret is not there; the guest's key can't be read.
pub(crate) async fn secrets(
    driver: &Driver,
    guest: &Guest,
    needs: Vec<block::SecretNeed>,
) -> Result<qemu_plan::command::Resources> {
    let mut given = of_run(driver, guest)?;
    let view = guest.domain.view();
    let dir = view.running()?.status.lib_dir.as_deref();
    secrets::fetch_for_run(driver, dir, needs, &mut given).await?;
    Ok(given)
}

fn image_of(disk: &Disk, given: &qemu_plan::command::Resources) -> Result<(Image, Vec<block::SecretNeed>)> {
    let mut sources = Sources::new(given, 1);
    let image = sources.disk(disk)?;
    let image = image.ok_or_else(|| Error::internal("the image has no source"))?;
    // Only the top image is made; the secrets of those below are QEMU's already.
    let own: Vec<_> = image
        .objects
        .iter()
        .filter_map(|o| o.get("id")?.as_str().map(str::to_owned))
        .collect();
    let needs = sources.needs.into_iter().filter(|need| own.contains(&need.id));
    Ok((image, needs.collect()))
}

impl Planned {
    /// The topmost node.
    pub(crate) fn node(&self) -> String {
        self.image.node()
    }

    /// The names of all nodes, the topmost first.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let nodes = self.image.nodes();
        nodes.iter().rev().map(|node| text(node, "node-name")).collect()
    }

    /// The file that is made for a new image, if it is in a file of the host that does not exist yet.
    pub(crate) fn new_file(&self) -> Option<PathBuf> {
        let path = chain::local_path(self.disk.kind, self.disk.source.as_ref())?;
        (self.disk.kind == StorageKind::File && !path.exists()).then_some(path)
    }

    /// Gives QEMU the image: with `fresh` it is made first. Everything is undone with the operation.
    ///
    /// # Errors
    /// The file can't be made, what the host or QEMU refuses.
    pub(crate) async fn open(
        &self,
        context: &Context,
        guest: &Arc<Guest>,
        (what, fresh): (&'static str, Option<Fresh>),
    ) -> Result<()> {
        if fresh.is_some() {
            self.make_file(context, what).await?;
        }
        {
            let mut undo = context.steps("what the image has of the host").await?;
            let driver = context.driver();
            if let Some(claim) = claim::of_disk(&self.disk) {
                cpus::take(driver, guest, &claim, &mut undo).await?;
            }
            disk::acquire(driver, &guest.domain, &self.disk, &mut undo).await?;
        }
        for object in &self.image.objects {
            let id = text(object, "id");
            let add = guest.execute(commands::ObjectAdd(map(object.clone())));
            let (guest, remove) = (Arc::clone(guest), commands::ObjectDel { id });
            context
                .step(
                    "an object",
                    add,
                    async move { guest.execute(remove).await.map(drop) },
                )
                .await?;
        }
        let nodes = self.image.nodes();
        let has_format = self.image.format.is_some();
        if let (Some(fresh), false) = (&fresh, has_format) {
            self.make_raw(context, guest, fresh).await?;
        }
        let last = nodes.len().saturating_sub(1);
        for (at, node) in nodes.into_iter().enumerate() {
            if let Some(fresh) = fresh.as_ref().filter(|_| has_format && at == last) {
                self.format(context, guest, fresh).await?;
            }
            add_node(context, guest, node).await?;
        }
        Ok(())
    }

    /// The file that has to be made for the image.
    ///
    /// # Errors
    /// An image of this kind is not made.
    fn place(&self) -> Result<Option<PathBuf>> {
        let Some(path) = chain::local_path(self.disk.kind, self.disk.source.as_ref()) else {
            return match self.disk.kind {
                StorageKind::File | StorageKind::Block => Ok(None),
                _ => Err(Error::new(
                    Code::OperationUnsupported,
                    "images that are not in a file or on a device of the host are not made; make it and reuse it",
                )),
            };
        };
        let is_there = self.disk.kind == StorageKind::Block || path.exists();
        Ok((!is_there).then_some(path))
    }

    /// Refuses, for a trial, what [`Self::open`] would fail at when it makes the file.
    ///
    /// # Errors
    /// An image of this kind is not made; the file can't be at its place.
    pub(crate) async fn may_make(&self, what: &'static str) -> Result<()> {
        match self.place()? {
            Some(path) => files::may_make(&path, what.replace("{}", &path.to_string_lossy())).await,
            None => Ok(()),
        }
    }

    /// Makes the file, for who is to write it.
    async fn make_file(&self, context: &Context, what: &'static str) -> Result<()> {
        let Some(path) = self.place()? else {
            return Ok(());
        };
        let make = {
            let path = path.clone();
            let what = what.replace("{}", &path.to_string_lossy());
            move || {
                let mut open = OpenOptions::new();
                let made = open.write(true).create_new(true).mode(0o600).open(&path);
                made.map(drop).map_err(|error| Error::system(what, error))
            }
        };
        let unmake = crate::blocking::file("removing an image that was made", move || remove(&path));
        context
            .step(
                "the image's file",
                crate::blocking::file("making an image", make),
                unmake,
            )
            .await
    }

    /// Gives a raw image its size.
    async fn make_raw(&self, context: &Context, guest: &Arc<Guest>, fresh: &Fresh) -> Result<()> {
        if self.disk.kind == StorageKind::Block {
            return Ok(());
        }
        let path = chain::local_path(self.disk.kind, self.disk.source.as_ref()).unwrap_or_default();
        let options = json!({ "driver": "file", "filename": path, "size": fresh.size });
        create(context, guest, self.image.storage_node(), options).await
    }

    async fn format(&self, context: &Context, guest: &Arc<Guest>, fresh: &Fresh) -> Result<()> {
        let options = self.format_options(fresh)?;
        create(context, guest, self.image.format_node(), options).await
    }

    fn format_options(&self, fresh: &Fresh) -> Result<Value> {
        let driver = self.disk.driver.as_ref();
        let format = driver
            .and_then(|driver| driver.kind)
            .unwrap_or(StorageFormat::Raw);
        let below = if self.image.slice.is_some() {
            self.image.slice_node()
        } else {
            self.image.storage_node()
        };
        let mut options = json!({ "driver": format.as_str(), "file": below, "size": fresh.size });
        match format {
            StorageFormat::Qcow2 => {
                if let Some(cluster) = fresh.cluster {
                    options["cluster-size"] = cluster.into();
                }
                self.encrypt(&mut options);
            }
            StorageFormat::Luks => self.encrypt(&mut options),
            StorageFormat::Qed | StorageFormat::Qcow | StorageFormat::Vmdk => {}
            StorageFormat::Raw if self.encryption().is_some() => {
                options["driver"] = "luks".into();
                self.encrypt(&mut options);
            }
            other => {
                let text = format!(
                    "format driver '{}' is not supported for image creation",
                    other.as_str()
                );
                return Err(Error::new(Code::OperationUnsupported, text));
            }
        }
        if let Some((file, format)) = &fresh.backing {
            options["backing-file"] = file.as_str().into();
            options["backing-fmt"] = format.as_str().into();
        }
        Ok(options)
    }

    fn encryption(&self) -> Option<&domxml::devices::Encryption> {
        let source = self.disk.source.as_ref();
        source
            .and_then(|source| source.encryption.as_ref())
            .or(self.disk.encryption.as_ref())
    }

    /// An encrypted image is made with the secret that it is opened with.
    fn encrypt(&self, options: &mut Value) {
        if self.encryption().is_none() {
            return;
        }
        let mut objects = self
            .image
            .objects
            .iter()
            .filter_map(|object| object.get("id")?.as_str());
        let Some(id) = objects.find(|id| id.contains("-encryption-secret")) else {
            return;
        };
        if options["driver"] == "luks" {
            options["key-secret"] = id.into();
        } else {
            options["encrypt"] = json!({ "format": "luks", "key-secret": id });
        }
    }
}

/// The job that makes the image of a node.
fn making(node: &str) -> String {
    format!("create-{node}")
}

/// Waits for the end of the jobs by which a former daemon had images made for nodes, and dismisses them.
///
/// # Errors
/// QEMU does not answer; the guest ends.
pub(crate) async fn settle(guest: &Guest, nodes: &[String]) -> Result<()> {
    let making: Vec<_> = nodes.iter().map(|node| making(node)).collect();
    jobs::settle(guest, &making).await
}

/// Has QEMU carry out a job that makes an image.
async fn create(context: &Context, guest: &Arc<Guest>, node: String, options: Value) -> Result<()> {
    context.enter("making an image");
    let id = making(&node);
    let command = commands::BlockdevCreate(object(json!({ "job-id": id, "options": options })));
    let job = jobs::run(guest, &id, command).await?;
    match job.error {
        None => Ok(()),
        Some(error) => {
            let text = format!("failed to format image: '{error}'");
            Err(Error::new(Code::OperationFailed, text))
        }
    }
}

/// Gives QEMU a node.
///
/// # Errors
/// What QEMU refuses.
pub(crate) async fn add_node(context: &Context, guest: &Arc<Guest>, node: Props) -> Result<()> {
    let node_name = text(&node, "node-name");
    let add = guest.execute(commands::BlockdevAdd(map(node)));
    let (guest, remove) = (Arc::clone(guest), commands::BlockdevDel { node_name });
    context
        .step("a block node", add, async move {
            guest.execute(remove).await.map(drop)
        })
        .await
        .map(drop)
}

/// Lets the guest write an image of a disk's chain, or no more: what its format node needs for bitmaps to be kept in it.
///
/// # Errors
/// What QEMU refuses.
pub(crate) async fn reopen(guest: &Guest, disk: &Disk, layer: usize, writable: bool) -> Result<()> {
    let given = qemu_plan::command::Resources::default();
    let (top, _) = image_of(disk, &given)?;
    let images = top.chain();
    // The chain is told from the bottom up, with data files between; those have no backing of their own.
    let node = block::Chain::of(disk)
        .layers
        .get(layer)
        .and_then(|l| l.node().map(str::to_owned));
    let image = images.into_iter().find(|image| Some(image.node()) == node);
    let Some(image) = image else { return Ok(()) };
    let Some(mut props) = image.nodes().pop() else {
        return Ok(());
    };
    props.set("read-only", !writable);
    let options = object(json!({ "options": [props.into_value()] }));
    guest.execute(commands::BlockdevReopen(options)).await.map(drop)
}

/// Takes images out of QEMU that nothing refers to any more, and gives back what they had of the host. Nothing depends on
/// them, so what fails is logged. With `delete` their files go, too.
pub(crate) async fn drop_layers(
    driver: &Arc<Driver>,
    guest: &Arc<Guest>,
    disk: &Disk,
    layers: &[Layer],
    delete: bool,
) {
    let view = guest.domain.view();
    for layer in layers {
        for node_name in layer.nodes_down() {
            let named = node_name.clone();
            if let Err(error) = guest.execute(commands::BlockdevDel { node_name }).await {
                tracing::warn!(guest = %view.name, node = named, %error, "a block node that is used no more is left in QEMU");
            }
        }
        if let Some(set) = block::set_of(&layer.source) {
            let command = commands::RemoveFd {
                fdset_id: i64::from(set),
                fd: None,
            };
            if let Err(error) = guest.execute(command).await {
                tracing::warn!(guest = %view.name, set, %error, "descriptors of an image that is used no more are left in QEMU");
            }
        }
        let objects = layer
            .source
            .private_data
            .as_ref()
            .and_then(|private| private.objects.as_ref());
        for id in objects.into_iter().flat_map(object_ids) {
            if let Err(error) = guest.execute(commands::ObjectDel { id }).await {
                tracing::warn!(guest = %view.name, %error, "an object of an image that is used no more is left in QEMU");
            }
        }
        let alone = layer.as_disk(disk);
        if let Some(claim) = claim::of_disk(&alone) {
            cpus::give_back(driver, guest, &claim).await;
        }
        if let Some(run) = &view.run {
            disk::release(driver, run, &alone).await;
        }
        if delete && let Some(path) = layer.path() {
            remove_file(path).await;
        }
    }
}

fn object_ids(objects: &domxml::devices::SourceObjects) -> Vec<String> {
    let secrets = objects.secrets.iter().map(|secret| secret.alias.clone());
    secrets.chain(objects.tls.clone()).collect()
}

async fn remove_file(path: String) {
    let named = path.clone();
    let work = move || remove_image(Path::new(&path));
    if let Err(error) = crate::blocking::file("removing an image", work).await {
        tracing::warn!(path = named, %error, "an image that was merged into another is left");
    }
}

fn text(props: &Props, key: &str) -> String {
    let value = props.get(key).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn map(props: Props) -> Map<String, Value> {
    object(props.into_value())
}

/// The fields of a JSON object.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
