//! The Monitor service.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    ops::{self, Driver},
    pb,
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self {
            driver: Arc::clone(driver),
        }
    }
}

#[tonic::async_trait]
impl pb::monitor_server::Monitor for Service {
    async fn execute(
        &self,
        request: Request<pb::ExecuteRequest>,
    ) -> Result<Response<pb::ExecuteResponse>, Status> {
        let request = request.into_inner();
        let domain = convert::find(&self.driver, request.domain)?;
        let reply = match request.human {
            true => ops::inspect::monitor::human(&self.driver, &domain, request.command).await?,
            false => ops::inspect::monitor::raw(&self.driver, &domain, request.command).await?,
        };
        Ok(Response::new(pb::ExecuteResponse { reply }))
    }
}
