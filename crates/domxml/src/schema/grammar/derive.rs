//! Derivatives: what is left of a pattern after an event of the document.

use std::collections::HashMap;

use super::pattern::{EMPTY, Id, NOT_ALLOWED, Pattern, Patterns, TEXT};

/// What is done to the pattern that comes after an element.
#[derive(Clone, Copy)]
enum Then {
    /// It comes before this one.
    Group(Id),
    /// It is anywhere among this one's.
    Interleave(Id),
    InterleaveBehind(Id),
    /// This one comes after it.
    After(Id),
}

/// Derives patterns of one document.
pub(super) struct Deriver {
    pub(super) patterns: Patterns,
    closed: HashMap<Id, Id>,
}

impl Deriver {
    pub(super) fn new(patterns: Patterns) -> Self {
        Self {
            patterns,
            closed: HashMap::new(),
        }
    }

    /// After `<name`.
    pub(super) fn open(&mut self, pattern: Id, uri: &str, name: &str) -> Id {
        match self.patterns.get(pattern) {
            Pattern::Choice(a, b) => {
                let (a, b) = (self.open(a, uri, name), self.open(b, uri, name));
                self.patterns.choice(a, b)
            }
            Pattern::Element(place) => {
                let element = self.patterns.elements[place as usize];
                match self.patterns.names[element.name as usize].has(uri, name) {
                    true => self.patterns.after(element.content, EMPTY),
                    false => NOT_ALLOWED,
                }
            }
            Pattern::Interleave(a, b) => {
                let left = self.open(a, uri, name);
                let left = self.then(left, Then::Interleave(b));
                let right = self.open(b, uri, name);
                let right = self.then(right, Then::InterleaveBehind(a));
                self.patterns.choice(left, right)
            }
            Pattern::OneOrMore(a) => {
                let more = self.patterns.optional(pattern);
                let first = self.open(a, uri, name);
                self.then(first, Then::Group(more))
            }
            Pattern::Group(a, b) => {
                let first = self.open(a, uri, name);
                let first = self.then(first, Then::Group(b));
                if !self.patterns.is_nullable(a) {
                    return first;
                }
                let second = self.open(b, uri, name);
                self.patterns.choice(first, second)
            }
            Pattern::After(a, b) => {
                let inner = self.open(a, uri, name);
                self.then(inner, Then::After(b))
            }
            _ => NOT_ALLOWED,
        }
    }

    /// Changes what comes after the element in each alternative.
    fn then(&mut self, pattern: Id, then: Then) -> Id {
        match self.patterns.get(pattern) {
            Pattern::Choice(a, b) => {
                let (a, b) = (self.then(a, then), self.then(b, then));
                self.patterns.choice(a, b)
            }
            Pattern::After(inner, rest) => {
                let rest = match then {
                    Then::Group(next) => self.patterns.group(rest, next),
                    Then::Interleave(other) => self.patterns.interleave(rest, other),
                    Then::InterleaveBehind(other) => self.patterns.interleave(other, rest),
                    Then::After(next) => self.patterns.after(rest, next),
                };
                self.patterns.after(inner, rest)
            }
            _ => NOT_ALLOWED,
        }
    }

    /// After `name='value'` in a start tag.
    pub(super) fn attribute(&mut self, pattern: Id, (uri, name, value): (&str, &str, &str)) -> Id {
        let mut known = HashMap::new();
        self.attribute_of(pattern, (uri, name, value), &mut known)
    }

    fn attribute_of(&mut self, pattern: Id, given: (&str, &str, &str), known: &mut HashMap<Id, Id>) -> Id {
        if let Some(found) = known.get(&pattern) {
            return *found;
        }
        let derived = match self.patterns.get(pattern) {
            Pattern::Choice(a, b) => {
                let (a, b) = (
                    self.attribute_of(a, given, known),
                    self.attribute_of(b, given, known),
                );
                self.patterns.choice(a, b)
            }
            Pattern::After(a, b) => {
                let a = self.attribute_of(a, given, known);
                self.patterns.after(a, b)
            }
            Pattern::Group(a, b) => {
                let (left, right) = (
                    self.attribute_of(a, given, known),
                    self.attribute_of(b, given, known),
                );
                let (left, right) = (self.patterns.group(left, b), self.patterns.group(a, right));
                self.patterns.choice(left, right)
            }
            Pattern::Interleave(a, b) => {
                let (left, right) = (
                    self.attribute_of(a, given, known),
                    self.attribute_of(b, given, known),
                );
                let (left, right) = (
                    self.patterns.interleave(left, b),
                    self.patterns.interleave(a, right),
                );
                self.patterns.choice(left, right)
            }
            Pattern::OneOrMore(a) => {
                let first = self.attribute_of(a, given, known);
                let more = self.patterns.optional(pattern);
                self.patterns.group(first, more)
            }
            Pattern::Attribute(place, wanted) => {
                let (uri, name, value) = given;
                let named = self.patterns.names[place as usize].has(uri, name);
                if named && self.fits(wanted, value) {
                    EMPTY
                } else {
                    NOT_ALLOWED
                }
            }
            _ => NOT_ALLOWED,
        };
        known.insert(pattern, derived);
        derived
    }

    fn fits(&mut self, pattern: Id, value: &str) -> bool {
        if self.patterns.is_nullable(pattern) && value.trim().is_empty() {
            return true;
        }
        let left = self.text(pattern, value);
        self.patterns.is_nullable(left)
    }

    /// After the `>` of a start tag: attributes that are still asked for are missing.
    pub(super) fn close(&mut self, pattern: Id) -> Id {
        if let Some(known) = self.closed.get(&pattern) {
            return *known;
        }
        let closed = match self.patterns.get(pattern) {
            Pattern::After(a, b) => {
                let a = self.close(a);
                self.patterns.after(a, b)
            }
            Pattern::Choice(a, b) => {
                let (a, b) = (self.close(a), self.close(b));
                self.patterns.choice(a, b)
            }
            Pattern::Group(a, b) => {
                let (a, b) = (self.close(a), self.close(b));
                self.patterns.group(a, b)
            }
            Pattern::Interleave(a, b) => {
                let (a, b) = (self.close(a), self.close(b));
                self.patterns.interleave(a, b)
            }
            Pattern::OneOrMore(a) => {
                let a = self.close(a);
                self.patterns.one_or_more(a)
            }
            Pattern::Attribute(..) => NOT_ALLOWED,
            _ => pattern,
        };
        self.closed.insert(pattern, closed);
        closed
    }

    /// After a text.
    pub(super) fn text(&mut self, pattern: Id, text: &str) -> Id {
        match self.patterns.get(pattern) {
            Pattern::Choice(a, b) => {
                let (a, b) = (self.text(a, text), self.text(b, text));
                self.patterns.choice(a, b)
            }
            Pattern::Interleave(a, b) => {
                let (left, right) = (self.text(a, text), self.text(b, text));
                let (left, right) = (
                    self.patterns.interleave(left, b),
                    self.patterns.interleave(a, right),
                );
                self.patterns.choice(left, right)
            }
            Pattern::Group(a, b) => {
                let first = self.text(a, text);
                let first = self.patterns.group(first, b);
                if !self.patterns.is_nullable(a) {
                    return first;
                }
                let second = self.text(b, text);
                self.patterns.choice(first, second)
            }
            Pattern::After(a, b) => {
                let a = self.text(a, text);
                self.patterns.after(a, b)
            }
            Pattern::OneOrMore(a) => {
                let first = self.text(a, text);
                let more = self.patterns.optional(pattern);
                self.patterns.group(first, more)
            }
            Pattern::Text => TEXT,
            Pattern::Value(place) => as_end(same_word(&self.patterns.words[place as usize], text)),
            Pattern::Data(place) => as_end(self.patterns.datatypes[place as usize].fits(text)),
            Pattern::DataExcept(place, except) => {
                let is_of_type = self.patterns.datatypes[place as usize].fits(text);
                as_end(is_of_type && !self.fits(except, text))
            }
            Pattern::List(words) => {
                let left = text
                    .split_whitespace()
                    .fold(words, |left, word| self.text(left, word));
                as_end(self.patterns.is_nullable(left))
            }
            _ => NOT_ALLOWED,
        }
    }

    /// After an end tag.
    pub(super) fn end(&mut self, pattern: Id) -> Id {
        match self.patterns.get(pattern) {
            Pattern::Choice(a, b) => {
                let (a, b) = (self.end(a), self.end(b));
                self.patterns.choice(a, b)
            }
            Pattern::After(a, b) if self.patterns.is_nullable(a) => b,
            _ => NOT_ALLOWED,
        }
    }
}

fn as_end(fits: bool) -> Id {
    if fits { EMPTY } else { NOT_ALLOWED }
}

/// Words are the same whatever space is around and between their parts.
fn same_word(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}
