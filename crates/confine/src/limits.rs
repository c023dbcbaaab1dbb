//! Limits of a process, in the order in which they are set.

use unixfd::Limit;

/// Limits of a guest's process. Absent ones stay as the daemon's own; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads of its user.
    pub processes: Option<u64>,
    /// Open descriptors.
    pub open_files: Option<u64>,
    /// Bytes of a core file.
    pub core: Option<u64>,
    /// Bytes of locked memory.
    pub locked_memory: Option<u64>,
}

impl Limits {
    /// Those that are to be set.
    pub fn iter(&self) -> impl Iterator<Item = (Limit, u64)> + use<> {
        [
            (Limit::LockedMemory, self.locked_memory),
            (Limit::Processes, self.processes),
            (Limit::OpenFiles, self.open_files),
            (Limit::Core, self.core),
        ]
        .into_iter()
        .filter_map(|(limit, value)| Some((limit, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_limits_are_not_set() {
        assert_eq!(Limits::default().iter().count(), 0);
        let limits = Limits {
            core: Some(0),
            locked_memory: Some(u64::MAX),
            ..Limits::default()
        };
        let set: Vec<_> = limits.iter().collect();
        assert_eq!(set, [(Limit::LockedMemory, u64::MAX), (Limit::Core, 0)]);
    }
}
