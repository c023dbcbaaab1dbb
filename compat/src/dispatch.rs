//! From a call's packet to its answer, checked in libvirt's order: program, status, procedure,
//! authentication, arguments, open connection, read-only.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use unixfd::Fds;
use wire::frame::{Header, Status, put_packet};
use wire::procedure::{Kind, ProcedureInfo};
use wire::xdr::Xdr;
use wire::{ErrorCode, ErrorDomain, Priority, WireError};

use crate::conn::Conn;
use crate::ctx::{Ctx, Effect};
use crate::route::{self, Outcome};
use crate::routes;

/// A call under way.
pub(crate) type Call = BoxFuture<'static, Answer>;

/// What a call has come to.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) call: Header,
    pub(crate) info: Option<&'static ProcedureInfo>,
    /// The whole reply packet; empty for an error that cannot be told.
    pub(crate) packet: Vec<u8>,
    pub(crate) effects: Vec<Effect>,
}

/// What to do with a call.
pub(crate) enum Verdict {
    /// Answer it at once.
    Refuse(Answer),
    /// Run it.
    Run(Priority, Call),
}

/// The procedure that `header` calls.
///
/// # Errors
/// Where libvirt refuses before it looks at the arguments.
pub(crate) fn procedure(conn: &Conn, header: &Header) -> Result<&'static ProcedureInfo, WireError> {
    let mut programs = conn.socket.programs().iter();
    let program = programs.find(|known| (known.number, known.version) == (header.program, header.version));
    let Some(program) = program else {
        let text = format!(
            "Cannot find program {} version {}",
            header.program, header.version
        );
        return Err(WireError::rpc(&text));
    };
    if header.status != Status::OK {
        return Err(WireError::rpc(&format!(
            "Unexpected message status {}",
            header.status.0
        )));
    }
    let info = program
        .procedure(header.procedure)
        .filter(|info| info.kind == Kind::Call);
    let info = info.ok_or_else(|| WireError::rpc(&format!("unknown procedure: {}", header.procedure)))?;
    if info.before_auth || conn.is_authenticated() {
        Ok(info)
    } else {
        Err(WireError::rpc("authentication required"))
    }
}

/// Begins the call of `header` with the arguments `payload`.
pub(crate) fn call(conn: &Arc<Conn>, header: Header, payload: &[u8], fds: Fds) -> Verdict {
    let info = match procedure(conn, &header) {
        Ok(info) => info,
        Err(error) => return Verdict::Refuse(refusal(header, None, &error)),
    };
    let ctx = Ctx::new(Arc::clone(conn), info, fds);
    match begin(header, info, ctx, payload) {
        Err(error) => Verdict::Refuse(refusal(header, Some(info), &error)),
        Ok(running) => Verdict::Run(
            info.priority,
            Box::pin(async move {
                match running.await {
                    Ok((packet, effects)) => Answer {
                        call: header,
                        info: Some(info),
                        packet,
                        effects,
                    },
                    Err(failure) => refusal(header, Some(info), &failure.0),
                }
            }),
        ),
    }
}

fn begin(
    header: Header,
    info: &'static ProcedureInfo,
    ctx: Ctx,
    payload: &[u8],
) -> Result<BoxFuture<'static, Outcome>, WireError> {
    if let Some(serve) = routes::find(info) {
        return serve(header, ctx, payload);
    }
    let needs_write = (info.needs_write)(payload).map_err(|_| route::undecodable())?;
    route::may_call(&ctx, info.read_only && !needs_write)?;
    Err(info.unsupported())
}

/// In place of `answer`: the connection has as many streams as it may have.
pub(crate) fn too_many_streams(answer: &Answer) -> Answer {
    let error = WireError::new(
        ErrorCode::RESOURCE_BUSY,
        ErrorDomain::STREAMS,
        "too many streams on this connection",
    );
    refusal(answer.call, answer.info, &error)
}

/// Whether the call of `header` may be relayed to the neighbour that serves it: all that is checked here is what
/// the neighbour cannot know.
///
/// # Errors
/// The answer that it gets instead.
pub(crate) fn may_forward(
    conn: &Arc<Conn>,
    header: Header,
    info: &'static ProcedureInfo,
    payload: &[u8],
) -> Result<(), Box<Answer>> {
    let ctx = Ctx::new(Arc::clone(conn), info, Fds::default());
    let needs_write = (info.needs_write)(payload).map_err(|_| route::undecodable());
    let result = needs_write.and_then(|needs_write| route::may_call(&ctx, info.read_only && !needs_write));
    result.map_err(|error| Box::new(refusal(header, Some(info), &error)))
}

fn refusal(call: Header, info: Option<&'static ProcedureInfo>, error: &WireError) -> Answer {
    let mut packet = Vec::with_capacity(256);
    if put_packet(&mut packet, &call.reply(Status::ERROR), |out| error.encode(out)).is_err() {
        packet.clear();
    }
    Answer {
        call,
        info,
        packet,
        effects: Vec::new(),
    }
}
