//! Calls from within the process, without HTTP: what the libvirt front makes.
//!
//! Such a call passes the same guard and reaches the same method of the same service as one from a socket. It has its own
//! way because most calls of libvirt's clients read a few words, and the way would cost more than they do. Streams have none:
//! they go by the services.

use std::{collections::HashMap, future::Future, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use prost::Message;
use tonic::{Request, Response, Status};
use unixfd::Fds;
use wire::Caller;

use super::service::Service;
use crate::{
    access::{self, Permission},
    pb, peers,
};

/// Carries out one call: decodes the request, calls the method, encodes the answer.
type Call = fn(Arc<Service>, Request<Bytes>) -> BoxFuture<'static, Result<Bytes, Status>>;

/// All calls of one request and one answer, by path. Cheap to clone.
#[derive(Clone)]
pub struct Direct {
    service: Arc<Service>,
    calls: Arc<HashMap<&'static str, (Permission, Call)>>,
}

macro_rules! calls {
    ($($path:literal = $module:ident::$service:ident::$method:ident;)*) => {
        const CALLS: &[(&str, Call)] = &[$(($path, |service, request| {
            Box::pin(async move {
                encoded(&pb::$module::$service::$method(&*service, decoded(request)?).await?)
            })
        })),*];
    };
}

include!(concat!(env!("OUT_DIR"), "/calls.rs"));

/// The call that most others of libvirt's clients begin with.
const GET: &str = "/virtqemud.v1.Domains/Get";

/// `Domains.Get`: who a guest is and in what state is encoded once a view, and not once a call.
fn get(service: Arc<Service>, request: Request<Bytes>) -> BoxFuture<'static, Result<Bytes, Status>> {
    Box::pin(async move {
        let request = decoded(request)?;
        match service.kept(&request)? {
            Some(bytes) => Ok(bytes),
            None => encoded(&pb::domains_server::Domains::get(&*service, request).await?),
        }
    })
}

fn decoded<T: Message + Default>(request: Request<Bytes>) -> Result<Request<T>, Status> {
    let (metadata, extensions, bytes) = request.into_parts();
    let message = T::decode(bytes).map_err(|error| Status::internal(format!("the request: {error}")))?;
    Ok(Request::from_parts(metadata, extensions, message))
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the last step of a call that may fail before"
)]
fn encoded<T: Message>(answer: &Response<T>) -> Result<Bytes, Status> {
    Ok(answer.get_ref().encode_to_vec().into())
}

impl Direct {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let permitted = |(path, call): &(&'static str, Call)| {
            let permission = access::permission_of(path)?;
            Some((*path, (permission, *call)))
        };
        let mut calls: HashMap<_, _> = CALLS.iter().filter_map(permitted).collect();
        calls.entry(GET).and_modify(|(_, call)| *call = get);
        Self {
            service,
            calls: Arc::new(calls),
        }
    }

    /// Carries out the call at `path` for `caller`, who sent `fds` along.
    pub fn call(
        &self,
        path: &'static str,
        caller: Caller,
        fds: Fds,
        message: Bytes,
    ) -> impl Future<Output = Result<Bytes, Status>> + Send + use<> {
        let admitted = match self.calls.get(path) {
            Some((permission, call)) => {
                access::admit(path, &caller.peer, *permission).map(|admitted| (admitted, *call))
            }
            None => Err(access::unknown(path)),
        };
        let service = Arc::clone(&self.service);
        async move {
            let (admitted, call) = admitted?;
            let mut request = Request::new(message);
            request.extensions_mut().insert(admitted);
            if !fds.is_empty() {
                request.extensions_mut().insert(fds);
            }
            let call = AssertUnwindSafe(call(service, request)).catch_unwind();
            match peers::on_behalf(Some(caller), call).await {
                Ok(answer) => answer,
                Err(panic) => Err(access::panicked(path, panic.as_ref()).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::PERMISSIONS;

    #[test]
    fn every_call_that_is_no_stream_can_be_made() {
        let streams = [
            "Consoles/Attach",
            "Consoles/Screenshot",
            "Consoles/OpenDisplay",
            "Domains/OpenSession",
            "Events/Watch",
            "Operations/WatchOperation",
        ];
        let ours = PERMISSIONS
            .iter()
            .map(|(path, _)| *path)
            .filter(|path| path.starts_with("/virtqemud.v1."));
        for path in ours {
            let stream = streams.iter().any(|stream| path.ends_with(stream));
            let direct = CALLS.iter().any(|(call, _)| *call == path);
            assert_eq!(direct, !stream, "{path}");
        }
    }
}
