//! The Admin service.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response};

use super::service::{Answer, Call, Service};
use crate::{
    access::Caller,
    admin::{Admin, Identity, Server, identity},
    blocking,
    error::{Error, Result},
    ops::change::preserve,
    pb,
};

/// Most clients on a page.
const PAGE_MAX: usize = 16_384;

#[tonic::async_trait]
impl pb::admin_server::Admin for Service {
    async fn list_servers(&self, _: Request<pb::ListServersRequest>) -> Answer<pb::ListServersResponse> {
        let servers = self.admin.servers().iter().map(server).collect();
        Ok(Response::new(pb::ListServersResponse { servers }))
    }

    async fn get_server(&self, request: Request<pb::GetServerRequest>) -> Answer<pb::Server> {
        let found = self.admin.server(&request.get_ref().server)?;
        Ok(Response::new(server(found)))
    }

    async fn set_client_limits(&self, request: Request<pb::SetClientLimitsRequest>) -> Answer<pb::Server> {
        self.administrate(request, |admin, call| async move {
            let (trial, r) = (call.of_host()?, &call.request);
            let of = admin.server(&r.server)?;
            of.set_client_limits(r.max, r.max_anonymous, trial)?;
            Ok(server(of))
        })
        .await
    }

    async fn set_workers(&self, request: Request<pb::SetWorkersRequest>) -> Answer<pb::Server> {
        self.administrate(request, |admin, call| async move {
            let (trial, r) = (call.of_host()?, &call.request);
            let of = admin.server(&r.server)?;
            of.set_workers((r.min, r.max, r.priority), trial)?;
            Ok(server(of))
        })
        .await
    }

    async fn list_clients(
        &self,
        request: Request<pb::ListClientsRequest>,
    ) -> Answer<pb::ListClientsResponse> {
        let request = request.get_ref();
        let of = self.admin.server(&request.server)?;
        let size = usize::try_from(request.page_size)
            .map_err(|_| Error::argument("page_size is negative").at("page_size"))?;
        let size = if size == 0 { PAGE_MAX } else { size.min(PAGE_MAX) };
        let after = match request.page_token.as_str() {
            "" => 0,
            token => token
                .parse()
                .map_err(|_| Error::argument("page_token is none of this call").at("page_token"))?,
        };
        let mut found = of.clients.list(after, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more).map(|client| client.id.to_string());
        Ok(Response::new(pb::ListClientsResponse {
            clients: found.iter().map(|it| client(it, numbers(it))).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }

    async fn get_client(&self, request: Request<pb::GetClientRequest>) -> Answer<pb::Client> {
        let request = request.get_ref();
        let found = self.admin.server(&request.server)?.client(request.id)?;
        let work = move || Ok(client(&found, identity(&found)));
        Ok(Response::new(blocking::file("names of users", work).await?))
    }

    async fn disconnect_client(
        &self,
        request: Request<pb::DisconnectClientRequest>,
    ) -> Answer<pb::DisconnectClientResponse> {
        self.administrate(request, |admin, call| async move {
            let of = admin.server(&call.request.server)?;
            match call.of_host()? {
                true => drop(of.client(call.request.id)?),
                false => of.disconnect(call.request.id)?,
            }
            Ok(pb::DisconnectClientResponse {})
        })
        .await
    }

    async fn get_logging(&self, _: Request<pb::GetLoggingRequest>) -> Answer<pb::Logging> {
        Ok(Response::new(logging(&self.admin)))
    }

    async fn set_logging(&self, request: Request<pb::SetLoggingRequest>) -> Answer<pb::Logging> {
        self.administrate(request, |admin, call| async move {
            let trial = call.of_host()?;
            admin
                .set_log(call.request.filters, call.request.outputs, trial)
                .await?;
            Ok(logging(&admin))
        })
        .await
    }

    async fn set_idle_limit(
        &self,
        request: Request<pb::SetIdleLimitRequest>,
    ) -> Answer<pb::SetIdleLimitResponse> {
        self.administrate(request, |admin, call| async move {
            let trial = call.of_host()?;
            let limit = match call.request.limit {
                None => Duration::ZERO,
                Some(limit) => Duration::try_from(limit)
                    .map_err(|_| Error::argument("limit is negative or too long").at("limit"))?,
            };
            if !trial {
                admin.set_idle(Some(limit).filter(|limit| !limit.is_zero()));
            }
            Ok(pb::SetIdleLimitResponse {})
        })
        .await
    }

    async fn update_tls_files(
        &self,
        request: Request<pb::UpdateTlsFilesRequest>,
    ) -> Answer<pb::UpdateTlsFilesResponse> {
        self.administrate(request, |admin, call| async move {
            call.of_host()?;
            admin.server(&call.request.server)?.update_tls()?;
            Ok(pb::UpdateTlsFilesResponse {})
        })
        .await
    }

    async fn shut_down(&self, request: Request<pb::ShutDownRequest>) -> Answer<pb::ShutDownResponse> {
        self.administrate(request, |admin, call| async move {
            let trial = call.of_host()?;
            if trial {
                return Ok(pb::ShutDownResponse {});
            }
            if !call.request.preserve {
                admin.stop();
                return Ok(pb::ShutDownResponse {});
            }
            let driver = Arc::clone(&call.driver);
            call.driver.tracker.spawn(async move {
                preserve::preserve(&driver).await;
                admin.stop();
            });
            Ok(pb::ShutDownResponse {})
        })
        .await
    }
}

impl Service {
    /// Carries out a change of the daemon itself.
    async fn administrate<R, M, F>(
        &self,
        request: Request<R>,
        work: impl FnOnce(Arc<Admin>, Call<R>) -> F + Send,
    ) -> Answer<M>
    where
        R: super::service::Mutation,
        M: prost::Message + Default,
        F: Future<Output = Result<M>> + Send + 'static,
    {
        Caller::of(&request)?;
        let admin = Arc::clone(&self.admin);
        self.mutate(request, |call| work(admin, call)).await
    }
}

fn server(of: &Server) -> pb::Server {
    let (clients, workers) = (of.client_limits(), of.worker_limits());
    pb::Server {
        name: of.name().to_owned(),
        clients: Some(pb::ClientLimits {
            max: clients.max,
            count: clients.count,
            max_anonymous: clients.max_anonymous,
            anonymous: clients.anonymous,
        }),
        workers: Some(pb::Workers {
            min: workers.min,
            max: workers.max,
            priority: workers.priority,
            count: workers.count,
            free: workers.free,
            waiting: workers.waiting,
        }),
    }
}

fn client(of: &compat::Client, identity: Identity) -> pb::Client {
    use pb::client::Protocol;
    let protocol = match of.front {
        compat::Front::Libvirt => Protocol::Libvirt,
        compat::Front::Other => Protocol::Grpc,
    };
    pb::Client {
        id: of.id,
        connected: Some(of.since.into()),
        protocol: protocol.into(),
        read_only: of.caller.peer.read_only,
        anonymous: of.stranger,
        identity: Some(pb::ClientIdentity {
            sasl_user_name: identity.sasl_user_name,
            x509_name: identity.x509_name,
            user: identity.user,
            user_name: identity.user_name,
            group: identity.group,
            group_name: identity.group_name,
            process: identity.process,
            selinux_label: identity.label,
        }),
    }
}

/// What is known of a client without asking for names.
fn numbers(of: &compat::Client) -> Identity {
    let cred = of.caller.peer.cred;
    Identity {
        user: Some(cred.uid),
        group: Some(cred.gid),
        process: Some(cred.pid.into()),
        ..Identity::default()
    }
}

fn logging(admin: &Admin) -> pb::Logging {
    pb::Logging {
        filters: admin.log_filters(),
        outputs: admin.log_outputs(),
    }
}
