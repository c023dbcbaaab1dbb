//! A service's error as libvirt's: the details of the status have libvirt's numbers.

use tonic::{Code, Status};
use tonic_types::StatusExt;
use wire::{ErrorCode, ErrorDomain, WireError};

/// libvirt's error for `status`.
///
/// The status message is the whole message; `libvirt_code`, `libvirt_domain` and `libvirt_detail` in the
/// ErrorInfo say the rest. A status without them comes from the transport and not from a service.
pub(crate) fn from_status(status: &Status) -> WireError {
    let Some(info) = status.get_details_error_info() else {
        return bare(status);
    };
    let number = |key: &str| info.metadata.get(key).and_then(|text| text.parse().ok());
    let (Some(code), Some(domain)) = (number("libvirt_code"), number("libvirt_domain")) else {
        return bare(status);
    };
    let (code, domain) = (ErrorCode(code), ErrorDomain(domain));
    let Some(detail) = info.metadata.get("libvirt_detail") else {
        return WireError::new(code, domain, status.message()).with_message(status.message());
    };
    let mut error = WireError::new(code, domain, detail).with_message(status.message());
    if let Some(format) = format_of(status.message(), detail) {
        error.str1 = Some(format.into());
    }
    error.int1 = number("libvirt_int1")
        .or_else(|| number("errno"))
        .unwrap_or(error.int1);
    error.int2 = number("libvirt_int2").unwrap_or(error.int2);
    error
}

/// The words around `detail` in `message`, with libvirt's place holder.
fn format_of(message: &str, detail: &str) -> Option<String> {
    let words = message.strip_suffix(detail).filter(|words| !words.is_empty())?;
    Some(format!("{words}%1$s"))
}

fn bare(status: &Status) -> WireError {
    let code = match status.code() {
        Code::Unimplemented => ErrorCode::NO_SUPPORT,
        Code::PermissionDenied | Code::Unauthenticated => ErrorCode::ACCESS_DENIED,
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::INVALID_ARG,
        Code::DeadlineExceeded => ErrorCode::OPERATION_TIMEOUT,
        Code::Cancelled | Code::Aborted => ErrorCode::OPERATION_ABORTED,
        Code::FailedPrecondition => ErrorCode::OPERATION_INVALID,
        Code::ResourceExhausted | Code::Unavailable => ErrorCode::RESOURCE_BUSY,
        _ => ErrorCode::INTERNAL_ERROR,
    };
    WireError::new(code, ErrorDomain::QEMU, status.message())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_with_libvirts_numbers_becomes_libvirts_error() {
        let detail = "no domain with matching name 'x'";
        let metadata = [
            ("libvirt_code", "42"),
            ("libvirt_domain", "10"),
            ("libvirt_detail", detail),
        ];
        let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.into(), value.into())).into();
        let details = ErrorDetails::with_error_info("NO_DOMAIN", "virtqemud", metadata);
        let message = format!("Domain not found: {detail}");
        let status = Status::with_error_details(Code::NotFound, message, details);
        let expected = WireError::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, detail);
        assert_eq!(from_status(&status), expected);
        assert_eq!(expected.str1.unwrap().to_str(), "Domain not found: %1$s");
    }

    #[test]
    fn a_status_from_the_transport_is_told_as_it_is() {
        let error = from_status(&Status::deadline_exceeded("30 s"));
        assert_eq!(
            (error.code, error.to_string()),
            (
                ErrorCode::OPERATION_TIMEOUT,
                "Timed out during operation: 30 s".into()
            )
        );
    }
}
