//! libvirt's own daemon, to run the same commands against both and compare.

use anyhow::Result;

use crate::place::program;
use crate::sandbox::{Daemon, Sandbox};
use crate::skip;

/// libvirt's daemon in a sandbox of its own, or `None`, with the calling test noted as skipped, when it is not
/// installed (`scripts/install-deps.sh --with-reference`).
///
/// # Errors
/// When it is installed but does not start.
pub fn reference() -> Result<Option<Sandbox>> {
    libvirtd().map(Sandbox::started).transpose()
}

/// How to run libvirt's daemon, or `None`, with the calling test noted as skipped, when it is not installed.
pub fn libvirtd() -> Option<Daemon> {
    let Some(libvirtd) = program("libvirtd") else {
        skip("libvirtd is not installed, nothing to compare with");
        return None;
    };
    Some(Daemon {
        program: libvirtd,
        args: ["-p", "/run/libvirt/libvirtd.pid"].map(str::to_owned).to_vec(),
        env: Vec::new(),
        socket: "/run/libvirt/libvirt-sock".into(),
    })
}
