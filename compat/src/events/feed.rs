//! Where a connection's events come from: watches of the service, resumed where they stopped.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Code, Status, Streaming};

use super::convert;
use crate::backend::Calls;
use crate::proto::events_client::EventsClient;
use crate::proto::watch_response::Item;
use crate::proto::{Event, EventKind, Version, WatchRequest, WatchResponse, event};

/// Times a broken watch is resumed before its events count as lost.
const RESUMES: u32 = 3;

/// What has happened.
#[derive(Debug)]
pub(crate) enum News {
    /// To a guest.
    Event(Box<Event>),
    /// In QEMU: the packet that says so.
    Monitor(Vec<u8>),
    /// The watch is broken and cannot be resumed.
    Lost(String),
}

/// A source of news.
pub(crate) struct Feed {
    /// The monitor registration it serves; `None`: all registrations for guests' events.
    id: Option<i32>,
    events: BoxStream<'static, News>,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The feeds of a connection.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Vec<Feed>);

impl Feeds {
    /// Listens to `feed`.
    pub(crate) fn add(&mut self, feed: Feed) {
        self.0.push(feed);
    }

    /// Listens no more to the feed of monitor registration `id`, or to that of guests.
    pub(crate) fn remove(&mut self, id: Option<i32>) {
        self.0.retain(|feed| feed.id != id);
    }

    /// The next news; pending when there is no feed. Cancel safe.
    pub(crate) async fn next(&mut self) -> News {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// News that need not be waited for.
    pub(crate) async fn ready(&mut self) -> Option<News> {
        if self.0.is_empty() {
            return None;
        }
        poll_fn(|context| match self.poll_next(context) {
            Poll::Ready(news) => Poll::Ready(Some(news)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<News> {
        for feed in &mut self.0 {
            match feed.events.poll_next_unpin(context) {
                Poll::Ready(Some(news)) => return Poll::Ready(news),
                Poll::Ready(None) => return Poll::Ready(News::Lost("watch ended".into())),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

/// A watch that goes on where it stopped.
struct Watch {
    client: EventsClient<Calls>,
    request: WatchRequest,
    stream: Streaming<WatchResponse>,
    seen: Option<Version>,
    resumes: u32,
}

/// Watches all guests.
///
/// # Errors
/// What the service answers.
pub(crate) async fn guests(client: EventsClient<Calls>) -> Result<Feed, Status> {
    let watch = Watch::start(client, WatchRequest::default()).await?;
    let news = |event: Event| Some(News::Event(Box::new(event)));
    Ok(Feed {
        id: None,
        events: watch.news(news),
    })
}

/// Which of QEMU's events a registration is for.
#[derive(Debug, Clone)]
pub(crate) struct MonitorFilter {
    /// Watch asked of the service.
    pub(crate) request: WatchRequest,
    /// Name to compare with case ignored.
    pub(crate) ignoring_case: Option<String>,
}

/// Watches QEMU's own events for registration `id`.
///
/// # Errors
/// What the service answers.
pub(crate) async fn monitor(
    client: EventsClient<Calls>,
    id: i32,
    filter: MonitorFilter,
) -> Result<Feed, Status> {
    let request = WatchRequest {
        kinds: vec![EventKind::Monitor.into()],
        ..filter.request
    };
    let watch = Watch::start(client, request).await?;
    let name = filter.ignoring_case;
    let news = move |event: Event| {
        let Some(event::Detail::Monitor(monitor)) = &event.detail else {
            return None;
        };
        let wanted = name
            .as_ref()
            .is_none_or(|name| name.eq_ignore_ascii_case(&monitor.event));
        wanted
            .then(|| convert::monitor_packet(id, &event, monitor))
            .flatten()
            .map(News::Monitor)
    };
    Ok(Feed {
        id: Some(id),
        events: watch.news(news),
    })
}

impl Watch {
    async fn start(mut client: EventsClient<Calls>, request: WatchRequest) -> Result<Self, Status> {
        let stream = client.watch(request.clone()).await?.into_inner();
        Ok(Self {
            client,
            request,
            stream,
            seen: None,
            resumes: 0,
        })
    }

    fn news(self, convert: impl Fn(Event) -> Option<News> + Send + 'static) -> BoxStream<'static, News> {
        let events = stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let news = events.filter_map(move |event| {
            std::future::ready(match event {
                Ok(event) => convert(event),
                Err(status) => Some(News::Lost(format!("{}: {}", status.code(), status.message()))),
            })
        });
        news.boxed()
    }

    async fn next(&mut self) -> Result<Event, Status> {
        loop {
            let item = match self.stream.message().await {
                Ok(Some(response)) => response.item,
                Ok(None) => {
                    self.resume(Status::unavailable("watch ended")).await?;
                    continue;
                }
                Err(status) => {
                    self.resume(status).await?;
                    continue;
                }
            };
            match item {
                Some(Item::Event(event)) => {
                    self.seen = event.version.or(self.seen);
                    self.resumes = 0;
                    return Ok(event);
                }
                Some(Item::Bookmark(version)) => self.seen = Some(version),
                Some(Item::Initial(_)) | None => {}
            }
        }
    }

    async fn resume(&mut self, why: Status) -> Result<(), Status> {
        let Some(seen) = self
            .seen
            .filter(|_| self.resumes < RESUMES && why.code() != Code::OutOfRange)
        else {
            return Err(why);
        };
        self.resumes += 1;
        let request = WatchRequest {
            since_version: Some(seen),
            ..self.request.clone()
        };
        self.stream = self.client.watch(request).await?.into_inner();
        Ok(())
    }
}
