//! The snapshots of a guest as lists show them: a tree by names, one of them current. Pure.
//!
//! A view has what lists, filters and checks need and no more; the documents stay in their files and are read when
//! somebody asks for one. A change brings the new text of each file that it touches as a draft: the files are written
//! with the commit ([`super::store`]), and then the drafts go. The last few documents that were shown are kept. Whatever the files say, the tree has no loop.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use domxml::moment::{SnapshotState, Summary};

use crate::events::model::{MomentType as Type, event::MomentChange};

/// A snapshot in lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Box<str>,
    /// The one before it.
    pub parent: Option<Box<str>>,
    /// What the guest did.
    pub state: SnapshotState,
    /// Seconds since 1970.
    pub created: i64,
    /// Some of it is in files of its own.
    pub external: bool,
    /// What its file is to hold, until it does.
    pub draft: Option<Arc<str>>,
}

/// The snapshots of one guest.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// By name.
    all: Vec<Entry>,
    current: Option<Box<str>>,
    /// The way through the tree, once somebody has asked for it; a change begins without one.
    walk: OnceLock<Walk>,
    /// Documents that clients were shown lately; a change begins without them.
    shown: Shown,
}

/// The last documents of a tree that clients were shown, by name; a copy of the tree has none.
#[derive(Debug, Default)]
struct Shown(Mutex<VecDeque<(Box<str>, Arc<str>)>>);

/// How many documents that were shown are kept of a guest.
const SHOWN: usize = 32;
/// The longest one that is kept, bytes.
const SHOWN_MAX: usize = 16 << 10;

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Shown {
    fn all(&self) -> MutexGuard<'_, VecDeque<(Box<str>, Arc<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Snapshots {
    fn eq(&self, other: &Self) -> bool {
        (&self.all, &self.current) == (&other.all, &other.current)
    }
}

impl Eq for Snapshots {}

/// Which part of a tree is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All.
    All,
    /// Those without a parent.
    Roots,
    /// Those right after this one.
    Children(&'a str),
    /// All after this one.
    Descendants(&'a str),
}

/// Which of them are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whether nothing follows it.
    pub leaf: Option<bool>,
    /// Whether some of it is in files of its own.
    pub external: Option<bool>,
}

/// Something odd about the files of a guest's snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// Two are said to be current: this one counts no more.
    AlsoCurrent(Box<str>),
    /// Its parent is not there, or comes after it: it has none now.
    Orphan(Box<str>),
    /// Another file has the same name: it is left out.
    Twice(Box<str>),
}

impl Entry {
    /// What lists show of a document.
    pub fn of(summary: Summary) -> Self {
        Self {
            name: summary.name.into(),
            parent: summary.parent.map(Into::into),
            state: summary.state,
            created: summary.created,
            external: summary.external,
            draft: None,
        }
    }
}

impl Snapshots {
    /// The tree of what files tell, and what is odd about them. As in libvirt none is current then that might not be.
    pub fn found(summaries: Vec<Summary>) -> (Self, Vec<Oddity>) {
        let mut odd = Vec::new();
        let mut tree = Self::default();
        for summary in summaries {
            let current = summary.current;
            let entry = Entry::of(summary);
            if tree.get(&entry.name).is_some() {
                odd.push(Oddity::Twice(entry.name));
                continue;
            }
            if current && let Some(former) = tree.current.replace(entry.name.clone()) {
                odd.push(Oddity::AlsoCurrent(former));
            }
            tree.put(entry);
        }
        let cut = tree.cut_loose();
        if !cut.is_empty() {
            tree.current = None;
        }
        odd.extend(cut.into_iter().map(Oddity::Orphan));
        (tree, odd)
    }

    /// Makes those roots whose parent is not there, and one of each loop. Answers their names.
    fn cut_loose(&mut self) -> Vec<Box<str>> {
        let mut cut = Vec::new();
        for at in 0..self.all.len() {
            let parent = self.all[at].parent.as_deref();
            if parent.is_some_and(|parent| self.position(parent).is_err()) {
                self.forget_derived();
                self.all[at].parent = None;
                cut.push(self.all[at].name.clone());
            }
        }
        // Who is not below a root is in a loop, or below one.
        loop {
            let below_roots = self.list(Part::All, Filter::default());
            let reached: HashSet<&str> = below_roots.iter().map(|entry| &*entry.name).collect();
            let Some(lost) = self.all.iter().find(|entry| !reached.contains(&*entry.name)) else {
                return cut;
            };
            // Far enough up there is only the loop.
            let name = self.ancestors(&lost.name).last().map(|entry| entry.name.clone());
            let Some(at) = name.as_deref().and_then(|name| self.position(name).ok()) else {
                return cut;
            };
            self.forget_derived();
            self.all[at].parent = None;
            cut.extend(name);
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.all.binary_search_by(|entry| (*entry.name).cmp(name))
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.position(name).ok().map(|at| &self.all[at])
    }

    /// The one that the guest's present state follows from.
    pub fn current(&self) -> Option<&Entry> {
        self.get(self.current.as_deref()?)
    }

    /// Makes the one current that nothing comes after, if there is one alone: files of checkpoints do not say it.
    pub fn make_only_leaf_current(&mut self) {
        let leaves = Filter {
            leaf: Some(true),
            ..Filter::default()
        };
        let only = match self.list(Part::All, leaves).as_slice() {
            [only] => Some(only.name.clone()),
            _ => None,
        };
        self.current = only;
    }

    /// All, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those before it, the nearest first.
    pub fn ancestors<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Entry> {
        let above = |entry: &&'a Entry| self.get(entry.parent.as_deref()?);
        let first = self.get(name).as_ref().and_then(above);
        // A loop of files is walked once.
        std::iter::successors(first, above).take(self.all.len())
    }

    /// Those of a part that are meant, parents before their children, and siblings by name.
    pub fn list(&self, part: Part<'_>, filter: Filter) -> Vec<&Entry> {
        let walk = self.walk();
        let mut below = HashSet::new();
        let mut is_in = |entry: &Entry| match part {
            Part::All => true,
            Part::Roots => entry.parent.is_none(),
            Part::Children(name) => entry.parent.as_deref() == Some(name),
            // Parents come first: whoever is below is known when those below it come.
            Part::Descendants(name) => {
                let parent = entry.parent.as_deref();
                let is_below = parent.is_some_and(|parent| parent == name || below.contains(parent));
                is_below && below.insert(entry.name.to_string())
            }
        };
        let meant = |at: usize| {
            let entry = &self.all[at];
            filter.external.is_none_or(|external| external == entry.external)
                && filter.leaf.is_none_or(|leaf| leaf != walk.has_children[at])
        };
        let ways = walk.order.iter().copied();
        ways.filter(|at| is_in(&self.all[*at]))
            .filter(|at| meant(*at))
            .map(|at| &self.all[at])
            .collect()
    }

    /// Whether nothing comes after it.
    pub fn is_leaf(&self, name: &str) -> bool {
        self.position(name).is_ok_and(|at| !self.walk().has_children[at])
    }

    /// The document of one, without secrets, if it was shown lately.
    pub fn shown(&self, name: &str) -> Option<Arc<str>> {
        let shown = self.shown.all();
        let found = shown.iter().find(|(its, _)| **its == *name);
        found.map(|(_, text)| Arc::clone(text))
    }

    /// Keeps the document of one, without secrets, for those who ask for it again.
    pub fn note_shown(&self, name: &str, text: &str) {
        if text.len() > SHOWN_MAX || self.shown(name).is_some() {
            return;
        }
        let mut shown = self.shown.all();
        if shown.len() == SHOWN {
            shown.pop_front();
        }
        shown.push_back((name.into(), text.into()));
    }

    fn forget_derived(&mut self) {
        self.walk.take();
        self.shown = Shown::default();
    }

    fn walk(&self) -> &Walk {
        self.walk.get_or_init(|| Walk::through(self))
    }

    /// Those right after it, by name.
    pub fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.all
            .iter()
            .filter(move |entry| entry.parent.as_deref() == Some(name))
    }

    /// Adds one, or puts it in the place of the one of its name.
    pub fn put(&mut self, entry: Entry) {
        self.forget_derived();
        match self.position(&entry.name) {
            Ok(at) => self.all[at] = entry,
            Err(at) => self.all.insert(at, entry),
        }
    }

    /// Takes one away. Those after it keep its name as their parent: the caller gives them another.
    pub fn remove(&mut self, name: &str) {
        self.forget_derived();
        if let Ok(at) = self.position(name) {
            self.all.remove(at);
        }
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
    }

    /// Says which one the guest's present state follows from.
    pub fn set_current(&mut self, name: Option<&str>) {
        self.current = name.filter(|name| self.get(name).is_some()).map(Into::into);
    }

    /// What has become of those that were there, and which are new; by name, what is gone first.
    pub fn changes_since(&self, before: &Self) -> Vec<MomentChange> {
        let gone = before.all.iter().filter(|entry| self.get(&entry.name).is_none());
        let gone = gone.map(|entry| MomentChange {
            r#type: Type::Deleted.into(),
            name: entry.name.to_string(),
            ..MomentChange::default()
        });
        let here = self.all.iter().filter_map(|entry| {
            let current = self.is_current(entry);
            let r#type = match before.get(&entry.name) {
                None => Type::Created,
                Some(former) if former != entry || before.is_current(former) != current => Type::Changed,
                Some(_) => return None,
            };
            Some(MomentChange {
                r#type: r#type.into(),
                name: entry.name.to_string(),
                parent: entry.parent.as_deref().unwrap_or_default().to_owned(),
                current,
            })
        });
        gone.chain(here).collect()
    }

    fn is_current(&self, entry: &Entry) -> bool {
        self.current.as_ref() == Some(&entry.name)
    }

    /// The same without drafts; none if there are none.
    pub(super) fn settled(&self) -> Option<Self> {
        let has_drafts = self.all.iter().any(|entry| entry.draft.is_some());
        has_drafts.then(|| {
            let mut settled = self.clone();
            settled.all.iter_mut().for_each(|entry| entry.draft = None);
            settled
        })
    }
}

/// The way through a whole tree. Numbers are places in the list by name.
#[derive(Clone, Debug)]
struct Walk {
    /// Parents before their children, siblings by name.
    order: Vec<usize>,
    /// By place: whether something comes after it.
    has_children: Vec<bool>,
}

impl Walk {
    fn through(tree: &Snapshots) -> Self {
        let place = |name: &str| tree.position(name).ok();
        // By parent, then by name.
        let mut links: Vec<(usize, usize)> = Vec::new();
        let mut order = Vec::with_capacity(tree.all.len());
        let mut has_children = vec![false; tree.all.len()];
        for (at, entry) in tree.all.iter().enumerate() {
            match entry.parent.as_deref().map(place) {
                None => order.push(at),
                Some(Some(parent)) => links.push((parent, at)),
                // Its parent is being taken away: it is nowhere until it has another.
                Some(None) => {}
            }
        }
        links.sort_unstable();
        let mut next = 0;
        while let Some(at) = order.get(next).copied() {
            next += 1;
            let from = links.partition_point(|(parent, _)| *parent < at);
            let after = links[from..].iter().take_while(|(parent, _)| *parent == at);
            order.extend(after.map(|(_, child)| *child));
        }
        for (parent, _) in &links {
            has_children[*parent] = true;
        }
        Self { order, has_children }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(name: &str, parent: &str, current: bool) -> Summary {
        Summary {
            name: name.to_owned(),
            parent: Some(parent.to_owned()).filter(|p| !p.is_empty()),
            state: SnapshotState::Shutoff,
            current,
            ..Summary::default()
        }
    }

    fn names(found: &[&Entry]) -> String {
        found
            .iter()
            .map(|entry| &*entry.name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_last_documents_are_kept_until_the_tree_changes() {
        let (mut tree, _) = Snapshots::found(vec![summary("a", "", false)]);
        tree.note_shown("a", "first");
        tree.note_shown("a", "second");
        assert_eq!(tree.shown("a").as_deref(), Some("first"));
        assert_eq!(tree.clone().shown("a"), None);
        tree.note_shown("long", &"x".repeat(SHOWN_MAX + 1));
        assert_eq!(tree.shown("long"), None);
        for other in 1..SHOWN {
            tree.note_shown(&other.to_string(), "");
        }
        assert!(tree.shown("a").is_some());
        tree.note_shown("last", "");
        assert_eq!((tree.shown("a"), tree.shown("1").as_deref()), (None, Some("")));
        tree.put(Entry::of(summary("a", "", true)));
        assert_eq!(tree.shown("last"), None);
    }

    #[test]
    fn what_became_of_a_tree_is_found_by_comparing() {
        let tree = |links: &[(&str, &str)], current: &str| {
            let summaries = links
                .iter()
                .map(|(name, parent)| summary(name, parent, *name == current));
            Snapshots::found(summaries.collect()).0
        };
        let changes = |before: &Snapshots, after: &Snapshots| {
            let line = |c: MomentChange| format!("{:?} {}<{} {}", c.r#type(), c.name, c.parent, c.current);
            after
                .changes_since(before)
                .into_iter()
                .map(line)
                .collect::<Vec<_>>()
        };
        let chain = tree(&[("a", ""), ("b", "a"), ("c", "b")], "c");
        let none = Snapshots::default();
        assert!(changes(&chain, &chain.clone()).is_empty());
        assert_eq!(
            changes(&none, &chain),
            ["Created a< false", "Created b<a false", "Created c<b true"]
        );
        let cut = tree(&[("a", ""), ("c", "a")], "a");
        assert_eq!(
            changes(&chain, &cut),
            ["Deleted b< false", "Changed a< true", "Changed c<a false"]
        );
        let mut anew = chain.clone();
        let mut entry = anew.get("b").unwrap().clone();
        entry.draft = Some("<other/>".into());
        anew.put(entry);
        assert_eq!(changes(&chain, &anew), ["Changed b<a false"]);
    }

    #[test]
    fn parts_of_a_tree() {
        let links = [("d", "b"), ("b", "a"), ("a", ""), ("c", "a"), ("x", "")];
        let (tree, odd) = Snapshots::found(links.map(|(n, p)| summary(n, p, n == "d")).to_vec());
        assert_eq!(odd, []);
        let list = |part, leaf| {
            let filter = Filter {
                leaf,
                ..Filter::default()
            };
            names(&tree.list(part, filter))
        };
        assert_eq!(list(Part::All, None), "a x b c d");
        assert_eq!(list(Part::Roots, None), "a x");
        assert_eq!(list(Part::Roots, Some(false)), "a");
        assert_eq!(list(Part::All, Some(true)), "x c d");
        assert_eq!(list(Part::Children("a"), None), "b c");
        assert_eq!(list(Part::Descendants("a"), None), "b c d");
        assert_eq!(list(Part::Descendants("d"), None), "");
        assert_eq!(names(&tree.ancestors("d").collect::<Vec<_>>()), "b a");
        assert_eq!(tree.current().map(|e| &*e.name), Some("d"));
    }

    #[test]
    fn odd_files_are_told_of() {
        let files = [
            summary("a", "lost", true),
            summary("a", "", false),
            summary("b", "a", true),
            summary("l", "m", false),
            summary("m", "l", false),
            summary("n", "m", false),
        ];
        let (tree, odd) = Snapshots::found(files.to_vec());
        assert_eq!(
            odd,
            [
                Oddity::Twice("a".into()),
                Oddity::AlsoCurrent("a".into()),
                Oddity::Orphan("a".into()),
                Oddity::Orphan("m".into()),
            ]
        );
        assert_eq!(tree.current(), None);
        assert_eq!(names(&tree.list(Part::All, Filter::default())), "a m b l n");
    }

    proptest! {
        /// Whatever the files say, each is listed once, after its parent, and whoever is not a leaf has children.
        #[test]
        fn any_files_make_a_tree(links in proptest::collection::vec((0_u8..20, 0_u8..22, any::<bool>()), 0..30)) {
            let files = links.iter().map(|(name, parent, current)| {
                let parent = if *parent == 21 { String::new() } else { format!("n{parent}") };
                summary(&format!("n{name}"), &parent, *current)
            });
            let (tree, _) = Snapshots::found(files.collect());
            let all = tree.list(Part::All, Filter::default());
            prop_assert_eq!(all.len(), tree.len());
            for (at, entry) in all.iter().enumerate() {
                if let Some(parent) = entry.parent.as_deref() {
                    prop_assert!(all[..at].iter().any(|e| *e.name == *parent));
                }
                let leaf = tree.children(&entry.name).next().is_none();
                let leaves = Filter { leaf: Some(true), ..Filter::default() };
                prop_assert_eq!(leaf, tree.list(Part::All, leaves).contains(entry));
                let below = tree.list(Part::Descendants(&entry.name), Filter::default());
                prop_assert_eq!(
                    below.len(),
                    all.iter().filter(|e| tree.ancestors(&e.name).any(|a| a.name == entry.name)).count()
                );
            }
        }
    }
}
