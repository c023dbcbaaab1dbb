//! The files of a guest's snapshots and checkpoints: `snapshot/NAME/SNAPSHOT.xml`, `checkpoint/NAME/CHECKPOINT.xml`,
//! libvirt's. They are written with the commit that changes what lists show, all of one change or none, and read one at a
//! time when somebody asks for a document.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::moment::{Checkpoint, Snapshot, Summary};

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

/// What the files are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Snapshots.
    Snapshots,
    /// Checkpoints.
    Checkpoints,
}

impl Of {
    const ALL: [Self; 2] = [Self::Snapshots, Self::Checkpoints];

    /// One of them.
    pub fn word(self) -> &'static str {
        match self {
            Self::Snapshots => "snapshot",
            Self::Checkpoints => "checkpoint",
        }
    }

    /// What stands above a document on disk, in libvirt's six lines.
    fn head(self) -> String {
        match self {
            Self::Snapshots => HEAD.to_owned(),
            Self::Checkpoints => HEAD.replace("snapshot", "checkpoint"),
        }
    }

    /// Whether a file says that it is the current one's.
    pub fn files_say_current(self) -> bool {
        self == Self::Snapshots
    }

    /// The tree that a guest has of them.
    pub fn tree(self, view: &View) -> &Arc<Snapshots> {
        match self {
            Self::Snapshots => &view.snapshots,
            Self::Checkpoints => &view.checkpoints,
        }
    }

    /// The same, to be replaced.
    pub fn tree_mut(self, view: &mut View) -> &mut Arc<Snapshots> {
        match self {
            Self::Snapshots => &mut view.snapshots,
            Self::Checkpoints => &mut view.checkpoints,
        }
    }

    fn summary(self, text: &str) -> Result<Summary> {
        Ok(match self {
            Self::Snapshots => Summary::read(text)?,
            Self::Checkpoints => Checkpoint::summary_of(text)?,
        })
    }
}

impl Store {
    /// Where the files of a guest are.
    pub fn moments_dir(&self, of: Of, guest: &str) -> PathBuf {
        self.inner.paths.lib.join(of.word()).join(guest)
    }

    /// The file of a snapshot or checkpoint.
    pub fn moment_path(&self, of: Of, guest: &str, name: &str) -> PathBuf {
        self.moments_dir(of, guest).join(format!("{name}.xml"))
    }

    /// What the files tell of a guest's snapshots or checkpoints. Files that can't be read are logged, kept, and not written
    /// over.
    pub fn load_moments(&self, of: Of, guest: &str) -> Snapshots {
        let (dir, what) = (self.moments_dir(of, guest), of.word());
        let paths = xml_files(&dir).unwrap_or_else(|error| {
            tracing::error!(guest, what, %error, "its files can't be listed");
            Vec::new()
        });
        if paths.len() > MOST {
            tracing::error!(
                guest,
                what,
                files = paths.len(),
                most = MOST,
                "it has too many; some are left out"
            );
        }
        let read = |path: PathBuf| match read_file(&path).and_then(|text| summary(of, &text, &path)) {
            Ok(summary) => Some(summary),
            Err(error) => {
                tracing::error!(path = %path.display(), what, %error, "this file can't be read; it is kept as it is and left alone");
                self.foreign().insert(path);
                None
            }
        };
        let (mut tree, odd) = Snapshots::found(paths.into_iter().take(MOST).filter_map(read).collect());
        for oddity in odd {
            tracing::warn!(guest, what, ?oddity, "its files do not go together");
        }
        if !of.files_say_current() {
            tree.make_only_leaf_current();
        }
        tree
    }

    /// The document of a snapshot.
    ///
    /// # Errors
    /// `System` if its file can't be read, what is wrong with it otherwise.
    pub async fn read_snapshot(&self, guest: &str, name: &str) -> Result<Snapshot> {
        let path = self.moment_path(Of::Snapshots, guest, name);
        let read = move || {
            let (snapshot, _) = Snapshot::parse_file(&read_file(&path)?)?;
            Ok(snapshot)
        };
        blocking::file("reading the document of a snapshot", read).await
    }

    /// The document of a checkpoint.
    ///
    /// # Errors
    /// As [`read_snapshot`](Self::read_snapshot).
    pub async fn read_checkpoint(&self, guest: &str, name: &str) -> Result<Checkpoint> {
        let path = self.moment_path(Of::Checkpoints, guest, name);
        let read = move || Ok(Checkpoint::parse_file(&read_file(&path)?)?);
        blocking::file("reading the document of a checkpoint", read).await
    }

    /// What is done to the files between two views.
    pub(super) fn snapshot_steps(&self, before: &View, after: &View, steps: &mut Vec<Step>) -> Result<()> {
        Of::ALL
            .into_iter()
            .try_for_each(|of| self.moment_steps(of, before, after, steps))
    }

    fn moment_steps(&self, of: Of, before: &View, after: &View, steps: &mut Vec<Step>) -> Result<()> {
        let (old, new) = (of.tree(before), of.tree(after));
        let (old_dir, new_dir) = (
            self.moments_dir(of, &before.name),
            self.moments_dir(of, &after.name),
        );
        if before.name != after.name && !old.is_empty() {
            steps.push(Step::Move {
                from: old_dir.clone(),
                to: new_dir,
            });
        }
        let kept = |name: &str| after.exists() && new.get(name).is_some();
        let gone = old.iter().filter(|entry| !kept(&entry.name));
        let gone: Vec<_> = gone
            .map(|entry| self.moment_path(of, &after.name, &entry.name))
            .collect();
        if after.exists() && !Arc::ptr_eq(old, new) {
            for entry in new.iter() {
                let Some(text) = &entry.draft else { continue };
                let path = self.moment_path(of, &after.name, &entry.name);
                if self.foreign().contains(&path) {
                    let message = format!(
                        "'{}' holds something that can't be read as a {}'s; move it away first",
                        path.display(),
                        of.word()
                    );
                    return Err(Error::new(Code::OperationFailed, message));
                }
                steps.push(Step::Write {
                    path,
                    text: format!("{}{text}", of.head()),
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

    /// Whether a path is of a snapshot or a checkpoint.
    pub(super) fn is_of_snapshot(&self, path: &Path) -> bool {
        let above = path.parent().and_then(Path::parent);
        let is_below = |of: &Of| above == Some(&self.inner.paths.lib.join(of.word()));
        Of::ALL.iter().any(is_below)
    }
}

fn summary(of: Of, text: &str, path: &Path) -> Result<Summary> {
    let summary = of.summary(text)?;
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(&summary.name) {
        let said = format!("the file is not named after its {} '{}'", of.word(), summary.name);
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
        domain::{fixture, snapshots::Entry, store::step},
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
        step::carry_out(store.steps(before, after)?)
    }

    fn loaded(store: &Store, guest: &str) -> (Vec<String>, Option<String>) {
        let tree = store.load_moments(Of::Snapshots, guest);
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
        let broken = store.moment_path(Of::Snapshots, "a", "broken");
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
        let left: Vec<_> = fs::read_dir(store.moments_dir(Of::Snapshots, "b"))
            .unwrap()
            .flatten()
            .collect();
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
        step::carry_out(steps.into_iter().take(2).collect()).unwrap();
        assert!(all > 3);
        store.finish_redos();
        assert_eq!(
            loaded(&store, "a"),
            (vec!["three".into(), "two".into()], Some("two".into()))
        );
    }
}
