//! The GuestAgent service.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Request, Response};

use super::{
    convert, decode,
    service::{Answer, Call, Service},
};
use crate::{
    access::Caller,
    error::Result,
    ops::{
        inspect::addresses,
        run::agent::{self, Patience},
    },
    pb::{self, execute_agent_request::Wait, trim_guest_filesystems_response::Filesystem},
};

/// Has the agent carry out a command of ours; what it returns. Nothing for a trial, which needs a guest that runs.
async fn asked<R>(
    call: &Call<R>,
    reference: Option<&pb::DomainRef>,
    name: &str,
    arguments: Value,
) -> Result<Option<Value>> {
    let domain = call.unchanged(reference)?;
    if call.conditions.trial {
        return domain.view().running().map(|_| None);
    }
    agent::ask(&call.driver, &domain, name, arguments).await.map(Some)
}

/// How many filesystems a command found.
fn count(answer: Option<&Value>, name: &str) -> Result<u32> {
    let Some(answer) = answer else { return Ok(0) };
    let number = answer.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| agent::malformed(name))
}

#[tonic::async_trait]
impl pb::guest_agent_server::GuestAgent for Service {
    async fn execute(&self, request: Request<pb::ExecuteAgentRequest>) -> Answer<pb::ExecuteAgentResponse> {
        self.mutate(request, |call| async move {
            let domain = call.unchanged(call.request.domain.as_ref())?;
            let patience = match &call.request.wait {
                None => Patience::Usual,
                Some(Wait::Timeout(timeout)) => Patience::Within(decode::duration(timeout, "timeout")?),
                Some(Wait::Unlimited(_)) => Patience::Endless,
            };
            let reply = match call.conditions.trial {
                true => domain.view().running().map(|_| String::new())?,
                false => agent::execute(&call.driver, &domain, call.request.command, patience).await?,
            };
            Ok(pb::ExecuteAgentResponse { reply })
        })
        .await
    }

    async fn get_time(&self, request: Request<pb::GetGuestTimeRequest>) -> Answer<pb::GetGuestTimeResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let time = agent::ask(&self.driver, &domain, "guest-get-time", json!({})).await?;
        let nanoseconds = time.as_i64().ok_or_else(|| agent::malformed("guest-get-time"))?;
        let second = i64::try_from(Duration::from_secs(1).as_nanos()).unwrap_or(i64::MAX);
        Ok(Response::new(pb::GetGuestTimeResponse {
            time: Some(prost_types::Timestamp {
                seconds: nanoseconds.div_euclid(second),
                nanos: i32::try_from(nanoseconds.rem_euclid(second)).unwrap_or(0),
            }),
        }))
    }

    async fn freeze_filesystems(
        &self,
        request: Request<pb::FreezeGuestFilesystemsRequest>,
    ) -> Answer<pb::FreezeGuestFilesystemsResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let (name, arguments) = match r.mount_points.is_empty() {
                true => ("guest-fsfreeze-freeze", json!({})),
                false => (
                    "guest-fsfreeze-freeze-list",
                    json!({"mountpoints": r.mount_points}),
                ),
            };
            let answer = asked(&call, r.domain.as_ref(), name, arguments).await?;
            let count = count(answer.as_ref(), name)?;
            Ok(pb::FreezeGuestFilesystemsResponse { count })
        })
        .await
    }

    async fn thaw_filesystems(
        &self,
        request: Request<pb::ThawGuestFilesystemsRequest>,
    ) -> Answer<pb::ThawGuestFilesystemsResponse> {
        self.mutate(request, |call| async move {
            let name = "guest-fsfreeze-thaw";
            let answer = asked(&call, call.request.domain.as_ref(), name, json!({})).await?;
            let count = count(answer.as_ref(), name)?;
            Ok(pb::ThawGuestFilesystemsResponse { count })
        })
        .await
    }

    async fn trim_filesystems(
        &self,
        request: Request<pb::TrimGuestFilesystemsRequest>,
    ) -> Answer<pb::TrimGuestFilesystemsResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let arguments = json!({"minimum": r.minimum});
            let answer = asked(&call, r.domain.as_ref(), "guest-fstrim", arguments).await?;
            let filesystems = answer.as_ref().map(trimmed).unwrap_or_default();
            Ok(pb::TrimGuestFilesystemsResponse { filesystems })
        })
        .await
    }

    async fn get_hostname(
        &self,
        request: Request<pb::GetGuestHostnameRequest>,
    ) -> Answer<pb::GetGuestHostnameResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let witness = if request.from_leases {
            addresses::Witness::Leases
        } else {
            addresses::Witness::Agent
        };
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let hostname = addresses::hostname(&self.driver, &domain, witness).await?;
        Ok(Response::new(pb::GetGuestHostnameResponse { hostname }))
    }

    async fn list_interfaces(
        &self,
        request: Request<pb::ListGuestInterfacesRequest>,
    ) -> Answer<pb::ListGuestInterfacesResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let found = addresses::from_agent(&self.driver, &domain).await?;
        Ok(Response::new(pb::ListGuestInterfacesResponse {
            interfaces: convert::interfaces(found),
        }))
    }
}

/// The filesystems that the guest went through. Old agents return nothing of them.
fn trimmed(answer: &Value) -> Vec<Filesystem> {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let one = |value: &Value| Filesystem {
        path: text(value, "path"),
        trimmed: value["trimmed"].as_u64(),
        error: text(value, "error"),
    };
    let paths = answer["paths"].as_array();
    paths
        .map(|paths| paths.iter().map(one).collect())
        .unwrap_or_default()
}
