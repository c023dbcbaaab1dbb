//! The text of a document piece by piece: names, references, attribute values, places.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::attributes::AttrError;
use quick_xml::events::{BytesRef, BytesStart};

use crate::Error;

pub(crate) fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

/// libxml2's three lines: place and message, the line itself, and a pointer to the column.
pub(crate) fn malformed(text: &str, at: usize, message: &str) -> Error {
    let at = at.min(text.len());
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let line = line_of(text, at);
    let from = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let shown = text.get(from..).unwrap_or_default();
    let shown = shown.lines().next().unwrap_or_default();
    let shown: String = shown.chars().take(80).collect();
    let column = (at - from).min(shown.len());
    Error::malformed(format!("at line {line}: {message}\n{shown}\n{:-<column$}^", ""))
}

/// Lines count from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    before.iter().filter(|b| **b == b'\n').count() + 1
}

pub(crate) fn check_characters(text: &str) -> Result<(), Error> {
    let bad = |b: &u8| *b < 0x20 && !matches!(*b, b'\t' | b'\n' | b'\r');
    match text.as_bytes().iter().position(bad) {
        None => Ok(()),
        Some(at) => {
            let value = text.as_bytes()[at];
            Err(malformed(text, at, &format!("PCDATA invalid Char value {value}")))
        }
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    let start = |c: char| c.is_alphabetic() || c == '_' || c == ':';
    name.starts_with(start) && name.chars().all(is_name_char)
}

pub(crate) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}')
}

pub(crate) fn attribute_fault(tag: &BytesStart<'_>, error: &AttrError) -> String {
    match error {
        AttrError::Duplicated(at, _) => {
            let rest = tag.get(*at..).unwrap_or_default();
            let end = |b: &u8| *b == b'=' || b.is_ascii_whitespace();
            let name = rest.split(end).next().unwrap_or_default();
            format!("Attribute {} redefined", String::from_utf8_lossy(name))
        }
        AttrError::UnquotedValue(_) | AttrError::ExpectedValue(_) => "AttValue: \" or ' expected".to_owned(),
        AttrError::ExpectedEq(_) => "Specification mandates value for attribute".to_owned(),
        AttrError::ExpectedQuote(..) => "AttValue: ' expected".to_owned(),
    }
}

/// The same bytes in the whole text.
pub(crate) fn slice_of<'a>(whole: &'a str, base: usize, tag: &[u8], part: &[u8]) -> Option<&'a str> {
    let offset = (part.as_ptr() as usize).checked_sub(tag.as_ptr() as usize)?;
    let start = base.checked_add(offset)?;
    whole.get(start..start + part.len())
}

pub(crate) fn cdata(piece: &str) -> &str {
    let inner = piece.strip_prefix("<![CDATA[").unwrap_or(piece);
    inner.strip_suffix("]]>").unwrap_or(inner)
}

pub(crate) fn resolve(reference: &BytesRef<'_>) -> Result<char, String> {
    let name = reference.decode().map_err(|e| e.to_string())?;
    resolve_entity(&name)
}

/// One of the five named entities, or a character's number.
pub(crate) fn resolve_entity(name: &str) -> Result<char, String> {
    let code = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => name.strip_prefix('#'),
    };
    let Some(code) = code else {
        return Err(format!("Entity '{name}' not defined"));
    };
    let number = match code.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => code.parse(),
    };
    let c = number.ok().and_then(char::from_u32);
    c.filter(|c| *c >= ' ' || matches!(c, '\t' | '\n' | '\r'))
        .ok_or_else(|| format!("xmlParseCharRef: invalid xmlChar value {code}"))
}

/// An attribute's value: white space normalised, references resolved.
pub(crate) fn attribute_value(raw: &str) -> Result<Cow<'_, str>, String> {
    if !raw.bytes().any(|b| b == b'&' || b < b' ') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(['&', '\t', '\n', '\r']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(entity) = tail.strip_prefix('&') {
            let Some((name, after)) = entity.split_once(';') else {
                return Err("EntityRef: expecting ';'".to_owned());
            };
            out.push(resolve_entity(name)?);
            rest = after;
        } else {
            out.push(' ');
            rest = tail.strip_prefix("\r\n").unwrap_or(&tail[1..]);
        }
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}
