//! The GuestAgent service.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    domain::Domain,
    ops::{
        Driver,
        inspect::addresses,
        run::agent::{self, Patience},
    },
    pb::{self, execute_agent_request::Wait},
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

    /// A command that returns how many filesystems it found.
    async fn count(
        &self,
        domain: &Domain,
        name: &str,
        arguments: Value,
    ) -> Result<Response<pb::GuestFilesystemsResponse>, Status> {
        let count = agent::ask(&self.driver, domain, name, arguments).await?;
        let count = count
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| agent::malformed(name))?;
        Ok(Response::new(pb::GuestFilesystemsResponse { count }))
    }
}

#[tonic::async_trait]
impl pb::guest_agent_server::GuestAgent for Service {
    async fn execute(
        &self,
        request: Request<pb::ExecuteAgentRequest>,
    ) -> Result<Response<pb::ExecuteAgentResponse>, Status> {
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

    async fn get_time(
        &self,
        request: Request<pb::GetGuestTimeRequest>,
    ) -> Result<Response<pb::GetGuestTimeResponse>, Status> {
        let domain = convert::find(&self.driver, request.into_inner().domain)?;
        let time = agent::ask(&self.driver, &domain, "guest-get-time", json!({})).await?;
        let nanoseconds = time.as_i64().ok_or_else(|| agent::malformed("guest-get-time"))?;
        Ok(Response::new(pb::GetGuestTimeResponse { nanoseconds }))
    }

    async fn freeze_filesystems(
        &self,
        request: Request<pb::GuestFilesystemsRequest>,
    ) -> Result<Response<pb::GuestFilesystemsResponse>, Status> {
        let request = request.into_inner();
        let domain = convert::find(&self.driver, request.domain)?;
        let (name, arguments) = match request.mount_points.is_empty() {
            true => ("guest-fsfreeze-freeze", json!({})),
            false => (
                "guest-fsfreeze-freeze-list",
                json!({"mountpoints": request.mount_points}),
            ),
        };
        self.count(&domain, name, arguments).await
    }

    async fn thaw_filesystems(
        &self,
        request: Request<pb::GuestFilesystemsRequest>,
    ) -> Result<Response<pb::GuestFilesystemsResponse>, Status> {
        let domain = convert::find(&self.driver, request.into_inner().domain)?;
        self.count(&domain, "guest-fsfreeze-thaw", json!({})).await
    }

    async fn trim_filesystems(
        &self,
        request: Request<pb::TrimGuestFilesystemsRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let domain = convert::find(&self.driver, request.domain)?;
        agent::ask(
            &self.driver,
            &domain,
            "guest-fstrim",
            json!({"minimum": request.minimum}),
        )
        .await?;
        Ok(Response::new(()))
    }

    async fn get_hostname(
        &self,
        request: Request<pb::GetGuestHostnameRequest>,
    ) -> Result<Response<pb::GetGuestHostnameResponse>, Status> {
        let request = request.into_inner();
        let witness = if request.from_leases {
            addresses::Witness::Leases
        } else {
            addresses::Witness::Agent
        };
        let domain = convert::find(&self.driver, request.domain)?;
        let hostname = addresses::hostname(&self.driver, &domain, witness).await?;
        Ok(Response::new(pb::GetGuestHostnameResponse { hostname }))
    }

    async fn list_interfaces(
        &self,
        request: Request<pb::ListGuestInterfacesRequest>,
    ) -> Result<Response<pb::ListGuestInterfacesResponse>, Status> {
        let domain = convert::find(&self.driver, request.into_inner().domain)?;
        let found = addresses::from_agent(&self.driver, &domain).await?;
        Ok(Response::new(pb::ListGuestInterfacesResponse {
            interfaces: convert::interfaces(found),
        }))
    }
}
