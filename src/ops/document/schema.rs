//! Whether a document fits the schema, for callers who ask for that.
//!
//! libvirt's files of schema decide, as they do for libvirt; on a host without them domxml's types and rules do. It is told
//! in the words of libvirt's validator, which names the outermost part that does not fit. The place itself goes to the log.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use domxml::{Grammar, Kind};

use crate::error::{Error, Result};

/// Where libvirt has its schemas.
const SCHEMAS: &str = "/usr/share/libvirt/schemas";
/// That of guests.
const SCHEMA: &str = "domain.rng";

/// The schema as it was found when it was first asked for; none if there is none that is understood.
static FOUND: OnceLock<Option<Arc<Grammar>>> = OnceLock::new();

/// Checks a document against the schema.
///
/// # Errors
/// `XmlInvalidSchema` naming the part of the document that does not fit.
pub(crate) async fn check(xml: &str) -> Result<()> {
    let text = xml.to_owned();
    let checked = move || {
        let checked = match FOUND.get_or_init(|| load(Path::new(SCHEMAS))) {
            Some(grammar) => domxml::Domain::check_grammar(&text, grammar),
            None => domxml::Domain::check_schema(&text),
        };
        checked.map_err(told)
    };
    crate::blocking::file("checking a document against the schema", checked).await
}

/// Checks a document of another kind against its schema, where that is installed.
///
/// # Errors
/// As [`check`].
pub(crate) async fn check_other(xml: &str, which: Other) -> Result<()> {
    let text = xml.to_owned();
    let fits = move || match (which, which.grammar()) {
        // What is wrong most often is told in the words of libvirt's validator.
        (Other::Snapshot, Some(grammar)) => {
            domxml::moment::check_schema(&text).and_then(|()| domxml::moment::check_grammar(&text, grammar))
        }
        (Other::Snapshot, None) => domxml::moment::check_schema(&text),
        (_, Some(grammar)) => domxml::moment::check_grammar(&text, grammar),
        (_, None) => Ok(()),
    };
    let checked = move || {
        fits().map_err(|misfit| {
            if misfit.kind != Kind::XmlInvalidSchema {
                return misfit.into();
            }
            let message = format!(
                "Unable to validate doc against {SCHEMAS}/{}\n{}",
                which.file(),
                misfit.message
            );
            Error::from(domxml::Error {
                message,
                ..misfit.clone()
            })
            .caused_by(misfit)
        })
    };
    crate::blocking::file("checking a document against the schema", checked).await
}

/// Other documents than guests'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    /// Of a snapshot.
    Snapshot,
    /// Of a checkpoint.
    Checkpoint,
    /// Of a backup.
    Backup,
}

impl Other {
    fn file(self) -> &'static str {
        match self {
            Self::Snapshot => "domainsnapshot.rng",
            Self::Checkpoint => "domaincheckpoint.rng",
            Self::Backup => "domainbackup.rng",
        }
    }

    /// Its schema, as it was found when it was first asked for; none of one that is not understood.
    fn grammar(self) -> Option<&'static Arc<Grammar>> {
        static SNAPSHOT: OnceLock<Option<Arc<Grammar>>> = OnceLock::new();
        static CHECKPOINT: OnceLock<Option<Arc<Grammar>>> = OnceLock::new();
        static BACKUP: OnceLock<Option<Arc<Grammar>>> = OnceLock::new();
        let found = match self {
            Self::Snapshot => &SNAPSHOT,
            Self::Checkpoint => &CHECKPOINT,
            Self::Backup => &BACKUP,
        };
        found.get_or_init(|| load_as(self.file())).as_ref()
    }
}

fn load(directory: &Path) -> Option<Arc<Grammar>> {
    load_from(directory, SCHEMA)
}

fn load_as(schema: &str) -> Option<Arc<Grammar>> {
    load_from(Path::new(SCHEMAS), schema)
}

fn load_from(directory: &Path, schema: &str) -> Option<Arc<Grammar>> {
    let mut read =
        |name: &str| std::fs::read_to_string(directory.join(name)).map_err(|e| format!("{name}: {e}"));
    Grammar::load(schema, &mut read)
        .inspect_err(|error| tracing::warn!(%error, "libvirt's schema can't be used; documents are checked without it"))
        .ok()
        .map(Arc::new)
}

fn told(misfit: domxml::Error) -> Error {
    if misfit.kind != Kind::XmlInvalidSchema {
        return misfit.into();
    }
    tracing::debug!(place = %misfit.message, "a document does not fit the schema");
    let told = misfit.clone();
    Error::from(domxml::Error {
        message: verdict(&told.message),
        ..told
    })
    .caused_by(misfit)
}

/// The validator's words for a misfit at a place.
fn verdict(place: &str) -> String {
    let part = place.strip_prefix("/domain/").and_then(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && !"_-:".contains(c));
        rest.get(..end.unwrap_or(rest.len()))
            .filter(|part| !part.is_empty())
    });
    let extra = part.map(|part| format!("Extra element {part} in interleave\n"));
    format!(
        "Unable to validate doc against {SCHEMAS}/{SCHEMA}\n{}Element domain failed to validate content\n",
        extra.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_of_snapshots_are_checked_with_the_guests_in_them() {
        let snapshot = |inner: &str| format!("<domainsnapshot><name>s</name>{inner}</domainsnapshot>");
        let domain = |more: &str| {
            format!(
                "<domain type='qemu'><name>g</name><uuid>c4ef86bf-522a-4450-bcd0-b84bbbfd3d0e</uuid>
                <memory unit='KiB'>1</memory><os><type>hvm</type></os>{more}</domain>"
            )
        };
        let check = async |text: String| check_other(&text, Other::Snapshot).await;
        check(snapshot("<disks><disk name='vda' snapshot='no'/></disks>"))
            .await
            .unwrap();
        check(snapshot(&domain(""))).await.unwrap();
        check(snapshot("<foo/>")).await.unwrap_err();
        if Other::Snapshot.grammar().is_some() {
            check(snapshot(&domain("<foo/>"))).await.unwrap_err();
            check(snapshot("<disks><disk name='vda' snapshot='foo'/></disks>"))
                .await
                .unwrap_err();
        }
    }

    #[test]
    fn the_outermost_part_is_named() {
        for (place, part) in [
            ("/domain/devices/disk[2]/@x is not known there", "devices"),
            ("/domain/title is '', not text on one line", "title"),
            ("/domain/seclabel[2] is not known there", "seclabel"),
        ] {
            let line = format!("\nExtra element {part} in interleave\n");
            assert!(verdict(place).contains(&line), "{place}");
        }
        for place in ["/domain/@x is not known there", "Invalid value for attribute 'x'"] {
            assert!(!verdict(place).contains("Extra"), "{place}");
        }
    }
}
