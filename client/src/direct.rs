//! Calls within one process: the request's bytes there, the answer's bytes back, and nothing around them.
//!
//! A front that lives in the daemon makes them. They cost a fraction of a call over a connection: no HTTP, no header, no
//! stream. Calls that are streams go by the [`services`](crate::services).

use std::future::Future;
use std::pin::Pin;

use prost::Message;
use prost::bytes::Bytes;
use tonic::Status;

use crate::proto;

/// The bytes of an answer, when they are there.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, Status>> + Send>>;

/// What carries out calls.
pub trait Unary {
    /// Carries out the call at `path` with the bytes of its request.
    fn unary(&self, path: &'static str, request: Bytes) -> Answer;
}

/// Makes one call.
///
/// # Errors
/// What the service answers; `Internal` if that is no message of this kind.
pub fn call<T: Unary, Q: Message, A: Message + Default>(
    calls: &T,
    path: &'static str,
    request: &Q,
) -> impl Future<Output = Result<A, Status>> + Send + use<T, Q, A> {
    let answer = calls.unary(path, request.encode_to_vec().into());
    async move {
        A::decode(answer.await?).map_err(|error| Status::internal(format!("{path}: the answer: {error}")))
    }
}

macro_rules! services {
    ($($service:ident { $($call:ident($request:ident) -> $answer:ident = $path:literal;)* })*) => {
        $(
            /// Calls of the service of this name; see `proto/`.
            #[derive(Clone, Debug)]
            pub struct $service<T>(pub T);

            #[allow(clippy::missing_errors_doc, reason = "as every call: what the service answers")]
            impl<T: Unary> $service<T> {
                $(
                    #[doc = concat!("Calls `", $path, "`.")]
                    pub fn $call(
                        &self,
                        request: proto::$request,
                    ) -> impl Future<Output = Result<proto::$answer, Status>> + Send + use<T> {
                        call(&self.0, $path, &request)
                    }
                )*
            }
        )*
    };
}

include!(concat!(env!("OUT_DIR"), "/direct.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows one call, and answers it with what it was told to.
    struct Fixed(&'static [u8]);

    impl Unary for Fixed {
        fn unary(&self, path: &'static str, _: Bytes) -> Answer {
            let answer = match path {
                "/virtqemud.v1.Domains/Get" => Ok(Bytes::from_static(self.0)),
                _ => Err(Status::unimplemented(path)),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    #[tokio::test]
    async fn a_call_is_told_by_its_path_and_answered_by_bytes() {
        let get = |bytes| Domains(Fixed(bytes)).get(proto::GetRequest::default());
        assert_eq!(get(b"").await.unwrap(), proto::Domain::default());
        assert_eq!(get(b"\xff").await.unwrap_err().code(), tonic::Code::Internal);
        let other = Domains(Fixed(b"")).list(proto::ListRequest::default()).await;
        assert_eq!(other.unwrap_err().message(), "/virtqemud.v1.Domains/List");
    }
}
