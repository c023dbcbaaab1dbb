//! The libvirt RPC front: a client of `proto/` that speaks libvirt's protocol.
//!
//! ```text
//! server     accepts, within limits
//!   session  one task a connection: packets in, replies, events and streams out
//!     dispatch   program, procedure, authentication, arguments, read-only: in libvirt's order
//!       routes   procedure → handler
//!         handlers   wire arguments → a request of the service → wire reply
//!     neighbours     the procedures of the other drivers, relayed to their daemons
//! ```
//!
//! It knows nothing of QEMU, and no more of the daemon than the services it calls. The daemon starts it
//! with [`serve`]. The hard thing is to owe nobody anything: what a client may occupy is bounded, in
//! calls, bytes and descriptors, and a client that does not read its events is let go.

#![allow(
    clippy::result_large_err,
    reason = "errors are rare and go a few calls deep; a box would be at every one of them"
)]

mod awake;
mod backend;
mod clients;
mod conn;
mod ctx;
mod dispatch;
mod error;
mod events;
mod handlers;
mod jobs;
mod keepalive;
mod neighbours;
mod options;
mod route;
mod routes;
mod server;
mod session;
mod stream;

pub use backend::{Answer, Asked, Backend, Stack, Unary};
pub use clients::{Client, Clients, Front, Limits, Ticket};
pub use neighbours::{Patience, Places};
pub use options::{Authority, Options, SocketKind};
pub use routes::served;
pub use server::{Socket, serve};

/// The services, as their clients see them.
pub(crate) use virtqemud_client::proto;
