//! Whatever a client sends: reading does not panic, and what was read is written so that it
//! reads the same again.

use domxml::devices::Devices;
use proptest::prelude::*;
use xmlform::{Document, FormatFlags, ParseFlags, Writer, Xml};

const LISTS: &[&str] = &[
    include_str!("data/devices/whole/q35.xml"),
    include_str!("data/devices/whole/every-family.xml"),
    include_str!("data/devices/running/live.xml"),
];

/// A change of a document's bytes at a place.
#[derive(Clone, Debug)]
enum Edit {
    Put(char),
    Cut(usize),
    Repeat(usize),
}

fn edit() -> impl Strategy<Value = (usize, Edit)> {
    let put = prop::sample::select(vec!['0', '-', '9', 'x', '\'', '<', '/', ' ', '.', 'é', '\u{1}']);
    let what = prop_oneof![
        put.prop_map(Edit::Put),
        (1..40_usize).prop_map(Edit::Cut),
        (1..40_usize).prop_map(Edit::Repeat),
    ];
    (any::<prop::sample::Index>(), what).prop_map(|(at, what)| (at.index(1 << 20), what))
}

fn edited(text: &str, edits: Vec<(usize, Edit)>) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (at, edit) in edits {
        let at = at % letters.len().max(1);
        let end = |length: usize| (at + length).min(letters.len());
        match edit {
            Edit::Put(letter) => letters[at] = letter,
            Edit::Cut(length) => drop(letters.drain(at..end(length))),
            Edit::Repeat(length) => {
                let piece = letters[at..end(length)].to_vec();
                letters.splice(at..at, piece);
            }
        }
    }
    letters.into_iter().collect()
}

fn read(text: &str) -> Option<Devices> {
    let document = Document::parse(text, &[], ParseFlags::NONE).ok()?;
    Devices::read(document.root()).ok()
}

fn written(list: &Devices) -> String {
    let mut writer = Writer::new(FormatFlags::SECURE);
    writer.element("devices", list);
    writer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_edited_list_is_refused_or_survives_being_written(
        list in prop::sample::select(LISTS),
        edits in prop::collection::vec(edit(), 1..3),
    ) {
        if let Some(mut devices) = read(&edited(list, edits)) {
            let text = written(&devices);
            let again = read(&text).map(|again| written(&again));
            prop_assert_eq!(again.as_ref(), Some(&text));
            devices.show_actual();
            devices.drop_runtime();
            prop_assert!(read(&written(&devices)).is_some());
        }
    }
}
