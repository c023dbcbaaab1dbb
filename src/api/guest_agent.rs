//! The GuestAgent service.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Request, Response};

use super::{
    convert, decode,
    service::{Answer, Call, Service},
    told,
};
use crate::{
    access::Caller,
    domain::Domain,
    error::{Error, Result},
    ops::{
        inspect::{addresses, guest_info},
        run::{
            agent::{
                self, Patience,
                account::{self, KeyChange, Password},
                cpus,
            },
            power::{self, Sleep},
        },
    },
    pb::{
        self, execute_agent_request::Wait, set_agent_timeout_request::Limit, set_guest_time_request::Clock,
        set_user_password_request::Password as Secret, trim_guest_filesystems_response::Filesystem,
    },
};

/// Has the agent carry out a command of ours; what it returns. Nothing for a trial, which needs a guest that runs.
async fn asked<R>(
    call: &Call<R>,
    reference: Option<&pb::DomainRef>,
    name: &str,
    arguments: Value,
) -> Result<Option<Value>> {
    match acting(call, reference)? {
        Some(domain) => agent::ask(&call.driver, &domain, name, arguments).await.map(Some),
        None => Ok(None),
    }
}

/// The guest whose agent is to do something; none for a trial, which needs a guest that runs.
fn acting<R>(call: &Call<R>, reference: Option<&pb::DomainRef>) -> Result<Option<Domain>> {
    let domain = call.unchanged(reference)?;
    if call.conditions.trial {
        return domain.view().running().map(|_| None);
    }
    Ok(Some(domain))
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

    async fn get_info(&self, request: Request<pb::GetGuestInfoRequest>) -> Answer<pb::GuestInfo> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let parts = decode::all(&request.parts, "parts")?;
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let parts = parts.into_iter().filter_map(told::part).collect();
        let told = guest_info::ask(&self.driver, &domain, parts).await?;
        Ok(Response::new(told::info(told)))
    }

    async fn list_filesystems(
        &self,
        request: Request<pb::ListGuestFilesystemsRequest>,
    ) -> Answer<pb::ListGuestFilesystemsResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        domain.view().running()?;
        let told = guest_info::ask(&self.driver, &domain, vec![guest_info::Part::Filesystems]).await?;
        let filesystems = told.filesystems.unwrap_or_default();
        Ok(Response::new(pb::ListGuestFilesystemsResponse {
            filesystems: filesystems.into_iter().map(told::filesystem).collect(),
        }))
    }

    async fn list_vcpus(
        &self,
        request: Request<pb::ListGuestVcpusRequest>,
    ) -> Answer<pb::ListGuestVcpusResponse> {
        let caller = Caller::of(&request)?;
        let domain = self.domain(&caller, request.get_ref().domain.as_ref())?;
        let found = cpus::list(&self.driver, &domain).await?;
        let shown = |cpu: cpus::Cpu| pb::list_guest_vcpus_response::Vcpu {
            number: cpu.id,
            online: cpu.online,
            can_offline: cpu.can_offline,
        };
        Ok(Response::new(pb::ListGuestVcpusResponse {
            vcpus: found.into_iter().map(shown).collect(),
        }))
    }

    async fn set_vcpus(
        &self,
        request: Request<pb::SetGuestVcpusRequest>,
    ) -> Answer<pb::SetGuestVcpusResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                let vcpus = r.vcpus.iter().copied().collect();
                cpus::set(&call.driver, &domain, vcpus, r.online).await?;
            }
            Ok(pb::SetGuestVcpusResponse {})
        })
        .await
    }

    async fn set_vcpu_count(
        &self,
        request: Request<pb::SetGuestVcpuCountRequest>,
    ) -> Answer<pb::SetGuestVcpuCountResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            if r.count == 0 {
                return Err(Error::argument("a guest has at least one CPU").at("count"));
            }
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                cpus::set_count(&call.driver, &domain, r.count).await?;
            }
            Ok(pb::SetGuestVcpuCountResponse {})
        })
        .await
    }

    async fn set_time(&self, request: Request<pb::SetGuestTimeRequest>) -> Answer<pb::SetGuestTimeResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let time = match decode::given(r.clock.as_ref(), "clock")? {
                Clock::Time(time) => agent::clock::Time::At(since_1970(time)?),
                Clock::HardwareClock(_) => agent::clock::Time::Hardware,
            };
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                agent::clock::set(&call.driver, &domain, time).await?;
            }
            Ok(pb::SetGuestTimeResponse {})
        })
        .await
    }

    async fn set_user_password(
        &self,
        request: Request<pb::SetUserPasswordRequest>,
    ) -> Answer<pb::SetUserPasswordResponse> {
        self.mutate(request, |mut call| async move {
            let password = match decode::given(call.request.password.take(), "password")? {
                Secret::Plain(text) => Password::Plain(text),
                Secret::Encrypted(text) => Password::Encrypted(text),
            };
            let r = &call.request;
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                account::set_password(&call.driver, &domain, &r.user, &password).await?;
            }
            Ok(pb::SetUserPasswordResponse {})
        })
        .await
    }

    async fn list_authorized_keys(
        &self,
        request: Request<pb::ListAuthorizedKeysRequest>,
    ) -> Answer<pb::ListAuthorizedKeysResponse> {
        let caller = Caller::of(&request)?;
        let request = request.get_ref();
        let domain = self.domain(&caller, request.domain.as_ref())?;
        let keys = account::keys(&self.driver, &domain, &request.user).await?;
        Ok(Response::new(pb::ListAuthorizedKeysResponse { keys }))
    }

    async fn set_authorized_keys(
        &self,
        request: Request<pb::SetAuthorizedKeysRequest>,
    ) -> Answer<pb::SetAuthorizedKeysResponse> {
        self.mutate(request, |call| async move {
            use pb::set_authorized_keys_request::Change as C;
            let r = &call.request;
            let change = match decode::needed(r.change, "change")? {
                C::Unspecified | C::Replace => KeyChange::Replace,
                C::Add => KeyChange::Add,
                C::Remove => KeyChange::Remove,
            };
            if r.keys.is_empty() && change != KeyChange::Replace {
                return Err(Error::argument("there are no keys").at("keys"));
            }
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                account::change_keys(&call.driver, &domain, &r.user, (change, &r.keys)).await?;
            }
            Ok(pb::SetAuthorizedKeysResponse {})
        })
        .await
    }

    async fn sleep(&self, request: Request<pb::SleepRequest>) -> Answer<pb::SleepResponse> {
        self.mutate(request, |call| async move {
            use pb::sleep_request::Kind as K;
            let r = &call.request;
            let sleep = match decode::needed(r.kind, "kind")? {
                K::Unspecified | K::Memory => Sleep::Memory,
                K::Disk => Sleep::Disk,
                K::Hybrid => Sleep::Hybrid,
            };
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                power::put_to_sleep(&call.driver, &domain, sleep).await?;
            }
            Ok(pb::SleepResponse {})
        })
        .await
    }

    async fn set_timeout(
        &self,
        request: Request<pb::SetAgentTimeoutRequest>,
    ) -> Answer<pb::SetAgentTimeoutResponse> {
        self.mutate(request, |call| async move {
            let r = &call.request;
            let patience = match decode::given(r.limit.as_ref(), "limit")? {
                Limit::Timeout(timeout) => {
                    let seconds = decode::whole(timeout, decode::Unit::Second, "timeout")?;
                    Patience::Within(Duration::from_secs(seconds))
                }
                Limit::Usual(_) => Patience::Usual,
                Limit::Unlimited(_) => Patience::Endless,
            };
            if let Some(domain) = acting(&call, r.domain.as_ref())? {
                agent::set_patience(&domain, patience).await?;
            }
            Ok(pb::SetAgentTimeoutResponse {})
        })
        .await
    }
}

/// A time as the span since 1970.
fn since_1970(time: &prost_types::Timestamp) -> Result<Duration> {
    let (seconds, nanos) = (u64::try_from(time.seconds), u32::try_from(time.nanos));
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Error::argument("the time is before 1970 or no time").at("time")),
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
