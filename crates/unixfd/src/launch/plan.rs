//! All that a new process needs between fork and exec, laid out before: it must not allocate there.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::sys::socket::UnixAddr;

use super::Limit;

/// Laid out by the parent, carried out by `child`.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: CString,
    /// Descriptors with their target numbers; the third field is the child's scratch.
    pub(super) placed: Vec<(OwnedFd, RawFd, RawFd)>,
    /// Descriptors that keep their number.
    pub(super) inherited: Vec<OwnedFd>,
    /// Sockets among the inherited, and where the new process connects them to.
    pub(super) connections: Vec<(RawFd, UnixAddr)>,
    /// Lowest number that is nobody's target.
    pub(super) spare: RawFd,
    pub(super) report: Option<OwnedFd>,
    pub(super) go: Option<OwnedFd>,
    pub(super) pid_file: Option<OwnedFd>,
    pub(super) umask: u32,
    /// User, group, supplementary groups.
    pub(super) identity: Option<(u32, u32, Vec<u32>)>,
    pub(super) limits: Vec<(Limit, u64)>,
    pub(super) no_new_privileges: bool,
    /// Ranges of numbers, both ends included, that are nothing of ours: closed right after the fork, lest a
    /// process that waits keeps another's pipe open.
    pub(super) gaps: Vec<(u32, u32)>,
    argv: Pointers,
    envp: Pointers,
}

impl Plan {
    pub(super) fn new(program: &Path, args: &[OsString], env: &[(OsString, OsString)]) -> io::Result<Self> {
        let name = std::iter::once(program.as_os_str());
        let argv = name.chain(args.iter().map(OsString::as_os_str)).map(c_string);
        let envp = env
            .iter()
            .map(|(name, value)| c_string(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("="))));
        Ok(Self {
            program: c_string(program.as_os_str())?,
            placed: Vec::new(),
            inherited: Vec::new(),
            connections: Vec::new(),
            spare: 3,
            report: None,
            go: None,
            pid_file: None,
            umask: 0o022,
            identity: None,
            limits: Vec::new(),
            no_new_privileges: false,
            gaps: Vec::new(),
            argv: Pointers::new(argv.collect::<io::Result<_>>()?),
            envp: Pointers::new(envp.collect::<io::Result<_>>()?),
        })
    }

    /// Takes `placed` and `inherited`, if no number is asked for twice.
    pub(super) fn descriptors(
        &mut self,
        placed: Vec<(OwnedFd, RawFd)>,
        inherited: Vec<OwnedFd>,
        spare: RawFd,
    ) -> io::Result<()> {
        let kept = inherited.iter().map(AsRawFd::as_raw_fd);
        let mut numbers: Vec<RawFd> = placed.iter().map(|&(_, number)| number).chain(kept).collect();
        numbers.sort_unstable();
        if numbers.first().is_some_and(|&lowest| lowest < 0) || numbers.windows(2).any(|two| two[0] == two[1])
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.placed = placed.into_iter().map(|(fd, number)| (fd, number, -1)).collect();
        (self.inherited, self.spare) = (inherited, spare);
        Ok(())
    }

    pub(super) fn pipes(&mut self, report: OwnedFd, go: OwnedFd) {
        (self.report, self.go) = (Some(report), Some(go));
    }

    /// Call last, when all descriptors are in.
    pub(super) fn find_gaps(&mut self) {
        let placed = self.placed.iter().map(|(fd, ..)| fd);
        let others = self
            .inherited
            .iter()
            .chain(&self.report)
            .chain(&self.go)
            .chain(&self.pid_file);
        let kept = placed
            .chain(others)
            .filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok());
        self.gaps = gaps(kept.collect());
    }

    pub(super) fn argv(&self) -> *const *const libc::c_char {
        self.argv.pointers.as_ptr()
    }

    pub(super) fn envp(&self) -> *const *const libc::c_char {
        self.envp.pointers.as_ptr()
    }
}

/// Strings, and a null-terminated array of pointers to them (a `CString` does not move its bytes).
#[derive(Debug)]
struct Pointers {
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

fn gaps(mut kept: Vec<u32>) -> Vec<(u32, u32)> {
    kept.sort_unstable();
    let (mut next, mut gaps) = (3, Vec::new());
    for number in kept.into_iter().filter(|&number| number >= 3) {
        if next < number {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[expect(unsafe_code, reason = "fcntl(F_DUPFD) returns a plain number")]
pub(super) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called with a number that the kernel has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn gaps_are_all_that_is_not_kept() {
        assert_eq!(gaps(vec![]), [(3, u32::MAX)]);
        assert_eq!(gaps(vec![9, 0, 4, 5]), [(3, 3), (6, 8), (10, u32::MAX)]);
    }
}
