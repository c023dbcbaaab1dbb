//! Display adapters: the default one, its memory, and which is the primary.

use domxml::devices::{DeviceInfo, Devices, Video, VideoModel, VideoModelKind, YesNo};

/// Memory that a kind of adapter gets, KiB.
const VRAM: &[(VideoModelKind, u32)] = &[
    (VideoModelKind::Vga, 16 * 1024),
    (VideoModelKind::Cirrus, 16 * 1024),
    (VideoModelKind::Vmvga, 16 * 1024),
    (VideoModelKind::Bochs, 16 * 1024),
    (VideoModelKind::Qxl, 64 * 1024),
];

/// Memory that qxl can address from outside, and what its VGA mode has, KiB.
const QXL_RAM: u32 = 64 * 1024;
const QXL_VGAMEM: u32 = 16 * 1024;

/// Fills in all adapters; a guest with a display gets one.
pub(super) fn fill(devices: &mut Devices, default: VideoModelKind) {
    if devices.videos.is_empty() && !devices.graphics.is_empty() {
        devices.videos.push(Video::default());
    }
    fill_models(devices, default);
    order(&mut devices.videos);
}

/// Fills in the models of the adapters that there are.
pub(super) fn fill_models(devices: &mut Devices, default: VideoModelKind) {
    for video in &mut devices.videos {
        let model = video.model.get_or_insert_with(VideoModel::default);
        if model.kind == VideoModelKind::Default {
            model.kind = default;
        }
        fill_memory(model);
        if model.kind == VideoModelKind::None {
            // Of what is none nothing is kept but its name.
            *video = Video {
                model: Some(VideoModel {
                    kind: VideoModelKind::None,
                    ..VideoModel::default()
                }),
                info: DeviceInfo {
                    alias: video.info.alias.take(),
                    ..DeviceInfo::default()
                },
                ..Video::default()
            };
        }
    }
}

fn fill_memory(model: &mut VideoModel) {
    if model.kind == VideoModelKind::None {
        return;
    }
    model.heads.get_or_insert(1);
    if model.vram.is_none() {
        model.vram = VRAM.iter().find(|(k, _)| *k == model.kind).map(|(_, kib)| *kib);
    }
    if model.kind == VideoModelKind::Qxl {
        model.ram.get_or_insert(QXL_RAM);
        model.vgamem.get_or_insert(QXL_VGAMEM);
    }
    for size in [
        &mut model.ram,
        &mut model.vram,
        &mut model.vram64,
        &mut model.vgamem,
    ]
    .into_iter()
    .flatten()
    {
        *size = size.checked_next_power_of_two().unwrap_or(*size);
    }
}

/// The primary adapter comes first; the first is primary when none says so.
fn order(videos: &mut Vec<Video>) {
    let says = |v: &Video| v.model.as_ref().and_then(|m| m.primary) == Some(YesNo::Yes);
    if let Some(at) = videos.iter().position(says) {
        let primary = videos.remove(at);
        videos.insert(0, primary);
    }
    for (at, video) in videos.iter_mut().enumerate() {
        if let Some(model) = &mut video.model {
            let primary = at == 0 || model.primary == Some(YesNo::Yes);
            model.primary = (primary && model.kind != VideoModelKind::None).then_some(YesNo::Yes);
        }
    }
}
