//! What is left of block jobs when the guest's run ends first: an image that may name the wrong one below it.
//!
//! When a pull or a commit into an image below ends, QEMU writes another name of the image below into the one above, at once.
//! The tables that tell where the merged blocks are it may not have written yet. A job that is in the status file is not
//! known to be in the images whole, and the images that it merged are still there, unchanged but for blocks that are the same
//! above: so the name is put back, and the next run begins from the chain that the documents know.
//!
//! The status file says all of it, so this holds for a guest that is found ended as well.

use std::path::Path;

use domxml::{
    devices::{Device, Disk, StorageFormat},
    status::{self, BlockJob, BlockJobKind},
};
use qemu_plan::{
    block::{self, Chain, Image, Layer, SecretNeed, Sources},
    command::Resources,
};

use crate::{
    domain::{Run, View, intents::Intent},
    error::{Error, Result},
    ops::{
        Driver,
        holdings::storage::{chain, qemu_img::qemu_img, secrets},
        host::files::remove_image,
    },
};

/// Puts the names back. What fails is logged.
pub(crate) async fn put_back(driver: &Driver, run: &Run) {
    let document = &run.document.domain;
    let jobs = run.status.blockjobs.iter().flat_map(|all| &all.jobs);
    for job in jobs {
        let target = job.disk.as_ref().map_or("", |disk| disk.dst.as_str());
        let mut disks = document.devices.disks.iter();
        let Some(disk) = disks.find(|disk| disk.target.dev == target) else {
            continue;
        };
        let Some((image, below)) = images_of(job, disk) else {
            continue;
        };
        if let Err(error) = name(driver, run, disk, (&image, &below)).await {
            tracing::error!(guest = document.name, job = job.name, %error,
                "an image may name a wrong one below it: QEMU ended in the midst of a block job");
        }
    }
}

/// Removes images that were merged into others and were about to go: their documents had followed, and `view` has them no
/// more. What fails is logged.
pub(crate) async fn remove_merged(driver: &Driver, view: &View, run: &Run) {
    let notes = driver.registry.store().intents().of(view.uuid, run.launched.id);
    let mut paths = Vec::new();
    for note in &notes {
        let Intent::EndBlockJob {
            disk, deletes: true, ..
        } = &note.intent
        else {
            continue;
        };
        if let Ok(Device::Disk(before)) = Device::parse(disk, status::PARSE) {
            paths.extend(left_by(&before, &run.document.domain));
        }
    }
    for path in paths {
        let named = path.clone();
        let work = move || remove_image(Path::new(&path));
        if let Err(error) =
            crate::blocking::file("removing an image that was merged into another", work).await
        {
            tracing::warn!(path = named, %error, "an image that was merged into another is left");
        }
    }
}

/// The files of a disk as it was that a document has no more.
fn left_by(before: &Disk, document: &domxml::Domain) -> Vec<String> {
    let files =
        |disk: &Disk| -> Vec<String> { Chain::of(disk).layers.iter().filter_map(Layer::path).collect() };
    let kept: Vec<_> = document.devices.disks.iter().flat_map(files).collect();
    let mut gone = files(before);
    gone.retain(|path| !kept.contains(path));
    gone
}

/// The image in which a job writes another name when it ends, and the one below it.
fn images_of(job: &BlockJob, disk: &Disk) -> Option<(Layer, Layer)> {
    let mut chain = Chain::of(disk);
    let above = match job.kind.known()? {
        BlockJobKind::Pull => 0,
        BlockJobKind::Commit => chain.with_node(job.top.as_deref()?)?.checked_sub(1)?,
        // What they swap is for QEMU to know; no image is told.
        _ => return None,
    };
    let is_inside = above + 1 < chain.layers.len();
    is_inside.then(|| {
        let below = chain.layers.swap_remove(above + 1);
        (chain.layers.swap_remove(above), below)
    })
}

/// Has an image name the one below it.
async fn name(driver: &Driver, run: &Run, disk: &Disk, (image, below): (&Layer, &Layer)) -> Result<()> {
    let (found, needs) = opened(image, disk, &Resources::default())?;
    let path = image.path().filter(|_| found.slice.is_none());
    if let Some(path) = path
        && stands_on(path, below).await?
    {
        // It was not told another, and has the name that whoever made it gave it.
        return Ok(());
    }
    let mut words = vec!["rebase".to_owned(), "-u".to_owned()];
    words.extend(["-F", format_of(below), "-b"].map(str::to_owned));
    words.push(name_of(below, disk)?);
    let mut given = Resources::default();
    secrets::fetch_for_run(driver, run.status.lib_dir.as_deref(), needs, &mut given).await?;
    words.extend(opening(image, disk, &given, run.status.lib_dir.as_deref())?);
    qemu_img(words).await
}

/// What has qemu-img open an image: its format and its path, or all that is to be said of one that takes more.
fn opening(image: &Layer, disk: &Disk, given: &Resources, dir: Option<&str>) -> Result<Vec<String>> {
    let (found, needs) = opened(image, disk, given)?;
    if let (true, None, Some(path)) = (needs.is_empty(), found.slice, image.path()) {
        return Ok(vec!["-f".to_owned(), format_of(image).to_owned(), path]);
    }
    let mut objects = Vec::new();
    if !needs.is_empty() {
        let file = secrets::key_of_run(dir).display().to_string();
        objects.push(block::master_key(file));
    }
    objects.extend(found.objects.iter().cloned());
    let objects = objects.into_iter().flat_map(|object| {
        let text = object.into_value().to_string();
        ["--object".to_owned(), text]
    });
    Ok(objects.chain([format!("json:{}", found.alone())]).collect())
}

/// An image as QEMU opens it, and what secrets that takes.
fn opened(image: &Layer, disk: &Disk, given: &Resources) -> Result<(Image, Vec<SecretNeed>)> {
    let mut sources = Sources::new(given, 1);
    let found = sources.disk(&image.as_disk(disk))?;
    let found = found.ok_or_else(|| Error::internal("the image has no source"))?;
    Ok((found, sources.needs))
}

/// Whether an image names the one below it, in whatever words.
async fn stands_on(image: String, below: &Layer) -> Result<bool> {
    let below = below.path();
    let read = move || Ok(below.is_some_and(|below| chain::names(Path::new(&image), Path::new(&below))));
    crate::blocking::file("reading the head of an image", read).await
}

fn format_of(layer: &Layer) -> &'static str {
    layer.format.unwrap_or(StorageFormat::Raw).as_str()
}

/// How the image above names an image.
fn name_of(below: &Layer, disk: &Disk) -> Result<String> {
    if let Some(name) = below.relative() {
        return Ok(name.to_owned());
    }
    let (image, _) = opened(below, disk, &Resources::default())?;
    Ok(match (image.slice, below.path()) {
        (None, Some(path)) => path,
        _ => format!("json:{}", image.place()),
    })
}

#[cfg(test)]
mod tests {
    use domxml::status::Open;

    use super::*;

    fn disk(below: &str) -> Disk {
        let text = format!(
            "<domain type='qemu' id='1'><name>a</name><os><type>hvm</type></os><devices><disk type='file' device='disk'>
            <driver name='qemu' type='qcow2'/><source file='/d/top' index='7'/>
            <backingStore type='file' index='2'><format type='qcow2'/><source file='/d/mid'/>{below}</backingStore>
            <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk></devices></domain>"
        );
        let mut document = domxml::Domain::parse(&text, domxml::ParseFlags::NONE).unwrap();
        let mut disk = document.devices.disks.remove(0);
        qemu_plan::block::name_disk(&mut disk).unwrap();
        disk
    }

    const FILE: &str = "<backingStore type='file' index='9'><format type='raw'/><source file='/d/low'/><backingStore/></backingStore>";

    fn job(kind: BlockJobKind, top: Option<&str>) -> BlockJob {
        BlockJob {
            kind: Open::Known(kind),
            top: top.map(str::to_owned),
            ..BlockJob::default()
        }
    }

    #[test]
    fn the_image_above_what_was_merged_is_named_again() {
        use BlockJobKind as K;
        let disk = disk(FILE);
        // The kind and its top; the image, and what it names.
        let table = [
            (K::Pull, None, Some(("/d/top", "/d/mid"))),
            (K::Commit, Some("libvirt-2-storage"), Some(("/d/top", "/d/mid"))),
            (K::Commit, Some("libvirt-9-storage"), Some(("/d/mid", "/d/low"))),
            (K::Commit, Some("libvirt-7-storage"), None),
            (K::Commit, Some("libvirt-4-storage"), None),
            (K::ActiveCommit, Some("libvirt-7-storage"), None),
            (K::Copy, None, None),
        ];
        for (kind, top, expected) in table {
            let found = images_of(&job(kind, top), &disk);
            let found = found.map(|(image, below)| (image.path().unwrap(), name_of(&below, &disk).unwrap()));
            let expected = expected.map(|(image, below)| (image.to_owned(), below.to_owned()));
            assert_eq!(found, expected, "{kind:?} {top:?}");
        }
    }

    #[test]
    fn an_image_is_named_as_it_was() {
        let named = |source: &str| {
            let text = format!("<backingStore {source}<backingStore/></backingStore>");
            let disk = disk(&text);
            name_of(&Chain::of(&disk).layers[2], &disk).unwrap()
        };
        let nbd = "type='network' index='3'><format type='qcow2'/><source protocol='nbd' name='e'><host name='h' port='1'/></source>";
        let name = named(nbd);
        let options: serde_json::Value = serde_json::from_str(name.strip_prefix("json:").unwrap()).unwrap();
        assert_eq!(options["driver"], "nbd", "{name}");
        assert_eq!(options["export"], "e", "{name}");
        let slice = "type='file' index='3'><format type='raw'/><source file='/d/x'><slices><slice type='storage' offset='512' size='1024'/></slices></source>";
        let name = named(slice);
        assert!(name.contains("\"offset\":512") && name.contains("/d/x"), "{name}");
        let mut disk = disk(FILE);
        let mut chain = Chain::of(&disk);
        chain.layers[2].set_relative(Some("low".into()));
        chain.put(&mut disk);
        assert_eq!(name_of(&Chain::of(&disk).layers[2], &disk).unwrap(), "low");
    }

    #[test]
    fn an_image_is_opened_by_its_path_if_that_is_enough() {
        let opened = |source: &str| {
            let mut disk = disk(FILE);
            let text = format!(
                "<disk type='file' device='disk'><driver type='qcow2'/>{source}<target dev='vda'/></disk>"
            );
            if let Device::Disk(given) = Device::parse(&text, domxml::ParseFlags::NONE).unwrap() {
                disk.source = given.source;
            }
            opening(
                &Chain::of(&disk).layers[0],
                &disk,
                &Resources::default(),
                Some("/run"),
            )
            .unwrap()
        };
        let words = opened("<source file='/d/a'/>");
        assert_eq!(words, ["-f", "qcow2", "/d/a"]);
        let words = opened(
            "<source file='/d/a'><encryption format='luks'><secret type='passphrase' usage='u'/></encryption></source>",
        );
        let [key, secret] = [1, 3].map(|at| serde_json::from_str::<serde_json::Value>(&words[at]).unwrap());
        assert_eq!(key["file"], "/run/master-key.aes");
        let image = words[4].strip_prefix("json:").unwrap();
        let image: serde_json::Value = serde_json::from_str(image).unwrap();
        assert_eq!(image["encrypt"]["key-secret"], secret["id"]);
        assert_eq!(image["file"]["filename"], "/d/a");
        assert_eq!(words.len(), 5);
        let part =
            "<source file='/d/a'><slices><slice type='storage' offset='512' size='1024'/></slices></source>";
        let words = opened(part);
        assert!(
            words[0].starts_with("json:") && words[0].contains("\"offset\":512"),
            "{words:?}"
        );
    }

    #[test]
    fn files_that_the_document_has_stay() {
        let (before, mut document) = (disk(FILE), domxml::Domain::default());
        assert_eq!(left_by(&before, &document), ["/d/top", "/d/mid", "/d/low"]);
        let mut after = before.clone();
        let mut chain = Chain::of(&before);
        chain.layers.remove(1);
        chain.put(&mut after);
        document.devices.disks.push(after);
        assert_eq!(left_by(&before, &document), ["/d/mid"]);
        document.devices.disks.push(before.clone());
        assert!(left_by(&before, &document).is_empty());
    }
}
