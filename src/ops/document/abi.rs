//! Whether a guest would be the same with another document: asked wherever its memory goes on.

use crate::error::{Area, Code, Error, Result};

/// Whether a guest that has run with `old` may go on with `new`.
///
/// # Errors
/// `ConfigUnsupported`: the first difference that the guest would see.
pub(crate) fn check(new: &domxml::Domain, old: &domxml::Domain) -> Result<()> {
    let (target, source) = (memory(new), memory(old));
    if target != source {
        let said = format!("Target domain max memory {target} does not match source {source}");
        return Err(Error::new(Code::ConfigUnsupported, said).in_area(Area::Domain));
    }
    Ok(())
}

fn memory(document: &domxml::Domain) -> u64 {
    document.memory.as_ref().map_or(0, |memory| memory.size.0)
}
