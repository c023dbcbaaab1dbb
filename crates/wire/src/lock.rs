//! The program of virtlockd, which keeps two guests from writing to one disk. We are its client.

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::xdr::{Str, Uuid};
use crate::{procedures, xdr_struct};

/// Longest string of the program.
const STRING_MAX: usize = 65_536;

/// A string of the program.
pub type LockText = Str<STRING_MAX>;

/// The resource is for several owners, all of whom have it so.
pub const ACQUIRE_SHARED: u32 = 1;
/// The file that stands for the resource is made if there is none.
pub const ACQUIRE_AUTOCREATE: u32 = 2;

xdr_struct! {
    /// For whom resources are held: a process, and the guest that it is.
    LockOwner { uuid: Uuid, name: LockText, id: u32, pid: u32 }
}

procedures! {
    LockSpace = 0x0ea7_beef, version 1;
    1 Low Register { owner: LockOwner, flags: u32 } [nobody];
    2 Low Restrict { flags: u32 } [nobody];
    3 Low New { path: LockText, flags: u32 } [nobody];
    4 Low CreateResource { path: LockText, name: LockText, flags: u32 } [nobody];
    5 Low DeleteResource { path: LockText, name: LockText, flags: u32 } [nobody];
    6 Low AcquireResource { path: LockText, name: LockText, flags: u32 } [nobody];
    7 Low ReleaseResource { path: LockText, name: LockText, flags: u32 } [nobody];
    8 Low CreateLockspace { path: LockText } [nobody];
}
