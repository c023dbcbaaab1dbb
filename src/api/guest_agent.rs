//! The GuestAgent service.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    ops::{
        Driver,
        agent::{self, Patience},
    },
    pb::{self, execute_agent_request::Wait},
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self { driver: Arc::clone(driver) }
    }
}

#[tonic::async_trait]
impl pb::guest_agent_server::GuestAgent for Service {
    async fn execute(&self, request: Request<pb::ExecuteAgentRequest>) -> Result<Response<pb::ExecuteAgentResponse>, Status> {
        let request = request.into_inner();
        let domain = convert::find(&self.driver, request.domain)?;
        let patience = match request.wait {
            None => Patience::Usual,
            Some(Wait::Seconds(seconds)) => Patience::Within(Duration::from_secs(seconds.into())),
            Some(Wait::Unlimited(_)) => Patience::Endless,
        };
        let reply = agent::execute(&self.driver, &domain, request.command, patience).await?;
        Ok(Response::new(pb::ExecuteAgentResponse { reply }))
    }
}
