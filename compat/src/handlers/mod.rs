//! One function a procedure: wire arguments to a request of the service, its answer to the wire reply.
//!
//! Nothing is decided here. What a procedure of libvirt has and a service has not is put together from
//! requests; what is wrong with arguments, the service says.

pub(crate) mod connect;
pub(crate) mod domain;
pub(crate) mod events;
pub(crate) mod host;

use wire::remote::NonnullDomain;
use wire::xdr::Uuid;

use crate::ctx::Failure;
use crate::proto::{Domain, DomainRef, domain_ref};

/// What a handler returns.
pub(crate) type Reply<T> = Result<T, Failure>;

/// The guest that `dom` means: its UUID decides, name and id may be out of date.
pub(crate) fn by_uuid(dom: &NonnullDomain) -> Option<DomainRef> {
    Some(DomainRef {
        r#ref: Some(domain_ref::Ref::Uuid(dom.uuid.to_string())),
    })
}

/// A guest as libvirt names it.
pub(crate) fn nonnull(domain: &Domain) -> NonnullDomain {
    NonnullDomain {
        name: domain.name.as_str().into(),
        uuid: domain.uuid.parse().unwrap_or(Uuid::default()),
        id: if domain.id > 0 { domain.id } else { -1 },
    }
}
