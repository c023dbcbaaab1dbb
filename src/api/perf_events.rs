//! The PerfEvents service.

use domxml::devices::YesNo;
use tonic::{Request, Response};

use super::{
    decode,
    service::{Answer, Service},
};
use crate::{access::Caller, ops::document::scope, pb};

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
}
