//! One line of the table of routes: from a call's arguments to its handler, and from that to the reply.

use futures_util::future::BoxFuture;
use wire::frame::{Header, put_reply};
use wire::procedure::Procedure;
use wire::xdr::{Encode, Reader, TooLong};
use wire::{WireError, admin, remote};

use crate::ctx::{Ctx, Effect, Failure, not_open};

/// A handler's answer: the whole reply packet and what else to do, or an error.
pub(crate) type Outcome = Result<(Vec<u8>, Vec<Effect>), Failure>;

/// Decodes the arguments, checks that the call may be made, and begins it.
pub(crate) type Route = fn(Header, Ctx, &[u8]) -> Result<BoxFuture<'static, Outcome>, WireError>;

/// Procedures that need no open connection, authentication's aside.
const BEFORE_OPEN: [i32; 3] = [
    remote::ConnectOpen::INFO.number,
    remote::ConnectClose::INFO.number,
    remote::ConnectSupportsFeature::INFO.number,
];

/// Declares which function serves which procedure, and which flags that takes:
///
/// ```text
/// DomainReset [] => lifecycle::reset,                          takes no flags, though it has the argument
/// DomainPinVcpuFlags [AFFECT] => tuning::pin_vcpu_flags,       takes these, by their names in `wire::consts`
/// NodeGetCpuMap [] in NONE "virHostCPUGetMap" => node::map,    refused in another function than the driver's
/// ConnectOpen [..] => connect::open,                           takes any: what it does not know is ignored
/// DomainSuspend => lifecycle::suspend,                         has no such argument
/// ```
///
/// A procedure that has the argument and no list does not compile, nor does a list without the argument.
/// The handler gets the flags as [`Flags`](crate::handlers::flags::Flags), to check them where libvirt does.
macro_rules! routes {
    ($table:ident: $program:ident; $( $name:ident $([$($flags:tt)*])? $(in $area:ident $function:literal)? => $handler:path, )*) => {
        static $table: [Option<Route>; $program::PROGRAM.procedures.len()] = {
            let mut table: [Option<Route>; $program::PROGRAM.procedures.len()] = [None; _];
            // A second line would win over the first in silence.
            $( assert!(
                table[<$program::$name as Procedure>::INFO.number as usize - 1].is_none(),
                concat!(stringify!($name), " has two lines")
            );
            table[<$program::$name as Procedure>::INFO.number as usize - 1] = Some(|header, ctx, args| {
                let args: $program::$name = admit(&ctx, args)?;
                Ok(Box::pin(async move {
                    let guest = args.guest().cloned();
                    let reply = handled!($program::$name, $handler, &ctx, args, [$([$($flags)*])?] $(in $area $function)?);
                    let reply = reply.await.map_err(|failure| failure.naming(guest.as_ref()))?;
                    finish(&header, &ctx, &reply)
                }))
            }); )*
            table
        };
    };
}
pub(crate) use routes;

/// Calls a handler, with the flags of the call if it has any.
macro_rules! handled {
    ($procedure:ty, $handler:path, $ctx:expr, $args:expr, []) => {{
        const { assert!(!<$procedure as Procedure>::TAKES_FLAGS, "which flags does it take?") };
        $handler($ctx, $args)
    }};
    ($procedure:ty, $handler:path, $ctx:expr, $args:expr, [[..]]) => {{
        const { assert!(<$procedure as Procedure>::TAKES_FLAGS, "it has no flags") };
        $handler($ctx, $args)
    }};
    ($procedure:ty, $handler:path, $ctx:expr, $args:expr, [[$($flag:ident),* $(,)?]] $(in $area:ident $function:literal)?) => {{
        let flags = Flags {
            given: $args.flags,
            taken: 0 $(| $flag)*,
            info: $ctx.info,
            refuser: refuser!($($area $function)?),
        };
        $handler($ctx, $args, flags)
    }};
}
pub(crate) use handled;

/// What refuses flags that are not taken.
macro_rules! refuser {
    () => {
        Refuser::Driver
    };
    ($area:ident $function:literal) => {
        Refuser::Function(wire::ErrorDomain::$area, $function)
    };
}
pub(crate) use refuser;

/// Reads the arguments and checks what libvirt checks, in its order: arguments, open connection, read-only.
pub(crate) fn admit<P: Procedure>(ctx: &Ctx, args: &[u8]) -> Result<P, WireError> {
    let args = P::decode(&mut Reader::new(args)).map_err(|_| undecodable())?;
    may_call(ctx, ctx.info.read_only && !args.needs_write())?;
    Ok(args)
}

/// Checks that a call with readable arguments may be made on this connection.
pub(crate) fn may_call(ctx: &Ctx, read_only: bool) -> Result<(), WireError> {
    let info = ctx.info;
    let early = info.program == admin::PROGRAM_NUMBER
        || info.before_auth
        || (info.program == remote::PROGRAM_NUMBER && BEFORE_OPEN.contains(&info.number));
    if early {
        return Ok(());
    }
    if !ctx.conn.is_open() {
        return Err(not_open());
    }
    if ctx.peer().read_only && !read_only {
        return Err(info.denied());
    }
    Ok(())
}

/// The error of arguments that are none.
pub(crate) fn undecodable() -> WireError {
    WireError::rpc("Unable to decode message payload")
}

pub(crate) fn finish(header: &Header, ctx: &Ctx, reply: &impl Encode) -> Outcome {
    let effects = ctx.take_effects();
    let fds = effects.iter().find_map(|effect| match effect {
        Effect::Reply(fds) => Some(fds.len()),
        _ => None,
    });
    let mut packet = Vec::with_capacity(64);
    put_reply(&mut packet, header, reply, fds.unwrap_or(0)).map_err(|error| too_long(ctx, error))?;
    Ok((packet, effects))
}

fn too_long(ctx: &Ctx, error: TooLong) -> WireError {
    WireError::rpc(&format!("reply of {} is too large: {error}", ctx.info.api))
}
