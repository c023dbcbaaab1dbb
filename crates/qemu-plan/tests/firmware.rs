//! Which firmware a guest gets: documents that ask for some, on hosts whose descriptors are odd in all kinds of ways, and
//! what libvirt makes of them.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::BTreeMap;

use domxml::FormatFlags;
use qemu_plan::postparse::Firmware;
use serde::Deserialize;

const SETS: &str = include_str!("data/firmware/sets.json");

#[derive(Deserialize)]
struct Sets {
    /// The `os` element, by name.
    documents: serde_json::Map<String, serde_json::Value>,
    sets: BTreeMap<String, Set>,
    texts: Vec<String>,
}

#[derive(Deserialize)]
struct Set {
    /// In their files' order.
    descriptors: Vec<String>,
    /// For each document, which of the texts.
    results: Vec<usize>,
}

fn document(os: &str) -> String {
    format!(
        "<domain type='qemu'><name>fw</name><memory>65536</memory>{os}<features><acpi/></features>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>"
    )
}

/// Elements `os` and `features`, or code and message.
fn outcome(os: &str, firmware: &[Firmware]) -> String {
    match support::define_with(&document(os), firmware.to_vec()) {
        Ok(domain) => {
            let text = domain.format(FormatFlags::INACTIVE);
            let element = |name: &str| {
                let (from, to) = (
                    text.find(&format!("<{name}")).unwrap(),
                    text.find(&format!("</{name}>")).unwrap(),
                );
                text[from..to + name.len() + 3].to_owned()
            };
            format!("{}\n{}", element("os"), element("features"))
        }
        Err((code, _, message)) => format!("{code} {message}"),
    }
}

#[test]
fn guests_get_the_firmware_that_libvirt_gives_them() {
    let all: Sets = serde_json::from_str(SETS).unwrap();
    let (mut checked, mut differing) = (0, Vec::new());
    for (name, set) in &all.sets {
        let firmware: Vec<Firmware> = set
            .descriptors
            .iter()
            .filter_map(|text| Firmware::parse(text))
            .collect();
        for ((document, os), wanted) in all.documents.iter().zip(&set.results) {
            let (got, wanted) = (outcome(os.as_str().unwrap(), &firmware), &all.texts[*wanted]);
            // Errors have their class's prefix on the way to a client.
            let same = got == *wanted
                || (!got.starts_with('<')
                    && !wanted.starts_with('<')
                    && wanted.ends_with(&got[got.find(' ').unwrap() + 1..]));
            if !same {
                differing.push(format!("{name}, {document}:\n{wanted}\n{got}"));
            }
            checked += 1;
        }
    }
    assert!(
        differing.is_empty(),
        "{} of {checked}:\n{}",
        differing.len(),
        differing.join("\n")
    );
    assert!(checked > 1500);
}
