//! Descriptors that the process was started with.

/// Keeps every descriptor that is open now, but the first three, from programs that the process executes: whoever started it
/// may have left some open. Of no effect on kernels before Linux 5.11.
pub fn keep_from_programs() {
    #[expect(unsafe_code, reason = "no library here wraps the call")]
    // SAFETY: numbers only, and only a flag of the descriptors changes.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}
