//! Whether a document fits the schema: nothing in it that no type knows, every value in its form.
//!
//! Reading is lenient ([`Domain::parse`]); whoever asks for validation wants to be told of what
//! reading drops. Where libvirt's files of schema are installed they decide ([`Domain::check_grammar`]); where they are not,
//! the types are the schema; what they do not say is in [`RULES`].

mod form;
mod grammar;
mod rules;
mod torn;

pub use grammar::Grammar;

use xmlform::{Document, ErrorKind, Namespace, Node, ParseFlags, Xml};

use crate::capabilities::HostCpu;
use crate::cpu::Cpu;
use crate::error::Kind;
use crate::qemu::NAMESPACE;
use crate::{Area, CpuDocument, Domain, Error};
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
    Namespace {
        uri: "http://libvirt.org/schemas/domain/vmware/1.0",
        prefix: "vmware",
    },
];

/// Elements that no type reads and that may be there all the same: what other hypervisors have,
/// and what only repeats. By the elements around them, from the root's children.
const OF_OTHERS: &[&[&str]] = &[
    &["lxc:namespace"],
    &["xen:commandline"],
    &["bhyve:commandline"],
    &["vmware:datacenterpath"],
    &["os", "init"],
    &["os", "initarg"],
    &["os", "initenv"],
    &["os", "initdir"],
    &["os", "inituser"],
    &["os", "initgroup"],
    &["features", "capabilities"],
    &["features", "privnet"],
    &["sysinfo", "bios", "entry"],
    &["sysinfo", "system", "entry"],
    &["sysinfo", "baseBoard", "entry"],
    &["sysinfo", "chassis", "entry"],
    &["launchSecurity", "handle"],
    &["devices", "serial", "@tty"],
    &["devices", "parallel", "@tty"],
    &["devices", "channel", "@tty"],
    &["devices", "smartcard", "target"],
    &["devices", "interface", "source", "vendor"],
    &["devices", "interface", "source", "product"],
    &["devices", "hostdev", "source", "adapter", "@type"],
    &["devices", "hostdev", "source", "adapter", "@parent"],
    &["devices", "hostdev", "source", "adapter", "@parent_wwnn"],
    &["devices", "hostdev", "source", "adapter", "@parent_wwpn"],
    &["devices", "hostdev", "source", "adapter", "@parent_fabric_wwn"],
];

impl Domain {
    /// Checks a document against a schema; one that is too intricate for it by the types.
    ///
    /// # Errors
    /// As [`Self::check_schema`].
    pub fn check_grammar(text: &str, grammar: &Grammar) -> Result<(), Error> {
        let document = Document::parse(text, NAMESPACES, ParseFlags::NONE)?;
        let root = rooted(&document)?;
        match grammar.check(root) {
            Ok(()) => match torn::torn(root) {
                Some(name) => Err(misfit(format!("Extra element {name} in interleave"))),
                None => Ok(()),
            },
            Err(grammar::Misfit::At(place)) => Err(misfit(place)),
            Err(grammar::Misfit::Intricate) => Self::check_schema(text),
        }
    }

    /// Checks a document by the types, as callers who ask for validation want it.
    ///
    /// # Errors
    /// `XmlInvalidSchema` with the path of what is not known, not of its form, or missing;
    /// `XmlDetail` when it is not XML.
    pub fn check_schema(text: &str) -> Result<(), Error> {
        let mut document = Document::parse(text, NAMESPACES, ParseFlags::NONE)?;
        document.track();
        let root = rooted(&document)?;
        check(root)?;
        if !is_read::<Self>(root)? {
            return Ok(());
        }
        OF_OTHERS.iter().for_each(|path| keep(root, path));
        nothing_unread(&document)?;
        match Self::given(text) {
            Err(error) if is_of_form(&error) => Err(misfit(error.message)),
            _ => Ok(()),
        }
    }
}

/// The root of a guest's document.
fn rooted<'d>(document: &'d Document<'_>) -> Result<Node<'d>, Error> {
    let root = document.root();
    if !root.is("domain") {
        let found = root.name();
        let message = format!("expecting root element of 'domain', not '{found}'");
        return Err(Error::xml(message).in_area(Area::Xml));
    }
    Ok(root)
}

/// Whether a document is refused for the form of a value alone, which no schema takes either: a word that is none, a number, a
/// unit, a list or an address that can't be read. What does not go together is not the schema's.
fn is_of_form(error: &Error) -> bool {
    match error.area {
        Area::Xml | Area::Network | Area::Storage | Area::Device => true,
        Area::None if error.kind == Kind::InvalidArg => is_bad_argument(&error.message),
        Area::None => error.kind == Kind::Xml,
        Area::Domain => {
            let word = error.message.starts_with("unknown ") || error.message.starts_with("Unknown ");
            error.kind == Kind::Unsupported && word
        }
        _ => false,
    }
}

/// Checks another document than a guest's against its schema.
///
/// # Errors
/// `XmlInvalidSchema` with the place that does not fit; `XmlDetail` when it is not XML.
pub(crate) fn check_other(text: &str, grammar: &Grammar) -> Result<(), Error> {
    let document = Document::parse(text, NAMESPACES, ParseFlags::NONE)?;
    match grammar.check(document.root()) {
        Err(grammar::Misfit::At(place)) => Err(misfit(place)),
        // What the schema is too intricate for is left to who reads it.
        Ok(()) | Err(grammar::Misfit::Intricate) => Ok(()),
    }
}

impl CpuDocument {
    /// Checks a CPU's document as callers who ask for validation want it. `is_arch` knows libvirt's architectures.
    ///
    /// # Errors
    /// `XmlInvalidSchema` with the path of what is not known, not of its form, or missing;
    /// `XmlDetail` when it is not XML; `Xml` when it is none of a CPU.
    pub fn check_schema(text: &str, is_arch: fn(&str) -> bool) -> Result<(), Error> {
        let mut document = Document::parse(text, &[], ParseFlags::NONE)?;
        document.track();
        let root = document.root();
        let root = Self::root(root)?;
        let Some(arch) = root.child("arch") else {
            check(root)?;
            return if is_read::<Cpu>(root)? {
                nothing_unread(&document)
            } else {
                Ok(())
            };
        };
        if !is_arch(arch.text().trim()) {
            return Err(misfit(format!("{} is no architecture", arch.path())));
        }
        let plain = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if let Some(odd) = root
            .children_named("feature")
            .find(|f| !f.attr("name").is_some_and(plain))
        {
            return Err(misfit(format!("{} has no name of a feature", odd.path())));
        }
        if is_read::<HostCpu>(root)? {
            nothing_unread(&document)
        } else {
            Ok(())
        }
    }
}

/// Whether it can be read: not if its form is right and it makes no sense, which is told when it is read for use.
fn is_read<T: Xml>(root: Node<'_>) -> Result<bool, Error> {
    match T::read(root) {
        Ok(_) => Ok(true),
        Err(e) if e.kind == ErrorKind::Overflow => Ok(false),
        Err(e) if e.kind == ErrorKind::InvalidArgument && !is_bad_argument(&e.message) => Ok(false),
        Err(e) => Err(misfit(e.message)),
    }
}

/// Whether an argument has a wrong form: not so a list of numbers whose ranges go backwards.
fn is_bad_argument(message: &str) -> bool {
    let list = message
        .strip_prefix("Failed to parse bitmap '")
        .map(|rest| rest.trim_end_matches('\''));
    let numbers = |list: &str| list.bytes().all(|b| b.is_ascii_digit() || b",-^".contains(&b));
    !list.is_some_and(|list| !list.is_empty() && numbers(list))
}

fn nothing_unread(document: &Document<'_>) -> Result<(), Error> {
    match document.unread().first() {
        Some(unread) => Err(misfit(format!("{} is not known there", unread.path()))),
        None => Ok(()),
    }
}

/// Takes as read what is at the end of a path.
fn keep(node: Node<'_>, path: &[&str]) {
    match path.split_first() {
        None => node.keep(),
        Some((name, _)) if name.starts_with('@') => {
            let _ = node.attr(name.trim_start_matches('@'));
        }
        Some((name, rest)) => node.children_named(name).for_each(|child| keep(child, rest)),
    }
}

/// Checks an element and all in it by the rules. Depth is bounded by that of documents.
fn check(node: Node<'_>) -> Result<(), Error> {
    // Other programs' own.
    if node.qualified_name() == "metadata" {
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
