//! Whether a document fits the schema: nothing in it that no type knows, every value in its form.
//!
//! Reading is lenient ([`Domain::parse`]); whoever asks for validation wants to be told of what
//! reading drops. The types are the schema; what they do not say is in [`RULES`].

mod form;
mod rules;

use xmlform::{Document, Namespace, Node, ParseFlags, Xml};

use crate::error::Kind;
use crate::qemu::NAMESPACE;
use crate::{Domain, Error};
use rules::RULES;

/// Namespaces whose elements are allowed in a domain, whoever they are for.
const NAMESPACES: &[Namespace] = &[
    NAMESPACE,
    Namespace {
        uri: "http://libvirt.org/schemas/domain/lxc/1.0",
        prefix: "lxc",
    },
    Namespace {
        uri: "http://libvirt.org/schemas/domain/xen/1.0",
        prefix: "xen",
    },
    Namespace {
        uri: "http://libvirt.org/schemas/domain/bhyve/1.0",
        prefix: "bhyve",
    },
];

/// Elements of a domain that other hypervisors have.
const OF_OTHERS: &[&str] = &["lxc:namespace", "xen:commandline", "bhyve:commandline"];

impl Domain {
    /// Checks a document as callers who ask for validation want it.
    ///
    /// # Errors
    /// `XmlInvalidSchema` with the path of what is not known, not of its form, or missing;
    /// `XmlDetail` when it is not XML.
    pub fn check_schema(text: &str) -> Result<(), Error> {
        let mut document = Document::parse(text, NAMESPACES, ParseFlags::NONE)?;
        document.track();
        let root = document.root();
        if !root.is("domain") {
            let found = root.name();
            let message = format!("expecting root element of 'domain', not '{found}'");
            return Err(Error::xml(message));
        }
        Self::read(root).map_err(|e| misfit(e.message))?;
        for name in OF_OTHERS {
            root.children_named(name).for_each(Node::keep);
        }
        if let Some(unread) = document.unread().first() {
            return Err(misfit(format!("{} is not known there", unread.path())));
        }
        check(root)
    }
}

/// Checks an element and all in it by the rules. Depth is bounded by that of documents.
fn check(node: Node<'_>) -> Result<(), Error> {
    if node.is_kept() {
        return Ok(());
    }
    if default_of(node).is_some_and(|uri| NAMESPACES.iter().all(|n| n.uri != uri)) {
        let message = format!("{} is of an unknown namespace", node.path());
        return Err(misfit(message));
    }
    for rule in RULES.iter().filter(|rule| rule.is_for(node)) {
        if let Err(what) = rule.check(node) {
            return Err(misfit(format!("{}{what}", node.path())));
        }
    }
    node.children().try_for_each(check)
}

/// What the element's names without prefix belong to, if it says so.
fn default_of(node: Node<'_>) -> Option<&str> {
    let mut attrs = node.attrs();
    let uri = attrs.find(|(n, _)| *n == "xmlns").map(|(_, uri)| uri);
    uri.filter(|uri| !uri.is_empty())
}

fn misfit(message: String) -> Error {
    Error::new(Kind::XmlInvalidSchema, message)
}
