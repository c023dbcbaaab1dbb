//! Client of the daemon's gRPC service.
//!
//! The libvirt front calls the service with it in process, tests and examples over the Unix socket. [`proto`] is
//! generated from `proto/`; it works with any tonic channel.

/// Messages and clients of the services, generated from `proto/`, where they are documented.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/"
)]
pub mod proto {
    tonic::include_proto!("virtqemud.v1");
}
