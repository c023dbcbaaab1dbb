//! Lists of a guest's snapshots and of its checkpoints: the part of a tree that is asked for, and its pages.

use crate::{
    domain::snapshots::{Entry, Part},
    error::{Error, Result},
};

/// Entries of a page where the request does not say.
const PAGE: usize = 500;
/// Most entries of a page.
const PAGE_MAX: usize = 16_384;

/// A page.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// What is on it.
    pub(super) entries: &'a [&'a Entry],
    /// Where the next one begins; empty: it is the last.
    pub(super) next: String,
    /// Entries of all pages.
    pub(super) total: i32,
}

/// The part of a tree that a request's `parent`, `descendants` and `roots` mean.
///
/// # Errors
/// `InvalidArg` if they exclude each other.
pub(super) fn part((parent, descendants, roots): (&str, bool, bool)) -> Result<Part<'_>> {
    match parent {
        "" if descendants => Err(Error::argument("descendants is for parent alone").at("descendants")),
        "" if roots => Ok(Part::Roots),
        "" => Ok(Part::All),
        _ if roots => Err(Error::argument("roots excludes parent").at("roots")),
        name if descendants => Ok(Part::Descendants(name)),
        name => Ok(Part::Children(name)),
    }
}

/// The page that begins after the entry that `token` names; with an empty one the first.
///
/// # Errors
/// `InvalidArg` for a negative size, and if no entry is named so.
pub(super) fn page<'a>(found: &'a [&'a Entry], size: i32, token: &str) -> Result<Page<'a>> {
    let size = match usize::try_from(size) {
        Ok(0) => PAGE,
        Ok(size) => size.min(PAGE_MAX),
        Err(_) => return Err(Error::argument("page_size must not be negative").at("page_size")),
    };
    let refused = || Error::argument("page_token is of no page, or what it names is gone").at("page_token");
    let begin = match token {
        "" => 0,
        token => {
            let before = found.iter().position(|entry| *entry.name == *token);
            before.ok_or_else(refused)? + 1
        }
    };
    let rest = found.get(begin..).unwrap_or_default();
    let entries = &rest[..size.min(rest.len())];
    let last = entries.last().filter(|_| rest.len() > entries.len());
    Ok(Page {
        entries,
        next: last.map(|entry| entry.name.to_string()).unwrap_or_default(),
        total: i32::try_from(found.len()).unwrap_or(i32::MAX),
    })
}
