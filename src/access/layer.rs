//! The tower layer that every call passes: permission, panic guard, trace.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use unixfd::Peer;
use wire::{Caller, More};

use super::{Permission, authorize, permission_of};
use crate::{
    error::{Area, Code, Error},
    peers,
};

/// Wraps the services; see the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;
    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

/// The services behind the guard.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut request = request;
        match caller_of(&request) {
            Ok(admitted) => drop(request.extensions_mut().insert(admitted)),
            Err(error) => {
                let response = Status::from(error).into_http();
                return Box::pin(async { Ok(response) });
            }
        }
        let path = request.uri().path().to_owned();
        let caller = caller(&request);
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            match peers::on_behalf(caller, call).await {
                Ok(answer) => answer,
                Err(panic) => Ok(Status::from(panicked(&path, panic.as_ref())).into_http()),
            }
        })
    }
}

/// The caller of a call that may go on.
fn caller_of(request: &Request<Body>) -> Result<super::Caller, Error> {
    let path = request.uri().path();
    let permission = permission_of(path).ok_or_else(|| unknown(path))?;
    let Some(peer) = request.extensions().get::<Peer>() else {
        return Err(Error::new(Code::AccessDenied, "the caller is not known").in_area(Area::Access));
    };
    admit(path, peer, permission)
}

/// `peer` as the caller of a call that needs `permission`.
///
/// # Errors
/// `OperationDenied`, `AccessDenied`.
pub fn admit(path: &str, peer: &Peer, permission: Permission) -> Result<super::Caller, Error> {
    tracing::trace!(
        path,
        pid = peer.cred.pid,
        uid = peer.cred.uid,
        read_only = peer.read_only,
        "call"
    );
    authorize(peer, permission, path.rsplit('/').next().unwrap_or(path))?;
    Ok(super::Caller::new(*peer, permission))
}

/// Who makes the call, for daemons that are called for it.
fn caller(request: &Request<Body>) -> Option<Caller> {
    let extensions = request.extensions();
    let peer = extensions.get::<Peer>().copied()?;
    Some(Caller {
        peer,
        more: extensions.get::<Arc<More>>().cloned(),
        call: None,
    })
}

/// The answer to a call that nobody serves.
pub fn unknown(path: &str) -> Error {
    Error::new(Code::NoSupport, path.to_owned()).in_area(Area::Rpc)
}

/// The answer to a call whose method panicked.
pub fn panicked(path: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("?");
    tracing::error!(path, panic = text, "a call panicked; this is a bug in the daemon");
    Error::internal("the daemon met a bug while serving this call; see its log")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, read_only: Option<bool>) -> Request<Body> {
        let mut request = Request::builder().uri(path).body(Body::empty()).expect("request");
        if let Some(read_only) = read_only {
            request.extensions_mut().insert(Peer {
                cred: unixfd::PeerCred::own(),
                read_only,
            });
        }
        request
    }

    #[test]
    fn a_read_only_caller_changes_nothing() {
        for (path, permission) in super::super::PERMISSIONS {
            let answer = caller_of(&request(path, Some(true)));
            match permission.changes() {
                true => assert_eq!(answer.expect_err(path).code, Code::OperationDenied, "{path}"),
                false => assert!(answer.is_ok(), "{path}"),
            }
            assert!(caller_of(&request(path, Some(false))).is_ok(), "{path}");
        }
    }

    #[test]
    fn only_the_daemons_own_user_administrates_it() {
        let call = |path: &str, uid| {
            let mut request = request(path, Some(false));
            if let Some(peer) = request.extensions_mut().get_mut::<Peer>() {
                peer.cred.uid = uid;
            }
            caller_of(&request).map(drop).map_err(|error| error.code)
        };
        let (own, other) = (unixfd::PeerCred::own().uid, unixfd::PeerCred::own().uid + 1);
        let list = "/virtqemud.v1.Admin/ListClients";
        assert_eq!(call(list, own), Ok(()));
        assert_eq!(call(list, other), Err(Code::AccessDenied));
        assert_eq!(call("/virtqemud.v1.Domains/List", other), Ok(()));
    }

    #[test]
    fn an_unknown_caller_or_call_is_refused() {
        assert_eq!(
            caller_of(&request("/virtqemud.v1.Domains/Get", None))
                .expect_err("caller")
                .code,
            Code::AccessDenied
        );
        assert_eq!(
            caller_of(&request("/virtqemud.v1.Domains/Nothing", Some(false)))
                .expect_err("call")
                .code,
            Code::NoSupport
        );
    }

    #[tokio::test]
    async fn a_panic_ends_one_call_and_not_the_daemon() {
        let inner = tower::service_fn(|_: Request<Body>| async {
            if true {
                panic!("boom")
            } else {
                Ok(Response::new(Body::empty()))
            }
        });
        let mut guard = GuardLayer.layer(inner);
        let answer = guard
            .call(request("/virtqemud.v1.Domains/Get", Some(false)))
            .await
            .expect("an answer");
        assert_eq!(answer.headers()["grpc-status"], "13");
    }
}
