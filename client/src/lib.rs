//! Client of the daemon's gRPC service.
//!
//! ```text
//! connect   a channel over the daemon's Unix socket, which connects anew by itself
//! direct    calls of services that are in this process
//! services  the generated client of each service, on that channel or on any other
//! error     a status as a reason that a program can branch on
//! watch     events without a gap, over broken connections and restarts of the daemon
//! time      times as plain numbers
//! ```
//!
//! The libvirt front calls the services with it in process; tests and examples use it over the socket. See
//! `examples/start.rs` and `examples/watch.rs`.

#![allow(
    clippy::result_large_err,
    reason = "errors are rare, and go to the caller in one step"
)]

mod connect;
pub mod direct;
mod error;
pub mod services;
pub mod time;
mod watch;

pub use connect::{SOCKET, connect, connect_lazily};
pub use error::{Failure, Reason};
pub use services::{Channel, MESSAGE_MAX, Services};
pub use watch::{News, Watch};

/// Messages and clients of the services, generated from `proto/`, where they are documented.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/"
)]
pub mod proto {
    tonic::include_proto!("virtqemud.v1");
}

/// A guest by its name.
#[must_use]
pub fn by_name(name: impl Into<String>) -> Option<proto::DomainRef> {
    let r#ref = Some(proto::domain_ref::Ref::Name(name.into()));
    Some(proto::DomainRef { r#ref })
}
