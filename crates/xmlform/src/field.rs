//! One function for each shape of field, both ways.

use crate::codec::Codec;
use crate::{Area, Error, Node, RawXml, Value, Writer, Xml, XmlChoice};

/// Reads an attribute that may be absent.
///
/// # Errors
/// When it is there but not of its type.
pub fn attr_opt<C: Codec<T>, T>(node: Node<'_>, name: &str) -> Result<Option<T>, Error> {
    let Some(text) = node.attr(name) else {
        return Ok(None);
    };
    match C::parse(text) {
        Ok(value) => Ok(Some(value)),
        Err(_) if node.overlooks_attr(name) => Ok(None),
        Err(_) if !C::WRONG.is_empty() => Err(Error::worded(C::WRONG, text)),
        Err(expected) => Err(bad_attr(node, name, expected.0)),
    }
}

/// Reads an attribute that must be there.
///
/// # Errors
/// When it is absent or not of its type.
pub fn attr_required<C: Codec<T>, T: Default>(node: Node<'_>, name: &str) -> Result<T, Error> {
    match attr_opt::<C, T>(node, name)? {
        None if node.is_judged() => Ok(T::default()),
        value => value.ok_or_else(|| missing_attr(node, name)),
    }
}

/// Reads an attribute of a child, either of which may be absent.
///
/// # Errors
/// When it is there but not of its type.
pub fn via_opt<C: Codec<T>, T>(node: Node<'_>, child: &str, name: &str) -> Result<Option<T>, Error> {
    match node.child(child) {
        Some(child) => attr_opt::<C, T>(child, name),
        None => Ok(None),
    }
}

/// Reads an attribute of the first of the children of a name that has it.
///
/// # Errors
/// When it is there but not of its type.
pub fn via_merged<C: Codec<T>, T>(node: Node<'_>, child: &str, name: &str) -> Result<Option<T>, Error> {
    match node.child_merged(child) {
        Some(children) => attr_opt::<C, T>(children, name),
        None => Ok(None),
    }
}

/// Reads an attribute of a child, both of which must be there.
///
/// # Errors
/// When one is absent, or it is not of its type.
pub fn via_required<C: Codec<T>, T: Default>(node: Node<'_>, child: &str, name: &str) -> Result<T, Error> {
    match node.child(child) {
        Some(child) => attr_required::<C, T>(child, name),
        None if node.is_judged() => Ok(T::default()),
        None => Err(missing_element(node, child)),
    }
}

/// Reads a child element that may be absent; the first counts.
///
/// # Errors
/// Those of the child.
pub fn child_opt<T: Xml>(node: Node<'_>, name: &str) -> Result<Option<T>, Error> {
    node.child(name).map(T::read).transpose()
}

/// Reads the children of a name as if they were one element.
///
/// # Errors
/// Those of the child.
pub fn child_merged<T: Xml>(node: Node<'_>, name: &str) -> Result<Option<T>, Error> {
    node.child_merged(name).map(T::read).transpose()
}

/// Reads all children of a name.
///
/// # Errors
/// Those of the children.
pub fn children<T: Xml>(node: Node<'_>, name: &str) -> Result<Vec<T>, Error> {
    node.children_named(name).map(T::read).collect()
}

/// Reads the text of a child; no text counts as absent.
///
/// # Errors
/// When the text is not of its type.
pub fn text_child_opt<C: Codec<T>, T>(node: Node<'_>, name: &str) -> Result<Option<T>, Error> {
    match node.child(name) {
        Some(child) => text_opt::<C, T>(child),
        None => Ok(None),
    }
}

/// Reads the text of a child that must be there.
///
/// # Errors
/// When it is absent or not of its type.
pub fn text_child_required<C: Codec<T>, T: Default>(node: Node<'_>, name: &str) -> Result<T, Error> {
    match text_child_opt::<C, T>(node, name)? {
        None if node.is_judged() => Ok(T::default()),
        value => value.ok_or_else(|| missing_element(node, name)),
    }
}

/// Reads the texts of all children of a name.
///
/// # Errors
/// When a text is not of its type.
pub fn text_children<C: Codec<T>, T>(node: Node<'_>, name: &str) -> Result<Vec<T>, Error> {
    let texts = node.children_named(name);
    texts.filter_map(|n| text_opt::<C, T>(n).transpose()).collect()
}

/// Reads the element's own text; no text counts as absent.
///
/// # Errors
/// When the text is not of its type.
pub fn text_opt<C: Codec<T>, T>(node: Node<'_>) -> Result<Option<T>, Error> {
    let text = node.text();
    if text.is_empty() {
        return Ok(None);
    }
    match C::parse(text) {
        Ok(value) => Ok(Some(value)),
        Err(_) if node.overlooks_text() => Ok(None),
        Err(_) if !C::WRONG.is_empty() => Err(Error::worded(C::WRONG, text)),
        Err(expected) => Err(bad_text(node, expected.0)),
    }
}

/// Reads the element's own text, which may be empty only if the type allows.
///
/// # Errors
/// When the text is not of its type.
pub fn text_required<C: Codec<T>, T: Default>(node: Node<'_>) -> Result<T, Error> {
    match C::parse(node.text()) {
        Ok(value) => Ok(value),
        Err(_) if node.overlooks_text() => Ok(T::default()),
        Err(_) if !C::WRONG.is_empty() => Err(Error::worded(C::WRONG, node.text())),
        Err(expected) => Err(bad_text(node, expected.0)),
    }
}

/// Reads the children that belong to a choice, in document order.
///
/// # Errors
/// Those of the children.
pub fn choices<T: XmlChoice>(node: Node<'_>) -> Result<Vec<T>, Error> {
    let all = node.children();
    all.filter_map(|n| T::read_choice(n).transpose()).collect()
}

/// Reads the first child that belongs to a choice.
///
/// # Errors
/// Those of the child.
pub fn choice_opt<T: XmlChoice>(node: Node<'_>) -> Result<Option<T>, Error> {
    let mut all = node.children();
    all.find_map(|n| T::read_choice(n).transpose()).transpose()
}

/// Reads a child that is kept as it is.
///
/// # Errors
/// Never; the document was checked when it became a tree.
pub fn raw(node: Node<'_>, name: &str) -> Result<Option<RawXml>, Error> {
    Ok(node.child(name).map(RawXml::of))
}

/// Writes an attribute if there is one.
pub fn write_attr_opt<C: Codec<T>, T>(w: &mut Writer, name: &str, value: Option<&T>) {
    if let Some(value) = value {
        w.attr::<C, T>(name, value);
    }
}

/// Writes an attribute unless it is the default.
pub fn write_attr_unless<C: Codec<T>, T: PartialEq>(w: &mut Writer, name: &str, value: &T, default: &T) {
    if value != default {
        w.attr::<C, T>(name, value);
    }
}

/// Whether a value is not the default.
pub fn differ<T: PartialEq>(value: &T, default: &T) -> bool {
    value != default
}

/// Writes a child that has one attribute.
pub fn write_via<C: Codec<T>, T>(w: &mut Writer, child: &str, name: &str, value: &T) {
    w.element_with(child, crate::Empty::Keep, |w| w.attr::<C, T>(name, value));
}

/// Writes elements of a choice.
pub fn write_choices<'a, T: XmlChoice + 'a>(w: &mut Writer, all: impl IntoIterator<Item = &'a T>) {
    for value in all {
        value.write_choice(w);
    }
}

fn missing_element(node: Node<'_>, name: &str) -> Error {
    let outer = node.name();
    Error::invalid(format!("missing element '{name}' in element '{outer}'"))
}

/// Replaces the error of an attribute by the field's own words.
///
/// # Errors
/// When the attribute is wrong.
pub fn attr_worded<T>(
    result: Result<T, Error>,
    node: Node<'_>,
    name: &str,
    template: &str,
) -> Result<T, Error> {
    result.map_err(|_| Error::worded(template, node.attr(name).unwrap_or_default()))
}

/// Replaces the error of a child's attribute by the field's own words.
///
/// # Errors
/// When the attribute is wrong.
pub fn via_worded<T>(
    result: Result<T, Error>,
    node: Node<'_>,
    child: &str,
    name: &str,
    template: &str,
) -> Result<T, Error> {
    result.map_err(|_| {
        let text = node.child(child).and_then(|c| c.attr(name));
        Error::worded(template, text.unwrap_or_default())
    })
}

/// Takes a wrong value as absent, but for a document in which nothing is to be overlooked.
///
/// # Errors
/// That of the value, in such a document.
pub fn lax<T>(node: Node<'_>, result: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if node.is_tracked() => Err(error),
        result => Ok(result.unwrap_or(None)),
    }
}

/// Whether an attribute is absent or empty.
#[must_use]
pub fn attr_blank(node: Option<Node<'_>>, name: &str) -> bool {
    !node.is_some_and(|n| n.has_value(name))
}

/// Whether a child is absent or has no text.
#[must_use]
pub fn child_blank(node: Option<Node<'_>>, name: &str) -> bool {
    let child = node.and_then(|n| n.child(name));
    child.is_none_or(|c| c.text().is_empty())
}

/// Replaces the error of a child's text by the field's own words.
///
/// # Errors
/// When the text is wrong.
pub fn text_child_worded<T>(
    result: Result<T, Error>,
    node: Node<'_>,
    name: &str,
    template: &str,
) -> Result<T, Error> {
    result.map_err(|_| {
        let text = node.child(name).map(Node::text);
        Error::worded(template, text.unwrap_or_default())
    })
}

/// Replaces the error of the element's own text by the field's own words.
///
/// # Errors
/// When the text is wrong.
pub fn text_worded<T>(result: Result<T, Error>, node: Node<'_>, _: &str, template: &str) -> Result<T, Error> {
    result.map_err(|_| Error::worded(template, node.text()))
}

/// The error for an attribute that must be there.
#[must_use]
pub fn missing_attr(node: Node<'_>, name: &str) -> Error {
    let element = node.name();
    Error::invalid(format!(
        "Missing required attribute '{name}' in element '{element}'"
    ))
    .in_area(Area::Xml)
}

/// The error for an attribute of the wrong type.
#[must_use]
pub fn bad_attr(node: Node<'_>, name: &str, expected: &str) -> Error {
    let value = node.attr(name).unwrap_or_default();
    let space = if expected.is_empty() { "" } else { " " };
    Error::invalid(format!(
        "Invalid value for attribute '{name}' in element '{}': '{value}'.{space}{expected}",
        node.name()
    ))
    .in_area(Area::Xml)
}

/// The error for a text of the wrong type.
#[must_use]
pub fn bad_text(node: Node<'_>, expected: &str) -> Error {
    let space = if expected.is_empty() { "" } else { " " };
    Error::invalid(format!(
        "Invalid value for element '{}': '{}'.{space}{expected}",
        node.name(),
        node.text()
    ))
    .in_area(Area::Xml)
}

/// Reads an attribute with its type's usual spelling.
///
/// # Errors
/// As [`attr_opt`].
pub fn attr<T: Value>(node: Node<'_>, name: &str) -> Result<Option<T>, Error> {
    attr_opt::<crate::codec::Plain, T>(node, name)
}
