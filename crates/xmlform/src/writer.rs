//! The printer: two-space indent, single quotes, `<x/>` when empty.
//!
//! A start tag stays open until it is known whether anything follows in it:
//!
//! ```text
//! Tag --attr--> Tag --child--> Children --end--> </x>
//!  |             `--text-----> Text -----end--> </x> on the same line
//!  `--end--> <x/>, or nothing at all
//! ```

use crate::codec::Codec;
use crate::{FormatFlags, When, Xml};

/// Output of a document.
#[derive(Debug)]
pub struct Writer {
    out: String,
    depth: usize,
    state: State,
    flags: FormatFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Tag,
    Children,
    Text,
}

/// Whether an element with nothing in it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// It is left out.
    Drop,
    /// It is written as `<x/>`.
    Keep,
    /// It is written as `<x>` and, on the next line, `</x>`.
    Pair,
}

impl Writer {
    /// An empty document of the given form.
    #[must_use]
    pub fn new(flags: FormatFlags) -> Self {
        Self {
            out: String::with_capacity(4096),
            depth: 0,
            state: State::Children,
            flags,
        }
    }

    /// An empty document whose elements begin `depth` levels deep.
    #[must_use]
    pub fn indented(flags: FormatFlags, depth: usize) -> Self {
        Self {
            depth,
            ..Self::new(flags)
        }
    }

    /// The text written.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    /// Which form is written.
    #[must_use]
    pub const fn flags(&self) -> FormatFlags {
        self.flags
    }

    /// Whether a field is part of this form.
    #[must_use]
    pub const fn writes(&self, when: When) -> bool {
        when.writes(self.flags)
    }

    /// How many levels deep the next element is.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// Writes a child element, whatever is in it.
    pub fn element<T: Xml>(&mut self, name: &str, value: &T) {
        self.element_with(name, Empty::Keep, |w| {
            value.write_attrs(w);
            value.write_content(w);
        });
    }

    /// Writes a child element with a tag at its end, whatever is in it.
    pub fn element_paired<T: Xml>(&mut self, name: &str, value: &T) {
        self.element_with(name, Empty::Pair, |w| {
            value.write_attrs(w);
            value.write_content(w);
        });
    }

    /// Writes a child element, unless nothing would be in it.
    pub fn element_unless_empty<T: Xml>(&mut self, name: &str, value: &T) {
        self.element_with(name, Empty::Drop, |w| {
            value.write_attrs(w);
            value.write_content(w);
        });
    }

    /// Writes a child element whose inside is written by a closure: attributes first.
    pub fn element_with(&mut self, name: &str, empty: Empty, inside: impl FnOnce(&mut Self)) {
        let mark = self.begin(name);
        inside(self);
        self.end(name, empty, mark);
    }

    /// Writes `<name/>`.
    pub fn flag(&mut self, name: &str) {
        self.element_with(name, Empty::Keep, |_| {});
    }

    /// Writes an attribute into the open tag.
    pub fn attr<C: Codec<T>, T>(&mut self, name: &str, value: &T) {
        self.attr_with(name, |w| C::write(value, w));
    }

    /// Writes an attribute of text into the open tag.
    pub fn attr_str(&mut self, name: &str, value: &str) {
        self.attr_with(name, |w| w.escape(value));
    }

    /// Writes the text of the open element. Empty text leaves the element empty.
    pub fn text<C: Codec<T>, T>(&mut self, value: &T) {
        let before = self.state;
        let mark = self.out.len();
        if before == State::Tag {
            self.out.push('>');
        }
        let start = self.out.len();
        C::write(value, self);
        if self.out.len() == start {
            self.out.truncate(mark);
        } else {
            self.state = State::Text;
        }
    }

    /// Writes a child element of text.
    pub fn text_child<C: Codec<T>, T>(&mut self, name: &str, value: &T) {
        self.element_with(name, Empty::Keep, |w| w.text::<C, T>(value));
    }

    /// Appends text as it is.
    pub fn push(&mut self, s: &str) {
        self.out.push_str(s);
    }

    /// Appends text, escaped; what XML cannot hold is left out.
    pub fn escape(&mut self, s: &str) {
        let mut done = 0;
        for (i, b) in s.bytes().enumerate() {
            if let Some(by) = replacement(b) {
                self.out.push_str(&s[done..i]);
                self.out.push_str(by);
                done = i + 1;
            }
        }
        self.out.push_str(&s[done..]);
    }

    /// Appends a decimal number.
    pub fn number(&mut self, mut n: u64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        self.out.extend(digits[at..].iter().map(|d| char::from(*d)));
    }

    /// Appends `0x` and at least so many hexadecimal digits.
    pub fn hex(&mut self, n: u64, digits: usize) {
        let significant = (64 - n.leading_zeros() as usize).div_ceil(4);
        self.out.push_str("0x");
        for i in (0..significant.max(digits).max(1)).rev() {
            let nibble = if i < 16 { (n >> (4 * i)) & 0xf } else { 0 };
            self.out.push(char::from(b"0123456789abcdef"[nibble as usize]));
        }
    }

    /// Appends one whole line as a child, at the indentation of children.
    pub fn line(&mut self, text: &str) {
        self.close_tag();
        self.indent();
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn attr_with(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("='");
        value(self);
        self.out.push('\'');
    }

    fn begin(&mut self, name: &str) -> Mark {
        let mark = Mark {
            outer: self.state,
            before: self.out.len(),
            inside: 0,
        };
        self.close_tag();
        self.indent();
        self.out.push('<');
        self.out.push_str(name);
        self.state = State::Tag;
        self.depth += 1;
        Mark {
            inside: self.out.len(),
            ..mark
        }
    }

    fn end(&mut self, name: &str, empty: Empty, mark: Mark) {
        self.depth -= 1;
        match self.state {
            State::Tag if empty == Empty::Drop && self.out.len() == mark.inside => {
                self.out.truncate(mark.before);
                self.state = mark.outer;
                return;
            }
            State::Tag if empty == Empty::Pair => {
                self.out.push_str(">\n");
                self.indent();
                self.end_tag(name);
            }
            State::Tag => self.out.push_str("/>\n"),
            State::Children => {
                self.indent();
                self.end_tag(name);
            }
            State::Text => self.end_tag(name),
        }
        self.state = State::Children;
    }

    fn end_tag(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push_str(">\n");
    }

    fn close_tag(&mut self) {
        if self.state == State::Tag {
            self.out.push_str(">\n");
        }
        self.state = State::Children;
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.out.push_str("  ");
        }
    }
}

/// Where an element began, to take it back when nothing came.
#[derive(Debug, Clone, Copy)]
struct Mark {
    outer: State,
    before: usize,
    inside: usize,
}

const fn replacement(b: u8) -> Option<&'static str> {
    match b {
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'&' => Some("&amp;"),
        b'\'' => Some("&apos;"),
        b'"' => Some("&quot;"),
        b'\t' | b'\n' | b'\r' => None,
        0..0x20 => Some(""),
        _ => None,
    }
}
