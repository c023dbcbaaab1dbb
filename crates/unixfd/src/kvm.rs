//! What KVM says of the CPU: register contents that only the kernel can read, its clock, and limits.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const CREATE_VM: libc::c_ulong = 0xae01;
const CHECK_EXTENSION: libc::c_ulong = 0xae03;
const CREATE_VCPU: libc::c_ulong = 0xae41;
const GET_TSC_KHZ: libc::c_ulong = 0xaea3;
const GET_MSRS: libc::c_ulong = 0xc008_ae88;

const CAP_NR_VCPUS: libc::c_int = 9;
const CAP_TSC_CONTROL: libc::c_int = 60;
const CAP_MAX_VCPUS: libc::c_int = 66;

/// The kernel's hypervisor.
#[derive(Debug)]
pub struct Kvm {
    device: File,
}

/// The clock that CPUs count their time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tsc {
    /// Frequency in kHz.
    pub khz: u64,
    /// Whether a guest can have another frequency.
    pub scaling: bool,
}

/// `struct kvm_msrs` with one entry.
#[repr(C)]
struct OneMsr {
    count: u32,
    pad: u32,
    index: u32,
    reserved: u32,
    data: u64,
}

impl Kvm {
    /// Opens it; `path` is `/dev/kvm`.
    ///
    /// # Errors
    /// When there is none, or it may not be used.
    pub fn open(path: &Path) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open(path)?;
        Ok(Self { device })
    }

    /// A register that holds features; none when KVM does not tell it.
    pub fn feature_msr(&self, index: u32) -> Option<u64> {
        let mut one = OneMsr {
            count: 1,
            pad: 0,
            index,
            reserved: 0,
            data: 0,
        };
        // SAFETY: the structure is the request's own, with room for the one entry that it announces.
        let read = unsafe { libc::ioctl(self.device.as_raw_fd(), GET_MSRS, std::ptr::from_mut(&mut one)) };
        (read == 1).then_some(one.data)
    }

    /// Most vCPUs of a guest.
    ///
    /// # Errors
    /// When KVM does not say.
    pub fn max_vcpus(&self) -> io::Result<u32> {
        let most = extension(&self.device, CAP_MAX_VCPUS)?;
        let most = if most > 0 {
            most
        } else {
            extension(&self.device, CAP_NR_VCPUS)?
        };
        u32::try_from(most)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// The clock. Makes a guest with one vCPU that never runs.
    ///
    /// # Errors
    /// When KVM makes no guest, or does not tell.
    pub fn tsc(&self) -> io::Result<Tsc> {
        let vm = owned(call(&self.device, CREATE_VM, 0)?);
        let vcpu = owned(call(&vm, CREATE_VCPU, 0)?);
        let khz = call(&vcpu, GET_TSC_KHZ, 0)?;
        let scaling = extension(&self.device, CAP_TSC_CONTROL)? > 0;
        Ok(Tsc {
            khz: u64::try_from(khz).unwrap_or(0),
            scaling,
        })
    }
}

fn extension(device: &File, which: libc::c_int) -> io::Result<libc::c_int> {
    call(device, CHECK_EXTENSION, which)
}

fn call(fd: &impl AsRawFd, request: libc::c_ulong, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: these requests take a number, not an address.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_long::from(argument)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_kvm_tells_nothing() {
        let kvm = Kvm::open(Path::new("/dev/null")).unwrap();
        assert_eq!(kvm.feature_msr(0x10a), None);
        assert!(kvm.max_vcpus().is_err());
        assert!(kvm.tsc().is_err());
    }

    #[test]
    fn kvm_that_is_there_lets_a_guest_have_a_cpu() {
        let Ok(kvm) = Kvm::open(Path::new("/dev/kvm")) else {
            return;
        };
        assert!(kvm.max_vcpus().unwrap() >= 1);
        // Some hosts make no guests though they have the device.
        if let Ok(tsc) = kvm.tsc() {
            assert!(tsc.khz > 100_000, "{tsc:?}");
        }
    }
}
