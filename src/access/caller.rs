//! The caller of a request, as its handler sees it.

use tonic::Request;
use unixfd::Peer;

use super::{Permission, authorize};
use crate::{
    domain::Domain,
    error::{Area, Code, Error, Result},
    ops::{Driver, Target},
};

/// Who makes a call, and the permission that the call needs. The layer puts it into every request that it lets pass.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    peer: Peer,
    permission: Permission,
}

impl Caller {
    pub(super) fn new(peer: Peer, permission: Permission) -> Self {
        Self { peer, permission }
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// `AccessDenied` for a request that did not pass the layer.
    pub fn of<T>(request: &Request<T>) -> Result<Self> {
        let unknown = || Error::new(Code::AccessDenied, "the caller is not known").in_area(Area::Access);
        request.extensions().get().copied().ok_or_else(unknown)
    }

    /// The user, by number.
    pub fn user(&self) -> u32 {
        self.peer.cred.uid
    }

    /// Whether the caller may only look.
    pub fn read_only(&self) -> bool {
        self.peer.read_only
    }

    /// The permission that the call needs, by the table.
    pub fn permission(&self) -> Permission {
        self.permission
    }

    /// Whether the caller has a permission that this request needs beyond the call's own. `what` names it.
    ///
    /// # Errors
    /// `OperationDenied`.
    pub fn may(&self, permission: Permission, what: &str) -> Result<()> {
        authorize(&self.peer, permission, what)
    }

    /// The guest of a reference, for a caller who has `permission` on it.
    ///
    /// # Errors
    /// `NoDomain`; `OperationDenied` if the caller has not.
    pub fn domain(&self, driver: &Driver, target: &Target, permission: Permission) -> Result<Domain> {
        authorize(&self.peer, permission, permission.name())?;
        driver.find(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_did_not_pass_the_layer_has_no_caller() {
        let request = Request::new(());
        assert_eq!(
            Caller::of(&request).expect_err("no caller").code,
            Code::AccessDenied
        );
    }
}
