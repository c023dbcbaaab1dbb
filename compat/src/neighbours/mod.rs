//! The daemons of the other drivers (networks, storage, node devices, secrets, filters, interfaces), as a
//! client sees them through its one connection to us.
//!
//! ```text
//! session ─► Neighbours ─► Link, one a driver ─► open: finds the daemon, opens it as the caller
//!                            └─ Ledger: whose call, stream or registration a packet belongs to
//! ```
//!
//! Packets are relayed and not understood: only serials change, and the ids of event registrations once a
//! neighbour was restarted. Each client has connections of its own, at most one a driver, so that the
//! neighbour sees who calls and decides what he may do. They are polled in the session's own task: a
//! forwarded call costs two writes more, and no task is woken for it.
//!
//! The hard thing is that a neighbour may stop at any point and nobody else is to notice. Its calls are
//! counted apart from ours and never occupy a place of theirs. What a client does not take is not read
//! from the neighbour; what a neighbour does not take waits up to [`STUFFED`], and only then is the client
//! not read any more: the protocol has no other way to stop a stream. A neighbour that has calls or streams
//! to serve and answers no ping is given up, and what it owes fails.

mod eager;
mod ledger;
mod link;
mod open;
mod place;

use std::future::poll_fn;
use std::task::{Context, Poll};

use unixfd::Fds;
use wire::Caller;
use wire::frame::{Header, PacketType};
use wire::procedure::{Kind, ProcedureInfo};
use wire::remote;

pub(crate) use ledger::Delivery;
use link::Link;
pub use place::{Patience, Places};

/// Calls and streams that may be under way to all neighbours at once; beyond it the client is not read.
const UNDER_WAY_MAX: usize = 1024;
/// Bytes that wait for one neighbour before the client's socket is not read any more.
const STUFFED: usize = 1 << 20;

/// A call to be relayed.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) header: Header,
    pub(crate) info: &'static ProcedureInfo,
    pub(crate) payload: &'a [u8],
    pub(crate) fds: Fds,
}

/// A client's connections to neighbours.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// Those it has needed so far.
    links: Vec<Link>,
    /// Which of them is looked at first.
    turn: usize,
}

/// Whether `info` is a call that a neighbour serves.
pub(crate) fn serve(info: &ProcedureInfo) -> bool {
    info.program == remote::PROGRAM_NUMBER
        && info.kind == Kind::Call
        && wire::neighbour::daemon(info.owner).is_some()
}

impl Neighbours {
    /// Whether another call may be relayed now.
    pub(crate) fn has_room(&self) -> bool {
        self.links.iter().map(Link::under_way).sum::<usize>() < UNDER_WAY_MAX
    }

    /// Whether the client has sent more than a neighbour takes.
    pub(crate) fn is_stuffed(&self) -> bool {
        self.links.iter().any(Link::is_stuffed)
    }

    /// Whether a neighbour owes the client anything.
    pub(crate) fn is_busy(&self) -> bool {
        self.links.iter().any(|link| link.under_way() > 0)
    }

    /// Relays `call`. Where the neighbour is not open yet, it is opened as what `caller` says.
    pub(crate) fn call(&mut self, call: Call<'_>, places: &Places, caller: impl FnOnce() -> Caller) {
        let owner = call.info.owner;
        let index = self.links.iter().position(|link| link.owner() == owner);
        let index = index.unwrap_or_else(|| {
            self.links.push(Link::new(owner, places.clone(), caller()));
            self.links.len() - 1
        });
        if let Some(link) = self.links.get_mut(index) {
            link.call(call);
        }
    }

    /// Relays a stream packet of the client; `false` when the stream is no neighbour's.
    pub(crate) fn receive(&mut self, header: &Header, payload: &[u8]) -> bool {
        debug_assert!(matches!(
            header.r#type,
            PacketType::STREAM | PacketType::STREAM_HOLE
        ));
        self.links.iter_mut().any(|link| link.receive(header, payload))
    }

    /// What the client gets next. While it has no `room`, nothing is read for it. Cancel safe.
    pub(crate) async fn next(&mut self, room: bool) -> Delivery {
        poll_fn(|context| self.poll_next(context, room)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>, room: bool) -> Poll<Delivery> {
        // Whoever was served last comes last, so that a stream of one does not hold up the others.
        for offset in 0..self.links.len() {
            let index = (self.turn + offset) % self.links.len();
            if let Some(Poll::Ready(delivery)) =
                self.links.get_mut(index).map(|link| link.poll(context, room))
            {
                self.turn = index + 1;
                return Poll::Ready(delivery);
            }
        }
        Poll::Pending
    }

    /// The client speaks for somebody else from now on: connections that were opened before are not for it.
    pub(crate) fn speak_for(&mut self, caller: &Caller) {
        for link in &mut self.links {
            link.speak_for(caller.clone());
        }
    }

    /// Hangs up on all of them.
    pub(crate) fn clear(&mut self) {
        self.links.clear();
    }
}
