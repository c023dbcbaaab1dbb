//! The Tuning service.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use unixfd::Peer;

use super::{convert, once::Once};
use crate::{
    error::{Error, Result},
    ops::{
        Driver,
        configure::{self, Change, Scope},
        tuning::{self, Thread, pinning},
    },
    pb,
};

#[derive(Clone)]
pub(super) struct Service {
    driver: Arc<Driver>,
    once: Once,
}

impl Service {
    pub(super) fn new(driver: &Arc<Driver>) -> Self {
        Self { driver: Arc::clone(driver), once: Once::default() }
    }

    /// Makes one change, once for each request id.
    async fn change(&self, peer: Option<Peer>, wanted: Wanted) -> Result<Response<()>, Status> {
        let conditions = convert::conditions(wanted.options.as_ref());
        let id = wanted.options.map_or_else(String::new, |o| o.request_id);
        let work = async {
            let domain = convert::find(&self.driver, wanted.domain)?;
            let change = Change::Tuning(wanted.change?);
            Box::pin(configure::configure(&self.driver, &domain, wanted.scope, change, &conditions)).await
        };
        self.once.run(peer.as_ref(), wanted.method, &id, work).await.map(Response::new)
    }
}

/// A request for a change.
struct Wanted {
    method: &'static str,
    domain: Option<pb::DomainRef>,
    scope: Scope,
    change: Result<tuning::Change>,
    options: Option<pb::MutationOptions>,
}

fn peer<T>(request: &Request<T>) -> Option<Peer> {
    request.extensions().get::<Peer>().copied()
}

#[tonic::async_trait]
impl pb::tuning_server::Tuning for Service {
    async fn get_pinning(&self, request: Request<pb::GetTuningRequest>) -> Result<Response<pb::Pinning>, Status> {
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let view = convert::find(&self.driver, request.domain)?.view();
        let found = pinning::read(&self.driver, &view, scope).await?;
        let vcpus = found.vcpus.iter().map(pinning::to_bits).collect();
        Ok(Response::new(pb::Pinning { vcpus, emulator: pinning::to_bits(&found.emulator) }))
    }

    async fn set_pinning(&self, request: Request<pb::SetPinningRequest>) -> Result<Response<()>, Status> {
        let peer = peer(&request);
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let change = pin(request.thread, &request.cpus);
        self.change(peer, Wanted { method: "SetPinning", domain: request.domain, scope, change, options: request.options }).await
    }

    async fn list_io_threads(&self, request: Request<pb::GetTuningRequest>) -> Result<Response<pb::ListIoThreadsResponse>, Status> {
        let request = request.into_inner();
        let scope = convert::scope(request.scope());
        let view = convert::find(&self.driver, request.domain)?.view();
        let found = pinning::iothreads(&self.driver, &view, scope).await?;
        let shown = |t: pinning::IoThread| pb::list_io_threads_response::IoThread { id: t.id, cpus: pinning::to_bits(&t.cpus) };
        Ok(Response::new(pb::ListIoThreadsResponse { iothreads: found.into_iter().map(shown).collect() }))
    }
}

fn pin(thread: Option<pb::set_pinning_request::Thread>, cpus: &[u8]) -> Result<tuning::Change> {
    use pb::set_pinning_request::Thread as T;
    let thread = match thread.ok_or_else(|| Error::argument("the request names no thread"))? {
        T::Vcpu(id) => Thread::Vcpu(id),
        T::Emulator(()) => Thread::Emulator,
        T::Iothread(id) => Thread::Io(id),
    };
    Ok(tuning::Change::Pin { thread, cpus: pinning::from_bits(cpus)? })
}
