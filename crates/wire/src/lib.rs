//! Libvirt's RPC protocol: packets, XDR, procedure tables, typed parameters, errors.
//!
//! The codec is pure: [`frame`] splits and makes packets, [`xdr`] has the values, [`remote`], [`qemu`],
//! [`lxc`] and [`admin`] declare every procedure with its arguments and reply, [`keepalive`] the
//! program that asks whether the other side lives. [`io`] puts packets on a socket, [`client`] calls. [`consts`] and [`params`] are libvirt's public
//! names. The hard thing is that the bytes come from strangers: every length has a bound in its type,
//! and nothing is allocated that has not arrived.

pub mod admin;
mod caller;
pub mod client;
pub mod codes;
pub mod consts;
mod error;
pub mod frame;
pub mod io;
pub mod keepalive;
pub mod lock;
pub mod log;
pub mod lxc;
pub mod neighbour;
pub mod params;
pub mod procedure;
pub mod qemu;
pub mod remote;
pub mod typed;
pub mod xdr;

pub use caller::{Caller, More};
pub use codes::{ErrorCode, ErrorDomain, ErrorLevel};
pub use error::WireError;
pub use procedure::{Owner, Priority, Procedure, ProcedureInfo, Program};

use procedure::RecodeError;

/// The programs of a hypervisor connection; [`admin`] has a socket of its own.
pub const PROGRAMS: [&Program; 3] = [&remote::PROGRAM, &qemu::PROGRAM, &lxc::PROGRAM];

/// Reads the arguments of a call and writes them again; `None` when there is no such procedure.
///
/// # Errors
/// When `args` are not its arguments.
pub fn decode_args(program: u32, procedure: i32, args: &[u8]) -> Option<Result<Vec<u8>, RecodeError>> {
    let programs = PROGRAMS.into_iter().chain([&admin::PROGRAM]);
    let info = programs
        .filter(|known| known.number == program)
        .find_map(|known| known.procedure(procedure))?;
    let mut out = Vec::with_capacity(args.len());
    Some((info.recode_args)(args, &mut out).map(|()| out))
}
