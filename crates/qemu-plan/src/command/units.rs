//! Sizes with units, as device elements have them.

/// Bytes of a number with a unit; `None` for unknown units and on overflow.
pub fn bytes(value: u64, unit: &str) -> Option<u64> {
    domxml::units::scale(value, unit).ok()
}

/// KiB of a number with a unit, rounded up.
pub fn kib(value: u64, unit: &str) -> Option<u64> {
    Some(bytes(value, unit)?.div_ceil(1024))
}
