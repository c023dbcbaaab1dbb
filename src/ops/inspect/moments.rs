//! The checkpoints of a guest, as files of the host record them.
//!
//! They are libvirt's files: a guest that was libvirt's before may have some. A file that cannot be read is
//! left out with a warning, as libvirt does: one broken file must not hide the others.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use xmlform::{AnyXml, Document, ParseFlags, Xml};

use crate::{
    domain::View,
    error::{Error, Result},
    ops::Driver,
};

/// Longest file that is read.
const FILE_MAX: u64 = 1 << 20;
/// Most files of one guest and kind.
const FILES_MAX: usize = 16_384;

/// One point in time of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Its name.
    pub name: String,
    /// The one before it.
    pub parent: Option<String>,
}

/// The checkpoints of a guest, by name.
///
/// # Errors
/// If the directory cannot be read, or not in time.
pub async fn list(driver: &Arc<Driver>, view: &View) -> Result<Vec<Moment>> {
    let dir = driver
        .registry
        .store()
        .paths()
        .lib
        .join("checkpoint")
        .join(&*view.name);
    crate::blocking::file("reading the records of checkpoints", move || {
        read_dir(&dir)
            .map_err(|error| Error::system(format_args!("cannot read directory '{}'", dir.display()), error))
    })
    .await
}

fn read_dir(dir: &Path) -> io::Result<Vec<Moment>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries.take(FILES_MAX) {
        let path: PathBuf = entry?.path();
        match read(&path) {
            Ok(moment) => found.push(moment),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a record of a checkpoint is left out")
            }
        }
    }
    found.sort_by(|a: &Moment, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read(path: &Path) -> io::Result<Moment> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let document = Document::parse(&text, &[], ParseFlags::NONE).map_err(|error| bad(error.to_string()))?;
    let document = AnyXml::read(document.root()).map_err(|error| bad(error.to_string()))?;
    moment(&document).ok_or_else(|| bad("it has no name".to_owned()))
}

fn moment(document: &AnyXml) -> Option<Moment> {
    let text = |element: &AnyXml, name: &str| element.child(name).map(|child| child.text.clone());
    Some(Moment {
        name: text(document, "name").filter(|name| !name.is_empty())?,
        parent: document.child("parent").and_then(|parent| text(parent, "name")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: &str = "<!--\nWARNING\n-->\n<domaincheckpoint>\n  <name>b</name>\n  <state>shutoff</state>\n  \
        <parent>\n    <name>a</name>\n  </parent>\n  <creationTime>1</creationTime>\n\
        </domaincheckpoint>\n";

    #[test]
    fn records_are_read_by_name_and_broken_ones_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_dir(&dir.path().join("none")).unwrap(), []);
        let files = [
            ("b.xml", SECOND),
            ("a.xml", "<domaincheckpoint><name>a</name></domaincheckpoint>"),
            ("broken.xml", "<domaincheckpoint><name>c</name>"),
            ("unnamed.xml", "<domaincheckpoint/>"),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let moment = |name: &str, parent: Option<&str>| Moment {
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
        };
        let found = read_dir(dir.path()).unwrap();
        assert_eq!(found, [moment("a", None), moment("b", Some("a"))]);
    }
}
