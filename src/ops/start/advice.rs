//! Guests that run where numad advises. It is not asked here, and none of them is started somewhere else in silence.

use domxml::Domain;

use crate::error::{Area, Code, Error, Result};

/// Checks that no advice is needed.
///
/// # Errors
/// `OperationFailed` with the text of a host that has no numad.
pub(super) fn check(document: &Domain) -> Result<()> {
    if !qemu_plan::validate::is_advised(document) {
        return Ok(());
    }
    let text = "Failed to query numad for the advisory nodeset";
    Err(Error::new(Code::OperationFailed, text).in_area(Area::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_needs_advice_is_refused_and_one_with_a_place_is_not() {
        let checked = |inner: &str| {
            let text = format!("<domain type='qemu'><name>a</name><memory>1</memory>{inner}</domain>");
            check(&Domain::parse(&text, domxml::ParseFlags::NONE).unwrap())
        };
        for inner in [
            "<vcpu placement='auto'>1</vcpu>",
            "<vcpu>1</vcpu><numatune><memory mode='strict' placement='auto'/></numatune>",
        ] {
            let error = checked(inner).unwrap_err();
            assert_eq!((error.code, error.area), (Code::OperationFailed, Area::None));
        }
        for inner in [
            "<vcpu>1</vcpu>",
            "<vcpu placement='auto'>1</vcpu><numatune><memory nodeset='0'/></numatune>",
        ] {
            assert!(checked(inner).is_ok(), "{inner}");
        }
    }
}
