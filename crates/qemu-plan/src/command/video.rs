//! `<video>`: display adapters.

use domxml::devices::common::{OnOff, YesNo};
use domxml::devices::video::{Video, VideoBackend, VideoModel, VideoModelKind};

use super::address::{self, Virtio};
use super::context::{Context, alias};
use super::line::CommandLine;
use crate::error::{Area, Code};
use crate::props::Props;
use crate::{Error, Result};

/// Adapters that are the same whether they are primary or not, and QEMU's names.
const MODELS: [(VideoModelKind, &str); 5] = [
    (VideoModelKind::Vga, "VGA"),
    (VideoModelKind::Cirrus, "cirrus-vga"),
    (VideoModelKind::Vmvga, "vmware-svga"),
    (VideoModelKind::Bochs, "bochs-display"),
    (VideoModelKind::Ramfb, "ramfb"),
];

/// Appends all adapters.
///
/// # Errors
/// When QEMU has no such adapter.
pub fn build(cx: Context<'_>, line: &mut CommandLine) -> Result<()> {
    for video in &cx.def.devices.videos {
        let model = video.model.clone().unwrap_or_default();
        if model.kind == VideoModelKind::None {
            continue;
        }
        if is_vhost_user(video) {
            let id = alias(&video.info)?;
            let fd =
                cx.res.device(id).fd.ok_or_else(|| {
                    Error::new(Code::Internal, Area::None, "no socket of a vhost-user display")
                })?;
            line.push("-chardev", format!("socket,id=chr-vu-{id},fd={fd}"));
        }
        line.device(props(cx, video)?);
    }
    Ok(())
}

fn is_vhost_user(video: &Video) -> bool {
    video.driver.as_ref().and_then(|driver| driver.name) == Some(VideoBackend::Vhostuser)
}

fn is_primary(model: &VideoModel) -> bool {
    model.primary == Some(YesNo::Yes)
}

/// Front end of an adapter.
///
/// # Errors
/// When QEMU has no such adapter.
pub fn props(cx: Context<'_>, video: &Video) -> Result<Props> {
    let model = video.model.clone().unwrap_or_default();
    let mut props = front_end(video, &model)?;
    props.set("id", alias(&video.info)?);
    put_model(video, &model, &mut props)?;
    if let Some(size) = &model.resolution {
        props.set("xres", size.x).set("yres", size.y);
    }
    address::put(cx, &video.info, &mut props)?;
    Ok(props)
}

fn front_end(video: &Video, model: &VideoModel) -> Result<Props> {
    match model.kind {
        VideoModelKind::Virtio => virtio(video, model),
        VideoModelKind::Qxl => Ok(Props::driver(if is_primary(model) { "qxl-vga" } else { "qxl" })),
        kind => MODELS
            .iter()
            .find(|(known, _)| *known == kind)
            .map(|(_, name)| Props::driver(*name))
            .ok_or_else(|| Error::unsupported(format!("invalid model for video type '{}'", kind.as_str()))),
    }
}

/// A primary virtio adapter has VGA in it and no bus suffix.
fn virtio(video: &Video, model: &VideoModel) -> Result<Props> {
    let accelerated = model
        .acceleration
        .as_ref()
        .and_then(|acceleration| acceleration.accel3d)
        == Some(YesNo::Yes);
    let gl = if accelerated { "-gl" } else { "" };
    let options = video.driver.as_ref().map(|driver| &driver.virtio);
    let vga = is_primary(model);
    if vga {
        let name = if is_vhost_user(video) {
            "vhost-user-vga".to_owned()
        } else {
            format!("virtio-vga{gl}")
        };
        return address::virtio("virtio-vga", &video.info, Virtio::options(options)).map(|mut props| {
            props.set("driver", name);
            props
        });
    }
    let base = if is_vhost_user(video) {
        "vhost-user-gpu".to_owned()
    } else {
        format!("virtio-gpu{gl}")
    };
    address::virtio(&base, &video.info, Virtio::options(options))
}

/// Memory sizes, in the units of each adapter, and the number of screens.
fn put_model(video: &Video, model: &VideoModel, props: &mut Props) -> Result<()> {
    let mib = |kib: Option<u32>| kib.unwrap_or_default() / 1024;
    let bytes = |kib: Option<u32>| u64::from(kib.unwrap_or_default()) * 1024;
    match model.kind {
        VideoModelKind::Virtio => {
            props.opt("max_outputs", model.heads.filter(|heads| *heads != 0));
            if is_vhost_user(video) {
                props.set("chardev", format!("chr-vu-{}", alias(&video.info)?));
            }
            props.opt("blob", model.blob.map(OnOff::is_on));
        }
        VideoModelKind::Qxl => {
            props
                .opt("max_outputs", model.heads.filter(|heads| *heads != 0))
                .set("ram_size", bytes(model.ram))
                .set("vram_size", bytes(model.vram))
                .set("vram64_size_mb", mib(model.vram64))
                .set("vgamem_mb", mib(model.vgamem));
        }
        VideoModelKind::Vga | VideoModelKind::Vmvga => {
            props.opt(
                "vgamem_mb",
                model.vram.filter(|vram| *vram != 0).map(|vram| vram / 1024),
            );
        }
        VideoModelKind::Bochs => {
            props.opt(
                "vgamem",
                model
                    .vram
                    .filter(|vram| *vram != 0)
                    .map(|vram| u64::from(vram) * 1024),
            );
        }
        _ => {}
    }
    Ok(())
}
