//! A start of a guest that is off for its images to be merged, by its own QEMU.

use std::sync::Arc;

use super::{How, carrying_out, copy};
use crate::{
    domain::View,
    error::{Error, Result},
    ops::operation::Context,
};

/// Starts a guest that is off for its images to be merged, in an operation that is under way. Its CPUs do not run, and a
/// daemon that finds it ends it.
///
/// # Errors
/// What is wrong with its document, its files, or QEMU.
pub(crate) async fn to_merge(context: Arc<Context>) -> Result<Arc<View>> {
    let config = context.view().config.clone().ok_or_else(Error::not_running)?;
    let how = How {
        paused: true,
        merges: true,
        ..How::default()
    };
    carrying_out(context, copy(&config)?, Some(config), how).await
}
