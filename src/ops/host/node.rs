//! The host's CPUs and memory, told anew for each call, and what of its memory can be tuned.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use domxml::sysinfo::{HostSysinfo, SmbiosTable};
use hostinfo::{
    CpuMap, CpuTimes, Ksm, KsmSetting, MemoryStats, PageCount, Pool, Refusal, Resize, Root, Sysinfo,
    SysinfoTable,
};
use qemu_plan::caps;

use crate::{
    error::{Area, Code, Error, Result},
    ops::{
        Driver,
        host::{emulator, place},
    },
};

/// Number, unused memory in KiB and pages of a NUMA cell.
pub type Cell = (u32, u64, Vec<PageCount>);

/// Where CPUID tells of encrypted guests: how many in ecx, the first one with open registers in edx.
const ENCRYPTION: (u32, u32) = (0x8000_001f, 0);

/// Encryption of guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sev {
    /// What QEMU says of it.
    pub told: caps::Sev,
    /// Guests at a time; 0 if the CPU does not tell.
    pub max_guests: u32,
    /// Those with encrypted registers.
    pub max_es_guests: u32,
}

/// Which CPUs there are.
///
/// # Errors
/// The kernel does not tell.
pub async fn cpu_map(driver: &Driver) -> Result<CpuMap> {
    look(driver, |root| hostinfo::cpu_map(root).map_err(place::unreadable))
}

/// Times of one CPU, or of all together.
///
/// # Errors
/// `InvalidArg` if there is no such CPU online.
pub async fn cpu_times(driver: &Driver, cpu: Option<u32>) -> Result<CpuTimes> {
    let missing = move || Error::argument(format!("there is no CPU {} online", cpu.unwrap_or_default()));
    look(driver, |root| {
        hostinfo::cpu_times(root, cpu)
            .map_err(place::unreadable)?
            .ok_or_else(missing)
    })
}

/// Memory of the host, or of one of its cells.
///
/// # Errors
/// `InvalidArg` if there is no such cell.
pub async fn memory(driver: &Driver, cell: Option<u32>) -> Result<MemoryStats> {
    look(driver, |root| match cell {
        None => hostinfo::memory_stats(root).map_err(place::unreadable),
        Some(cell) => hostinfo::cell_memory_stats(root, cell)
            .map_err(|error| Error::argument(format!("there is no NUMA cell {cell}")).caused_by(error)),
    })
}

/// Whether the pages of cells are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// They are.
    Counted,
    /// Nobody wants to know.
    Left,
}

/// All cells.
///
/// # Errors
/// The kernel does not tell.
pub async fn cells(driver: &Arc<Driver>, pages: Pages) -> Result<Vec<Cell>> {
    let facts = crate::ops::host::facts::of_host(driver).await?;
    let ids: Vec<u32> = facts.cells.iter().map(|cell| cell.id).collect();
    let free = |root: &Root| {
        ids.iter()
            .map(|id| Ok((*id, free(root, *id)?, Vec::new())))
            .collect::<Result<Vec<Cell>>>()
    };
    let mut cells = look(driver, free)?;
    if pages == Pages::Counted {
        let counts = |root: &Root, id| {
            hostinfo::cell_pages(root, id)
                .or_else(|_| hostinfo::pages(root))
                .map_err(place::unreadable)
        };
        for cell in &mut cells {
            cell.2 = look(driver, |root| counts(root, cell.0))?;
        }
    }
    Ok(cells)
}

/// Pages of the whole host.
///
/// # Errors
/// The kernel does not tell.
pub async fn pages(driver: &Driver) -> Result<Vec<PageCount>> {
    read(driver, |root| hostinfo::pages(root).map_err(place::unreadable)).await
}

/// Resizes pools of huge pages, of the cells or, if there are none, of the host; gives how many.
///
/// # Errors
/// `OperationUnsupported` for pages of the usual size; `OperationFailed` if there is no such cell or size, or the kernel
/// gives less; `System`.
pub async fn resize_pools(driver: &Driver, cells: Vec<u32>, pages: Vec<(u64, Resize)>) -> Result<u32> {
    read(driver, move |root| {
        let places: Vec<Option<u32>> = if cells.is_empty() {
            vec![None]
        } else {
            cells.into_iter().map(Some).collect()
        };
        let mut done = 0;
        for node in places {
            for (page_size, resize) in &pages {
                let pool = Pool {
                    node,
                    page_size: *page_size,
                };
                hostinfo::resize_pool(root, pool, *resize).map_err(|refusal| refused(root, pool, refusal))?;
                done += 1;
            }
        }
        Ok(done)
    })
    .await
}

fn refused(root: &Root, pool: Pool, refusal: Refusal) -> Error {
    let failed = |message: String| Error::new(Code::OperationFailed, message);
    let error = match refusal {
        Refusal::UsualPages => Error::new(Code::OperationUnsupported, refusal.to_string()),
        Refusal::NoSuchPages(_) => match pool.node {
            Some(node) if !hostinfo::has_cell(root, node) => {
                failed(format!("NUMA node {node} is not available"))
            }
            Some(node) => failed(format!("{refusal} on node {node}")),
            None => failed(refusal.to_string()),
        },
        Refusal::System { path, source } => {
            Error::system(format!("cannot resize the pool {}", path.display()), source)
        }
        Refusal::TooMany(_) => Error::new(Code::Overflow, refusal.to_string()),
        Refusal::NoNumber { .. } | Refusal::Short { .. } => failed(refusal.to_string()),
    };
    error.in_area(Area::None)
}

/// How the kernel merges pages.
///
/// # Errors
/// The kernel does not tell.
pub async fn page_merging(driver: &Driver) -> Result<Ksm> {
    read(driver, |root| hostinfo::ksm(root).map_err(place::unreadable)).await
}

/// Tunes that, in this order.
///
/// # Errors
/// `OperationInvalid` for a setting that this kernel has not, before any is made; `System` when it refuses a value.
pub async fn tune_page_merging(driver: &Driver, settings: Vec<(KsmSetting, u32)>) -> Result<()> {
    read(driver, move |root| {
        if let Some((setting, _)) = settings
            .iter()
            .find(|(setting, _)| !hostinfo::has_ksm_setting(root, *setting))
        {
            let message = format!(
                "Parameter 'shm_{}' is not supported by this kernel",
                setting.name()
            );
            return Err(Error::invalid(message).in_area(Area::None));
        }
        for (setting, value) in settings {
            let refused = |error| {
                Error::system(format!("failed to set shm_{}", setting.name()), error).in_area(Area::None)
            };
            hostinfo::set_ksm(root, setting, value).map_err(refused)?;
        }
        Ok(())
    })
    .await
}

/// How guests can be encrypted here, by the host's default QEMU.
///
/// # Errors
/// `OperationUnsupported` if they can't; there is no QEMU, or it can't be asked.
pub async fn sev(driver: &Arc<Driver>) -> Result<Sev> {
    let arch = &driver.host.arch;
    let path: PathBuf = emulator::default_emulator(driver, arch)
        .map(Into::into)
        .ok_or_else(|| no_emulator(arch))?;
    let caps = driver.prober.caps(Path::new(&path)).await?;
    let told = caps
        .sev()
        .cloned()
        .ok_or_else(|| Error::new(Code::OperationUnsupported, "QEMU does not support SEV guest"))?;
    let words = crate::ops::host::arch::cpu_facts(&driver.host)
        .data
        .cpuid
        .get(&ENCRYPTION);
    let (max_guests, max_es_guests) =
        words.map_or((0, 0), |[_, _, all, first]| encrypted_guests(*all, *first));
    Ok(Sev {
        told,
        max_guests,
        max_es_guests,
    })
}

fn no_emulator(arch: &str) -> Error {
    Error::argument(format!(
        "unable to find any emulator to serve '{arch}' architecture"
    ))
}

/// How many guests can be encrypted: those with open registers have the numbers from `first` to `all`, those with
/// encrypted ones those below.
fn encrypted_guests(all: u32, first: u32) -> (u32, u32) {
    (
        all.saturating_sub(first).saturating_add(1),
        first.saturating_sub(1),
    )
}

/// What the firmware says of the hardware.
///
/// # Errors
/// `ConfigUnsupported` if it says nothing.
pub async fn sysinfo(driver: &Driver) -> Result<String> {
    let none = || {
        Error::new(
            Code::ConfigUnsupported,
            "Host SMBIOS information is not available",
        )
    };
    let told = read(driver, |root| hostinfo::sysinfo(root).map_err(place::unreadable)).await?;
    told.map(|told| document(told).format()).ok_or_else(none)
}

fn document(told: Sysinfo) -> HostSysinfo {
    let mut document = HostSysinfo {
        oem_strings: told.oem_strings,
        ..HostSysinfo::default()
    };
    for SysinfoTable { element, entries } in told.tables {
        let table = SmbiosTable { entries };
        match element {
            "bios" => document.bios = Some(table),
            "system" => document.system = Some(table),
            "baseBoard" => document.base_boards.push(table),
            "chassis" => document.chassis = Some(table),
            "processor" => document.processors.push(table),
            _ => document.memory_devices.push(table),
        }
    }
    document
}

/// Unused memory of a cell. A host without NUMA is its only cell.
fn free(root: &Root, cell: u32) -> Result<u64> {
    let own = hostinfo::cell_memory_stats(root, cell).or_else(|_| hostinfo::memory_stats(root));
    own.map(|stats| stats.free).map_err(place::unreadable)
}

/// Of files of the kernel's that are made in microseconds, from its memory: they are read in place.
fn look<T>(driver: &Driver, work: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
    work(&Root::at(&driver.host.root))
}

async fn read<T: Send + 'static>(
    driver: &Driver,
    work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
) -> Result<T> {
    let root = driver.host.root.clone();
    crate::blocking::file("reading the host's facts", move || work(&Root::at(&root))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_kinds_of_encrypted_guests_share_the_numbers() {
        assert_eq!(encrypted_guests(509, 10), (500, 9));
        assert_eq!(encrypted_guests(15, 1), (15, 0));
        assert_eq!(encrypted_guests(0, 0), (1, 0));
    }
}
