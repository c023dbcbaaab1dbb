//! The documents of a guest's snapshots, read when they are needed.

use domxml::moment::Snapshot;

use super::find;
pub(crate) use crate::ops::document::batch::Change;
use crate::{
    domain::View,
    error::Result,
    ops::{Driver, document::batch},
};

/// A change of a guest's snapshots that is being put together.
pub(crate) type Batch = batch::Batch<Snapshot>;

/// The document of a snapshot.
///
/// # Errors
/// `NoDomainSnapshot`; its file can't be read.
pub async fn document(driver: &Driver, view: &View, name: &str) -> Result<Snapshot> {
    batch::read(driver, view, find(view, name)?).await
}

/// The document of a snapshot as clients are shown it. The last ones are kept, unless they tell secrets.
///
/// # Errors
/// As [`document`].
pub async fn text(driver: &Driver, view: &View, name: &str, secure: bool) -> Result<String> {
    if secure {
        return Ok(document(driver, view, name).await?.format(true));
    }
    if let Some(text) = view.snapshots.shown(name) {
        return Ok(text.to_string());
    }
    let text = document(driver, view, name).await?.format(false);
    view.snapshots.note_shown(name, &text);
    Ok(text)
}
