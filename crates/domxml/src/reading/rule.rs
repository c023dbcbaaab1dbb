//! The language of the tables: what an element's values have to be, in the order in which they are read.

use std::collections::HashSet;

use xmlform::{Area, Node};

use super::form::Form;
use super::size::Size;
use crate::{Error, Kind};

/// Result of a check.
pub(super) type Checked = Result<(), Error>;

/// Rules of one element, in the order in which libvirt reads: the first that fails is told.
pub(super) type Rules = &'static [Rule];

/// One demand on an element.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// An attribute whose errors have the reader's usual words.
    Attr(Attr),
    /// A value whose errors have words of their own.
    Own(Own),
    /// A number with a unit.
    Size(Size),
    /// The first child of a name, if there is one.
    Child(&'static str, Rules),
    /// All children of a name as if they were one.
    Merged(&'static str, Rules),
    /// The first child of a name, which must be there.
    Need(&'static str, Words, Rules),
    /// Each child of a name.
    Each(&'static str, Rules),
    /// Each child of whatever name.
    All(Rules),
    /// There are at most so many children of a name.
    Most(usize, &'static str, Words),
    /// Rules that several elements share.
    Part(Rules),
    /// Rules that only hold in a case.
    If(When, Rules),
    /// What no table says.
    Check(fn(Node<'_>) -> Checked),
}

/// When rules hold.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// The attribute is one of the words.
    Is(&'static str, &'static [&'static str]),
    /// The attribute is absent, or one of the words.
    Usual(&'static str, &'static [&'static str]),
    /// The attribute is there.
    Given(&'static str),
    /// What no table says.
    Case(fn(Node<'_>) -> bool),
}

impl When {
    pub(super) fn holds(self, node: Node<'_>) -> bool {
        match self {
            Self::Is(name, words) => node.attr(name).is_some_and(|v| words.contains(&v)),
            Self::Usual(name, words) => node.attr(name).is_none_or(|v| words.contains(&v)),
            Self::Given(name) => node.attr(name).is_some(),
            Self::Case(case) => case(node),
        }
    }
}

/// Words of an error, with libvirt's prefix for its code; `{}` stands for the value.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) area: Area,
    pub(super) text: &'static str,
}

/// The prefixes that tell the codes apart; without one the message stands alone.
const PREFIXES: &[(&str, Kind)] = &[
    ("XML error: ", Kind::Xml),
    ("unsupported configuration: ", Kind::Unsupported),
    ("internal error: ", Kind::Internal),
    ("invalid argument: ", Kind::InvalidArg),
    ("numerical overflow: ", Kind::Overflow),
];

impl Words {
    /// The error, about a value.
    pub(super) fn of(self, value: &str) -> Error {
        let found = PREFIXES.iter().find_map(|(prefix, kind)| {
            let rest = self.text.strip_prefix(prefix)?;
            Some((*kind, rest))
        });
        let (kind, text) = found.unwrap_or((Kind::XmlDetail, self.text));
        Error::new(kind, text.replace("{}", value)).in_area(self.area)
    }
}

/// Words of the guest's document.
pub(super) const fn domain(text: &'static str) -> Words {
    Words {
        area: Area::Domain,
        text,
    }
}

/// Words of another part.
pub(super) const fn of(area: Area, text: &'static str) -> Words {
    Words { area, text }
}

/// An attribute whose errors have the reader's usual words.
#[derive(Clone, Copy)]
pub(super) struct Attr {
    name: &'static str,
    form: Form,
    needed: bool,
    positive: bool,
}

/// An attribute of a form.
pub(super) const fn attr(name: &'static str, form: Form) -> Rule {
    Rule::Attr(Attr {
        name,
        form,
        needed: false,
        positive: false,
    })
}

/// An attribute that is one of some words.
pub(super) const fn word(name: &'static str, words: &'static [&'static str]) -> Rule {
    attr(name, Form::Word(words))
}

/// An attribute that is `yes` or `no`.
pub(super) const fn yes(name: &'static str) -> Rule {
    word(name, &["yes", "no"])
}

/// An attribute that is `on` or `off`.
pub(super) const fn on(name: &'static str) -> Rule {
    word(name, &["on", "off"])
}

/// An attribute that is a decimal number without sign, of 32 bits.
pub(super) const fn number(name: &'static str) -> Rule {
    attr(name, Form::U32(10))
}

/// A value whose errors have words of their own.
#[derive(Clone, Copy)]
pub(super) struct Own {
    from: From,
    form: Form,
    empty: Empty,
    wrong: Words,
    missing: Option<Words>,
}

/// Where a value stands.
#[derive(Clone, Copy)]
enum From {
    Attr(&'static str),
    Child(&'static str),
    Text,
}

/// What an empty value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Absent,
    Value,
}

const fn own(from: From, empty: Empty, form: Form, wrong: Words) -> Rule {
    Rule::Own(Own {
        from,
        form,
        empty,
        wrong,
        missing: None,
    })
}

/// An attribute of which an empty value counts as none.
pub(super) const fn maybe(name: &'static str, form: Form, wrong: Words) -> Rule {
    own(From::Attr(name), Empty::Absent, form, wrong)
}

/// An attribute of which an empty value counts as one.
pub(super) const fn given(name: &'static str, form: Form, wrong: Words) -> Rule {
    own(From::Attr(name), Empty::Value, form, wrong)
}

/// The text of the first child of a name; none when it is empty.
pub(super) const fn text(name: &'static str, form: Form, wrong: Words) -> Rule {
    own(From::Child(name), Empty::Absent, form, wrong)
}

/// The element's own text, also when it is empty.
pub(super) const fn own_text(form: Form, wrong: Words) -> Rule {
    own(From::Text, Empty::Value, form, wrong)
}

/// An attribute that must be there, empty or not, of whatever value.
pub(super) const fn named(name: &'static str, missing: Words) -> Rule {
    own(From::Attr(name), Empty::Value, Form::Any, missing).or(missing)
}

/// An attribute that must be there and not empty, of whatever value.
pub(super) const fn filled(name: &'static str, missing: Words) -> Rule {
    own(From::Attr(name), Empty::Absent, Form::Any, missing).or(missing)
}

/// A child that must be there with a text, of whatever value.
pub(super) const fn told(name: &'static str, missing: Words) -> Rule {
    own(From::Child(name), Empty::Absent, Form::Any, missing).or(missing)
}

impl Rule {
    /// The attribute must be there.
    pub(super) const fn needed(mut self) -> Self {
        if let Self::Attr(attr) = &mut self {
            attr.needed = true;
        }
        self
    }

    /// The number must not be 0.
    pub(super) const fn positive(mut self) -> Self {
        if let Self::Attr(attr) = &mut self {
            attr.positive = true;
        }
        self
    }

    /// The value must be there, or this is said.
    pub(super) const fn or(mut self, missing: Words) -> Self {
        if let Self::Own(own) = &mut self {
            own.missing = Some(missing);
        }
        self
    }
}

/// Checks an element.
///
/// # Errors
/// What the first rule says that fails.
pub(super) fn check(node: Node<'_>, rules: Rules) -> Checked {
    rules.iter().try_for_each(|rule| rule.check(node))
}

impl Rule {
    fn check(&self, node: Node<'_>) -> Checked {
        match *self {
            Self::Attr(attr) => attr.check(node),
            Self::Own(own) => own.check(node),
            Self::Size(size) => size.check(node).map(drop),
            Self::Child(name, rules) => node.child(name).map_or(Ok(()), |child| check(child, rules)),
            Self::Merged(name, rules) => match node.child_merged(name) {
                Some(merged) => check(merged, rules),
                None => Ok(()),
            },
            Self::Need(name, missing, rules) => match node.child(name) {
                Some(child) => check(child, rules),
                None => Err(missing.of("")),
            },
            Self::Each(name, rules) => node
                .children_named(name)
                .try_for_each(|child| check(child, rules)),
            Self::All(rules) => node.children().try_for_each(|child| check(child, rules)),
            Self::Most(most, name, words) => match node.children_named(name).nth(most) {
                Some(_) => Err(words.of("")),
                None => Ok(()),
            },
            Self::Part(rules) => check(node, rules),
            Self::If(when, rules) if when.holds(node) => check(node, rules),
            Self::If(..) => Ok(()),
            Self::Check(function) => function(node),
        }
    }
}

impl Attr {
    fn check(self, node: Node<'_>) -> Checked {
        let Self { name, form, .. } = self;
        let Some(value) = node.attr(name) else {
            return match self.needed {
                true => Err(xmlform::field::missing_attr(node, name).into()),
                false => Ok(()),
            };
        };
        if let Err(expected) = form.check(value) {
            return Err(xmlform::field::bad_attr(node, name, expected).into());
        }
        if self.positive && value.bytes().all(|b| !b.is_ascii_digit() || b == b'0') {
            let message = format!(
                "Invalid value for attribute '{name}' in element '{}': Zero is not permitted",
                node.name()
            );
            return Err(Error::xml(message).in_area(Area::Xml));
        }
        Ok(())
    }
}

impl Own {
    fn check(self, node: Node<'_>) -> Checked {
        let value = match self.from {
            From::Attr(name) => node.attr(name),
            From::Child(name) => node.child(name).map(Node::text),
            From::Text => Some(node.text()),
        };
        match value.filter(|v| self.empty == Empty::Value || !v.is_empty()) {
            Some(value) if self.form.check(value).is_err() => Err(self.wrong.of(value)),
            Some(_) => Ok(()),
            None => self.missing.map_or(Ok(()), |words| Err(words.of("(null)"))),
        }
    }
}

/// No value comes twice.
pub(super) fn once<'d>(values: impl Iterator<Item = &'d str>, said: Words) -> Checked {
    let mut seen = HashSet::new();
    let mut twice = values.filter(|value| !seen.insert(*value));
    match twice.next() {
        Some(value) => Err(said.of(value)),
        None => Ok(()),
    }
}

/// No earlier sibling of a name, in all elements of its parent's name, has the same value of an attribute.
pub(super) fn first_of(node: Node<'_>, name: &'static str, attr: &str, said: Words) -> Checked {
    let value = node.attr(attr);
    match super::tuning::earlier_in_all(node, name).any(|other| other.attr(attr) == value) {
        true => Err(said.of(value.unwrap_or_default())),
        false => Ok(()),
    }
}
