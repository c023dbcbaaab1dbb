//! Copies a disk to another place and keeps the copy the same until the job is ended.

use std::{os::unix::fs::FileTypeExt, path::Path, sync::Arc};

use domxml::{
    devices::{Disk, Source, StorageFormat, StorageKind},
    status::BlockJobKind,
};
use qemu_plan::block::{self, Chain, Layer};
use qmp::commands;
use serde_json::{Value, json};

use super::{
    after::{COPY_REUSE, COPY_SHALLOW},
    begin::{self, Beginning},
};
use crate::{
    domain::{
        Domain, View,
        intents::Intent,
        jobs::{Kind, Want},
    },
    error::{Code, Error, Result},
    ops::{
        Conditions, Driver,
        graph::{
            self,
            images::{self, Fresh, Planned},
            lookup,
        },
        holdings::storage::{chain, descriptors::Handed, volumes},
        host::identity,
        operation::{Ask, Context, Operation},
        run::guest::Guest,
    },
};

/// libvirt's flags that are kept with the job, besides those that its end depends on.
const TRANSIENT_JOB: u32 = 0x4;
const SYNCHRONOUS_WRITES: u32 = 0x8;
/// Said when the copy's file can't be made.
const NOT_MADE: &str = "failed to create copy target";

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Copy {
    /// The disk's target or the path of its image.
    pub disk: String,
    /// Where the copy is to be.
    pub to: Place,
    /// Bytes a second at most; 0: no limit.
    pub speed: u64,
    /// Bytes that are copied at a time; 0: QEMU decides.
    pub granularity: u32,
    /// Bytes under way at a time; 0: QEMU decides.
    pub buffer: u64,
    /// Only the top image is copied; the copy has the images below it, too.
    pub shallow: bool,
    /// The copy's image is there and formatted.
    pub reuse: bool,
    /// The job may be lost with the guest's run.
    pub transient_job: bool,
    /// The guest's writes wait until the copy has them, too.
    pub synchronous_writes: bool,
    /// The copy is to be on a block device.
    pub block_device: bool,
}

/// Where a copy is made.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// As a document has a disk: its source, format and what is below.
    pub disk: Disk,
}

impl Place {
    /// A file or device of the host.
    #[must_use]
    pub fn of_path(path: &str, is_device: bool, format: Option<StorageFormat>) -> Self {
        let (kind, file, dev) = match is_device {
            true => (StorageKind::Block, None, Some(path.to_owned())),
            false => (StorageKind::File, Some(path.to_owned()), None),
        };
        let source = Source {
            file,
            dev,
            ..Source::default()
        };
        let mut disk = Disk {
            kind,
            source: Some(source),
            ..Disk::default()
        };
        disk.driver.get_or_insert_default().kind = format;
        Self { disk }
    }
}

impl Copy {
    fn flags(&self) -> u32 {
        let bits = [
            (self.shallow, COPY_SHALLOW),
            (self.reuse, COPY_REUSE),
            (self.transient_job, TRANSIENT_JOB),
            (self.synchronous_writes, SYNCHRONOUS_WRITES),
        ];
        bits.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }
}

/// Begins to copy.
///
/// # Errors
/// The copy can't be where it is to be; there is no such disk, or it is at work; what the host or QEMU refuses.
pub async fn copy(
    driver: &Arc<Driver>,
    domain: &Domain,
    wanted: Copy,
    conditions: &Conditions,
) -> Result<()> {
    check_arguments(&wanted)?;
    let ask = Ask {
        kind: "copy-blocks",
        job: Want::Plain(Kind::Modify),
        conditions,
    };
    let operation = Operation::begin(driver, domain, ask).await?;
    let view = operation.view();
    let mut wanted = wanted;
    let disk = check(&view, &mut wanted)?;
    volumes::find_one(driver, &mut wanted.to.disk).await?;
    let guest = driver.guests.of(&view)?;
    let target = Target::of(driver, &view, &guest, (&disk, &wanted)).await?;
    if operation.is_trial() {
        return target.may_make().await;
    }
    let work =
        |context: Arc<Context>| async move { Box::pin(target.begin(&context, &guest, (disk, wanted))).await };
    operation.carry_out(work).await
}

/// What is wrong whatever the guest is.
fn check_arguments(wanted: &Copy) -> Result<()> {
    if !wanted.granularity.is_power_of_two() && wanted.granularity != 0 {
        return Err(Error::argument("granularity must be power of 2"));
    }
    let path = chain::local_path(wanted.to.disk.kind, wanted.to.disk.source.as_ref());
    if path.is_some_and(|path| !path.is_absolute()) {
        return Err(Error::argument("absolute path must be used as block copy target"));
    }
    Ok(())
}

/// The disk that is copied, of a guest that allows it.
fn check(view: &View, wanted: &mut Copy) -> Result<Disk> {
    let run = view.running()?;
    let disk = lookup::disk_named(run, &wanted.disk)?;
    lookup::check_free(view, disk)?;
    if view.config.is_some() && !wanted.transient_job {
        return Err(Error::invalid("domain is not transient"));
    }
    let chain = Chain::of(disk);
    let has_backing = chain.layers.len() > 1;
    wanted.shallow &= has_backing;
    let format = wanted.to.disk.driver.as_ref().and_then(|driver| driver.kind);
    if wanted
        .to
        .disk
        .backing
        .as_ref()
        .is_some_and(|below| below.kind.is_some())
        && !wanted.shallow
    {
        return Err(Error::argument(
            "backingStore of mirror without VIR_DOMAIN_BLOCK_COPY_SHALLOW doesn't make sense",
        ));
    }
    if wanted.shallow && !wanted.reuse && format == Some(StorageFormat::Raw) {
        return Err(Error::new(
            Code::ConfigUnsupported,
            format!(
                "shallow copy of disk '{}' into a raw file is not possible",
                disk.target.dev
            ),
        ));
    }
    Ok(disk.clone())
}

/// The image that is copied to.
struct Target {
    /// The images that the copy consists of.
    chain: Chain,
    /// Those of them that are opened for it, the lowest first.
    planned: Vec<Planned>,
    /// How it is made, if it is.
    fresh: Option<Fresh>,
    next_number: u32,
}

impl Target {
    /// Refuses, for a trial, what the making of the copy's file would fail at.
    async fn may_make(&self) -> Result<()> {
        match (self.planned.last(), &self.fresh) {
            (Some(image), Some(_)) => image.may_make(NOT_MADE).await,
            _ => Ok(()),
        }
    }

    async fn of(
        driver: &Arc<Driver>,
        view: &View,
        guest: &Arc<Guest>,
        (disk, wanted): (&Disk, &Copy),
    ) -> Result<Self> {
        let run = view.running()?;
        let node = Chain::of(disk)
            .layers
            .first()
            .and_then(|top| top.node().map(str::to_owned));
        if node.is_none() {
            // libvirt asks QEMU first, which has no such node.
            Fresh::like(None, &[])?;
        }
        let there = look(wanted, &disk.target.dev).await?;
        let format = self::format(wanted, disk, there).await?;
        if disk.shareable && format != StorageFormat::Raw {
            return Err(Error::new(
                Code::OperationUnsupported,
                "can't pivot a shared disk to a storage volume not supporting sharing",
            ));
        }
        let mut fresh = None;
        if !wanted.reuse {
            let nodes = guest
                .execute(commands::QueryNamedBlockNodes { flat: true })
                .await?;
            let mut like = Fresh::like(node.as_deref(), &nodes)?;
            if format != StorageFormat::Qcow2 {
                like.cluster = None;
            }
            like.backing = wanted.shallow.then(|| backing_of(disk)).flatten();
            fresh = Some(like);
        }
        let mut images = disk.clone();
        images.mirror = None;
        let mut chain = Chain::of(&wanted.to.disk);
        let first = chain
            .layers
            .first_mut()
            .ok_or_else(|| Error::argument("the copy has no source"))?;
        first.format = Some(format);
        let own = if wanted.shallow && wanted.reuse {
            usize::MAX
        } else {
            1
        };
        match (wanted.shallow, wanted.reuse) {
            (true, false) => {
                chain.layers.truncate(1);
                chain.layers.extend(Chain::of(disk).layers.into_iter().skip(1));
                chain.ended = true;
            }
            (true, true) => follow(driver, disk, &mut chain).await?,
            (false, _) => {
                chain.layers.truncate(1);
                (chain.ended, chain.end_is_given) = (true, true);
            }
        }
        chain.put(&mut images);
        let first = graph::next_number(run, guest);
        let next_number = block::number_disk(&mut images, first);
        guest.gave_nodes(next_number);
        block::name_disk(&mut images)?;
        let chain = Chain::of(&images);
        let planned = plan_all(driver, guest, (&images, &chain, own), fresh.is_some()).await?;
        Ok(Self {
            chain,
            planned,
            fresh,
            next_number,
        })
    }

    async fn begin(self, context: &Context, guest: &Arc<Guest>, (disk, wanted): (Disk, Copy)) -> Result<()> {
        let device = top_node(&disk)?;
        let replaces = begin::device_node(&disk)?;
        let name = format!("copy-{}-{replaces}", disk.target.dev);
        let mut entry = begin::entry(BlockJobKind::Copy, name, &disk, wanted.flags());
        if wanted.shallow && !wanted.reuse {
            entry.shallownew = Some(domxml::devices::YesNo::Yes);
        }
        if let Some(of) = &mut entry.disk {
            of.mirror = Some(domxml::devices::YesNo::Yes);
        }
        let made = self
            .planned
            .iter()
            .filter(|_| self.fresh.is_some())
            .filter_map(Planned::new_file);
        context
            .intend(Intent::BeginBlockJob {
                job: entry.name.clone(),
                nodes: self.planned.iter().rev().flat_map(Planned::nodes).collect(),
                files: made.collect(),
            })
            .await?;
        let last = self.planned.len().saturating_sub(1);
        for (at, image) in self.planned.iter().enumerate() {
            let fresh = self.fresh.clone().filter(|_| at == last);
            image.open(context, guest, (NOT_MADE, fresh)).await?;
        }
        let target = self.planned.last().map(Planned::node).unwrap_or_default();
        let arguments = mirror(
            &wanted,
            json!({
                "job-id": entry.name, "device": device, "target": target, "replaces": replaces,
            }),
        );
        let beginning = Beginning {
            entry,
            mirror: Some(self.chain.as_mirror("copy")),
            next_number: Some(self.next_number),
        };
        let command = commands::BlockdevMirror(images::object(arguments));
        begin::begin(context, guest, beginning, command).await
    }
}

/// Arguments of the job, after those that say of what it is.
fn mirror(wanted: &Copy, mut arguments: Value) -> Value {
    if wanted.speed > 0 {
        arguments["speed"] = wanted.speed.into();
    }
    if wanted.granularity > 0 {
        arguments["granularity"] = wanted.granularity.into();
    }
    if wanted.buffer > 0 {
        arguments["buf-size"] = wanted.buffer.into();
    }
    arguments["sync"] = if wanted.shallow { "top" } else { "full" }.into();
    if wanted.synchronous_writes {
        arguments["copy-mode"] = "write-blocking".into();
    }
    for (key, value) in images::object(begin::ending()) {
        arguments[key] = value;
    }
    arguments
}

/// Plans the images that are opened for a copy: the lowest first, all but the top one for reading.
async fn plan_all(
    driver: &Arc<Driver>,
    guest: &Guest,
    (disk, chain, own): (&Disk, &Chain, usize),
    is_fresh: bool,
) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    for at in (0..chain.layers.len().min(own)).rev() {
        let mut image = disk.clone();
        let top = at == 0;
        let below = Chain {
            layers: match top && !is_fresh {
                // What is below is attached when the copy is swapped in.
                true => vec![chain.layers[at].clone()],
                false => chain.layers[at..].to_vec(),
            },
            ended: true,
            end_is_given: false,
        };
        below.put(&mut image);
        image.readonly = !top;
        planned.push(images::plan(driver, guest, image).await?);
    }
    Ok(planned)
}

/// The images below one that is there.
async fn follow(driver: &Arc<Driver>, disk: &Disk, chain: &mut Chain) -> Result<()> {
    let mut images = disk.clone();
    chain.put(&mut images);
    let as_user = identity::file_user(&driver.config())?;
    let images = crate::blocking::file("following the chain of an image", move || {
        chain::follow(&mut images, &as_user, &Handed::default())?;
        Ok(images)
    })
    .await?;
    *chain = Chain::of(&images);
    Ok(())
}

fn backing_of(disk: &Disk) -> Option<(String, StorageFormat)> {
    let chain = Chain::of(disk);
    let below = chain.layers.get(1)?;
    Some((below.path()?, below.format.unwrap_or(StorageFormat::Raw)))
}

/// The node that the guest's device is on: the topmost filter, or the top image.
fn top_node(disk: &Disk) -> Result<String> {
    let image = begin::device_node(disk)?;
    let filter = block::filters(disk, &image).pop().map(|filter| filter.node);
    Ok(filter.or_else(|| block::copy_on_read_node(disk)).unwrap_or(image))
}

/// What is at the place of a copy.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    exists: bool,
    is_device: bool,
    is_empty: bool,
}

/// Looks at the place of a copy.
async fn look(wanted: &Copy, target: &str) -> Result<There> {
    let Some(path) = chain::local_path(wanted.to.disk.kind, wanted.to.disk.source.as_ref()) else {
        return Ok(There::default());
    };
    let shown = path.display().to_string();
    let found = crate::blocking::file(
        "looking at the place of a copy",
        move || match std::fs::metadata(&path) {
            Ok(found) => Ok(Ok(There {
                exists: true,
                is_device: found.file_type().is_block_device(),
                is_empty: found.len() == 0,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Err(error)),
            Err(error) => Err(Error::system(
                format_args!("unable to access '{}'", path.display()),
                error,
            )),
        },
    )
    .await?;
    let wants_device = wanted.block_device || wanted.to.disk.kind == StorageKind::Block;
    match found {
        Err(error) if wanted.reuse || wants_device => {
            let what = format!("missing destination file for disk {target}: {shown}");
            Err(Error::system(what, error))
        }
        Err(_) => Ok(There::default()),
        Ok(there) if wants_device && !there.is_device => Err(Error::argument(format!(
            "blockdev flag requested for disk {target}, but file '{shown}' is not a block device"
        ))),
        Ok(there) if !there.is_device && !there.is_empty && !wanted.reuse => {
            let text = format!(
                "external destination file for disk {target} already exists and is not a block device: {shown}"
            );
            Err(Error::new(Code::ConfigUnsupported, text))
        }
        Ok(there) => Ok(there),
    }
}

/// The copy's format: the one that is asked for, the disk's own, or that of an image that is there.
async fn format(wanted: &Copy, disk: &Disk, there: There) -> Result<StorageFormat> {
    let given = wanted.to.disk.driver.as_ref().and_then(|driver| driver.kind);
    if let Some(format) = given {
        return Ok(format);
    }
    let own = Chain::of(disk).layers.first().and_then(|top| top.format);
    if !wanted.reuse {
        return Ok(own.unwrap_or(StorageFormat::Raw));
    }
    let unknown = || {
        Error::new(
            Code::ConfigUnsupported,
            "reused mirror destination format must be specified",
        )
    };
    let path = chain::local_path(wanted.to.disk.kind, wanted.to.disk.source.as_ref());
    let path = path.filter(|_| there.exists).ok_or_else(unknown)?;
    let probed = crate::blocking::file("finding the format of an image", move || probe(&path)).await?;
    probed.ok_or_else(unknown)
}

/// The format of an image that says it itself. A guest can make raw look like any other, so raw is never guessed.
fn probe(path: &Path) -> Result<Option<StorageFormat>> {
    use std::io::Read;
    const MAGICS: [(&[u8], StorageFormat); 4] = [
        (b"QFI\xfb\0\0\0\x02", StorageFormat::Qcow2),
        (b"QFI\xfb\0\0\0\x03", StorageFormat::Qcow2),
        (b"QED\0", StorageFormat::Qed),
        (b"KDMV", StorageFormat::Vmdk),
    ];
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(8).read_to_end(&mut head));
    read.map_err(|error| Error::system(format_args!("cannot read '{}'", path.display()), error))?;
    Ok(MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, format)| *format))
}

/// The image below a copy that was made by somebody else, which is attached when the copy is swapped in.
pub(super) fn attaches(disk: &Disk, flags: u32) -> Option<(String, String)> {
    if flags & (COPY_SHALLOW | COPY_REUSE) != COPY_SHALLOW | COPY_REUSE {
        return None;
    }
    let chain = disk.mirror.as_ref().map(Chain::of_mirror)?;
    let node = |at: usize| chain.layers.get(at).and_then(Layer::node).map(str::to_owned);
    Some((node(1)?, node(0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_in_libvirts_order() {
        let wanted = Copy {
            speed: 5,
            granularity: 65_536,
            buffer: 7,
            synchronous_writes: true,
            ..Copy::default()
        };
        let text = mirror(&wanted, json!({ "job-id": "a" })).to_string();
        assert_eq!(
            text,
            r#"{"job-id":"a","speed":5,"granularity":65536,"buf-size":7,"sync":"full","copy-mode":"write-blocking","auto-finalize":true,"auto-dismiss":false}"#
        );
    }

    #[test]
    fn what_is_wrong_by_itself_is_refused_first() {
        let copy = |granularity, path| Copy {
            granularity,
            to: Place::of_path(path, false, None),
            ..Copy::default()
        };
        let text = |copy: Copy| check_arguments(&copy).unwrap_err().message.into_owned();
        assert_eq!(text(copy(3_000, "rel")), "granularity must be power of 2");
        assert_eq!(
            text(copy(0, "rel")),
            "absolute path must be used as block copy target"
        );
        assert!(check_arguments(&copy(4_096, "/abs")).is_ok());
    }
}
