//! Events: who listens to what, where they come from, and how they look on the wire.
//!
//! A connection has one watch for the events of guests, however many callbacks it has registered, so that
//! they keep their order; QEMU's own events have a watch a registration.

mod convert;
mod feed;
mod registration;
mod registry;

pub(crate) use convert::{ID_MAX, LEGACY_ID_MAX};
pub(crate) use feed::{Feed, Feeds, MonitorFilter, News, guests, monitor};
pub(crate) use registration::{Registration, Style};
pub(crate) use registry::{Added, Registry};
