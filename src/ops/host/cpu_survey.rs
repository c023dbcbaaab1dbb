//! What all CPUs of this host have, asked of each one in turn: an answer must not depend on where it was asked.

use std::thread;

use hostinfo::{CpuData, Root};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// Asks every CPU that is online and that this process may use. Takes some microseconds each.
pub(crate) fn data(root: &Root) -> CpuData {
    let online: Vec<u32> = hostinfo::cpu_map(root)
        .map(|map| map.online.into_iter().collect())
        .unwrap_or_default();
    // A thread of its own is moved about: it ends with that, and nobody has to be moved back.
    let asked = thread::scope(|scope| {
        scope
            .spawn(|| online.iter().filter_map(|cpu| on(root, *cpu)).collect::<Vec<_>>())
            .join()
    });
    match asked.unwrap_or_default() {
        none if none.is_empty() => CpuData::in_common(&[CpuData::of_this_cpu(root, 0)]),
        all => CpuData::in_common(&all),
    }
}

/// `None` for a CPU that this process may not use.
fn on(root: &Root, cpu: u32) -> Option<CpuData> {
    let mut alone = CpuSet::new();
    alone.set(usize::try_from(cpu).ok()?).ok()?;
    sched_setaffinity(Pid::from_raw(0), &alone).ok()?;
    Some(CpuData::of_this_cpu(root, cpu))
}

#[cfg(test)]
mod tests {
    use nix::sched::sched_getaffinity;

    use super::*;

    #[test]
    fn every_cpu_is_asked_and_the_caller_stays_where_it_may_be() {
        let before = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
        let root = Root::default();
        let told = data(&root);
        assert_eq!(sched_getaffinity(Pid::from_raw(0)), Ok(before));
        assert_eq!(told, data(&root), "asked twice, told otherwise");
        assert_eq!(told.cpuid.get(&(1, 0)).map_or(0, |[_, word, ..]| word >> 24), 0);
    }
}
