//! One function a procedure: wire arguments to a request of the service, its answer to the wire reply.
//!
//! Nothing is decided here. What a procedure of libvirt has and a service has not is put together from
//! requests; what is wrong with arguments, the service says.

pub(crate) mod admin;
pub(crate) mod agent;
mod args;
pub(crate) mod backups;
pub(crate) mod block_jobs;
pub(crate) mod checkpoints;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod counters;
pub(crate) mod cpu;
pub(crate) mod device;
pub(crate) mod disks;
pub(crate) mod domain;
pub(crate) mod events;
pub(crate) mod flags;
pub(crate) mod guest_info;
pub(crate) mod host;
pub(crate) mod info;
pub(crate) mod jobs;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod look;
pub(crate) mod migration;
pub(crate) mod monitor;
pub(crate) mod node;
pub(crate) mod node_device;
pub(crate) mod perf;
pub(crate) mod resources;
pub(crate) mod saves;
pub(crate) mod snapshots;
pub(crate) mod stats;
pub(crate) mod tuning;

use bytes::Bytes;
use tonic::Status;
use virtqemud_client::{Failure as Refused, direct};
use wire::remote::NonnullDomain;
use wire::xdr::Uuid;

use crate::ctx::{Ctx, Failure};
use crate::proto::operation::Result as Ended;
use crate::proto::{Domain, DomainRef, GetRequest, Operation, Scope, View, WaitOperationRequest, domain_ref};

/// What a handler returns.
pub(crate) type Reply<T> = Result<T, Failure>;

/// The guest that `dom` means: its UUID decides, name and id may be out of date.
pub(crate) fn by_uuid(dom: &NonnullDomain) -> Option<DomainRef> {
    Some(DomainRef {
        r#ref: Some(domain_ref::Ref::Uuid(dom.uuid.to_string())),
    })
}

/// Who a guest is and in what state: a part of the message [`Domain`], its texts still in the answer's own bytes. Most
/// calls of libvirt's clients ask for no more, and lists of a host are long.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Basic {
    #[prost(bytes = "bytes", tag = "1")]
    uuid: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    name: Bytes,
    #[prost(int32, tag = "3")]
    id: i32,
    #[prost(int32, tag = "4")]
    state: i32,
    #[prost(int32, tag = "5")]
    reason: i32,
}

impl Basic {
    /// What a caller who may know little is told of the guest.
    async fn of(ctx: &Ctx, domain: Option<DomainRef>) -> Reply<Self> {
        let request = GetRequest {
            domain,
            view: View::Basic.into(),
            ..GetRequest::default()
        };
        Ok(direct::call(&ctx.calls(), "/virtqemud.v1.Domains/Get", &request).await?)
    }
}

impl From<&Basic> for NonnullDomain {
    fn from(guest: &Basic) -> Self {
        let uuid = std::str::from_utf8(&guest.uuid)
            .ok()
            .and_then(|text| text.parse().ok());
        Self {
            name: guest.name.to_vec().into(),
            uuid: uuid.unwrap_or_default(),
            id: if guest.id > 0 { guest.id } else { -1 },
        }
    }
}

/// A guest as libvirt names it.
pub(crate) fn nonnull(domain: &Domain) -> NonnullDomain {
    NonnullDomain {
        name: domain.name.as_str().into(),
        uuid: domain.uuid.parse().unwrap_or(Uuid::default()),
        id: if domain.id > 0 { domain.id } else { -1 },
    }
}

/// All that is known of the guest, its configuration as it is in force.
pub(crate) async fn full(ctx: &Ctx, dom: &NonnullDomain) -> Reply<Domain> {
    full_in(ctx, dom, Scope::Current).await
}

/// All that is known of the guest, with the sizes of one of its configurations.
pub(crate) async fn full_in(ctx: &Ctx, dom: &NonnullDomain, scope: Scope) -> Reply<Domain> {
    let request = GetRequest {
        domain: by_uuid(dom),
        view: View::Full.into(),
        scope: scope.into(),
    };
    Ok(ctx.domains().get(request).await?)
}

/// Waits for the end of an operation.
pub(crate) async fn ended(ctx: &Ctx, mut operation: Operation) -> Reply<()> {
    if !operation.done {
        let request = WaitOperationRequest {
            id: operation.id,
            timeout: None,
        };
        operation = ctx.operations().wait_operation(request).await?;
    }
    match operation.result {
        Some(Ended::Error(error)) => Err(Status::from(Refused::from(error)).into()),
        _ => Ok(()),
    }
}

/// A text of the protocol that is a list of bytes and ends with a NUL.
pub(crate) fn c_string(text: &str) -> Vec<i8> {
    let bytes = text.bytes().chain([0]);
    bytes.map(u8::cast_signed).collect()
}
