//! What of a run's devices QEMU tells by event only: read back when a daemon comes to a guest that ran without it.
//!
//! Called by `restore`. Whether somebody listens at a channel, and whether a tray is open; what differs from the document
//! is taken in as if the event came now.

use std::sync::Arc;

use domxml::devices::{ChannelState, Tray};
use qmp::{
    commands,
    types::{BlockInfo, ChardevInfo},
};

use crate::{
    domain::{Effects, View},
    ops::run::{guest::Guest, react},
};

/// Asks QEMU and commits what is new. What it does not answer stays as it was.
pub(crate) async fn refresh(guest: &Arc<Guest>) {
    let chardevs = guest.execute(commands::QueryChardev {}).await.unwrap_or_default();
    let drives = guest.execute(commands::QueryBlock {}).await.unwrap_or_default();
    let id = guest.id;
    let change = move |view: &mut View| {
        let Some(run) = view.run.as_ref().filter(|r| r.launched.id == id) else {
            return Ok(Effects::none());
        };
        let document = Arc::clone(&run.document.domain);
        let told: Vec<_> = channels(&document, &chardevs)
            .into_iter()
            .chain(trays(&document, &drives))
            .collect();
        let mut effects = Effects::none();
        for (alias, what) in told {
            let one = match what {
                What::Channel(open) => react::channel(view, &alias, open),
                What::Tray(open) => react::tray_moved(view, &alias, open),
            };
            effects.events.extend(one.events);
        }
        Ok(effects)
    };
    if let Err(error) = guest.domain.commit(change).await {
        tracing::warn!(guest = %guest.domain.view().name, %error, "the state of its devices could not be taken over");
    }
}

/// What differs, and whether it is open in QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Channel(bool),
    Tray(bool),
}

fn channels(document: &domxml::Domain, chardevs: &[ChardevInfo]) -> Vec<(String, What)> {
    let named = document
        .devices
        .channels
        .iter()
        .filter(|c| c.target.as_ref().is_some_and(|t| t.name.is_some()));
    let differing = named.filter_map(|channel| {
        let alias = channel.info.alias.clone()?;
        let open = chardevs
            .iter()
            .find(|c| c.label == format!("char{alias}"))?
            .frontend_open;
        let shown = channel.target.as_ref()?.state == Some(ChannelState::Connected);
        (open != shown).then_some((alias, What::Channel(open)))
    });
    differing.collect()
}

fn trays(document: &domxml::Domain, drives: &[BlockInfo]) -> Vec<(String, What)> {
    let differing = document.devices.disks.iter().filter_map(|disk| {
        let alias = disk.info.alias.clone()?;
        let open = drive_of(&alias, drives)?.tray_open?;
        (open != (disk.target.tray == Some(Tray::Open))).then_some((alias, What::Tray(open)))
    });
    differing.collect()
}

/// The drive of that alias: QEMU names it by its id, or by its path.
pub(crate) fn drive_of<'a>(alias: &str, drives: &'a [BlockInfo]) -> Option<&'a BlockInfo> {
    drives
        .iter()
        .find(|d| d.qdev.as_deref().is_some_and(|q| react::alias_of(q) == alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let text = "<domain type='qemu' id='3'><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices>
            <disk type='file' device='cdrom'><target dev='sda' bus='sata' tray='open'/><alias name='sata0-0-0'/></disk>
            <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><alias name='sata0-0-1'/></disk>
            <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='disconnected'/><alias name='channel0'/></channel>
            </devices></domain>";
        let document = domxml::Domain::parse(text, domxml::ParseFlags::NONE).unwrap();
        let drives = r#"[{"qdev": "sata0-0-0", "tray_open": false}, {"qdev": "/machine/peripheral/sata0-0-1", "tray_open": false}]"#;
        let drives: Vec<BlockInfo> = serde_json::from_str(drives).unwrap();
        assert_eq!(
            trays(&document, &drives),
            [("sata0-0-0".to_owned(), What::Tray(false))]
        );
        let chardevs = r#"[{"label": "charchannel0", "filename": "unix:x", "frontend-open": true}]"#;
        let chardevs: Vec<ChardevInfo> = serde_json::from_str(chardevs).unwrap();
        assert_eq!(
            channels(&document, &chardevs),
            [("channel0".to_owned(), What::Channel(true))]
        );
        assert!(channels(&document, &[]).is_empty());
    }
}
