//! Where a connection's events come from: watches of the service, resumed where they stopped.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::Status;
use virtqemud_client::{self as client, Services, Watch};

use super::convert;
use crate::backend::Calls;
use crate::proto::{Event, EventKind, WatchRequest, event};

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

/// Watches all guests.
///
/// # Errors
/// What the service answers.
pub(crate) async fn guests(services: &Services<Calls>) -> Result<Feed, Status> {
    let watch = begun(services, WatchRequest::default()).await?;
    let told = |event: Event| Some(News::Event(Box::new(event)));
    Ok(Feed {
        id: None,
        events: news(watch, told),
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
    services: &Services<Calls>,
    id: i32,
    filter: MonitorFilter,
) -> Result<Feed, Status> {
    let request = WatchRequest {
        kinds: vec![EventKind::Monitor.into()],
        ..filter.request
    };
    let watch = begun(services, request).await?;
    let name = filter.ignoring_case;
    let told = move |event: Event| {
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
        events: news(watch, told),
    })
}

/// What `watch` tells, as far as `convert` makes news of it.
fn news(
    watch: Watch<Calls>,
    convert: impl Fn(Event) -> Option<News> + Send + 'static,
) -> BoxStream<'static, News> {
    let told = stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        match watch.next().await {
            Ok(news) => Some((Ok(news), Some(watch))),
            Err(failure) => Some((Err(failure), None)),
        }
    });
    let news = told.filter_map(move |told| {
        std::future::ready(match told {
            Ok(client::News::Event(event)) => convert(*event),
            Ok(_) => None,
            Err(failure) => Some(News::Lost(failure.to_string())),
        })
    });
    news.boxed()
}

/// A watch that the service has accepted.
async fn begun(services: &Services<Calls>, request: WatchRequest) -> Result<Watch<Calls>, Status> {
    let mut watch = Watch::new(services, request).attempts(RESUMES);
    watch.begin().await?;
    Ok(watch)
}
