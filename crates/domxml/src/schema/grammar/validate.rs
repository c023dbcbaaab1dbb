//! A document against a pattern, element by element.

use xmlform::Node;

use super::derive::Deriver;
use super::pattern::{Id, NOT_ALLOWED, Patterns};

/// Most patterns that come of one document; ordinary ones make some ten thousand.
const MOST: usize = 1 << 20;

/// Why a document does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The innermost place that does not fit, by its path, and what is wrong there.
    At(String),
    /// It could not be said within bounds.
    Intricate,
}

/// What is around an element of the document.
#[derive(Clone)]
struct Scope<'d> {
    /// Prefixes and what they stand for, innermost last.
    declared: Vec<(&'d str, &'d str)>,
}

impl<'d> Scope<'d> {
    fn inside(&self, node: Node<'d>) -> Self {
        let mut inner = self.clone();
        for (name, uri) in node.attrs() {
            match name.strip_prefix("xmlns") {
                Some("") => inner.declared.push(("", uri)),
                Some(rest) if rest.starts_with(':') => inner.declared.push((&rest[1..], uri)),
                _ => {}
            }
        }
        inner
    }

    /// Namespace and local name; attributes without prefix have no namespace.
    fn resolve(&self, name: &'d str, is_attribute: bool) -> (&'d str, &'d str) {
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        if prefix.is_empty() && is_attribute {
            return ("", local);
        }
        let found = self.declared.iter().rev().find(|(known, _)| *known == prefix);
        (found.map_or("", |(_, uri)| uri), local)
    }
}

/// Whether a document fits a pattern.
///
/// # Errors
/// The place that does not.
pub(super) fn check(patterns: &Patterns, start: Id, root: Node<'_>) -> Result<(), Misfit> {
    let mut deriver = Deriver::new(patterns.clone());
    let scope = Scope { declared: Vec::new() };
    let left = element(&mut deriver, start, root, &scope)?;
    match deriver.patterns.is_nullable(left) {
        true => Ok(()),
        false => Err(at(root, " is not all of it")),
    }
}

fn at(node: Node<'_>, what: &str) -> Misfit {
    Misfit::At(format!("{}{what}", node.path()))
}

/// What is left after an element. Depth is bounded by that of documents.
fn element<'d>(deriver: &mut Deriver, pattern: Id, node: Node<'d>, outer: &Scope<'d>) -> Result<Id, Misfit> {
    if deriver.patterns.len() > MOST {
        return Err(Misfit::Intricate);
    }
    let own;
    let scope = match node.attrs().any(|(name, _)| name.starts_with("xmlns")) {
        true => {
            own = outer.inside(node);
            &own
        }
        false => outer,
    };
    let (uri, name) = scope.resolve(node.qualified_name(), false);
    let mut left = deriver.open(pattern, uri, name);
    if left == NOT_ALLOWED {
        return Err(at(node, " is not known there"));
    }
    for (name, value) in node.attrs().filter(|(name, _)| !is_declaration(name)) {
        let (uri, local) = scope.resolve(name, true);
        left = deriver.attribute(left, (uri, local, value));
        if left == NOT_ALLOWED {
            return Err(at(
                node,
                &format!("/@{name} is not known there, or not with this value"),
            ));
        }
    }
    left = deriver.close(left);
    if left == NOT_ALLOWED {
        return Err(at(node, " lacks an attribute"));
    }
    left = content(deriver, left, node, scope)?;
    match deriver.end(left) {
        NOT_ALLOWED => Err(at(node, " lacks an element")),
        left => Ok(left),
    }
}

fn is_declaration(name: &str) -> bool {
    name == "xmlns" || name.starts_with("xmlns:")
}

fn content<'d>(deriver: &mut Deriver, mut left: Id, node: Node<'d>, scope: &Scope<'d>) -> Result<Id, Misfit> {
    let text = node.text();
    let mut children = node.children().peekable();
    let blank = text.trim().is_empty();
    if children.peek().is_none() {
        let with_text = deriver.text(left, text);
        left = match blank {
            true => deriver.patterns.choice(left, with_text),
            false => with_text,
        };
    } else if !blank {
        left = deriver.text(left, text);
    }
    if left == NOT_ALLOWED {
        return Err(at(node, "/text() is not known there, or is not of this form"));
    }
    for child in children {
        left = element(deriver, left, child, scope)?;
    }
    Ok(left)
}
