//! Whether a document fits the schema, for callers who ask for that.

use crate::error::Result;

/// Checks a document against the schema.
///
/// # Errors
/// `XmlInvalidSchema` naming what does not fit.
pub(crate) fn check(xml: &str) -> Result<()> {
    Ok(domxml::Domain::check_schema(xml)?)
}
