//! One registration of a client for events of guests. Made by the handlers, kept by the registry.

use wire::xdr::Uuid;

/// How events of a registration look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Each kind has its own procedure and no id.
    Legacy,
    /// The message begins with this id.
    Callback(i32),
}

/// One registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) style: Style,
    /// libvirt's event id.
    pub(crate) event: i32,
    /// Only this guest.
    pub(crate) domain: Option<Uuid>,
}
