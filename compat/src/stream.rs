//! Byte streams beside the calls: consoles, screenshots, tunnels.
//!
//! ```text
//! open ── data both ways ──┬─ client: OK ────► finishing ── all sent ──► OK to the client, gone
//!                          ├─ client: ERROR ─► OK to the client, gone
//!                          ├─ server ends ───► empty packet, ended ── client: OK or ERROR ─► OK, gone
//!                          └─ server fails ──► ERROR to the client, gone
//! ```
//!
//! The protocol has no credit: flow control is to stop reading. What a client sends waits here up to a
//! limit, then its socket is not read; what a service sends is asked for only while the client takes it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::Status as GrpcStatus;
use wire::frame::{Header, PacketType, STREAM_CHUNK, Status, put_bytes, put_packet};
use wire::procedure::Stream;
use wire::xdr::Xdr;
use wire::{ErrorCode, ErrorDomain, WireError};

use crate::error;

/// Most streams of one connection.
pub(crate) const STREAMS_MAX: usize = 32;
/// Bytes of one stream that wait for the service before the client's socket is not read any more.
const BACKLOG: usize = 1 << 20;

/// The service's ends of a stream.
pub(crate) struct Ends {
    /// What goes to the client. Its end is the stream's end; for an upload, its success.
    pub(crate) to_client: BoxStream<'static, Result<Bytes, GrpcStatus>>,
    /// Takes what the client sends; dropped when the client has sent all.
    pub(crate) from_client: Option<mpsc::Sender<Bytes>>,
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").finish_non_exhaustive()
    }
}

/// The streams of a connection.
#[derive(Default)]
pub(crate) struct Streams(Vec<Open>);

struct Open {
    /// Header of the call that opened it.
    call: Header,
    kind: Stream,
    to_client: Option<BoxStream<'static, Result<Bytes, GrpcStatus>>>,
    from_client: Option<PollSender<Bytes>>,
    backlog: VecDeque<Bytes>,
    backlog_len: usize,
    /// The client has sent all and waits for confirmation.
    finishing: bool,
}

impl Streams {
    /// Whether another may be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < STREAMS_MAX
    }

    /// Whether there are none.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client has sent more than its stream's service takes.
    pub(crate) fn is_stuffed(&self) -> bool {
        self.0.iter().any(|open| open.backlog_len > BACKLOG)
    }

    /// Opens a stream on `call`.
    pub(crate) fn open(&mut self, call: Header, kind: Stream, ends: Ends) {
        self.0.push(Open {
            call,
            kind,
            to_client: Some(ends.to_client),
            from_client: ends.from_client.map(PollSender::new),
            backlog: VecDeque::new(),
            backlog_len: 0,
            finishing: false,
        });
    }

    /// Takes a stream packet of the client; what it is answered, if anything.
    pub(crate) fn receive(&mut self, header: &Header, payload: &[u8]) -> Option<Vec<u8>> {
        let same = |open: &Open| (open.call.serial, open.call.procedure) == (header.serial, header.procedure);
        let index = self.0.iter().position(same)?;
        let open = self.0.get_mut(index)?;
        if header.r#type == PacketType::STREAM_HOLE {
            return Some(self.fail(index, &broken("holes were not agreed on")));
        }
        match header.status {
            Status::CONTINUE if payload.is_empty() => {
                Some(self.fail(index, &broken("stream packet without data")))
            }
            Status::CONTINUE => {
                open.queue(payload);
                None
            }
            Status::OK if open.waits_for_service() => {
                open.finishing = true;
                None
            }
            _ => Some(self.confirm(index)),
        }
    }

    /// Moves data: what to send to a client next, nothing when it only may be read again. Cancel safe.
    pub(crate) async fn next(&mut self) -> Vec<u8> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        let stuffed = self.is_stuffed();
        let next = self.poll_all(context);
        // Nothing to send, but the client may be read again.
        if next.is_pending() && stuffed && !self.is_stuffed() {
            Poll::Ready(Vec::new())
        } else {
            next
        }
    }

    fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        for index in 0..self.0.len() {
            let Some(open) = self.0.get_mut(index) else {
                break;
            };
            open.poll_backlog(context);
            let Some(to_client) = &mut open.to_client else {
                continue;
            };
            match to_client.poll_next_unpin(context) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(data))) => return Poll::Ready(open.data(&data)),
                Poll::Ready(Some(Err(status))) => {
                    return Poll::Ready(self.fail(index, &error::from_status(&status)));
                }
                Poll::Ready(None) => return Poll::Ready(self.end(index)),
            }
        }
        Poll::Pending
    }

    /// The service has no more.
    fn end(&mut self, index: usize) -> Vec<u8> {
        let Some(open) = self.0.get_mut(index) else {
            return Vec::new();
        };
        open.to_client = None;
        open.from_client = None;
        let mut packets = match open.kind {
            Stream::Upload => Vec::new(),
            Stream::Download | Stream::Console => packet(&open.call.stream(Status::CONTINUE)),
        };
        if open.finishing {
            packets.extend(self.confirm(index));
        }
        packets
    }

    fn confirm(&mut self, index: usize) -> Vec<u8> {
        packet(&self.0.swap_remove(index).call.stream(Status::OK))
    }

    fn fail(&mut self, index: usize, error: &WireError) -> Vec<u8> {
        let header = self.0.swap_remove(index).call.stream(Status::ERROR);
        let mut out = Vec::new();
        if put_packet(&mut out, &header, |out| error.encode(out)).is_err() {
            return packet(&header);
        }
        out
    }
}

impl Open {
    /// Whether its end waits for the service: not for a console, which has none of its own.
    fn waits_for_service(&self) -> bool {
        self.to_client.is_some() && self.kind != Stream::Console
    }

    fn queue(&mut self, data: &[u8]) {
        if self.from_client.is_some() && !self.finishing {
            self.backlog_len += data.len();
            self.backlog.push_back(Bytes::copy_from_slice(data));
        }
    }

    fn poll_backlog(&mut self, context: &mut Context<'_>) {
        let Some(sender) = &mut self.from_client else {
            return;
        };
        while !self.backlog.is_empty() {
            match sender.poll_reserve(context) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => {
                    self.backlog.clear();
                    self.backlog_len = 0;
                }
                Poll::Ready(Ok(())) => {
                    let Some(data) = self.backlog.pop_front() else {
                        return;
                    };
                    self.backlog_len -= data.len();
                    let _ = sender.send_item(data);
                }
            }
        }
        if self.finishing {
            self.from_client = None;
        }
    }

    fn data(&self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + 28);
        for chunk in data.chunks(STREAM_CHUNK) {
            let _ = put_bytes(&mut out, &self.call.stream(Status::CONTINUE), chunk);
        }
        out
    }
}

fn packet(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    let _ = put_bytes(&mut out, header, &[]);
    out
}

fn broken(detail: &str) -> WireError {
    WireError::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::STREAMS, detail)
}
