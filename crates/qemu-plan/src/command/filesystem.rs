//! `<filesystem>`: directories of the host that the guest mounts.

use domxml::devices::common::VirtioModel;
use domxml::devices::filesystem::{AccessMode, Filesystem, FilesystemDriverKind, Multidevs};

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::props::{Keyval, Props};
use crate::{Error, Result};

/// Appends a shared directory.
///
/// # Errors
/// When QEMU has no such driver.
pub fn build(cx: Context<'_>, fs: &Filesystem, line: &mut CommandLine) -> Result<()> {
    match fs
        .driver
        .as_ref()
        .and_then(|driver| driver.kind)
        .unwrap_or_default()
    {
        FilesystemDriverKind::Path => {
            line.push("-fsdev", fsdev(fs)?);
            line.device(p9_props(cx, fs)?);
        }
        FilesystemDriverKind::Virtiofs => {
            line.push("-chardev", virtiofs_socket(cx, fs)?);
            line.device(virtiofs_props(cx, fs)?);
        }
        FilesystemDriverKind::Mtp => line.device(mtp_props(cx, fs)?),
        other => {
            return Err(Error::unsupported(format!(
                "Filesystem driver type '{}' not supported",
                other.as_str()
            )));
        }
    }
    Ok(())
}

fn source_dir(fs: &Filesystem) -> String {
    fs.source
        .as_ref()
        .and_then(|source| source.dir.clone())
        .unwrap_or_default()
}

fn tag(fs: &Filesystem) -> String {
    fs.target.clone().unwrap_or_default()
}

fn fsdev(fs: &Filesystem) -> Result<Keyval> {
    let model = match fs.accessmode.unwrap_or_default() {
        AccessMode::Squash => "none",
        other => other.as_str(),
    };
    let mut fsdev = Keyval::implied("local").with("security_model", model);
    let multidevs = fs.multidevs.filter(|mode| *mode != Multidevs::Default);
    fsdev.opt("multidevs", multidevs.map(Multidevs::as_str));
    fsdev.opt(
        "fmode",
        fs.fmode
            .filter(|mode| *mode != 0)
            .map(|mode| format!("{mode:04o}")),
    );
    fsdev.opt(
        "dmode",
        fs.dmode
            .filter(|mode| *mode != 0)
            .map(|mode| format!("{mode:04o}")),
    );
    fsdev
        .set("id", format!("fsdev-{}", alias(&fs.info)?))
        .set("path", source_dir(fs));
    if fs.readonly {
        fsdev.word("readonly");
    }
    Ok(fsdev)
}

fn transport(fs: &Filesystem) -> Virtio<'_> {
    let model: Option<VirtioModel> = fs.model;
    Virtio::new(model, fs.driver.as_ref().map(|driver| &driver.virtio))
}

/// Front end of a 9p share.
///
/// # Errors
/// When its bus is not there.
pub fn p9_props(cx: Context<'_>, fs: &Filesystem) -> Result<Props> {
    let id = alias(&fs.info)?;
    let mut props = address::virtio("virtio-9p", &fs.info, transport(fs))?
        .with("id", id)
        .with("fsdev", format!("fsdev-{id}"))
        .with("mount_tag", tag(fs));
    address::put(cx, &fs.info, &mut props)?;
    Ok(props)
}

fn virtiofs_socket(cx: Context<'_>, fs: &Filesystem) -> Result<Keyval> {
    let id = alias(&fs.info)?;
    let given = cx.res.device(id).socket;
    let own = || cx.res.lib_file(&format!("{id}-fs.sock"));
    let path = given
        .or_else(|| fs.source.as_ref().and_then(|source| source.socket.clone()))
        .unwrap_or_else(own);
    Ok(Keyval::implied("socket")
        .with("id", format!("chr-vu-{id}"))
        .with("path", path))
}

/// Front end of a virtiofs share.
///
/// # Errors
/// When its bus is not there.
pub fn virtiofs_props(cx: Context<'_>, fs: &Filesystem) -> Result<Props> {
    let id = alias(&fs.info)?;
    let queue = fs
        .driver
        .as_ref()
        .and_then(|driver| driver.queue)
        .filter(|queue| *queue != 0);
    let mut props = address::virtio("vhost-user-fs", &fs.info, transport(fs))?
        .with("id", id)
        .with("chardev", format!("chr-vu-{id}"))
        .with_opt("queue-size", queue)
        .with("tag", tag(fs))
        .with_opt("bootindex", cx.boot_index(&fs.info));
    address::put(cx, &fs.info, &mut props)?;
    Ok(props)
}

/// Front end of a share over the media transfer protocol.
///
/// # Errors
/// When its bus is not there.
pub fn mtp_props(cx: Context<'_>, fs: &Filesystem) -> Result<Props> {
    let mut props = Props::driver("usb-mtp")
        .with("id", alias(&fs.info)?)
        .with("rootdir", source_dir(fs))
        .with("desc", tag(fs))
        .with("readonly", fs.readonly);
    address::put(cx, &fs.info, &mut props)?;
    Ok(props)
}
