//! A document from a client or a file: read, and every element of it visited.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xmlform::{Document, Node, ParseFlags};

fn visit(node: Node<'_>) -> usize {
    let attrs: usize = node.attrs().map(|(name, value)| name.len() + value.len()).sum();
    let mut open = vec![node];
    let mut seen = attrs;
    while let Some(node) = open.pop() {
        seen += node.name().len() + node.text().len() + node.source().len();
        open.extend(node.children());
    }
    seen
}

fuzz_target!(|text: &str| {
    if let Ok(document) = Document::parse(text, &[], ParseFlags::NONE) {
        let _ = visit(document.root());
    }
});
