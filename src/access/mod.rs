//! Who may do what: one table names the permission of every RPC, one layer enforces it before anything is decoded, and
//! one door leads from a reference to a guest.
//!
//! Every call passes here, from the gRPC sockets and from the libvirt front alike. A call without a known caller, or an
//! RPC without a line in the table, is refused. [`Caller::domain`] is the only way to a guest that a request names, so a
//! rule about single guests has one place.

mod caller;
mod layer;
mod permission;

pub use caller::Caller;
pub use layer::{Guard, GuardLayer, admit, panicked, unknown};
pub use permission::{PERMISSIONS, Permission, permission_of};

use unixfd::Peer;

use crate::error::{Area, Code, Error, Result};

/// Whether `peer` has `permission`.
///
/// # Errors
/// `OperationDenied` if the caller came through a read-only socket and the permission is to change something;
/// `AccessDenied` if it is to administrate the daemon and the caller is not the daemon's own user.
pub fn authorize(peer: &Peer, permission: Permission, call: &str) -> Result<()> {
    if peer.read_only && permission.changes() {
        return Err(
            Error::new(Code::OperationDenied, format!("read only access prevents {call}")).in_area(Area::Rpc),
        );
    }
    if permission == Permission::DaemonAdministrate && peer.cred.uid != unixfd::PeerCred::own().uid {
        let text = format!("{call}: only the daemon's own user may administrate it");
        return Err(Error::new(Code::AccessDenied, text).in_area(Area::Access));
    }
    Ok(())
}
