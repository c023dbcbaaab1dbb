//! What libvirt checks of a call's arguments before it looks at any guest, and its words for what is wrong.

use wire::typed::{BadParam, Param, TypedParam};
use wire::xdr::Text;
use wire::{ErrorCode, ErrorDomain, WireError};

use crate::ctx::{Ctx, internal};
use crate::proto::Scope;

/// What may be wrong with one argument.
#[derive(Clone, Copy)]
pub(crate) enum Must {
    NotBeZero,
    BeNonNegative,
    BePositive,
    BeNull,
    NotBeNull,
    NotBeEmpty,
}

/// Refuses `argument` unless `holds`.
pub(crate) fn check(ctx: &Ctx, argument: &str, must: Must, holds: bool) -> Result<(), WireError> {
    if holds {
        return Ok(());
    }
    let (kind, rule) = match must {
        Must::NotBeZero => ("", "must not be zero"),
        Must::BeNonNegative => ("", "must be zero or greater"),
        Must::BePositive => ("", "must be greater than zero"),
        Must::BeNull => ("", "must be NULL"),
        Must::NotBeNull => ("", "must not be NULL"),
        Must::NotBeEmpty => ("string ", "must not be empty"),
    };
    let text = format!("{kind}{argument} in {} {rule}", ctx.info.api);
    Err(refused(ctx.info.area(), ctx.info.api, argument, &text))
}

/// The error of an argument as libvirt's API layer gives it: the text alone, the function and the argument beside it.
pub(crate) fn refused(area: ErrorDomain, function: &str, argument: &str, text: &str) -> WireError {
    WireError {
        str1: Some(function.into()),
        str2: Some(argument.into()),
        ..WireError::new(ErrorCode::INVALID_ARG, area, argument)
    }
    .with_message(text)
    .with_ints(0, 0)
}

/// How many parameters the caller has room for.
pub(crate) fn room(nparams: i32, max: usize) -> Result<usize, WireError> {
    let room = usize::try_from(nparams).map_err(|_| internal("nparams must be non-negative"))?;
    if room > max {
        return Err(internal("nparams too large"));
    }
    Ok(room)
}

/// Typed parameters as the older calls return them: how many there are to who has room for none, otherwise as many as fit.
pub(crate) fn fitting(mut params: Vec<TypedParam>, room: usize) -> (Vec<TypedParam>, i32) {
    if room == 0 {
        return (Vec::new(), i32::try_from(params.len()).unwrap_or(i32::MAX));
    }
    params.truncate(room);
    (params, 0)
}

/// Refuses parameters that are not among `allowed`.
pub(crate) fn params(given: &[TypedParam], allowed: &[Param]) -> Result<(), WireError> {
    wire::typed::validate(given, allowed).map_err(|bad| {
        let code = match bad {
            BadParam::Unknown(_) => ErrorCode::ARGUMENT_UNSUPPORTED,
            BadParam::LongName(_) => ErrorCode::INTERNAL_ERROR,
            BadParam::Kind { .. } | BadParam::Twice(_) => ErrorCode::INVALID_ARG,
        };
        WireError::new(code, ErrorDomain::NONE, &bad.to_string())
    })
}

/// A count that the caller gives, within what the protocol allows, by the name that it has there.
pub(crate) fn count(name: &str, given: i32, (max, bound): (usize, &str)) -> Result<usize, WireError> {
    let count = usize::try_from(given);
    let count = count.map_err(|_| WireError::rpc(&format!("{name} must be non-negative")))?;
    if count > max {
        return Err(WireError::rpc(&format!("{name} > {bound}")));
    }
    Ok(count)
}

/// The configuration that flags name; libvirt's two lowest bits are the service's numbers.
pub(crate) fn scope(flags: u32) -> Scope {
    match flags & 3 {
        0 => Scope::Current,
        1 => Scope::Live,
        2 => Scope::Config,
        _ => Scope::LiveAndConfig,
    }
}

/// The error of a call that needs a running guest.
pub(crate) fn not_running() -> WireError {
    let detail = "domain is not running";
    WireError::new(ErrorCode::OPERATION_INVALID, ErrorDomain::DOMAIN, detail)
}

/// An error of the QEMU driver about an argument that it does not serve.
pub(crate) fn unsupported(detail: &str) -> WireError {
    WireError::new(ErrorCode::ARGUMENT_UNSUPPORTED, ErrorDomain::QEMU, detail)
}

/// An error of the QEMU driver about an argument.
pub(crate) fn invalid(detail: &str) -> WireError {
    WireError::new(ErrorCode::INVALID_ARG, ErrorDomain::QEMU, detail)
}

/// The text, or nothing.
pub(crate) fn text(text: Option<Text>) -> String {
    text.map(Text::into_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_room_for_none_is_told_how_many_there_are() {
        let params = || vec![TypedParam::new("a", 1), TypedParam::new("b", 2)];
        let fit = |room| {
            let (list, count) = fitting(params(), room);
            (list.len(), count)
        };
        assert_eq!([fit(0), fit(1), fit(2), fit(9)], [(0, 2), (1, 0), (2, 0), (2, 0)]);
    }

    #[test]
    fn room_is_what_the_protocol_allows() {
        let text = |n| room(n, 16).map_err(|error| error.to_string());
        assert_eq!(text(16), Ok(16));
        assert_eq!(text(17), Err("internal error: nparams too large".into()));
        assert_eq!(
            text(-1),
            Err("internal error: nparams must be non-negative".into())
        );
    }
}
