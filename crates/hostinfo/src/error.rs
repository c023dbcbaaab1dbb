//! What can go wrong in reading a fact.

use std::path::PathBuf;

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that must be there could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file, with its root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file was not as the kernel writes it.
    #[error("{path} has no {what}")]
    Parse {
        /// The file, with its root.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
