//! The token by which daemons of one host know each other: whoever can read the file is one of them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use unixfd::{Peer, PeerCred};
use wire::{Caller, typed::TypedParam};

use crate::error::{Error, Result};

/// The file below what daemons share.
const FILE: &str = "system.token";
/// The parameter that tells it.
const TOKEN: &str = "system.token";
/// Digits of the token.
const DIGITS: usize = 32;

/// Who we are, or for whom we act, in the words of the protocol, and that one of the host's daemons says so.
///
/// # Errors
/// The token can be neither read nor made.
pub(super) fn identity(common: &Path, caller: Option<&Caller>) -> Result<Vec<TypedParam>> {
    let own = || {
        Caller {
            peer: Peer {
                cred: PeerCred::own(),
                read_only: false,
            },
            more: None,
            call: None,
        }
        .identity()
    };
    let mut params = caller.map_or_else(own, Caller::identity);
    params.retain(|param| param.field.as_bytes() != TOKEN.as_bytes());
    let token = token(common).map_err(|error| {
        Error::system(
            format_args!("cannot read '{}'", common.join(FILE).display()),
            error,
        )
    })?;
    params.push(TypedParam::new(TOKEN, token));
    Ok(params)
}

/// Reads the token; the first daemon makes it.
fn token(common: &Path) -> io::Result<String> {
    let path = common.join(FILE);
    if let Some(token) = read(&path)? {
        return Ok(token);
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(common)?;
    let made = uuid::Uuid::new_v4().simple().to_string();
    // Whole and under a name of its own first, so that nobody reads a part of it; the first to link it wins.
    let own = common.join(format!("{FILE}.{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&own)?
        .write_all(made.as_bytes())?;
    let linked = fs::hard_link(&own, &path);
    fs::remove_file(&own)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read(&path)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the token is not whole")),
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(DIGITS as u64 + 1).read_to_string(&mut text)?;
    Ok((text.len() == DIGITS).then_some(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_for_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let common = dir.path().join("common");
        let made = token(&common).unwrap();
        assert_eq!((made.len(), token(&common).unwrap()), (DIGITS, made));
        let mode = fs::metadata(common.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&common).unwrap().count(), 1);
        fs::write(common.join(FILE), "short").unwrap();
        assert!(token(&common).is_err());
    }
}
