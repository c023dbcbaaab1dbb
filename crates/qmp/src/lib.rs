//! QMP client: framing, handshake, commands with deadlines, events, descriptor passing. No policy: what a
//! reply means for a guest is the caller's business.
//!
//! ```text
//! UnixStream ── line ── message ──┬─ reply by id ─> who executes
//!                                 └─ event, end ──> Incoming channel
//! ```
//!
//! A guest's agent is spoken to in the same words but without ids: see [`agent`].
//!
//! A command is a line in [`commands`], an event's data a line in [`events`]; neither knows the connection.

pub mod agent;
mod client;
mod command;
pub mod commands;
mod compact;
mod connect;
mod connection;
mod error;
mod event;
pub mod events;
mod line;
mod message;
mod open_enum;
mod pending;
pub mod types;

pub use client::Client;
pub use command::Command;
pub use compact::compact;
pub use connect::connect;
pub use connection::{Connection, HANDSHAKE_DEADLINE, Incoming};
pub use error::{Closed, Error, ErrorClass};
pub use event::{Event, EventData};
pub use line::{LineDecoder, MAX_LINE, TooLong};
pub use message::{Greeting, MAX_EVENT, Message, Version, VersionTriple, parse};
