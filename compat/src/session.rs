//! One connection: a task that reads packets, runs calls, and sends what there is to send.
//!
//! ```text
//!             ┌ keepalive: answered here ──────────────────────────────────┐
//! socket ─► input ─► dispatch ─► calls (5 at once) ─► answers ────────────► output ─► socket
//!             │  └─ waiting, if too many        ┌── streams ◄─► services ──┤
//!             └──── stream packets ─────────────┘    feeds ─► events ──────┘
//! ```
//!
//! Calls run inside this task: the first poll answers most of them, and no task is spawned. What makes
//! the loop hard is who may stop whom. A client that sends too many calls is not read, but a few packets
//! are looked at beyond the limit, so that its pings are answered. One that does not read its replies is
//! not read either. One that does not read its events cannot be stopped: it is let go.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use unixfd::{Fds, QuietStream};
use wire::Priority;
use wire::frame::{FrameError, Header, PacketType, put_bytes};
use wire::io::{Arrived, Input, Output, Trust};
use wire::keepalive::Keepalive as Sign;
use wire::procedure::ProcedureInfo;

use crate::awake::{Awake, Wait};
use crate::clients::Ticket;
use crate::conn::Conn;
use crate::ctx::Effect;
use crate::dispatch::{self, Answer, Call, Verdict};
use crate::events::{Feeds, News};
use crate::keepalive::{Keepalive, Tick};
use crate::neighbours::{self, Delivery, Neighbours};
use crate::stream::Streams;

/// Bytes of replies and stream data that may wait for the client before no more is made.
const OUTPUT_FULL: usize = 256 << 10;
/// Bytes of events that may wait for the client before it is let go.
const EVENTS_FULL: usize = 1 << 20;
/// Calls beyond the limit that are taken off the socket, and their bytes.
const WAITING_CALLS: usize = 16;
const WAITING_BYTES: usize = 64 << 10;
/// How long the last replies may take when the connection is closed by us.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How often a session that stays awake looks for a packet before other connections get the thread: a turn of theirs asks
/// the kernel about all sockets, which costs more than a look at one.
const LOOKS: u32 = 4;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("client hung up")]
    Eof,
    #[error("closed at the client's wish")]
    Closed,
    #[error("daemon is shutting down")]
    Stop,
    #[error("disconnected by the administrator")]
    Cut,
    #[error("client does not answer keepalive pings")]
    Dead,
    #[error("client does not read its events: {0} bytes wait")]
    SlowReader(usize),
    #[error("events can no longer be delivered without a gap: {0}")]
    EventsLost(String),
    #[error("an answer does not fit into a packet")]
    Unanswerable,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A connection.
pub(crate) struct Session {
    stream: QuietStream,
    input: Input,
    output: Output,
    conn: Arc<Conn>,
    ticket: Ticket,
    stop: CancellationToken,
    calls: FuturesUnordered<Running>,
    /// Calls in progress, by [`Priority`].
    running: [usize; 2],
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    streams: Streams,
    neighbours: Neighbours,
    feeds: Feeds,
    silence: Option<(Keepalive, Pin<Box<Sleep>>)>,
    awake: Awake,
    /// The last reply, until the next packet comes.
    replied: Option<Replied>,
    /// Replies of all connections when this one sent its last.
    replies: u64,
    /// No more calls are taken; when all is sent, the connection ends so.
    closing: Option<End>,
    /// The packet at the front of the input cannot be taken yet.
    blocked: bool,
}

/// A call that was taken off the socket before it could run.
struct Waiting {
    header: Header,
    payload: Vec<u8>,
    fds: Fds,
    priority: Priority,
}

/// A reply that was sent, and how the next call has been waited for since.
struct Replied {
    at: Instant,
    wait: Wait,
}

/// A call in progress.
struct Running(Priority, Call);

impl Future for Running {
    type Output = (Priority, Answer);

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let priority = self.0;
        self.1.as_mut().poll(context).map(|answer| (priority, answer))
    }
}

/// What the session waited for.
enum Event {
    Flushed(io::Result<()>),
    Filled(io::Result<bool>),
    Done(Priority, Answer),
    StreamData(Vec<u8>),
    Neighbour(Delivery),
    News(News),
    Silent,
    Stop,
    Cut,
    Overdue,
}

impl Session {
    /// Takes over a connection.
    pub(crate) fn new(stream: QuietStream, conn: Arc<Conn>, ticket: Ticket, stop: CancellationToken) -> Self {
        Self {
            stream,
            input: Input::new(Trust::Stranger),
            output: Output::default(),
            conn,
            ticket,
            stop,
            calls: FuturesUnordered::new(),
            running: [0; 2],
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            streams: Streams::default(),
            neighbours: Neighbours::default(),
            feeds: Feeds::default(),
            silence: None,
            awake: Awake::default(),
            replied: None,
            replies: 0,
            closing: None,
            blocked: false,
        }
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(mut self) {
        let end = match self.serve().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let (pid, uid) = (self.conn.cred.pid, self.conn.cred.uid);
        match end {
            End::Eof | End::Closed | End::Stop | End::Cut => {
                tracing::debug!(pid, uid, %end, "connection ended")
            }
            _ => tracing::warn!(pid, uid, %end, "connection ended"),
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.take_packets().await?;
            self.output.send_now(&self.stream)?;
            if self.output.is_empty() {
                self.stream.rest();
            }
            if let Some(end) = self.may_end() {
                return Err(end);
            }
            if self.ticket.cut().is_cancelled() {
                return Err(End::Cut);
            }
            let event = match self.stay_awake().await {
                Some(filled) => Event::Filled(filled),
                None => self.wait().await,
            };
            self.handle(event).await?;
        }
    }

    /// Waits awake for the packet after a reply, where that pays; other tasks go on meanwhile.
    async fn stay_awake(&mut self) -> Option<io::Result<bool>> {
        let idle = self.output.is_empty()
            && self.calls.is_empty()
            && self.closing.is_none()
            && !self.blocked
            && !self.neighbours.is_busy()
            && self.streams.is_idle();
        let replied = self
            .replied
            .as_mut()
            .filter(|replied| idle && replied.wait == Wait::Due)?;
        replied.wait = Wait::Asleep;
        let replies = self.conn.options.clients.replied();
        let alone = replies == std::mem::replace(&mut self.replies, replies) + 1;
        let limit = self.awake.after_reply(alone)?;
        let start = replied.at;
        loop {
            for _ in 0..LOOKS {
                match self.input.fill_now(&self.stream) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    filled => {
                        replied.wait = Wait::Awake;
                        return Some(filled);
                    }
                }
            }
            if start.elapsed() >= limit {
                replied.wait = Wait::InVain;
                return None;
            }
            // Other connections need this thread, too.
            tokio::task::yield_now().await;
        }
    }

    async fn wait(&mut self) -> Event {
        let room = self.output.len() < OUTPUT_FULL;
        let reading = self.closing.is_none()
            && !self.blocked
            && room
            && !self.streams.is_stuffed()
            && !self.neighbours.is_stuffed();
        tokio::select! {
            result = poll_fn(|context| self.output.poll_flush(&self.stream, context)), if !self.output.is_empty() => Event::Flushed(result),
            Some((priority, answer)) = self.calls.next() => Event::Done(priority, answer),
            packets = self.streams.next(), if room => Event::StreamData(packets),
            delivery = self.neighbours.next(room) => Event::Neighbour(delivery),
            news = self.feeds.next() => Event::News(news),
            result = poll_fn(|context| self.input.poll_fill(&self.stream, context)), if reading => Event::Filled(result),
            () = silent(&mut self.silence) => Event::Silent,
            () = self.ticket.cut().cancelled() => Event::Cut,
            () = self.stop.cancelled(), if self.closing.is_none() => Event::Stop,
            () = async { tokio::time::sleep(LAST_WORDS).await }, if self.closing.is_some() && self.calls.is_empty() => Event::Overdue,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Flushed(result) => result?,
            Event::Filled(result) => {
                if !result? {
                    return Err(End::Eof);
                }
                self.heard();
            }
            Event::Done(priority, answer) => {
                self.running[priority as usize] -= 1;
                self.tell_ready_news().await?;
                self.answer(answer)?;
                self.start_waiting().await?;
            }
            Event::StreamData(packets) if packets.is_empty() => {}
            Event::StreamData(packets) => self.output.push(packets),
            Event::Neighbour(delivery) => self.deliver(delivery)?,
            Event::News(news) => self.tell(news)?,
            Event::Silent => self.on_silence()?,
            Event::Stop => self.closing = Some(End::Stop),
            Event::Cut => return Err(End::Cut),
            Event::Overdue => return Err(self.closing.take().unwrap_or(End::Stop)),
        }
        self.blocked = false;
        Ok(())
    }

    /// Something came from the client.
    fn heard(&mut self) {
        if self.silence.is_none() && self.replied.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some((silence, _)) = &mut self.silence {
            silence.heard(now);
        }
        if let Some(replied) = self.replied.take() {
            self.awake.next_call(now - replied.at, replied.wait);
        }
    }

    /// The end, once a closing connection has nothing left to do.
    fn may_end(&mut self) -> Option<End> {
        let idle = self.output.is_empty()
            && self.calls.is_empty()
            && self.waiting.is_empty()
            && !self.neighbours.is_busy();
        if idle { self.closing.take() } else { None }
    }

    /// Handles every whole packet that has arrived, as far as limits allow.
    async fn take_packets(&mut self) -> Result<(), End> {
        while self.closing.is_none() && !self.blocked && self.output.len() < OUTPUT_FULL {
            let Some(packet) = self.input.front()? else {
                return Ok(());
            };
            if matches!(packet.header.r#type, PacketType::CALL | PacketType::CALL_WITH_FDS) {
                self.on_call(&packet).await?;
                continue;
            }
            if let Some(sign) = Sign::of(&packet.header) {
                self.on_sign(sign);
            } else if matches!(packet.header.r#type, PacketType::STREAM | PacketType::STREAM_HOLE) {
                let payload = self.input.payload(&packet);
                if !self.neighbours.receive(&packet.header, payload)
                    && let Some(answer) = self.streams.receive(&packet.header, payload)
                {
                    self.output.push(answer);
                }
            }
            self.input.take(&packet);
        }
        Ok(())
    }

    async fn on_call(&mut self, packet: &Arrived) -> Result<(), End> {
        let header = packet.header;
        let info = dispatch::procedure(&self.conn, &header);
        if let Ok(info) = info
            && neighbours::serve(info)
        {
            return self.forward(packet, info);
        }
        let priority = info.map_or(Priority::High, |info| info.priority);
        let payload = self.input.payload(packet);
        if self.may_run(priority) {
            // Descriptors come first, for the call takes them; the payload stays where it is until it is read.
            let verdict = if packet.fds == 0 {
                let verdict = dispatch::call(&self.conn, header, payload, Fds::default());
                self.input.take(packet);
                verdict
            } else {
                let payload = payload.to_vec();
                let fds = self.take_fds(packet)?;
                dispatch::call(&self.conn, header, &payload, fds)
            };
            return self.start(verdict).await;
        }
        if self.waiting.len() >= WAITING_CALLS || self.waiting_bytes + payload.len() > WAITING_BYTES {
            self.blocked = true;
            return Ok(());
        }
        let payload = payload.to_vec();
        self.waiting_bytes += payload.len();
        let fds = self.take_fds(packet)?;
        self.waiting.push_back(Waiting {
            header,
            payload,
            fds,
            priority,
        });
        Ok(())
    }

    /// Relays a call to the neighbour that serves it. It takes no place of a call that is served here.
    fn forward(&mut self, packet: &Arrived, info: &'static ProcedureInfo) -> Result<(), End> {
        if !self.neighbours.has_room() {
            self.blocked = true;
            return Ok(());
        }
        let (header, payload) = (packet.header, self.input.payload(packet));
        if let Err(answer) = dispatch::may_forward(&self.conn, header, info, payload) {
            self.take_fds(packet)?;
            return self.answer(*answer);
        }
        let conn = &self.conn;
        let caller = || conn.caller();
        let places = &self.conn.options.neighbours;
        if packet.fds == 0 {
            self.neighbours.call(
                neighbours::Call {
                    header,
                    info,
                    payload,
                    fds: Fds::default(),
                },
                places,
                caller,
            );
            self.input.take(packet);
            return Ok(());
        }
        let payload = payload.to_vec();
        let fds = Fds::new(self.input.take(packet));
        if fds.len() < packet.fds {
            return Err(FrameError::Fds.into());
        }
        self.neighbours.call(
            neighbours::Call {
                header,
                info,
                payload: &payload,
                fds,
            },
            places,
            caller,
        );
        Ok(())
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), End> {
        match delivery {
            Delivery::Packet(packet, fds) => self.output.push_with_fds(packet, fds.try_clone()?),
            Delivery::Notice(packet) => return self.notify(packet),
            Delivery::Room => {}
        }
        Ok(())
    }

    fn take_fds(&mut self, packet: &Arrived) -> Result<Fds, End> {
        let fds = self.input.take(packet);
        if fds.len() < packet.fds && self.conn.is_open() {
            return Err(FrameError::Fds.into());
        }
        Ok(Fds::new(fds))
    }

    /// Whether a call of `priority` may run now: those that never wait for a guest have places of their own.
    fn may_run(&self, priority: Priority) -> bool {
        self.running[priority as usize] < self.conn.options.limits().max_client_requests.max(1)
    }

    async fn start(&mut self, verdict: Verdict) -> Result<(), End> {
        match verdict {
            Verdict::Refuse(answer) => self.answer(answer),
            Verdict::Run(priority, mut call) => {
                let first = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
                match first {
                    Poll::Ready(answer) => {
                        self.tell_ready_news().await?;
                        return self.answer(answer);
                    }
                    Poll::Pending => {
                        self.running[priority as usize] += 1;
                        self.calls.push(Running(priority, call));
                    }
                }
                Ok(())
            }
        }
    }

    async fn start_waiting(&mut self) -> Result<(), End> {
        while let Some(index) = self
            .waiting
            .iter()
            .position(|waiting| self.may_run(waiting.priority))
        {
            let Some(Waiting {
                header, payload, fds, ..
            }) = self.waiting.remove(index)
            else {
                break;
            };
            self.waiting_bytes -= payload.len();
            let verdict = dispatch::call(&self.conn, header, &payload, fds);
            self.start(verdict).await?;
        }
        Ok(())
    }

    fn answer(&mut self, mut answer: Answer) -> Result<(), End> {
        let mut fds = Fds::default();
        for effect in std::mem::take(&mut answer.effects) {
            match effect {
                Effect::Authenticated => self.authenticated(),
                Effect::Opened => {
                    self.ticket.calls_for(self.conn.caller());
                    self.input.set_trust(Trust::Known);
                    self.neighbours.clear();
                }
                Effect::Identity => {
                    self.ticket.calls_for(self.conn.caller());
                    self.neighbours.speak_for(&self.conn.caller());
                }
                Effect::Keepalive => self.watch_silence(),
                Effect::Close => self.closing = Some(End::Closed),
                Effect::Reply(with) => fds = with,
                Effect::Watch(feed) => self.feeds.add(feed),
                Effect::Unwatch(id) => self.feeds.remove(id),
                Effect::Stream(ends) => {
                    let kind = answer.info.and_then(|info| info.stream);
                    let (Some(kind), true) = (kind, self.streams.has_room()) else {
                        answer = dispatch::too_many_streams(&answer);
                        break;
                    };
                    self.streams.open(answer.call, kind, ends);
                }
            }
        }
        if answer.packet.is_empty() {
            return Err(End::Unanswerable);
        }
        self.output.push_with_fds(answer.packet, fds.try_clone()?);
        self.replied = Some(Replied {
            at: Instant::now(),
            wait: Wait::Due,
        });
        Ok(())
    }

    fn authenticated(&mut self) {
        self.conn.authenticate();
        self.ticket.known();
    }

    fn watch_silence(&mut self) {
        let limits = self.conn.options.limits();
        if self.silence.is_none() {
            let silence = Keepalive::start(limits.keepalive_interval, limits.keepalive_count, Instant::now());
            self.silence =
                silence.map(|silence| (silence, Box::pin(tokio::time::sleep_until(silence.first()))));
        }
    }

    fn on_sign(&mut self, sign: Sign) {
        if sign == Sign::Ping {
            self.say(Sign::Pong);
        }
    }

    fn say(&mut self, sign: Sign) {
        let mut packet = Vec::with_capacity(28);
        let _ = put_bytes(&mut packet, &sign.header(), &[]);
        self.output.push(packet);
    }

    fn on_silence(&mut self) -> Result<(), End> {
        let Some((silence, timer)) = &mut self.silence else {
            return Ok(());
        };
        let now = Instant::now();
        if self.blocked || self.output.len() >= OUTPUT_FULL {
            // It is we who do not read.
            silence.heard(now);
        }
        match silence.tick(now) {
            Tick::Wait(until) => timer.as_mut().reset(until),
            Tick::Ping(until) => {
                timer.as_mut().reset(until);
                self.say(Sign::Ping);
            }
            Tick::Dead => return Err(End::Dead),
        }
        Ok(())
    }

    /// Events that a call has raised go before its reply, as clients expect.
    async fn tell_ready_news(&mut self) -> Result<(), End> {
        while let Some(news) = self.feeds.ready().await {
            self.tell(news)?;
        }
        Ok(())
    }

    fn tell(&mut self, news: News) -> Result<(), End> {
        match news {
            News::Event(event) => {
                for packet in self.conn.events.packets(&event) {
                    self.output.push_notice(packet);
                }
            }
            News::Monitor(packet) => self.output.push_notice(packet),
            News::Lost(why) => return Err(End::EventsLost(why)),
        }
        self.keeps_up()
    }

    fn notify(&mut self, packet: Vec<u8>) -> Result<(), End> {
        self.output.push_notice(packet);
        self.keeps_up()
    }

    /// Whether the client reads its events.
    fn keeps_up(&self) -> Result<(), End> {
        match self.output.notice_len() {
            len if len > EVENTS_FULL => Err(End::SlowReader(len)),
            _ => Ok(()),
        }
    }
}

async fn silent(silence: &mut Option<(Keepalive, Pin<Box<Sleep>>)>) {
    match silence {
        Some((_, timer)) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use tonic::Status;
    use unixfd::{Peer, PeerCred};
    use wire::Caller;

    use super::*;
    use crate::backend::{Answer as Answered, Asked, Backend, Stack, Unary};
    use crate::clients::Front;
    use crate::options::{Options, SocketKind};

    /// Serves no call.
    struct Nothing;

    impl Unary for Nothing {
        fn unary(&self, path: &'static str, _: Asked, _: Bytes) -> Answered {
            Box::pin(async move { Err(Status::unimplemented(path)) })
        }
    }

    #[tokio::test]
    async fn a_stranger_occupies_less_than_four_kilobytes() {
        let answer = |_| async { Ok::<_, Infallible>(http::Response::default()) };
        let backend = Backend {
            calls: Arc::new(Nothing),
            streams: Stack::new(tower::service_fn(answer)),
        };
        let options = Arc::new(Options::new(backend, true));
        let (stream, _peer) = tokio::net::UnixStream::pair().unwrap();
        let peer = Peer {
            cred: PeerCred::of(&stream).unwrap(),
            read_only: false,
        };
        let (more, call) = (None, None);
        let caller = Caller { peer, more, call };
        let stream = QuietStream::new(stream).unwrap();
        let conn = Arc::new(Conn::new(Arc::clone(&options), SocketKind::ReadWrite, &caller));
        let ticket = options.clients.enter(Front::Libvirt, caller, true).await;
        let session = Session::new(stream, conn, ticket, CancellationToken::new());
        let buffer = 512;
        let size = size_of_val(&session.run()) + size_of::<Conn>() + buffer;
        assert!(size < 4096, "{size}");
    }
}
