//! What a change of the configuration changes in the running guest itself: in QEMU, or in the host's kernel.
//!
//! Used by `ops::change::configure`, which notes it with what takes it back before it begins, and by `ops::recover`, which
//! finds such a note: the document says whether the change was committed, and what was not is taken back.

use std::{error::Error as _, sync::Arc};

use domxml::{Domain, clock::LifecycleAction, devices::Memballoon, units::Kib};
use qmp::{ErrorClass, commands};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{View, intents::Intent},
    error::{Error, Result},
    ops::{Driver, tuning},
};

/// A change of the running guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Live {
    /// The balloon's size, KiB.
    Memory(u64),
    /// Seconds between two looks at the guest's memory statistics; 0: none.
    MemoryStatsPeriod(u32),
    /// A reboot resets the machine, or ends it.
    OnReboot {
        /// It resets it.
        resets: bool,
    },
    /// What it may use of the host.
    Tuning(tuning::Change),
}

impl Live {
    /// What takes it back; none: nothing would be changed.
    ///
    /// # Errors
    /// What the guest has now can't be told; it can't be changed at all.
    pub(crate) async fn before(&self, driver: &Arc<Driver>, view: &View) -> Result<Option<Self>> {
        let document = &view.running()?.document.domain;
        Ok(match self {
            Self::Memory(_) => size(document).map(Self::Memory),
            Self::OnReboot { .. } => Some(Self::OnReboot {
                resets: resets(document),
            }),
            Self::MemoryStatsPeriod(_) if balloon(document).is_none() => {
                return Err(Error::internal(
                    "No memory balloon device configured, can not set the collection period",
                ));
            }
            Self::MemoryStatsPeriod(_) => Some(Self::MemoryStatsPeriod(period(document))),
            Self::Tuning(change) => tuning::before(driver, view, change).await?.map(Self::Tuning),
        })
    }

    /// Changes the running guest.
    ///
    /// # Errors
    /// What QEMU or the kernel refuses; then nothing is changed.
    pub(crate) async fn carry_out(&self, driver: &Arc<Driver>, view: &View) -> Result<()> {
        match self {
            Self::Memory(kib) => {
                let value = kib.saturating_mul(1024);
                let guest = driver.guests.of(view)?;
                let told = guest.execute(commands::Balloon { value }).await;
                told.map(drop).map_err(without_balloon)
            }
            Self::OnReboot { resets } => {
                let guest = driver.guests.of(view)?;
                let reboot = if *resets { "reset" } else { "shutdown" };
                let action = commands::SetAction {
                    reboot: Some(reboot.to_owned()),
                    shutdown: None,
                    panic: None,
                    watchdog: None,
                };
                guest.execute(action).await.map(drop)
            }
            Self::MemoryStatsPeriod(seconds) => {
                let guest = driver.guests.of(view)?;
                let alias = balloon(&view.running()?.document.domain).and_then(|b| b.info.alias.as_deref());
                let period = commands::QomSet {
                    path: format!("/machine/peripheral/{}", alias.unwrap_or("balloon0")),
                    property: "guest-stats-polling-interval".to_owned(),
                    value: (*seconds).into(),
                };
                guest.execute(period).await.map(drop)
            }
            Self::Tuning(change) => tuning::carry_out(driver, view, change).await,
        }
    }

    /// Whether the document says that it was made.
    fn is_in(&self, document: &Domain) -> bool {
        match self {
            Self::Memory(kib) => size(document) == Some(*kib),
            Self::MemoryStatsPeriod(seconds) => period(document) == *seconds,
            Self::OnReboot { resets: wanted } => resets(document) == *wanted,
            Self::Tuning(change) => tuning::is_in(document, change),
        }
    }

    /// The note of it, with what takes it back.
    ///
    /// # Errors
    /// It can't be put into words.
    pub(crate) fn intent(&self, before: &Self) -> Result<Intent> {
        let words = |live: &Self| {
            serde_json::to_string(live)
                .map_err(|error| Error::internal("a change can't be put into words").caused_by(error))
        };
        Ok(Intent::Tune {
            change: words(self)?,
            before: words(before)?,
        })
    }

    /// What is to be done about a note of a change that was cut off: nothing if the document has it.
    ///
    /// # Errors
    /// The note can't be read.
    pub(crate) fn left_by(change: &str, before: &str, document: &Domain) -> Result<Option<Self>> {
        let read = |text: &str| {
            serde_json::from_str::<Self>(text)
                .map_err(|error| Error::internal("a note of a change can't be read").caused_by(error))
        };
        Ok(if read(change)?.is_in(document) {
            None
        } else {
            Some(read(before)?)
        })
    }
}

fn balloon(document: &Domain) -> Option<&Memballoon> {
    document
        .devices
        .memballoon
        .as_ref()
        .filter(|b| b.model.as_str() != "none")
}

/// QEMU's word for a guest that has no balloon, in libvirt's.
fn without_balloon(error: Error) -> Error {
    let refusal = error
        .source()
        .and_then(|source| source.downcast_ref::<qmp::Error>());
    match refusal.and_then(qmp::Error::class) {
        Some(ErrorClass::DeviceNotActive) => Error::invalid(
            "Unable to change memory of active domain without the balloon device and guest OS balloon driver",
        )
        .caused_by(error),
        _ => error,
    }
}

/// Whether a reboot resets the machine.
fn resets(document: &Domain) -> bool {
    document.on_reboot != Some(LifecycleAction::Destroy)
}

fn size(document: &Domain) -> Option<u64> {
    document.current_memory.map(|Kib(kib)| kib)
}

fn period(document: &Domain) -> u32 {
    balloon(document).and_then(|b| b.stats_period).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture;

    const GUEST: &str = "<name>a</name><memory>2048</memory><currentMemory>1024</currentMemory>
        <cputune><shares>512</shares></cputune>
        <devices><memballoon model='virtio'><stats period='5'/></memballoon></devices>";

    #[test]
    fn what_the_document_does_not_have_is_taken_back() {
        let view = fixture::running(GUEST);
        let document = &view.run.as_ref().unwrap().document.domain;
        let shares = |shares| {
            Live::Tuning(tuning::Change::Scheduler(tuning::scheduler::Scheduler {
                shares: Some(shares),
                ..Default::default()
            }))
        };
        let pin = |text: &str| {
            Live::Tuning(tuning::Change::Pin {
                thread: crate::ops::holdings::cgroup::thread::Thread::Emulator,
                cpus: text.parse().unwrap(),
            })
        };
        let blocks = |read| {
            let device = domxml::tuning::BlockTuneDevice {
                path: "/dev/sda".to_owned(),
                read_bytes_sec: Some(read),
                ..Default::default()
            };
            Live::Tuning(tuning::Change::Blocks(tuning::blocks::Limits {
                weight: None,
                devices: vec![device],
            }))
        };
        let nodes = |text: &str| {
            Live::Tuning(tuning::Change::Numa(tuning::numa::Placement {
                mode: None,
                nodes: Some(text.parse().unwrap()),
            }))
        };
        // table: the change, what takes it back, whether the document has the change
        for (change, before, committed) in [
            (Live::Memory(1024), Live::Memory(2048), true),
            (Live::Memory(1536), Live::Memory(1024), false),
            (Live::MemoryStatsPeriod(5), Live::MemoryStatsPeriod(0), true),
            (Live::MemoryStatsPeriod(0), Live::MemoryStatsPeriod(5), false),
            (shares(512), shares(1024), true),
            (shares(100), shares(512), false),
            (pin("0-1"), pin("0-3,5"), false),
            (blocks(700), blocks(500), false),
            (nodes("0-1"), nodes("0"), false),
        ] {
            let Intent::Tune {
                change: made,
                before: back,
            } = change.intent(&before).unwrap()
            else {
                panic!("another intent");
            };
            let left = Live::left_by(&made, &back, document).unwrap();
            assert_eq!(left, (!committed).then_some(before), "{change:?}");
        }
        assert!(Live::left_by("{}", "{}", document).is_err());
    }
}
