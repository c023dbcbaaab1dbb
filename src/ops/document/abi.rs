//! Whether a guest would be the same with another document: asked wherever its memory goes on.

use crate::error::Result;

/// Whether a guest that has run with `old` may go on with `new`.
///
/// # Errors
/// `ConfigUnsupported`: the first difference that the guest would see.
pub(crate) fn check(new: &domxml::Domain, old: &domxml::Domain) -> Result<()> {
    let fit = |document: &domxml::Domain| {
        let mut document = document.clone();
        document.make_migratable(None);
        document
    };
    Ok(qemu_plan::abi::check(&fit(new), &fit(old))?)
}

/// A document as images and other hosts get it.
pub(crate) fn migratable_text(mut document: domxml::Domain) -> String {
    use domxml::FormatFlags as F;
    document.make_migratable(None);
    document.format(F::INACTIVE | F::SECURE | F::MIGRATABLE)
}
