//! One client's connection to one neighbour.
//!
//! ```text
//! closed ── a call ──► opening ── opened ──► open ── end of file, error, silence ──┐
//!   ▲                   ▲    └─ failed ─┐                                          │
//!   │                   │               ▼            what is owed fails            │
//!   └─ nobody listens ──┼───────────── lost ◄──────────────────────────────────────┘
//!                       └─ pause ─ somebody listens to events, or calls
//! ```

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, Sleep};
use wire::frame::{FrameError, Header, PacketType, put_bytes};
use wire::io::Output;
use wire::keepalive::Keepalive as Sign;
use wire::neighbour;
use wire::procedure::{Owner, ProcedureInfo};
use wire::{Caller, ErrorCode, ErrorDomain, WireError};

use super::eager::Eager;
use super::ledger::{Delivery, Ledger};
use super::open::{self, Channel, Failure};
use super::place::Places;
use super::{Call, STUFFED};
use crate::keepalive::{Keepalive, Tick};

/// A connection to one neighbour.
pub(super) struct Link {
    owner: Owner,
    places: Places,
    caller: Caller,
    state: State,
    ledger: Ledger,
    output: Output,
    /// It owes something, so its silence counts.
    owing: bool,
    silence: Option<(Keepalive, Pin<Box<Sleep>>)>,
    eager: Eager,
    /// The next pause between two attempts.
    retry: Duration,
    /// The client is not read because of this neighbour.
    stuffed: bool,
}

enum State {
    Closed,
    Opening(BoxFuture<'static, Result<Channel, Failure>>),
    Open(Channel),
    Pausing(Pin<Box<Sleep>>),
}

impl Link {
    /// A connection to `owner`'s daemon for `caller`, to be opened when needed.
    pub(super) fn new(owner: Owner, places: Places, caller: Caller) -> Self {
        let retry = places.patience.retry;
        Self {
            owner,
            places,
            caller,
            state: State::Closed,
            ledger: Ledger::default(),
            output: Output::default(),
            owing: false,
            eager: Eager::default(),
            silence: None,
            retry,
            stuffed: false,
        }
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    /// Calls and streams under way.
    pub(super) fn under_way(&self) -> usize {
        self.ledger.owed()
    }

    /// Whether more waits for the neighbour than is good.
    pub(super) fn is_stuffed(&self) -> bool {
        self.stuffed
    }

    /// Takes a call of the client.
    pub(super) fn call(&mut self, call: Call<'_>) {
        self.ledger.call(call);
        self.send();
        match (&self.state, self.ledger.owed()) {
            (State::Open(_), 1) => self.eager.asked(std::time::Instant::now()),
            _ => self.eager.rest(),
        }
    }

    /// Takes a stream packet of the client; `false` when the stream is none of this neighbour's.
    pub(super) fn receive(&mut self, header: &Header, payload: &[u8]) -> bool {
        let taken = self.ledger.receive(header, payload);
        if taken {
            self.send();
        }
        taken
    }

    /// The client speaks for `caller` now.
    pub(super) fn speak_for(&mut self, caller: Caller) {
        self.caller = caller;
        let changed = WireError::new(
            ErrorCode::OPERATION_ABORTED,
            ErrorDomain::RPC,
            "the client speaks for another user now",
        );
        self.lose(&changed);
    }

    /// Sends what the ledger has for the neighbour, which is opened where it is not.
    fn send(&mut self) {
        if matches!(self.state, State::Closed | State::Pausing(_)) && self.ledger.owed() > 0 {
            self.open();
        }
        if let State::Open(channel) = &self.state {
            while let Some((packet, fds)) = self.ledger.next_outgoing() {
                match fds.try_clone() {
                    Ok(fds) => self.output.push_with_fds(packet, fds),
                    Err(error) => {
                        return self.lose(&neighbour::system_error("Cannot pass descriptors", &error));
                    }
                }
            }
            if self.output.send_now(&channel.stream).is_err() {
                self.output = Output::default();
            }
        }
        self.stuffed = self.waiting() > STUFFED;
    }

    /// Bytes that wait for the neighbour.
    fn waiting(&self) -> usize {
        self.output.len() + self.ledger.outgoing_len()
    }

    fn open(&mut self) {
        self.state = State::Opening(Box::pin(open::open(
            self.owner,
            self.places.clone(),
            self.caller.clone(),
        )));
    }

    /// What the client gets next; while it has no `room`, nothing is read for it.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, room: bool) -> Poll<Delivery> {
        loop {
            if let Some(delivery) = self.next_delivery(room) {
                return Poll::Ready(delivery);
            }
            match &mut self.state {
                State::Closed => return Poll::Pending,
                State::Pausing(pause) => {
                    ready!(pause.as_mut().poll(context));
                    self.open();
                }
                State::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(channel) => self.opened(channel),
                    Err(failure) => self.not_opened(failure),
                },
                State::Open(_) => match self.poll_open(context, room) {
                    Ok(Poll::Ready(())) => {}
                    Ok(Poll::Pending) => return Poll::Pending,
                    Err(error) => self.lose(&error),
                },
            }
        }
    }

    fn next_delivery(&mut self, room: bool) -> Option<Delivery> {
        if self.stuffed && self.waiting() <= STUFFED {
            self.stuffed = false;
            return Some(Delivery::Room);
        }
        if room {
            self.ledger.incoming.pop_front()
        } else {
            None
        }
    }

    /// Moves bytes both ways: ready when that made a difference.
    fn poll_open(&mut self, context: &mut Context<'_>, room: bool) -> Result<Poll<()>, WireError> {
        let State::Open(channel) = &mut self.state else {
            return Ok(Poll::Ready(()));
        };
        while !self.output.is_empty() {
            match self.output.poll_flush(&channel.stream, context) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {}
                // What it has said before it hung up is read first, then the end of file.
                Poll::Ready(Err(_)) => self.output = Output::default(),
            }
        }
        if self.output.is_empty() {
            channel.stream.rest();
        }
        if self.stuffed && self.waiting() <= STUFFED {
            return Ok(Poll::Ready(()));
        }
        if room && self.take_packet()? {
            return Ok(Poll::Ready(()));
        }
        self.poll_silence(context, room)?;
        let State::Open(channel) = &mut self.state else {
            return Ok(Poll::Ready(()));
        };
        if !room {
            return Ok(Poll::Pending);
        }
        let mut filled = channel.input.poll_fill(&channel.stream, context);
        if filled.is_pending() && self.eager.stays_awake() {
            filled = look_again(channel, context);
        }
        match filled {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(true)) => {
                self.heard();
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(false)) => Err(neighbour::hung_up()),
            Poll::Ready(Err(error)) => Err(neighbour::system_error("Cannot recv data", &error)),
        }
    }

    /// Takes the packet at the front of the input; `false` when there is none.
    fn take_packet(&mut self) -> Result<bool, WireError> {
        let State::Open(channel) = &mut self.state else {
            return Ok(false);
        };
        let no_packet = |error: FrameError| WireError::rpc(&error.to_string());
        let Some(packet) = channel.input.front().map_err(no_packet)? else {
            return Ok(false);
        };
        if matches!(
            packet.header.r#type,
            PacketType::REPLY | PacketType::REPLY_WITH_FDS
        ) {
            self.eager.answered(std::time::Instant::now());
        }
        match Sign::of(&packet.header) {
            Some(sign) => {
                channel.input.take(&packet);
                if sign == Sign::Ping {
                    self.say(Sign::Pong);
                }
            }
            None if packet.fds == 0 => {
                self.ledger
                    .on_packet(&packet.header, channel.input.payload(&packet), Vec::new());
                channel.input.take(&packet);
            }
            None => {
                let payload = channel.input.payload(&packet).to_vec();
                let fds = channel.input.take(&packet);
                if fds.len() < packet.fds {
                    return Err(no_packet(FrameError::Fds));
                }
                self.ledger.on_packet(&packet.header, &payload, fds);
            }
        }
        if self.ledger.outgoing_len() > 0 {
            self.send();
        }
        Ok(true)
    }

    fn say(&mut self, sign: Sign) {
        let mut packet = Vec::with_capacity(28);
        let _ = put_bytes(&mut packet, &sign.header(), &[]);
        self.output.push(packet);
    }

    fn heard(&mut self) {
        if let Some((silence, _)) = &mut self.silence {
            silence.heard(Instant::now());
        }
    }

    /// Pings a neighbour that owes something and is silent; an error when it has not answered often enough.
    fn poll_silence(&mut self, context: &mut Context<'_>, room: bool) -> Result<(), WireError> {
        let owing = self.ledger.owed() > 0;
        if owing && !std::mem::replace(&mut self.owing, owing) {
            self.watch_silence();
        }
        self.owing = owing;
        while let Some((silence, timer)) = self.silence.as_mut().filter(|_| owing) {
            if timer.as_mut().poll(context).is_pending() {
                break;
            }
            let now = Instant::now();
            if !room {
                // It is we who do not read.
                silence.heard(now);
            }
            match silence.tick(now) {
                Tick::Wait(until) => timer.as_mut().reset(until),
                Tick::Ping(until) => {
                    timer.as_mut().reset(until);
                    self.say(Sign::Ping);
                    self.send();
                }
                Tick::Dead => return Err(open::silent()),
            }
        }
        Ok(())
    }

    /// Its silence counts from now on. The timer is kept from one call to the next, and may ring early.
    fn watch_silence(&mut self) {
        let (patience, now) = (self.places.patience, Instant::now());
        match &mut self.silence {
            Some((silence, _)) => silence.heard(now),
            None => {
                let silence = Keepalive::start(patience.interval, patience.count, now);
                self.silence =
                    silence.map(|silence| (silence, Box::pin(tokio::time::sleep_until(silence.first()))));
            }
        }
    }

    /// Registers again first, then sends what waited.
    fn opened(&mut self, channel: Channel) {
        tracing::debug!(neighbour = ?self.owner, "opened");
        self.state = State::Open(channel);
        self.retry = self.places.patience.retry;
        self.ledger.listen_again();
        self.send();
    }

    fn not_opened(&mut self, failure: Failure) {
        match failure {
            Failure::NoDriver => self.lose_by(ProcedureInfo::unsupported),
            Failure::Error(error) => self.lose(&error),
        }
    }

    fn lose(&mut self, error: &WireError) {
        tracing::debug!(neighbour = ?self.owner, %error, "connection lost");
        self.lose_by(|_| error.clone());
    }

    fn lose_by(&mut self, error: impl Fn(&ProcedureInfo) -> WireError) {
        self.ledger.lose(error);
        self.output = Output::default();
        (self.owing, self.silence) = (false, None);
        self.eager.rest();
        self.state = State::Closed;
        if self.ledger.is_listening() {
            self.state = State::Pausing(Box::pin(tokio::time::sleep(self.retry)));
            self.retry = (self.retry * 2).min(self.places.patience.retry_max);
        }
    }
}

/// Receives what has come meanwhile, or has the task looked at again after the others.
fn look_again(channel: &mut Channel, context: &Context<'_>) -> Poll<io::Result<bool>> {
    match channel.input.fill_now(&channel.stream) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        filled => Poll::Ready(filled),
    }
}
