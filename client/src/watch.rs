//! A watch of events that goes on by itself when its connection breaks or the daemon is restarted.
//!
//! ```text
//! begin ──▶ running ──▶ broken: again from the last version seen ──▶ running
//!                          │ VERSION_EXPIRED
//!                          ▼
//!            with the initial state asked for: News::Reset, then all guests again; otherwise an error
//! ```
//!
//! The hard thing is to lose nothing and to tell nothing twice: every event and every bookmark moves the version that the
//! next attempt begins at.

use std::time::Duration;

use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes, StdError};
use tonic::{Code, Streaming};

use crate::error::{Failure, Reason};
use crate::proto::watch_response::Item;
use crate::proto::{Domain, Event, Version, WatchRequest, WatchResponse};
use crate::services::Services;

/// The pause before the second attempt in a row; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A guest of the initial state.
    Initial(Box<Domain>),
    /// Something happened.
    Event(Box<Event>),
    /// Everything up to here was told. Comes after the initial state, and now and then.
    Bookmark(Version),
    /// The initial state comes again, because events were lost: forget what was told before.
    Reset,
}

/// A watch. It connects when it is first asked for news.
#[derive(Debug)]
pub struct Watch<T> {
    services: Services<T>,
    request: WatchRequest,
    stream: Option<Streaming<WatchResponse>>,
    seen: Option<Version>,
    /// A part of the initial state was told, and not all of it.
    partial: bool,
    /// Attempts since the last news.
    attempts: u32,
    attempts_max: u32,
}

/// What follows a broken stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Again from the version that was seen last.
    Resume,
    /// All guests again.
    Reset,
    /// Tell the caller.
    Fail,
}

impl<T> Watch<T>
where
    T: GrpcService<Body> + Clone,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    /// A watch of what `request` asks for.
    pub fn new(services: &Services<T>, request: WatchRequest) -> Self {
        Self {
            services: services.clone(),
            seen: request.since_version,
            request,
            stream: None,
            partial: false,
            attempts: 0,
            attempts_max: u32::MAX,
        }
    }

    /// Gives up after so many attempts in a row without news. Without this it never does.
    #[must_use]
    pub fn attempts(mut self, most: u32) -> Self {
        self.attempts_max = most;
        self
    }

    /// Where a watch goes on that is begun later, with `since_version`.
    pub fn seen(&self) -> Option<Version> {
        self.seen
    }

    /// Connects now, for a caller that wants to know whether the request is accepted.
    ///
    /// # Errors
    /// What the daemon answers, or that it cannot be reached.
    pub async fn begin(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() {
            let request = self.request_now();
            let answer = self.services.events().watch(request).await?;
            self.stream = Some(answer.into_inner());
        }
        Ok(())
    }

    /// The next news; waits until there is some.
    ///
    /// # Errors
    /// A refusal that another attempt would not change, or [`Reason::VersionExpired`] if events were lost and the request
    /// did not ask for the initial state. The watch is over then.
    pub async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let failure = match self.step().await {
                Ok(Some(news)) => return Ok(news),
                Ok(None) => continue,
                Err(failure) => failure,
            };
            self.stream = None;
            self.attempts = self.attempts.saturating_add(1);
            match after(&failure, self.request.send_initial_state) {
                _ if self.attempts > self.attempts_max => return Err(failure),
                Next::Fail => return Err(failure),
                Next::Resume => {}
                Next::Reset => {
                    self.seen = None;
                    return Ok(News::Reset);
                }
            }
            tokio::time::sleep(pause(self.attempts)).await;
            if std::mem::take(&mut self.partial) {
                // It is told from its beginning.
                return Ok(News::Reset);
            }
        }
    }

    /// One message of the stream; none if it says nothing.
    async fn step(&mut self) -> Result<Option<News>, Failure> {
        self.begin().await?;
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        let message = stream.message().await?;
        let Some(message) = message else {
            return Err(tonic::Status::unavailable("the watch ended").into());
        };
        self.attempts = 0;
        Ok(message.item.map(|item| match item {
            Item::Initial(domain) => {
                self.partial = true;
                News::Initial(Box::new(domain))
            }
            Item::Event(event) => {
                // QEMU's own events have no version and move nothing.
                self.seen = event.version.or(self.seen);
                News::Event(Box::new(event))
            }
            Item::Bookmark(version) => {
                (self.seen, self.partial) = (Some(version), false);
                News::Bookmark(version)
            }
        }))
    }

    fn request_now(&self) -> WatchRequest {
        let mut request = self.request.clone();
        request.since_version = self.seen;
        request.send_initial_state = request.send_initial_state && self.seen.is_none();
        request
    }
}

fn after(failure: &Failure, has_initial_state: bool) -> Next {
    match (failure.reason, failure.code) {
        (Reason::VersionExpired, _) if has_initial_state => Next::Reset,
        (Reason::VersionExpired, _) => Next::Fail,
        (Reason::SlowWatcher | Reason::DaemonStops | Reason::Unreachable, _) => Next::Resume,
        // The connection broke, or the daemon is not there.
        (Reason::Transport, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) => {
            Next::Resume
        }
        _ => Next::Fail,
    }
}

fn pause(attempt: u32) -> Duration {
    let doubled = attempt.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doubled)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, reason: Reason) -> Failure {
        Failure {
            reason,
            ..tonic::Status::new(code, "").into()
        }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_a_refusal_is_told() {
        // table: code, reason, with the initial state asked for: what follows
        for (code, reason, initial, expected) in [
            (Code::Unavailable, Reason::Transport, false, Next::Resume),
            (Code::Unknown, Reason::Transport, true, Next::Resume),
            (Code::ResourceExhausted, Reason::SlowWatcher, false, Next::Resume),
            (Code::Aborted, Reason::DaemonStops, false, Next::Resume),
            (Code::OutOfRange, Reason::VersionExpired, true, Next::Reset),
            (Code::OutOfRange, Reason::VersionExpired, false, Next::Fail),
            (Code::NotFound, Reason::NoDomain, true, Next::Fail),
            (Code::InvalidArgument, Reason::InvalidArg, false, Next::Fail),
            (Code::PermissionDenied, Reason::Transport, false, Next::Fail),
        ] {
            assert_eq!(
                after(&failure(code, reason), initial),
                expected,
                "{code:?} {reason:?}"
            );
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(3), FIRST_PAUSE * 4);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
