//! Extended attributes of files.
#![expect(unsafe_code, reason = "system calls that no library here wraps")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Longest value that is read, in bytes.
const VALUE_MAX: usize = 4096;

/// The value of an attribute; none when the file has no such attribute.
///
/// # Errors
/// When the file cannot be looked at, its file system has no attributes, or the value is longer than 4 KiB.
pub fn attribute(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = c_strings(path, name)?;
    let mut value = vec![0_u8; VALUE_MAX];
    // SAFETY: both strings end with NUL, and the buffer is as long as is said.
    let got = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    match usize::try_from(got) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            error => Err(error),
        },
    }
}

/// Sets an attribute, whether it was there or not.
///
/// # Errors
/// When the file cannot be changed or its file system has no attributes.
pub fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = c_strings(path, name)?;
    // SAFETY: both strings end with NUL, and the value is as long as is said.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    done(result)
}

/// Removes an attribute.
///
/// # Errors
/// When there is none, or the file cannot be changed.
pub fn remove_attribute(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = c_strings(path, name)?;
    // SAFETY: both strings end with NUL.
    done(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
}

fn c_strings(path: &Path, name: &str) -> io::Result<(CString, CString)> {
    Ok((CString::new(path.as_os_str().as_bytes())?, CString::new(name)?))
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_set_read_and_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = "user.virtqemud.test";
        // Some file systems have none: then every call says so.
        if let Err(error) = set_attribute(file.path(), name, b"one") {
            assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
            return;
        }
        assert_eq!(attribute(file.path(), name).unwrap().unwrap(), b"one");
        set_attribute(file.path(), name, b"two").unwrap();
        assert_eq!(attribute(file.path(), name).unwrap().unwrap(), b"two");
        remove_attribute(file.path(), name).unwrap();
        assert_eq!(attribute(file.path(), name).unwrap(), None);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        assert!(attribute(Path::new("/nonexistent"), "user.x").is_err());
    }
}
