//! Whether a document fits the schema, for callers who ask for that.
//!
//! What fits is decided by domxml's types and rules, with no need of libvirt's schema files; it is told in the words of
//! libvirt's validator, which names the outermost part that does not fit. The place itself goes to the log.

use domxml::Kind;

use crate::error::{Error, Result};

/// Where libvirt has its schema of guests.
const SCHEMA: &str = "/usr/share/libvirt/schemas/domain.rng";

/// Checks a document against the schema.
///
/// # Errors
/// `XmlInvalidSchema` naming the part of the document that does not fit.
pub(crate) fn check(xml: &str) -> Result<()> {
    let Err(misfit) = domxml::Domain::check_schema(xml) else {
        return Ok(());
    };
    if misfit.kind != Kind::XmlInvalidSchema {
        return Err(misfit.into());
    }
    tracing::debug!(place = %misfit.message, "a document does not fit the schema");
    let told = misfit.clone();
    Err(Error::from(domxml::Error {
        message: verdict(&told.message),
        ..told
    })
    .caused_by(misfit))
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
        "Unable to validate doc against {SCHEMA}\n{}Element domain failed to validate content\n",
        extra.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
