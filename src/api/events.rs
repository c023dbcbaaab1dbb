//! The Events service: every watch is a place in the journal's ring.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{convert, decode, event, service::Service};
use crate::{
    access::Caller,
    error::{Area, Code, Error, Result},
    events::{Next, Version, counter, model},
    ops::Driver,
    pb::{self, watch_response::Item},
};

/// Events taken from the ring at once.
const BATCH: usize = 64;
/// A quiet watch gets a bookmark this often.
const BOOKMARK: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl pb::events_server::Events for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let watch = Watch::begin(Arc::clone(&self.driver), &caller, &request.into_inner())?;
        Ok(Response::new(Box::pin(futures_util::stream::unfold(
            Some(watch),
            |watch| async {
                let mut watch = watch?;
                match watch.next().await {
                    Ok(item) => Some((Ok(pb::WatchResponse { item: Some(item) }), Some(watch))),
                    Err(error) => Some((Err(error.into()), None)),
                }
            },
        ))))
    }
}

/// One watch.
struct Watch {
    driver: Arc<Driver>,
    /// The newest event that was given or passed over.
    place: Version,
    ready: VecDeque<Item>,
    filter: Filter,
    monitor: Option<broadcast::Receiver<Arc<model::Event>>>,
}

/// Which events a watch wants.
struct Filter {
    domains: Vec<Uuid>,
    kinds: Vec<pb::EventKind>,
    monitor_event: String,
}

impl Watch {
    fn begin(driver: Arc<Driver>, caller: &Caller, request: &pb::WatchRequest) -> Result<Self> {
        let journal = driver.registry.journal();
        let filter = Filter::of(&driver, caller, request)?;
        // First the place, then the state: an event between the two is told twice, never not at all.
        let place = match &request.since_version {
            Some(_) if request.send_initial_state => {
                let text = "since_version excludes send_initial_state";
                return Err(Error::argument(text).in_area(Area::Event).at("since_version"));
            }
            Some(version) => resume(journal, version.into())?,
            None => journal.version(),
        };
        let monitor = filter
            .kinds
            .contains(&pb::EventKind::Monitor)
            .then(|| journal.watch_monitor());
        let mut watch = Self {
            place,
            ready: VecDeque::new(),
            filter,
            monitor,
            driver,
        };
        if request.send_initial_state {
            let views = watch.driver.registry.views();
            let wanted = views.iter().filter(|v| watch.filter.wants_guest(v.uuid));
            watch.ready = wanted.map(|v| Item::Initial(convert::full(v))).collect();
        }
        if request.since_version.is_none() {
            // Where to go on, should the connection break before anything happens.
            watch.ready.push_back(Item::Bookmark(watch.place.into()));
        }
        Ok(watch)
    }

    async fn next(&mut self) -> Result<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let journal = self.driver.registry.journal();
            tokio::select! {
                next = journal.next(self.place.counter, BATCH) => match next {
                    Next::Events(events) => self.take(&events),
                    Next::Expired => return Err(slow()),
                },
                event = from_monitor(&mut self.monitor) => match event {
                    Some(event) if self.filter.wants(&event) => return Ok(Item::Event(event::shown(&event))),
                    Some(_) => {}
                    None => return Err(slow()),
                },
                () = self.driver.stop.cancelled() => return Err(ending()),
                () = tokio::time::sleep(BOOKMARK) => return Ok(Item::Bookmark(self.place.into())),
            }
        }
    }

    fn take(&mut self, events: &[Arc<model::Event>]) {
        if let Some(last) = events.last() {
            self.place.counter = counter(last);
        }
        let wanted = events.iter().filter(|e| self.filter.wants(e));
        self.ready.extend(wanted.map(|e| Item::Event(event::shown(e))));
    }
}

impl Filter {
    fn of(driver: &Driver, caller: &Caller, request: &pb::WatchRequest) -> Result<Self> {
        let one = |reference| {
            let target = decode::target(Some(reference))?;
            Ok(caller.domain(driver, &target, caller.permission())?.uuid())
        };
        let kinds = decode::all(&request.kinds, "kinds")?;
        if !request.monitor_event.is_empty() && !kinds.contains(&pb::EventKind::Monitor) {
            let text = "monitor_event is for EVENT_KIND_MONITOR alone";
            return Err(Error::argument(text).at("monitor_event"));
        }
        Ok(Self {
            domains: request.domains.iter().map(one).collect::<Result<_>>()?,
            kinds,
            monitor_event: request.monitor_event.clone(),
        })
    }

    fn wants_guest(&self, uuid: Uuid) -> bool {
        self.domains.is_empty() || self.domains.contains(&uuid)
    }

    fn wants(&self, event: &model::Event) -> bool {
        let kind = event.kind();
        let guest = self.domains.is_empty() || self.domains.iter().any(|d| d.to_string() == event.uuid);
        let named = match &event.detail {
            Some(model::event::Detail::Monitor(m)) => {
                self.monitor_event.is_empty() || self.monitor_event == m.event
            }
            _ => true,
        };
        guest
            && named
            && (self.kinds.is_empty() && kind != pb::EventKind::Monitor || self.kinds.contains(&kind))
    }
}

/// The next of QEMU's own events; none if some were missed. Never ready for a watch that did not ask for them.
async fn from_monitor(
    monitor: &mut Option<broadcast::Receiver<Arc<model::Event>>>,
) -> Option<Arc<model::Event>> {
    match monitor {
        Some(receiver) => receiver.recv().await.ok(),
        None => std::future::pending().await,
    }
}

fn resume(journal: &crate::events::Journal, version: Version) -> Result<Version> {
    match journal.can_resume(version) {
        true => Ok(version),
        false => Err(Error::new(
            Code::OperationFailed,
            "the journal does not reach back to this version; list again and watch from there",
        )
        .in_area(Area::Event)
        .because("VERSION_EXPIRED")),
    }
}

fn ending() -> Error {
    Error::new(
        Code::OperationAborted,
        "the daemon is ending; resume from the last version that was seen",
    )
    .in_area(Area::Event)
    .because("DAEMON_STOPS")
}

fn slow() -> Error {
    Error::new(
        Code::ResourceBusy,
        "the watch did not keep up; resume from the last version that it saw",
    )
    .in_area(Area::Event)
    .because("SLOW_WATCHER")
}
