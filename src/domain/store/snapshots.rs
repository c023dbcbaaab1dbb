//! The files of a guest's snapshots: `snapshot/NAME/SNAPSHOT.xml`, libvirt's. They are written with the commit that
//! changes what lists show, all of one change or none, and read one at a time when somebody asks for a document.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::moment::{Snapshot, Summary};

use super::{Step, Store, xml_files};
use crate::{
    blocking,
    domain::{View, snapshots::Snapshots},
    error::{Code, Error, Result},
};

/// Longest file that is read.
const FILE_MAX: u64 = 16 << 20;
/// Most snapshots of one guest: as many as libvirt lists.
pub const MOST: usize = 16_384;
/// What stands above a snapshot's document on disk, in libvirt's six lines.
const HEAD: &str = "<!--\nThis file belongs to virtqemud, which reads it when it starts and replaces it\nwhenever the snapshot changes: an edit made here by hand is lost or, worse, half\nseen. To change the snapshot, use\n  virsh snapshot-edit\n-->\n\n";

impl Store {
    /// Where the files of a guest's snapshots are.
    pub fn snapshot_dir(&self, guest: &str) -> PathBuf {
        self.inner.paths.lib.join("snapshot").join(guest)
    }

    /// The file of a snapshot.
    pub fn snapshot_path(&self, guest: &str, snapshot: &str) -> PathBuf {
        self.snapshot_dir(guest).join(format!("{snapshot}.xml"))
    }

    /// What the files tell of a guest's snapshots. Files that can't be read are logged, kept, and not written over.
    pub fn load_snapshots(&self, guest: &str) -> Snapshots {
        let dir = self.snapshot_dir(guest);
        let paths = xml_files(&dir).unwrap_or_else(|error| {
            tracing::error!(guest, %error, "the files of its snapshots can't be listed");
            Vec::new()
        });
        if paths.len() > MOST {
            tracing::error!(
                guest,
                files = paths.len(),
                most = MOST,
                "it has too many snapshots; some are left out"
            );
        }
        let read = |path: PathBuf| match read_file(&path).and_then(|text| summary(&text, &path)) {
            Ok(summary) => Some(summary),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "this file can't be read as a snapshot's; it is kept as it is and left alone");
                self.foreign().insert(path);
                None
            }
        };
        let (tree, odd) = Snapshots::found(paths.into_iter().take(MOST).filter_map(read).collect());
        for oddity in odd {
            tracing::warn!(guest, ?oddity, "the files of its snapshots do not go together");
        }
        tree
    }

    /// The document of a snapshot.
    ///
    /// # Errors
    /// `System` if its file can't be read, what is wrong with it otherwise.
    pub async fn read_snapshot(&self, guest: &str, name: &str) -> Result<Snapshot> {
        let path = self.snapshot_path(guest, name);
        let read = move || {
            let (snapshot, _) = Snapshot::parse_file(&read_file(&path)?)?;
            Ok(snapshot)
        };
        blocking::file("reading the document of a snapshot", read).await
    }

    /// What is done to the files between two views.
    pub(super) fn snapshot_steps(&self, before: &View, after: &View, steps: &mut Vec<Step>) -> Result<()> {
        let (old, new) = (&before.snapshots, &after.snapshots);
        let (old_dir, new_dir) = (self.snapshot_dir(&before.name), self.snapshot_dir(&after.name));
        if before.name != after.name && !old.is_empty() {
            steps.push(Step::Move {
                from: old_dir.clone(),
                to: new_dir,
            });
        }
        let kept = |name: &str| after.exists() && new.get(name).is_some();
        let gone = old.iter().filter(|entry| !kept(&entry.name));
        let gone: Vec<_> = gone
            .map(|entry| self.snapshot_path(&after.name, &entry.name))
            .collect();
        if after.exists() && !Arc::ptr_eq(old, new) {
            for entry in new.iter() {
                let Some(text) = &entry.draft else { continue };
                let path = self.snapshot_path(&after.name, &entry.name);
                if self.foreign().contains(&path) {
                    let message = format!(
                        "'{}' holds something that can't be read as a snapshot's; move it away first",
                        path.display()
                    );
                    return Err(Error::new(Code::OperationFailed, message));
                }
                steps.push(Step::Write {
                    path,
                    text: format!("{HEAD}{text}"),
                    durable: true,
                    needed: true,
                });
            }
        }
        steps.extend(gone.into_iter().map(Step::Remove));
        if !after.exists() && !old.is_empty() {
            steps.push(Step::RemoveDir(old_dir));
        }
        Ok(())
    }

    /// Whether a path is of a snapshot.
    pub(super) fn is_of_snapshot(&self, path: &Path) -> bool {
        let dir = self.inner.paths.lib.join("snapshot");
        path.parent().and_then(Path::parent) == Some(&dir)
    }
}

fn summary(text: &str, path: &Path) -> Result<Summary> {
    let summary = Summary::read(text)?;
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(&summary.name) {
        let said = format!("the file is not named after its snapshot '{}'", summary.name);
        return Err(Error::internal(said));
    }
    Ok(summary)
}

fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = |text: &mut String| -> io::Result<()> {
        File::open(path)?.take(FILE_MAX).read_to_string(text)?;
        Ok(())
    };
    read(&mut text).map_err(|e| Error::system(format_args!("cannot read '{}'", path.display()), e))?;
    Ok(text)
}

/// Moves a directory to where none is. One that was moved already is where it belongs.
pub(super) fn move_dir(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a directory that nothing is left in.
pub(super) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        // What is in it is somebody's.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{fixture, snapshots::Entry},
        paths::Paths,
    };

    fn text(name: &str, parent: &str, current: bool) -> String {
        let mut snapshot = Snapshot::default();
        snapshot.moment.name = name.to_owned();
        snapshot.moment.parent = Some(parent.to_owned()).filter(|p| !p.is_empty());
        snapshot.state = domxml::moment::SnapshotState::Shutoff;
        snapshot.format_file(current)
    }

    fn with(names: &[(&str, &str, bool)]) -> Arc<Snapshots> {
        let mut tree = Snapshots::default();
        for (name, parent, current) in names {
            let text = text(name, parent, *current);
            let mut entry = Entry::of(Summary::read(&text).unwrap());
            entry.draft = Some(text.into());
            tree.put(entry);
            if *current {
                tree.set_current(Some(name));
            }
        }
        Arc::new(tree)
    }

    fn carry_out(store: &Store, before: &View, after: &View) -> Result<()> {
        store
            .steps(before, after)?
            .into_iter()
            .try_for_each(Step::carry_out)
    }

    fn loaded(store: &Store, guest: &str) -> (Vec<String>, Option<String>) {
        let tree = store.load_snapshots(guest);
        let names = tree.iter().map(|e| e.name.to_string()).collect();
        (names, tree.current().map(|e| e.name.to_string()))
    }

    #[test]
    fn files_follow_the_tree_and_a_broken_one_is_kept() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::new(Arc::new(Paths::system(dir.path())));
        let before = fixture::defined("<name>a</name><memory>1024</memory>");
        let mut after = before.clone();
        after.snapshots = with(&[("one", "", false), ("two", "one", true)]);
        carry_out(&store, &before, &after).unwrap();
        assert_eq!(
            loaded(&store, "a"),
            (vec!["one".into(), "two".into()], Some("two".into()))
        );
        let broken = store.snapshot_path("a", "broken");
        fs::write(&broken, "<domainsnapshot><name>broken").unwrap();
        assert_eq!(loaded(&store, "a").0.len(), 2);
        let mut third = after.clone();
        third.snapshots = with(&[("two", "", true), ("broken", "", false)]);
        assert!(carry_out(&store, &after, &third).is_err());
        third.snapshots = with(&[("two", "", true)]);
        carry_out(&store, &after, &third).unwrap();
        assert_eq!(loaded(&store, "a"), (vec!["two".into()], Some("two".into())));
        let mut renamed = third.clone();
        renamed.name = "b".into();
        carry_out(&store, &third, &renamed).unwrap();
        assert_eq!(loaded(&store, "a").0.len(), 0);
        assert_eq!(loaded(&store, "b").0, ["two"]);
        let mut gone = renamed.clone();
        gone.config = None;
        carry_out(&store, &renamed, &gone).unwrap();
        let left: Vec<_> = fs::read_dir(store.snapshot_dir("b")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_change_of_two_that_was_cut_off_is_finished() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::new(Arc::new(Paths::system(dir.path())));
        let none = fixture::defined("<name>a</name><memory>1024</memory>");
        let mut before = none.clone();
        before.snapshots = with(&[("one", "", false), ("two", "one", true)]);
        carry_out(&store, &none, &before).unwrap();
        let mut after = before.clone();
        after.snapshots = with(&[("two", "", true), ("three", "two", false)]);
        let steps = store.steps(&before, &after).unwrap();
        let all = steps.len();
        // Killed after the note and the first of the files.
        steps
            .into_iter()
            .take(2)
            .for_each(|step| step.carry_out().unwrap());
        assert!(all > 3);
        store.finish_redos();
        assert_eq!(
            loaded(&store, "a"),
            (vec!["three".into(), "two".into()], Some("two".into()))
        );
    }
}
