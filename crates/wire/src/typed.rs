//! Typed parameters: named values of seven types, as tuning and statistics travel.

use crate::xdr::{DecodeError, Reader, STRING_MAX, Str, Text, TooLong, Xdr};
use crate::xdr_struct;

/// Longest name of a parameter, in bytes; libvirt keeps it in 80 with a NUL.
pub const NAME_MAX: usize = 79;

xdr_struct! {
    /// One named value.
    TypedParam {
        /// Its name.
        field: Text,
        /// Its value.
        value: TypedValue,
    }
}

/// A value of one of libvirt's seven types.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the types are what they say")]
pub enum TypedValue {
    Int(i32),
    Uint(u32),
    Llong(i64),
    Ullong(u64),
    Double(f64),
    Boolean(bool),
    String(Text),
}

impl TypedValue {
    /// Its type, as the set of that type alone.
    #[must_use]
    pub fn kind(&self) -> Kinds {
        match self {
            Self::Int(_) => Kinds::INT,
            Self::Uint(_) => Kinds::UINT,
            Self::Llong(_) => Kinds::LLONG,
            Self::Ullong(_) => Kinds::ULLONG,
            Self::Double(_) => Kinds::DOUBLE,
            Self::Boolean(_) => Kinds::BOOLEAN,
            Self::String(_) => Kinds::STRING,
        }
    }
}

impl Default for TypedValue {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl Xdr for TypedValue {
    const MIN_LEN: usize = 8;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        self.kind().number().encode(out)?;
        match self {
            Self::Int(value) => value.encode(out),
            Self::Uint(value) => value.encode(out),
            Self::Llong(value) => value.encode(out),
            Self::Ullong(value) => value.encode(out),
            Self::Double(value) => value.encode(out),
            Self::Boolean(value) => i32::from(*value).encode(out),
            Self::String(value) => value.encode(out),
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match i32::decode(input)? {
            1 => Self::Int(Xdr::decode(input)?),
            2 => Self::Uint(Xdr::decode(input)?),
            3 => Self::Llong(Xdr::decode(input)?),
            4 => Self::Ullong(Xdr::decode(input)?),
            5 => Self::Double(Xdr::decode(input)?),
            6 => Self::Boolean(i32::decode(input)? != 0),
            7 => Self::String(Xdr::decode(input)?),
            other => return Err(DecodeError::NoCase(other)),
        })
    }
}

macro_rules! from_native {
    ($( $ty:ty => $case:ident ),* $(,)?) => { $(
        impl From<$ty> for TypedValue {
            fn from(value: $ty) -> Self {
                Self::$case(value.into())
            }
        }
    )* };
}

from_native! {
    i32 => Int, u32 => Uint, i64 => Llong, u64 => Ullong, f64 => Double, bool => Boolean,
    String => String, &str => String, Str<STRING_MAX> => String,
}

impl TypedParam {
    /// A parameter of `field`, its type taken from the value's.
    pub fn new(field: impl Into<Text>, value: impl Into<TypedValue>) -> Self {
        Self {
            field: field.into(),
            value: value.into(),
        }
    }
}

/// A set of parameter types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds(u8);

#[expect(missing_docs, reason = "the types are what they say")]
impl Kinds {
    pub const INT: Self = Self(1);
    pub const UINT: Self = Self(1 << 1);
    pub const LLONG: Self = Self(1 << 2);
    pub const ULLONG: Self = Self(1 << 3);
    pub const DOUBLE: Self = Self(1 << 4);
    pub const BOOLEAN: Self = Self(1 << 5);
    pub const STRING: Self = Self(1 << 6);
}

impl Kinds {
    /// Either of two sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is among them.
    #[must_use]
    pub const fn contains(self, kind: Self) -> bool {
        self.0 & kind.0 == kind.0
    }

    /// libvirt's number of the (first) type.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.trailing_zeros() + 1
    }

    /// libvirt's name of the (first) type, as its messages say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 7] = ["int", "uint", "llong", "ullong", "double", "boolean", "string"];
        NAMES
            .get(self.0.trailing_zeros() as usize)
            .copied()
            .unwrap_or("unknown")
    }
}

/// A parameter libvirt defines: its name, and the types it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Name on the wire.
    pub field: &'static str,
    /// Types it may have.
    pub kinds: Kinds,
}

impl Param {
    /// Makes it with `value`.
    pub fn with(self, value: impl Into<TypedValue>) -> TypedParam {
        TypedParam::new(self.field, value)
    }

    /// Its value in `params`.
    #[must_use]
    pub fn find(self, params: &[TypedParam]) -> Option<&TypedValue> {
        params
            .iter()
            .find(|param| param.field.as_bytes() == self.field.as_bytes())
            .map(|param| &param.value)
    }
}

/// Why a client's parameters are not what a call takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParam {
    /// The call has no such parameter.
    #[error("parameter '{0}' not supported")]
    Unknown(String),
    /// It is of another type.
    #[error("invalid type '{got}' for parameter '{field}', expected '{expected}'")]
    Kind {
        /// The parameter.
        field: &'static str,
        /// The type it came with.
        got: &'static str,
        /// The type it should have.
        expected: &'static str,
    },
    /// It came twice.
    #[error("parameter '{0}' occurs multiple times")]
    Twice(&'static str),
    /// Its name is longer than [`NAME_MAX`]; the text holds a part of it.
    #[error("parameter {0} too big for destination")]
    LongName(String),
}

/// Checks that `params` are among `allowed`, each of its type and at most once.
///
/// # Errors
/// For the first that is not.
pub fn validate(params: &[TypedParam], allowed: &[Param]) -> Result<(), BadParam> {
    for (index, param) in params.iter().enumerate() {
        if param.field.as_bytes().len() > NAME_MAX {
            return Err(BadParam::LongName(param.field.to_str().into_owned()));
        }
        let Some(known) = allowed
            .iter()
            .find(|known| known.field.as_bytes() == param.field.as_bytes())
        else {
            return Err(BadParam::Unknown(param.field.to_str().into_owned()));
        };
        let (got, expected) = (param.value.kind(), known.kinds);
        if !expected.contains(got) {
            return Err(BadParam::Kind {
                field: known.field,
                got: got.name(),
                expected: expected.name(),
            });
        }
        if params
            .iter()
            .take(index)
            .any(|earlier| earlier.field == param.field)
        {
            return Err(BadParam::Twice(known.field));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked_by_name_type_and_number() {
        let shares = Param {
            field: "shares",
            kinds: Kinds::ULLONG,
        };
        let check = |params: &[TypedParam]| validate(params, &[shares]).map_err(|error| error.to_string());
        assert_eq!(check(&[shares.with(3_u64)]), Ok(()));
        let wrong = check(&[shares.with(3)]).unwrap_err();
        assert_eq!(
            wrong,
            "invalid type 'int' for parameter 'shares', expected 'ullong'"
        );
        let bogus = check(&[TypedParam::new("bogus", 1)]).unwrap_err();
        assert_eq!(bogus, "parameter 'bogus' not supported");
        let twice = check(&[shares.with(1_u64), shares.with(2_u64)]).unwrap_err();
        assert_eq!(twice, "parameter 'shares' occurs multiple times");
    }
}
