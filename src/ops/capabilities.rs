//! libvirt's capabilities document: the host, and what guests it can run.

use std::sync::Arc;

use super::{Driver, host};
use crate::error::Result;

/// The document.
///
/// # Errors
/// The host's facts can't be read.
pub(super) async fn document(_driver: &Arc<Driver>) -> Result<String> {
    Err(host::not_yet("virConnectGetCapabilities"))
}
