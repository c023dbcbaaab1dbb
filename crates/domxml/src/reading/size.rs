//! Numbers with a unit: `<memory unit='MiB'>512</memory>`, or a pair of attributes.

use xmlform::{Area, Node};

use crate::number::integer;
use crate::units::unit_bytes;
use crate::{Error, Kind};

/// Most bytes of a size that is kept in KiB as C's `long`.
pub(super) const LONG: u64 = i64::MAX as u64;

/// A number with a unit.
#[derive(Clone, Copy)]
pub(super) struct Size {
    from: Place,
    /// How the reader calls the place.
    path: &'static str,
    /// Bytes of the unit when none is named.
    unit: u64,
    /// Most bytes.
    most: u64,
    needed: bool,
    /// The unit is not looked at.
    fixed: bool,
}

/// Where the number stands; its unit is an attribute of the same element.
#[derive(Clone, Copy)]
enum Place {
    Child(&'static str),
    Attr(&'static str),
}

/// A child with a size in KiB.
pub(super) const fn kib(name: &'static str, path: &'static str) -> Size {
    Size {
        from: Place::Child(name),
        path,
        unit: 1024,
        most: LONG,
        needed: false,
        fixed: false,
    }
}

/// An attribute with a size in KiB.
pub(super) const fn kib_attr(name: &'static str, path: &'static str) -> Size {
    Size {
        from: Place::Attr(name),
        ..kib(name, path).needed()
    }
}

/// A child with a size in bytes.
pub(super) const fn bytes(name: &'static str, path: &'static str) -> Size {
    Size {
        unit: 1,
        most: u64::MAX,
        ..kib(name, path)
    }
}

/// An attribute with a size in bytes.
pub(super) const fn bytes_attr(name: &'static str, path: &'static str) -> Size {
    Size {
        from: Place::Attr(name),
        ..bytes(name, path).needed()
    }
}

impl Size {
    /// It must be there.
    pub(super) const fn needed(mut self) -> Self {
        self.needed = true;
        self
    }

    /// In the usual unit, whatever one is named.
    pub(super) const fn fixed(mut self) -> Self {
        self.fixed = true;
        self
    }

    /// The unit when none is named, in bytes.
    pub(super) const fn in_units_of(mut self, unit: u64) -> Self {
        self.unit = unit;
        self
    }

    /// At most so many bytes.
    pub(super) const fn up_to(mut self, most: u64) -> Self {
        self.most = most;
        self
    }

    /// The size in bytes; none when there is none.
    ///
    /// # Errors
    /// `Xml` if it is no number, `InvalidArg` if its unit is unknown, `Overflow` if it is too large.
    pub(super) fn check(self, node: Node<'_>) -> Result<Option<u64>, Error> {
        let (holder, value) = match self.from {
            Place::Child(name) => match node.child(name) {
                Some(child) => (child, child.text()),
                None => (node, ""),
            },
            Place::Attr(name) => (node, node.attr(name).unwrap_or_default()),
        };
        let path = self.path;
        if value.is_empty() {
            let missing = || Error::xml(format!("missing element or attribute '{path}'")).in_area(Area::Xml);
            return if self.needed { Err(missing()) } else { Ok(None) };
        }
        let number = integer(value, 10).filter(|_| !value.contains('-'));
        let Some(number) = number.and_then(|n| u64::try_from(n).ok()) else {
            let message = format!("Invalid value '{value}' for element or attribute '{path}'");
            return Err(Error::xml(message).in_area(Area::Xml));
        };
        let unit = holder.attr("unit").filter(|unit| !unit.is_empty() && !self.fixed);
        let scale = match unit {
            Some(name) => unit_bytes(name)
                .ok_or_else(|| Error::new(Kind::InvalidArg, format!("unknown suffix '{name}'")))?,
            None => self.unit,
        };
        if number > self.most / scale {
            let shown = unit.unwrap_or_default();
            return Err(Error::new(
                Kind::Overflow,
                format!("value too large: {number}{shown}"),
            ));
        }
        let bytes = number.saturating_mul(scale);
        if self.most == LONG && bytes.div_ceil(1024) >= LONG.div_ceil(1024) {
            return Err(Error::new(Kind::Overflow, "size value too large").in_area(Area::Domain));
        }
        Ok(Some(bytes))
    }
}
