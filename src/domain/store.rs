//! The files of guests: configuration, autostart links, status of runs. They are libvirt's files, in libvirt's places.
//!
//! Written by the owner task before a change is published, read at start-up. The hard thing is that nothing is lost:
//! a file is replaced by a rename after its content is on the disk, and a file that could not be read is somebody's
//! work: it is reported, kept, and never written over.

pub mod snapshots;
mod step;

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use domxml::ParseFlags;

use self::step::Step;
pub use self::step::write;
use super::{View, status};
use crate::{
    blocking,
    error::{Code, Error, Result},
    paths::Paths,
};

/// The files of guests. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    paths: Arc<Paths>,
    /// The files of runs lie in memory.
    runs_in_memory: OnceLock<bool>,
    /// Configuration files that could not be read.
    foreign: Mutex<HashSet<PathBuf>>,
}

/// One file found at start-up.
pub struct Loaded<T> {
    /// Where it lies.
    pub path: PathBuf,
    /// What is in it.
    pub content: T,
}

/// How the links end of guests that start with the host once.
const ONCE: &str = ".xml.once";

/// What is found at start-up.
pub struct Found {
    /// Runs, from their status files.
    pub runs: Vec<Loaded<domxml::StatusDocument>>,
    /// Stored configurations.
    pub configs: Vec<Loaded<domxml::Domain>>,
    /// Names of the guests that start with the host.
    pub autostart: HashSet<String>,
    /// Names of the guests that start with the host the next time, and only then.
    pub autostart_once: HashSet<String>,
    /// Names of the guests that have an image of a managed save.
    pub saved: HashSet<String>,
}

impl Store {
    /// Files below these places. Nothing is touched yet.
    pub fn new(paths: Arc<Paths>) -> Self {
        Self {
            inner: Arc::new(Inner {
                paths,
                runs_in_memory: OnceLock::new(),
                foreign: Mutex::default(),
            }),
        }
    }

    /// Where the files are.
    pub fn paths(&self) -> &Paths {
        &self.inner.paths
    }

    /// The configuration file of a guest.
    pub fn config_path(&self, name: &str) -> PathBuf {
        self.inner.paths.config.join(format!("{name}.xml"))
    }
    /// The link that lets a guest start with the host.
    pub fn autostart_path(&self, name: &str) -> PathBuf {
        self.inner.paths.autostart().join(format!("{name}.xml"))
    }
    /// The link that lets a guest start with the host once.
    pub fn autostart_once_path(&self, name: &str) -> PathBuf {
        self.inner.paths.autostart().join(format!("{name}{ONCE}"))
    }
    /// The image of a guest's managed save.
    pub fn managed_save_path(&self, name: &str) -> PathBuf {
        self.inner.paths.saves().join(format!("{name}.save"))
    }
    /// The status file of a run.
    pub fn status_path(&self, name: &str) -> PathBuf {
        self.inner.paths.state.join(format!("{name}.xml"))
    }

    /// Reads everything. Files that can't be read are logged, kept, and not written over from now on.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn load(&self) -> Result<Found> {
        self.finish_renames();
        self.finish_redos();
        let paths = &self.inner.paths;
        let runs = self.load_all(&paths.state, domxml::StatusDocument::parse)?;
        let configs = self.load_all(&paths.config, |text| {
            domxml::Domain::parse(text, ParseFlags::INACTIVE)
        })?;
        let mut autostart = HashSet::new();
        for path in xml_files(&paths.autostart())? {
            autostart.extend(path.file_stem().and_then(|s| s.to_str()).map(str::to_owned));
        }
        let links = fs::read_dir(paths.autostart()).into_iter().flatten().flatten();
        let names = links.filter_map(|entry| entry.file_name().into_string().ok());
        let autostart_once = names
            .filter_map(|name| Some(name.strip_suffix(ONCE)?.to_owned()))
            .collect();
        Ok(Found {
            runs,
            configs,
            autostart,
            autostart_once,
            saved: self.saved(),
        })
    }

    /// Guests with an image of a managed save. Without the directory there is none.
    fn saved(&self) -> HashSet<String> {
        let entries = fs::read_dir(self.inner.paths.saves())
            .into_iter()
            .flatten()
            .flatten();
        let name = |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".save")?.to_owned());
        entries.filter_map(name).collect()
    }

    /// Removes the image of a guest's managed save.
    ///
    /// # Errors
    /// `System` if there is none, or it can't be removed.
    pub async fn remove_managed_save(&self, name: &str) -> Result<()> {
        let path = self.managed_save_path(name);
        let removal = move || {
            fs::remove_file(&path).map_err(|e| {
                Error::system(
                    format_args!("Failed to remove managed save file '{}'", path.display()),
                    e,
                )
            })
        };
        blocking::file("removing the image of a managed save", removal).await
    }

    fn load_all<T: Send>(
        &self,
        dir: &Path,
        parse: impl Fn(&str) -> Result<T, domxml::Error> + Sync,
    ) -> Result<Vec<Loaded<T>>> {
        let paths = xml_files(dir)?;
        let read = |path: &PathBuf| match read_document(path, &parse) {
            Ok(None) => {
                tracing::warn!(path = %path.display(), "this file is empty: a crash came before it was written");
                None
            }
            Ok(Some(content)) => Some(Loaded {
                path: path.clone(),
                content,
            }),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "this file can't be read as a guest's; it is kept as it is and left alone");
                self.foreign().insert(path.clone());
                None
            }
        };
        // Most of the time of a start with many guests goes here, so the cores share it.
        let (left, right) = paths.split_at(paths.len() / 2);
        Ok(std::thread::scope(|scope| {
            let other = scope.spawn(|| right.iter().filter_map(read).collect::<Vec<_>>());
            let mut loaded: Vec<_> = left.iter().filter_map(read).collect();
            match other.join() {
                Ok(rest) => loaded.extend(rest),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            loaded
        }))
    }

    /// Whether there is a status file that could not be read: what seems to belong to nobody may be that run's.
    pub fn keeps_runs(&self) -> bool {
        self.foreign()
            .iter()
            .any(|path| path.parent() == Some(&self.inner.paths.state))
    }

    /// Removes what a daemon that was killed left half made: temporary files, and directories and PID files of runs that
    /// are not among `kept`. Where a status file could not be read nothing of runs is removed: it may be that one's.
    pub fn sweep(&self, kept: &HashSet<PathBuf>) {
        let paths = &self.inner.paths;
        for dir in [&paths.config, &paths.state] {
            let entries = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path());
            entries
                .filter(|path| file_name(path).ends_with(".xml.new"))
                .for_each(|path| discard(&path));
        }
        if self.keeps_runs() {
            return;
        }
        let entries = fs::read_dir(&paths.state)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        entries
            .filter(|path| is_dead_pid_file(path))
            .for_each(|path| discard(&path));
        for (dir, prefix) in [
            (paths.domains.clone(), "domain-"),
            (paths.state.join("channel"), ""),
        ] {
            let entries = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path());
            let of_run = |path: &PathBuf| {
                is_short_name(file_name(path).strip_prefix(prefix).unwrap_or_default())
                    && !kept.contains(path)
            };
            for path in entries.filter(of_run) {
                if let Err(error) = fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "what is left of a run can't be removed");
                }
            }
        }
    }

    /// Finishes renames that were cut off after the new file was written.
    fn finish_renames(&self) {
        let entries = fs::read_dir(self.own_dir())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        for note in entries.filter(|path| file_name(path).starts_with("rename-")) {
            let text = fs::read_to_string(&note).unwrap_or_default();
            let uuid = format!("<uuid>{}</uuid>", file_name(&note).trim_start_matches("rename-"));
            // Both must be this guest's: a name may have become another's since.
            let is_its = |name: &str| {
                fs::read_to_string(self.config_path(name)).is_ok_and(|text| text.contains(&uuid))
            };
            if let Some((old, new)) = text
                .split_once('\n')
                .filter(|(old, new)| is_its(old) && is_its(new))
            {
                tracing::warn!(old, new, "finishing a rename that was cut off");
                self.relink(self.autostart_path(old), self.autostart_path(new), new);
                self.relink(self.autostart_once_path(old), self.autostart_once_path(new), new);
                for of in [snapshots::Of::Snapshots, snapshots::Of::Checkpoints] {
                    let (from, to) = (self.moments_dir(of, old), self.moments_dir(of, new));
                    if let Err(error) = snapshots::move_dir(&from, &to) {
                        tracing::error!(old, new, %error, "its snapshots or checkpoints do not follow");
                    }
                }
                discard(&self.config_path(old));
            }
            discard(&note);
        }
    }

    fn rename_note(&self, uuid: uuid::Uuid) -> PathBuf {
        self.own_dir().join(format!("rename-{uuid}"))
    }

    /// Whether the files of runs, and what the daemon keeps beside them, lie in memory.
    pub(super) fn runs_in_memory(&self) -> bool {
        let look = || blocking::in_memory(&self.inner.paths.state);
        *self.inner.runs_in_memory.get_or_init(look)
    }

    /// Where the daemon keeps what is its own.
    pub(super) fn own_dir(&self) -> PathBuf {
        self.inner.paths.state.join("virtqemud")
    }

    fn foreign(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.inner.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a file from being written over.
    pub fn keep(&self, path: &Path) {
        self.foreign().insert(path.to_owned());
    }

    /// Brings the files from one view to the next: those that hold something that differs are written.
    pub(super) async fn save(&self, before: &View, after: &View) -> Result<()> {
        let steps = self.steps(before, after)?;
        if steps.is_empty() {
            return Ok(());
        }
        let notes = [self.rename_note(after.uuid), self.redo_note(after.uuid)];
        let state = &self.inner.paths.state;
        let of_run = |step: &Step| matches!(step, Step::Write { path, .. } if path.starts_with(state));
        let in_memory = self.runs_in_memory() && steps.iter().all(of_run);
        let work = move || {
            let result = step::carry_out(steps);
            if result.is_err() {
                notes.iter().for_each(|note| discard(note));
            }
            result
        };
        blocking::light(in_memory, "writing the guest's files", work).await
    }

    fn steps(&self, before: &View, after: &View) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        // Two files of one guest are there for a moment: who finds them must know which one counts.
        let renamed = before.config.is_some() && after.config.is_some() && before.name != after.name;
        let note = self.rename_note(after.uuid);
        if renamed {
            let text = format!("{}\n{}", before.name, after.name);
            steps.push(Step::Write {
                path: note.clone(),
                text,
                durable: false,
                needed: true,
            });
        }
        let mut of_config = Vec::new();
        self.config_steps(before, after, &mut of_config)?;
        // The new file of one that is renamed comes first, the old one goes last.
        let is_written = |step: &&Step| !matches!(step, Step::Remove(_));
        let removed = of_config.split_off(of_config.iter().take_while(is_written).count());
        steps.extend(of_config);
        self.snapshot_steps(before, after, &mut steps)?;
        steps.extend(removed);
        self.autostart_steps(before, after, &mut steps);
        if renamed {
            steps.push(Step::Remove(note));
        }
        match (&before.run, &after.run) {
            (_, Some(_)) if status::differs(before, after) => {
                // A run that begins must have its file, or a restart would not find it; later ones only describe it better.
                let needed = before.run.is_none();
                steps.push(Step::Write {
                    path: self.status_path(&after.name),
                    text: status::text(after),
                    durable: false,
                    needed,
                });
            }
            (Some(_), None) => steps.push(Step::Remove(self.status_path(&before.name))),
            _ => {}
        }
        if !renamed && after.exists() && before.exists() {
            self.note_redo(after.uuid, &mut steps);
        }
        Ok(steps)
    }

    /// Two files that follow from one change are written both or neither: a daemon that is killed between them leaves a
    /// note of both contents, and the next one writes them again.
    fn note_redo(&self, uuid: uuid::Uuid, steps: &mut Vec<Step>) {
        let is_link = |path: &Path| path.parent() == Some(&self.inner.paths.autostart());
        let writes = steps.iter().filter_map(|step| match step {
            Step::Write { path, text, .. } => Some((path.as_path(), Some(text.as_str()))),
            Step::Remove(path) if !is_link(path) => Some((path.as_path(), None)),
            _ => None,
        });
        let writes: Vec<_> = writes.collect();
        // Files that only go may go one after the other.
        if writes.len() < 2 || writes.iter().all(|(_, text)| text.is_none()) {
            return;
        }
        // Paths and texts are strings: this can't fail.
        let text = serde_json::to_string(&writes).unwrap_or_default();
        let path = self.redo_note(uuid);
        steps.push(Step::Remove(path.clone()));
        let note = Step::Write {
            path,
            text,
            durable: false,
            needed: true,
        };
        steps.insert(0, note);
    }

    fn redo_note(&self, uuid: uuid::Uuid) -> PathBuf {
        self.own_dir().join(format!("redo-{uuid}"))
    }

    /// Writes again what a daemon that was killed had begun to write.
    fn finish_redos(&self) {
        let entries = fs::read_dir(self.own_dir()).into_iter().flatten().flatten();
        for note in entries
            .map(|e| e.path())
            .filter(|path| file_name(path).starts_with("redo-"))
        {
            let text = fs::read(&note).unwrap_or_default();
            // A note that is cut off was never followed.
            let writes: Vec<(PathBuf, Option<String>)> = serde_json::from_slice(&text).unwrap_or_default();
            for (path, text) in writes.iter().filter(|(path, _)| self.is_ours(path)) {
                let done = match text {
                    Some(text) => write(path, text.as_bytes(), true),
                    None => remove(path),
                };
                if let Err(error) = done {
                    tracing::error!(path = %path.display(), %error, "a change that was cut off can't be finished");
                }
            }
            discard(&note);
        }
    }

    /// Whether a path is of a file that this store writes.
    fn is_ours(&self, path: &Path) -> bool {
        let paths = &self.inner.paths;
        path.extension().is_some_and(|e| e == "xml")
            && path
                .parent()
                .is_some_and(|dir| dir == paths.config || dir == paths.state || self.is_of_snapshot(path))
    }

    fn config_steps(&self, before: &View, after: &View, steps: &mut Vec<Step>) -> Result<()> {
        let same = match (&before.config, &after.config) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if same && before.name == after.name {
            return Ok(());
        }
        let path = self.config_path(&after.name);
        if let Some(config) = &after.config {
            if self.foreign().contains(&path) {
                let message = format!(
                    "'{}' holds something that can't be read as a guest's; move it away first",
                    path.display()
                );
                return Err(Error::new(Code::OperationFailed, message));
            }
            let text = head(&after.name) + &config.secure_text();
            steps.push(Step::Write {
                path: path.clone(),
                text,
                durable: true,
                needed: true,
            });
        }
        if before.config.is_some() && (after.config.is_none() || before.name != after.name) {
            steps.push(Step::Remove(self.config_path(&before.name)));
        }
        Ok(())
    }

    /// A link follows the guest to its new name.
    fn relink(&self, link: PathBuf, path: PathBuf, name: &str) {
        if fs::symlink_metadata(&link).is_err() {
            return;
        }
        discard(&link);
        let target = self.config_path(name);
        if let Err(error) = step::carry_out(vec![Step::Link { path, target }]) {
            tracing::warn!(guest = name, %error, "the guest does not start with the host any more");
        }
    }

    fn autostart_steps(&self, before: &View, after: &View, steps: &mut Vec<Step>) {
        for (was, is, path) in [
            (
                before.autostart,
                after.autostart,
                Self::autostart_path as fn(&Self, &str) -> PathBuf,
            ),
            (
                before.autostart_once,
                after.autostart_once,
                Self::autostart_once_path,
            ),
        ] {
            let (was, is) = (was && before.config.is_some(), is && after.config.is_some());
            if is && (!was || before.name != after.name) {
                steps.push(Step::Link {
                    path: path(self, &after.name),
                    target: self.config_path(&after.name),
                });
            }
            if was && (!is || before.name != after.name) {
                steps.push(Step::Remove(path(self, &before.name)));
            }
        }
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// Whether a PID file is of a guest's process that is no more. The daemon's own is no guest's.
fn is_dead_pid_file(path: &Path) -> bool {
    let pid = || fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    path.extension().is_some_and(|e| e == "pid")
        && file_name(path) != "driver.pid"
        && pid().is_none_or(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        && unixfd::lock_holder(path).is_ok_and(|holder| holder.is_none())
}

/// "ID-NAME", as directories of runs are called.
fn is_short_name(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(id, name)| id.parse::<i32>().is_ok_and(|id| id > 0) && !name.is_empty())
}

/// Removes a file that nobody needs; what can't be removed is in nobody's way.
pub(super) fn discard(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!(path = %path.display(), %error, "a file is left that nobody needs");
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `*.xml` in a directory, in no order; none if there is no such directory.
fn xml_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::system(format_args!("cannot read directory '{}'", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if !is_dir && entry.path().extension().is_some_and(|e| e == "xml") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// What is in a file; none if it is empty.
fn read_document<T>(path: &Path, parse: impl Fn(&str) -> Result<T, domxml::Error>) -> Result<Option<T>> {
    let text = fs::read_to_string(path).map_err(|e| Error::system("cannot read it", e))?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(parse(&text)?))
}

/// The comment that stands above a guest's document on disk: six lines and an empty one, as libvirt's are.
pub(super) fn head(name: &str) -> String {
    // "--" may not stand in a comment.
    let shown = name.replace("--", "- -");
    format!(
        "<!--\nThis file belongs to virtqemud, which reads it when it starts and replaces it\nwhenever the guest changes: an edit made here by hand is lost or, worse, half\nseen. To change the guest, use\n  virsh edit {shown}\n-->\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_that_were_cut_off_are_both_finished() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::new(Arc::new(Paths::system(dir.path())));
        let mut before = crate::domain::fixture::running("<name>a</name><memory>1024</memory>");
        before.config = crate::domain::fixture::defined("<name>a</name><memory>1024</memory>").config;
        let mut after = before.clone();
        let edit = crate::domain::Edit::live(|d| {
            d.title = Some("both".to_owned());
            Ok(())
        });
        let stored = crate::domain::Edit::stored(|d| {
            d.title = Some("both".to_owned());
            Ok(())
        });
        edit.and(stored).apply(&mut after).unwrap();
        let steps = store.steps(&before, &after).unwrap();
        // Killed after the note and the first of the two files.
        step::carry_out(steps.into_iter().take(2).collect()).unwrap();
        store.finish_redos();
        for path in [store.config_path("a"), store.status_path("a")] {
            assert!(
                fs::read_to_string(&path).unwrap().contains("<title>both</title>"),
                "{}",
                path.display()
            );
        }
        assert!(!store.redo_note(before.uuid).exists());
    }

    #[test]
    fn the_head_has_six_lines_and_an_empty_one() {
        let head = head("a--b");
        assert_eq!(head.lines().count(), 7);
        assert_eq!(head.matches("--").count(), 2);
        assert!(head.ends_with("-->\n\n"));
    }
}
