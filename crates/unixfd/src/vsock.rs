//! The host's end of a guest's vsock: a descriptor that has the guest's number.
#![expect(unsafe_code, reason = "a system call that no library here wraps")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The device that it is made with.
const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// `VHOST_VSOCK_SET_GUEST_CID`.
const SET_GUEST_CID: libc::c_ulong = 0x4008_af60;

/// Opens the end of a vsock; it has no number yet.
///
/// # Errors
/// The host has no such device, or the caller lacks the right.
pub fn vhost_vsock() -> io::Result<OwnedFd> {
    let opened = File::options().read(true).write(true).open(VHOST_VSOCK)?;
    Ok(opened.into())
}

/// Gives it the guest's number.
///
/// # Errors
/// `AddrInUse` if another guest has it; the number is none for guests.
pub fn set_guest_cid(vsock: &OwnedFd, cid: u32) -> io::Result<()> {
    let number = u64::from(cid);
    // SAFETY: the call reads eight bytes at the address, which outlive it.
    let result = unsafe { libc::ioctl(vsock.as_raw_fd(), SET_GUEST_CID, std::ptr::from_ref(&number)) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
