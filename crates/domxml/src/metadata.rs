//! `<metadata>` by namespace: what the metadata calls get and set.
//!
//! Each program has one element, told from others by its namespace. An element can be set as
//! text of its own; it then gets the prefix that the caller asks for.

use xmlform::{RawNode, RawXml};

use crate::{Domain, Error};

impl Domain {
    /// The element of a namespace, as text of its own.
    #[must_use]
    pub fn metadata_element(&self, uri: &str) -> Option<String> {
        let metadata = self.metadata.as_ref()?;
        let mut elements = metadata.elements();
        let mut found = elements.find(|e| namespace(metadata, e) == Some(uri))?.clone();
        let prefix = found.name.split_once(':').map(|(prefix, _)| prefix.to_owned());
        let declaration = match &prefix {
            Some(prefix) => format!("xmlns:{prefix}"),
            None => "xmlns".to_owned(),
        };
        found.attrs.retain(|(name, _)| *name != declaration);
        if let Some(prefix) = prefix {
            rename(&mut found, &|name| {
                let (own, local) = name.split_once(':')?;
                (own == prefix).then(|| local.to_owned())
            });
        }
        Some(found.to_text(0))
    }

    /// Sets the element of a namespace, under a prefix; the old one goes.
    ///
    /// # Errors
    /// When the text is not one XML element.
    pub fn set_metadata_element(&mut self, text: &str, prefix: &str, uri: &str) -> Result<(), Error> {
        let mut element = RawXml::parse(text)?;
        rename(&mut element, &|name| {
            (!name.contains(':')).then(|| format!("{prefix}:{name}"))
        });
        let declaration = format!("xmlns:{prefix}");
        element.attrs.retain(|(name, _)| *name != declaration);
        element.attrs.insert(0, (declaration, uri.to_owned()));
        self.remove_metadata_element(uri);
        let metadata = self.metadata.get_or_insert_with(|| RawXml {
            name: "metadata".to_owned(),
            ..RawXml::default()
        });
        metadata.children.push(RawNode::Element(element));
        Ok(())
    }

    /// Removes the element of a namespace; says whether there was one.
    pub fn remove_metadata_element(&mut self, uri: &str) -> bool {
        let Some(metadata) = &mut self.metadata else {
            return false;
        };
        let outer = RawXml {
            attrs: metadata.attrs.clone(),
            ..RawXml::default()
        };
        let before = metadata.children.len();
        metadata.children.retain(|child| match child {
            RawNode::Element(element) => namespace(&outer, element) != Some(uri),
            _ => true,
        });
        let removed = metadata.children.len() < before;
        if metadata.children.is_empty() {
            self.metadata = None;
        }
        removed
    }

    /// Drops what may not be in `<metadata>`: all but the first element of each namespace,
    /// elements without one, and comments.
    pub fn sanitize_metadata(&mut self) {
        let Some(metadata) = &mut self.metadata else {
            return;
        };
        let outer = RawXml {
            attrs: metadata.attrs.clone(),
            ..RawXml::default()
        };
        let mut seen: Vec<String> = Vec::new();
        metadata.children.retain(|child| {
            let RawNode::Element(element) = child else {
                return false;
            };
            match namespace(&outer, element) {
                Some(uri) if !seen.iter().any(|s| s == uri) => {
                    seen.push(uri.to_owned());
                    true
                }
                _ => false,
            }
        });
    }
}

/// The namespace of an element, declared by itself or by the one around it.
fn namespace<'a>(outer: &'a RawXml, element: &'a RawXml) -> Option<&'a str> {
    element.namespace().or_else(|| {
        let (prefix, _) = element.name.split_once(':')?;
        outer.attr(&format!("xmlns:{prefix}"))
    })
}

/// Renames an element and all in it, where the closure has another name.
fn rename(element: &mut RawXml, new_name: &dyn Fn(&str) -> Option<String>) {
    if let Some(name) = new_name(&element.name) {
        element.name = name;
    }
    for child in &mut element.children {
        if let RawNode::Element(child) = child {
            rename(child, new_name);
        }
    }
}

#[cfg(test)]
mod tests {
    use xmlform::{FormatFlags, ParseFlags};

    use super::*;

    fn domain(metadata: &str) -> Domain {
        let text = format!("<domain type='qemu'><metadata{metadata}</metadata></domain>");
        Domain::parse(&text, ParseFlags::NONE).unwrap()
    }

    fn lines(domain: &Domain) -> Vec<String> {
        let text = domain.format(FormatFlags::NONE);
        let inside = text.lines().skip(2).map(|l| l.trim().to_owned());
        inside.take_while(|l| l != "</metadata>").collect()
    }

    #[test]
    fn one_element_of_each_namespace_stays() {
        let mut domain =
            domain(" xmlns:k='urn:k'><plain/><!-- c --><k:x/><a:a xmlns:a='urn:a'/><b xmlns='urn:a'/>");
        domain.sanitize_metadata();
        assert_eq!(lines(&domain), ["<k:x/>", "<a:a xmlns:a=\"urn:a\"/>"]);
    }

    #[test]
    fn an_element_is_set_under_a_prefix_and_read_without_it() {
        let mut domain = domain("><k:x xmlns:k='urn:k'/>");
        domain
            .set_metadata_element("<foo bar='1'><x/></foo>", "z", "urn:z")
            .unwrap();
        assert_eq!(
            lines(&domain)[1..],
            ["<z:foo xmlns:z=\"urn:z\" bar=\"1\">", "<z:x/>", "</z:foo>"]
        );
        let text = domain.metadata_element("urn:z").unwrap();
        assert_eq!(text, "<foo bar=\"1\">\n  <x/>\n</foo>");
        assert_eq!(domain.metadata_element("urn:k").unwrap(), "<x/>");
        assert!(domain.remove_metadata_element("urn:z"));
        assert!(domain.remove_metadata_element("urn:k"));
        assert!(domain.metadata.is_none() && !domain.remove_metadata_element("urn:k"));
    }
}
