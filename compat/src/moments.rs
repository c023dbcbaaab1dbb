//! The tree that the snapshots of a guest make, or its checkpoints, and who is chosen of it by flags. Pure.

/// A snapshot or a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) name: String,
    /// Name of the one before it; empty: none.
    pub(crate) parent: String,
    pub(crate) current: bool,
}

/// Those of one guest.
#[derive(Debug)]
pub(crate) struct Tree(pub(crate) Vec<Moment>);

/// Which part of a tree is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// All.
    All,
    /// Those without a parent.
    Roots,
    /// Those right after this one.
    Children(&'a str),
    /// All after this one.
    Descendants(&'a str),
}

/// Which of them by what follows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    Any,
    /// Nothing follows.
    Leaves,
    /// Something follows.
    NoLeaves,
}

impl Ends {
    /// As two flags say; both are as good as none.
    pub(crate) fn of(leaves: bool, no_leaves: bool) -> Self {
        match (leaves, no_leaves) {
            (true, false) => Self::Leaves,
            (false, true) => Self::NoLeaves,
            _ => Self::Any,
        }
    }
}

impl Tree {
    pub(crate) fn find(&self, name: &str) -> Option<&Moment> {
        self.0.iter().find(|moment| moment.name == name)
    }

    /// The one before `moment`, if it is known.
    pub(crate) fn parent(&self, moment: &Moment) -> Option<&Moment> {
        self.find(&moment.parent)
    }

    /// The names in a part of the tree, parents before their children.
    pub(crate) fn names(&self, part: Part<'_>, ends: Ends) -> Vec<&str> {
        let starts = match part {
            Part::All | Part::Roots => self.roots(),
            Part::Children(name) | Part::Descendants(name) => self.children(name),
        };
        let found = match part {
            Part::Roots | Part::Children(_) => starts,
            Part::All | Part::Descendants(_) => self.with_descendants(starts),
        };
        let is_leaf = |name: &str| !self.0.iter().any(|moment| moment.parent == name);
        let wanted = |name: &&str| match ends {
            Ends::Any => true,
            Ends::Leaves => is_leaf(name),
            Ends::NoLeaves => !is_leaf(name),
        };
        found.into_iter().filter(wanted).collect()
    }

    fn roots(&self) -> Vec<&str> {
        let roots = self.0.iter().filter(|moment| self.parent(moment).is_none());
        roots.map(|moment| moment.name.as_str()).collect()
    }

    fn children(&self, name: &str) -> Vec<&str> {
        let children = self.0.iter().filter(|moment| moment.parent == name);
        children.map(|moment| moment.name.as_str()).collect()
    }

    /// Each is taken once, so that a loop of parents ends.
    fn with_descendants<'a>(&'a self, starts: Vec<&'a str>) -> Vec<&'a str> {
        let mut found = starts;
        let mut next = 0;
        while let Some(name) = found.get(next).copied() {
            next += 1;
            for child in self.children(name) {
                if !found.contains(&child) {
                    found.push(child);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(moments: &[(&str, &str)]) -> Tree {
        let moment = |(name, parent): &(&str, &str)| Moment {
            name: (*name).to_owned(),
            parent: (*parent).to_owned(),
            current: false,
        };
        Tree(moments.iter().map(moment).collect())
    }

    #[test]
    fn parts_of_a_tree() {
        let tree = tree(&[("d", "b"), ("b", "a"), ("a", ""), ("c", "a"), ("x", "lost")]);
        let names = |part, ends| tree.names(part, ends).join(" ");
        assert_eq!(names(Part::All, Ends::Any), "a x b c d");
        assert_eq!(names(Part::Roots, Ends::Any), "a x");
        assert_eq!(names(Part::Roots, Ends::NoLeaves), "a");
        assert_eq!(names(Part::All, Ends::Leaves), "x c d");
        assert_eq!(names(Part::Children("a"), Ends::Any), "b c");
        assert_eq!(names(Part::Descendants("a"), Ends::Any), "b c d");
        assert_eq!(names(Part::Descendants("d"), Ends::Any), "");
    }

    #[test]
    fn a_loop_of_parents_ends() {
        let tree = tree(&[("a", "b"), ("b", "a")]);
        assert_eq!(tree.names(Part::Descendants("a"), Ends::Any), ["b", "a"]);
        assert!(tree.names(Part::All, Ends::Any).is_empty());
    }

    #[test]
    fn both_kinds_of_ends_are_any() {
        let pairs = [(false, false), (true, false), (false, true), (true, true)];
        let ends = pairs.map(|(leaves, no_leaves)| Ends::of(leaves, no_leaves));
        assert_eq!(ends, [Ends::Any, Ends::Leaves, Ends::NoLeaves, Ends::Any]);
    }
}
