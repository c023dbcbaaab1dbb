//! The Monitor service.

use tonic::Request;

use super::service::{Answer, Service};
use crate::{ops, pb};

#[tonic::async_trait]
impl pb::monitor_server::Monitor for Service {
    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Answer<pb::ExecuteResponse> {
        self.mutate(request, |call| async move {
            let domain = call.unchanged(call.request.domain.as_ref())?;
            let (driver, command) = (&call.driver, call.request.command);
            let reply = match (call.conditions.trial, call.request.human) {
                (true, _) => domain.view().running().map(|_| String::new())?,
                (false, true) => ops::inspect::monitor::human(driver, &domain, command).await?,
                (false, false) => ops::inspect::monitor::raw(driver, &domain, command).await?,
            };
            Ok(pb::ExecuteResponse {
                reply,
                etag: domain.view().etag(),
            })
        })
        .await
    }
}
