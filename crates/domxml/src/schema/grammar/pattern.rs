//! Patterns: each is kept once, and is known by its number.

use std::collections::HashMap;

use super::datatype::Datatype;

/// A pattern's number.
pub(super) type Id = u32;

/// A pattern. Its parts are patterns by their numbers; what is long is in a list of [`Patterns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    /// Nothing fits.
    NotAllowed,
    /// No content.
    Empty,
    /// Any text, also none.
    Text,
    Choice(Id, Id),
    Interleave(Id, Id),
    Group(Id, Id),
    OneOrMore(Id),
    /// Words, each of which is a text.
    List(Id),
    /// A text of a type, by its place in [`Patterns::datatypes`].
    Data(u32),
    /// A text of a type that is none of the second pattern's.
    DataExcept(u32, Id),
    /// This word, by its place in [`Patterns::words`].
    Value(u32),
    /// An attribute of a name (place in [`Patterns::names`]) with such a value.
    Attribute(u32, Id),
    /// An element, by its place in [`Patterns::elements`].
    Element(u32),
    /// What is left of an element, and what comes after it.
    After(Id, Id),
}

/// Names that an element or attribute may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum NameClass {
    Any,
    /// Namespace and local name.
    Name(String, String),
}

impl NameClass {
    pub(super) fn has(&self, uri: &str, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(of, own) => own == name && of == uri,
        }
    }
}

/// An element of the schema: its name (place in [`Patterns::names`]) and content.
#[derive(Debug, Clone, Copy)]
pub(super) struct ElementPattern {
    pub(super) name: u32,
    pub(super) content: Id,
}

/// All patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    all: Vec<Pattern>,
    nullable: Vec<bool>,
    by_pattern: HashMap<Pattern, Id>,
    pub(super) datatypes: Vec<Datatype>,
    pub(super) words: Vec<String>,
    pub(super) names: Vec<NameClass>,
    pub(super) elements: Vec<ElementPattern>,
}

/// [`Pattern::NotAllowed`].
pub(super) const NOT_ALLOWED: Id = 0;
/// [`Pattern::Empty`].
pub(super) const EMPTY: Id = 1;
/// [`Pattern::Text`].
pub(super) const TEXT: Id = 2;

impl Patterns {
    pub(super) fn new() -> Self {
        let mut new = Self::default();
        for pattern in [Pattern::NotAllowed, Pattern::Empty, Pattern::Text] {
            new.intern(pattern);
        }
        new
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, id: Id) -> Pattern {
        self.all.get(id as usize).copied().unwrap_or(Pattern::NotAllowed)
    }

    /// Whether it may end here.
    pub(super) fn is_nullable(&self, id: Id) -> bool {
        self.nullable.get(id as usize).copied().unwrap_or_default()
    }

    pub(super) fn intern(&mut self, pattern: Pattern) -> Id {
        if let Some(known) = self.by_pattern.get(&pattern) {
            return *known;
        }
        let nullable = match pattern {
            Pattern::Empty | Pattern::Text => true,
            Pattern::Choice(a, b) => self.is_nullable(a) || self.is_nullable(b),
            Pattern::Interleave(a, b) | Pattern::Group(a, b) => self.is_nullable(a) && self.is_nullable(b),
            Pattern::OneOrMore(a) => self.is_nullable(a),
            _ => false,
        };
        let id = Id::try_from(self.all.len()).unwrap_or(NOT_ALLOWED);
        self.all.push(pattern);
        self.nullable.push(nullable);
        self.by_pattern.insert(pattern, id);
        id
    }

    pub(super) fn choice(&mut self, a: Id, b: Id) -> Id {
        match (a, b) {
            (NOT_ALLOWED, other) | (other, NOT_ALLOWED) => other,
            (one, other) if one == other || self.offers(one, other) => one,
            (EMPTY, other) | (other, EMPTY) if self.is_nullable(other) => other,
            _ => self.intern(Pattern::Choice(a, b)),
        }
    }

    /// Whether a choice has this among its alternatives; as far as is looked at without much ado.
    fn offers(&self, choice: Id, wanted: Id) -> bool {
        const LOOKS: usize = 64;
        let mut open = vec![choice];
        for _ in 0..LOOKS {
            match open.pop() {
                None => return false,
                Some(id) if id == wanted => return true,
                Some(id) => {
                    if let Pattern::Choice(a, b) = self.get(id) {
                        open.extend([a, b]);
                    }
                }
            }
        }
        false
    }

    pub(super) fn group(&mut self, a: Id, b: Id) -> Id {
        match (a, b) {
            (NOT_ALLOWED, _) | (_, NOT_ALLOWED) => NOT_ALLOWED,
            (EMPTY, other) | (other, EMPTY) => other,
            _ => self.intern(Pattern::Group(a, b)),
        }
    }

    pub(super) fn interleave(&mut self, a: Id, b: Id) -> Id {
        match (a, b) {
            (NOT_ALLOWED, _) | (_, NOT_ALLOWED) => NOT_ALLOWED,
            (EMPTY, other) | (other, EMPTY) => other,
            _ => self.intern(Pattern::Interleave(a, b)),
        }
    }

    pub(super) fn one_or_more(&mut self, a: Id) -> Id {
        match a {
            NOT_ALLOWED | EMPTY | TEXT => a,
            _ => self.intern(Pattern::OneOrMore(a)),
        }
    }

    pub(super) fn optional(&mut self, a: Id) -> Id {
        self.choice(a, EMPTY)
    }

    pub(super) fn after(&mut self, a: Id, b: Id) -> Id {
        match (a, b) {
            (NOT_ALLOWED, _) | (_, NOT_ALLOWED) => NOT_ALLOWED,
            _ => self.intern(Pattern::After(a, b)),
        }
    }

    pub(super) fn attribute(&mut self, name: u32, value: Id) -> Id {
        match value {
            NOT_ALLOWED => NOT_ALLOWED,
            _ => self.intern(Pattern::Attribute(name, value)),
        }
    }

    /// The place of a name.
    pub(super) fn name(&mut self, name: NameClass) -> u32 {
        place(&mut self.names, name)
    }

    /// The place of a word.
    pub(super) fn word(&mut self, word: String) -> u32 {
        place(&mut self.words, word)
    }

    /// The place of a type.
    pub(super) fn datatype(&mut self, datatype: Datatype) -> u32 {
        place(&mut self.datatypes, datatype)
    }
}

fn place<T: PartialEq>(list: &mut Vec<T>, value: T) -> u32 {
    let found = list.iter().position(|known| *known == value);
    let place = found.unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    });
    u32::try_from(place).unwrap_or(u32::MAX)
}
