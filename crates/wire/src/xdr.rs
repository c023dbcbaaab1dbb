//! XDR as libvirt uses it: what a value looks like on the wire, with its bounds in its type.
//!
//! Every number takes four bytes (hyper and double eight), strings and byte arrays are padded to four,
//! an optional value is a flag and the value. A length is checked against the type's bound *and*
//! against the bytes that are there before anything is allocated. Reading is as lenient as libvirt's:
//! padding may hold anything, any flag but zero means present, text need not be UTF-8.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use thiserror::Error;

/// Longest text on the wire, in bytes.
pub const STRING_MAX: usize = 4_194_304;

/// Text of libvirt's usual bound.
pub type Text = Str<STRING_MAX>;

/// Why bytes could not be read as a value. libvirt answers all of them alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("message ends before its last value")]
    Truncated,
    /// A text, byte array or list is longer than its type allows.
    #[error("length {len} exceeds the bound {max}")]
    TooLong {
        /// The length that was announced.
        len: u32,
        /// The most its type allows.
        max: usize,
    },
    /// A union's discriminant has no case.
    #[error("union has no case {0}")]
    NoCase(i32),
}

/// A value is larger than its type allows, so that the other side could not read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("length {len} exceeds the bound {max}")]
pub struct TooLong {
    /// Length of the value.
    pub len: usize,
    /// The most its type allows.
    pub max: usize,
}

/// A value of the wire.
pub trait Xdr: Sized {
    /// Least bytes such a value takes; bounds what a list may allocate ahead.
    const MIN_LEN: usize;

    /// Appends the value to `out`.
    ///
    /// # Errors
    /// When the value is larger than its type allows; `out` then holds a part of it.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong>;

    /// Takes a value off the front of `input`.
    ///
    /// # Errors
    /// When the bytes are not such a value.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Bytes that are yet to be read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn len(&mut self, max: usize) -> Result<usize, DecodeError> {
        let len = u32::decode(self)?;
        match usize::try_from(len) {
            Ok(short) if short <= max => Ok(short),
            _ => Err(DecodeError::TooLong { len, max }),
        }
    }

    fn padded(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if self.0.len() < len.next_multiple_of(4) {
            return Err(DecodeError::Truncated);
        }
        let (head, rest) = self.0.split_at(len.next_multiple_of(4));
        self.0 = rest;
        Ok(head.get(..len).unwrap_or_default())
    }
}

/// What can be sent, though it is no value of its own: a long answer that is written as it is put together.
pub trait Encode {
    /// Appends it to `out`.
    ///
    /// # Errors
    /// When it is larger than the protocol allows; `out` then holds a part of it.
    fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong>;
}

impl<T: Xdr> Encode for T {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        self.encode(out)
    }
}

/// Appends a list of at most `max` elements that is put together while it is written; `elements` returns how many.
///
/// # Errors
/// What `elements` gives, and when there are more than `max`.
pub fn put_list(
    out: &mut Vec<u8>,
    max: usize,
    elements: impl FnOnce(&mut Vec<u8>) -> Result<usize, TooLong>,
) -> Result<(), TooLong> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let len = elements(out)?;
    let word = u32::try_from(len)
        .ok()
        .filter(|_| len <= max)
        .ok_or(TooLong { len, max })?;
    out[at..at + 4].copy_from_slice(&word.to_be_bytes());
    Ok(())
}

/// Appends a text made of `parts`.
///
/// # Errors
/// When they are longer than `max` together.
pub fn put_text(out: &mut Vec<u8>, max: usize, parts: &[&str]) -> Result<(), TooLong> {
    let len = parts.iter().map(|part| part.len()).sum();
    put_len(len, max, out)?;
    parts
        .iter()
        .for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(&[0; 3][..len.next_multiple_of(4) - len]);
    Ok(())
}

/// Appends bytes, as they are, as a text or a byte array of at most `max`.
///
/// # Errors
/// When there are more.
pub fn put_opaque(out: &mut Vec<u8>, max: usize, bytes: &[u8]) -> Result<(), TooLong> {
    put_len(bytes.len(), max, out)?;
    put_padded(bytes, out);
    Ok(())
}

fn put_len(len: usize, max: usize, out: &mut Vec<u8>) -> Result<(), TooLong> {
    match u32::try_from(len) {
        Ok(word) if len <= max => out.extend_from_slice(&word.to_be_bytes()),
        _ => return Err(TooLong { len, max }),
    }
    Ok(())
}

fn put_padded(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes);
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.extend_from_slice(&[0; 3][..padding]);
}

macro_rules! scalars {
    ($($ty:ty as $wide:ty),*) => { $(
        impl Xdr for $ty {
            const MIN_LEN: usize = size_of::<$wide>();
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
                out.extend_from_slice(&<$wide>::from(*self).to_be_bytes());
                Ok(())
            }
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                clippy::unnecessary_cast,
                reason = "like libvirt, a short value keeps the low bits of its word"
            )]
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(<$wide>::from_be_bytes(input.array()?) as $ty)
            }
        }
    )* };
}

scalars!(
    i8 as i32, u8 as u32, i16 as i32, u16 as u32, i32 as i32, u32 as u32, i64 as i64, u64 as u64, f64 as f64
);

impl Xdr for () {
    const MIN_LEN: usize = 0;
    fn encode(&self, _out: &mut Vec<u8>) -> Result<(), TooLong> {
        Ok(())
    }
    fn decode(_input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl<T: Xdr> Xdr for Option<T> {
    const MIN_LEN: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        u32::from(self.is_some()).encode(out)?;
        self.as_ref().map_or(Ok(()), |value| value.encode(out))
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        (u32::decode(input)? != 0).then(|| T::decode(input)).transpose()
    }
}

impl<T: Xdr + Copy + Default, const N: usize> Xdr for [T; N] {
    const MIN_LEN: usize = N * T::MIN_LEN;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        self.iter().try_for_each(|value| value.encode(out))
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut values = [T::default(); N];
        for value in &mut values {
            *value = T::decode(input)?;
        }
        Ok(values)
    }
}

/// Text of at most `MAX` bytes. It may be anything but usually is UTF-8.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Str<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Str<MAX> {
    /// The bytes as they came, with what follows a NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text as libvirt sees it: up to the first NUL. What is not UTF-8 is replaced.
    #[must_use]
    pub fn to_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.0.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// [`Self::to_str`], owned, without a copy where possible.
    #[must_use]
    pub fn into_string(self) -> String {
        if self.0.contains(&0) {
            return self.to_str().into_owned();
        }
        String::from_utf8(self.0)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl<const MAX: usize> fmt::Debug for Str<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl<const MAX: usize> From<String> for Str<MAX> {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl<const MAX: usize> From<&str> for Str<MAX> {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl<const MAX: usize> From<Vec<u8>> for Str<MAX> {
    fn from(text: Vec<u8>) -> Self {
        Self(text)
    }
}

impl<const MAX: usize> Xdr for Str<MAX> {
    const MIN_LEN: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        put_len(self.0.len(), MAX, out)?;
        put_padded(&self.0, out);
        Ok(())
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = input.len(MAX)?;
        Ok(Self(input.padded(len)?.to_vec()))
    }
}

/// At most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Opaque<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Opaque<MAX> {
    /// The bytes, owned.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> fmt::Debug for Opaque<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> From<Vec<u8>> for Opaque<MAX> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl<const MAX: usize> Deref for Opaque<MAX> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> Xdr for Opaque<MAX> {
    const MIN_LEN: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        put_len(self.0.len(), MAX, out)?;
        put_padded(&self.0, out);
        Ok(())
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = input.len(MAX)?;
        Ok(Self(input.padded(len)?.to_vec()))
    }
}

/// At most `MAX` values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> List<T, MAX> {
    /// The values, owned.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T, const MAX: usize> From<Vec<T>> for List<T, MAX> {
    fn from(values: Vec<T>) -> Self {
        Self(values)
    }
}

impl<T, const MAX: usize> FromIterator<T> for List<T, MAX> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Xdr, const MAX: usize> Xdr for List<T, MAX> {
    const MIN_LEN: usize = 4;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        put_len(self.0.len(), MAX, out)?;
        self.0.iter().try_for_each(|value| value.encode(out))
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = input.len(MAX)?;
        if input.rest().len() / T::MIN_LEN.max(4) < len {
            return Err(DecodeError::Truncated);
        }
        let mut values = Vec::with_capacity(len);
        for _ in 0..len {
            values.push(T::decode(input)?);
        }
        Ok(Self(values))
    }
}

/// A UUID in its sixteen bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Nearly every answer names a guest so: one write, and no formatting of its parts.
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.0.iter().enumerate() {
            at += usize::from(matches!(index, 4 | 6 | 8 | 10));
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Uuid {
    type Err = BadUuid;
    fn from_str(text: &str) -> Result<Self, BadUuid> {
        let mut uuid = [0; 16];
        let mut digits = text
            .bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| char::from(byte).to_digit(16));
        for byte in &mut uuid {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(BadUuid);
            };
            *byte = u8::try_from(high * 16 + low).map_err(|_| BadUuid)?;
        }
        if digits.next().is_some() {
            Err(BadUuid)
        } else {
            Ok(Self(uuid))
        }
    }
}

/// Text that is no UUID: 32 hexadecimal digits, dashes anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a UUID")]
pub struct BadUuid;

impl Xdr for Uuid {
    const MIN_LEN: usize = 16;
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        out.extend_from_slice(&self.0);
        Ok(())
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array().map(Self)
    }
}

/// Declares structs of the wire: `Name { field: Type, ... }`, fields in wire order.
#[macro_export]
macro_rules! xdr_struct {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$about:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name { $( $(#[$about])* pub $field: $ty, )* }

        impl $crate::xdr::Xdr for $name {
            const MIN_LEN: usize = 0 $( + <$ty as $crate::xdr::Xdr>::MIN_LEN )*;
            fn encode(&self, _out: &mut Vec<u8>) -> Result<(), $crate::xdr::TooLong> {
                $( self.$field.encode(_out)?; )*
                Ok(())
            }
            fn decode(_input: &mut $crate::xdr::Reader<'_>) -> Result<Self, $crate::xdr::DecodeError> {
                Ok(Self { $( $field: $crate::xdr::Xdr::decode(_input)?, )* })
            }
        }
    )* };
}

/// Declares open enumerations of the wire: known values have names, unknown ones are kept.
#[macro_export]
macro_rules! xdr_enum {
    ($( $(#[$meta:meta])* $name:ident { $( $value:ident = $number:literal ),* $(,)? } )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i32);

        impl $name {
            $( #[allow(missing_docs, reason = "libvirt's own name")] pub const $value: Self = Self($number); )*

            /// Its name, where it is known.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $number => Some(stringify!($value)), )*
                    _ => None,
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", self.0),
                }
            }
        }

        impl $crate::xdr::Xdr for $name {
            const MIN_LEN: usize = 4;
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), $crate::xdr::TooLong> {
                self.0.encode(out)
            }
            fn decode(input: &mut $crate::xdr::Reader<'_>) -> Result<Self, $crate::xdr::DecodeError> {
                i32::decode(input).map(Self)
            }
        }
    )* };
}
