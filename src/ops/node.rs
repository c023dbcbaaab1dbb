//! The host's CPUs and memory, told anew for each call.

use hostinfo::{CpuMap, CpuTimes, MemoryStats, PageCount, Root};

use super::{Driver, host};
use crate::error::{Error, Result};

/// Number, unused memory in KiB and pages of a NUMA cell.
pub type Cell = (u32, u64, Vec<PageCount>);

/// Which CPUs there are.
///
/// # Errors
/// The kernel does not tell.
pub async fn cpu_map(driver: &Driver) -> Result<CpuMap> {
    read(driver, |root| hostinfo::cpu_map(root).map_err(host::unreadable)).await
}

/// Times of one CPU, or of all together.
///
/// # Errors
/// `InvalidArg` if there is no such CPU online.
pub async fn cpu_times(driver: &Driver, cpu: Option<u32>) -> Result<CpuTimes> {
    let missing = move || Error::argument(format!("there is no CPU {} online", cpu.unwrap_or_default()));
    read(driver, move |root| hostinfo::cpu_times(root, cpu).map_err(host::unreadable)?.ok_or_else(missing)).await
}

/// Memory of the host, or of one of its cells.
///
/// # Errors
/// `InvalidArg` if there is no such cell.
pub async fn memory(driver: &Driver, cell: Option<u32>) -> Result<MemoryStats> {
    read(driver, move |root| match cell {
        None => hostinfo::memory_stats(root).map_err(host::unreadable),
        Some(cell) => hostinfo::cell_memory_stats(root, cell)
            .map_err(|error| Error::argument(format!("there is no NUMA cell {cell}")).caused_by(error)),
    })
    .await
}

/// All cells.
///
/// # Errors
/// The kernel does not tell.
pub async fn cells(driver: &Driver) -> Result<Vec<Cell>> {
    read(driver, |root| {
        let cells = hostinfo::cells(root).map_err(host::unreadable)?;
        cells.into_iter().map(|cell| Ok((cell.id, free(root, cell.id)?, cell.pages))).collect()
    })
    .await
}

/// Unused memory of a cell. A host without NUMA is its only cell.
fn free(root: &Root, cell: u32) -> Result<u64> {
    let own = hostinfo::cell_memory_stats(root, cell).or_else(|_| hostinfo::memory_stats(root));
    own.map(|stats| stats.free).map_err(host::unreadable)
}

async fn read<T: Send + 'static>(driver: &Driver, work: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> Result<T> {
    let root = driver.host.root.clone();
    crate::blocking::file("reading the host's facts", move || work(&Root::at(&root))).await
}
