//! The PerfEvents service.

use domxml::devices::YesNo;
use tonic::{Request, Response};

use super::{
    decode,
    service::{Answer, Service},
};
use crate::{
    access::Caller,
    error::Error,
    ops::{document::scope, tuning},
    pb,
};

#[tonic::async_trait]
impl pb::perf_events_server::PerfEvents for Service {
    async fn list(&self, request: Request<pb::ListPerfEventsRequest>) -> Answer<pb::ListPerfEventsResponse> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let wanted = decode::read_scope(request.scope)?;
        let view = self.domain(&caller, request.domain.as_ref())?.view();
        let document = scope::read(&view, wanted)?;
        let document = document.domain()?;
        let events = document.perf.iter().flat_map(|perf| &perf.events);
        let counted = events.filter(|event| event.enabled == YesNo::Yes);
        Ok(Response::new(pb::ListPerfEventsResponse {
            events: counted.map(|event| event.name.as_str().to_owned()).collect(),
        }))
    }

    async fn set(&self, request: Request<pb::SetPerfEventsRequest>) -> Answer<pb::Domain> {
        self.mutate(request, |call| {
            super::tuning::change(
                call,
                |r| (r.domain.as_ref(), r.scope),
                |r| {
                    let enabled = r.enable.iter().map(|name| (name.clone(), true));
                    let disabled = r.disable.iter().map(|name| (name.clone(), false));
                    let events: Vec<_> = enabled.chain(disabled).collect();
                    match events.is_empty() {
                        true => Err(Error::argument("no event is named").at("enable")),
                        false => Ok(tuning::Change::Perf(tuning::perf::Change(events))),
                    }
                },
            )
        })
        .await
    }
}
