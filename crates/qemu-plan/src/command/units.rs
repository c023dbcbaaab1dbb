//! Sizes with units, as documents have them.

/// Bytes in a unit: the decimal ones (`KB`) and the binary ones (`KiB`, `k`). `None` for unknown units
/// and on overflow.
pub fn bytes(value: u64, unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.as_str() {
        "b" | "byte" | "bytes" | "" => 1,
        _ => {
            let power = "kmgtpe".find(unit.chars().next()?)? as u32 + 1;
            match &unit[1..] {
                "" | "ib" => 1024u64.checked_pow(power)?,
                "b" => 1000u64.checked_pow(power)?,
                _ => return None,
            }
        }
    };
    value.checked_mul(factor)
}

/// KiB, rounded up.
pub fn kib(value: u64, unit: &str) -> Option<u64> {
    Some(bytes(value, unit)?.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_with_b_and_binary_with_ib_or_alone() {
        assert_eq!(bytes(2, "KB"), Some(2000));
        assert_eq!(bytes(2, "KiB"), Some(2048));
        assert_eq!(bytes(2, "k"), Some(2048));
        assert_eq!(bytes(1, "furlong"), None);
        assert_eq!(bytes(u64::MAX, "KiB"), None);
        assert_eq!(kib(1, "bytes"), Some(1));
    }
}
