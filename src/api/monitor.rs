//! The Monitor service.

use tonic::Request;
use unixfd::Fds;

use super::service::{Answer, Service};
use crate::{error::Error, ops, pb};

#[tonic::async_trait]
impl pb::monitor_server::Monitor for Service {
    /// A caller in this process may hand over a descriptor that goes with the command.
    async fn execute(&self, request: Request<pb::ExecuteRequest>) -> Answer<pb::ExecuteResponse> {
        let fds = request.extensions().get::<Fds>().map(Fds::try_clone);
        let fds = fds.transpose()?.unwrap_or_default();
        self.mutate(request, |call| async move {
            if fds.len() > 1 {
                return Err(Error::argument(
                    "at most 1 fd can be passed to qemu along with a command",
                ));
            }
            let domain = call.unchanged(call.request.domain.as_ref())?;
            let (driver, command) = (&call.driver, call.request.command);
            let reply = match (call.conditions.trial, call.request.human) {
                (true, _) => domain.view().running().map(|_| String::new())?,
                (false, true) => ops::inspect::monitor::human(driver, &domain, command, fds).await?,
                (false, false) => ops::inspect::monitor::raw(driver, &domain, command, fds).await?,
            };
            Ok(pb::ExecuteResponse {
                reply,
                etag: domain.view().etag(),
            })
        })
        .await
    }
}
