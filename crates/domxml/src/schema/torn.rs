//! What libxml2 refuses although the schema allows it.
//!
//! Of children that come in any order it makes a list for each group, by their links to the next sibling. A group that is
//! such a mixture itself sets the links between its first and its last member back when it is done, and so tears the lists
//! of groups that come after it: a member of these is followed by its sibling in the document then, which is taken for one
//! too many where it is none of the group.

use xmlform::Node;

/// Groups of a domain's children that are mixtures of several elements, in the schema's order. The last is none, but has
/// several members, too.
// table
const GROUPS: [&[&str]; 3] = [
    &[
        "memory",
        "maxMemory",
        "currentMemory",
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "defaultiothread",
        "blkiotune",
        "memtune",
        "cputune",
        "numatune",
        "resource",
    ],
    &["on_reboot", "on_poweroff", "on_crash", "on_lockfailure"],
    &["seclabel"],
];

/// The first child that libxml2 takes for one too many.
pub(super) fn torn<'d>(root: Node<'d>) -> Option<&'d str> {
    let names: Vec<&str> = root.children().map(Node::name).collect();
    let places = |group: &[&str]| -> Vec<usize> {
        (0..names.len())
            .filter(|at| group.contains(&names[*at]))
            .collect()
    };
    for later in 1..GROUPS.len() {
        let list = places(GROUPS[later]);
        for earlier in &GROUPS[..later] {
            let tearing = places(earlier);
            let (Some(first), Some(last)) = (tearing.first(), tearing.last()) else {
                continue;
            };
            let linked = list.iter().take(list.len().saturating_sub(1));
            let torn = linked
                .filter(|at| (first..last).contains(at))
                .map(|at| names[at + 1]);
            if let Some(name) = torn.into_iter().find(|name| !GROUPS[later].contains(name)) {
                return Some(name);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use xmlform::{Document, ParseFlags};

    use super::*;

    /// What libxml2 2.9.14 says of children in these orders: m, c, v are resources, p, r, x events, o is neither.
    #[test]
    fn lists_are_torn_as_libxml2_tears_them() {
        let name = |letter| match letter {
            'm' => "memory",
            'c' => "currentMemory",
            'v' => "vcpu",
            'p' => "on_poweroff",
            'r' => "on_reboot",
            'x' => "on_crash",
            _ => "os",
        };
        for (order, too_many) in [
            ("mcpvr", Some("vcpu")),
            ("mpcrv", Some("currentMemory")),
            ("pmr", None),
            ("pmcr", None),
            ("pmrc", None),
            ("mprc", None),
            ("mcvprx", None),
            ("prxmcv", None),
            ("mpvrxc", Some("vcpu")),
            ("pmrvx", Some("vcpu")),
            ("pmvrxc", None),
            ("povmr", None),
            ("mopvr", Some("vcpu")),
            ("mpovr", Some("os")),
            ("vrcmp", Some("currentMemory")),
            ("mrpxvc", None),
            ("cxvm", None),
        ] {
            let children: String = order
                .chars()
                .map(|letter| format!("<{}/>", name(letter)))
                .collect();
            let text = format!("<domain>{children}</domain>");
            let document = Document::parse(&text, &[], ParseFlags::NONE).unwrap();
            assert_eq!(torn(document.root()), too_many, "{order}");
        }
    }
}
