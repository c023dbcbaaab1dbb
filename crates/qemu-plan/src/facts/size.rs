//! Sizes with units, as elements of devices and of memory have them.

use domxml::devices::common::Size;
use domxml::units::scale;

use crate::error::{Area, Code, Error, Result};

/// What the memory of a guest, and of each of its cells, is whole steps of, KiB.
pub const START_ALIGN_KIB: u64 = 1024;

/// Bytes of a number with a unit; `None` for unknown units and on overflow.
pub fn bytes(value: u64, unit: &str) -> Option<u64> {
    scale(value, unit).ok()
}

/// KiB of a number with a unit, rounded up.
pub fn kib(value: u64, unit: &str) -> Option<u64> {
    Some(bytes(value, unit)?.div_ceil(1024))
}

/// A size with its unit, KiB when it has none.
pub fn size_kib(size: &Size) -> Result<u64> {
    let bytes = scale(size.value, size.unit.as_deref().unwrap_or("KiB"));
    bytes
        .map(|b| b.div_ceil(1024))
        .map_err(|e| Error::new(Code::InvalidArg, Area::None, e.message))
}
