//! How much memory a group may use.

use super::{Backend, Controller, Group, Result, cpu::number};

/// libvirt's number for no limit, KiB.
pub const UNLIMITED_KIB: u64 = 9_007_199_254_740_991;
/// The kernel's own number for no limit is rounded to whole pages, however large they are.
const ROUNDING_KIB: u64 = 1024;

/// A limit of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// Of memory.
    Hard,
    /// Under pressure.
    Soft,
    /// Of memory and swap; of swap alone with version 2.
    SwapHard,
}

impl MemoryLimit {
    fn file(self, backend: Backend) -> &'static str {
        match (self, backend) {
            (Self::Hard, Backend::V1) => "memory.limit_in_bytes",
            (Self::Soft, Backend::V1) => "memory.soft_limit_in_bytes",
            (Self::SwapHard, Backend::V1) => "memory.memsw.limit_in_bytes",
            (Self::Hard, Backend::V2) => "memory.max",
            (Self::Soft, Backend::V2) => "memory.high",
            (Self::SwapHard, Backend::V2) => "memory.swap.max",
        }
    }
}

impl Group {
    /// A limit in KiB, [`UNLIMITED_KIB`] for none.
    ///
    /// # Errors
    /// The kernel's: such as no accounting of swap.
    pub fn memory_limit(&self, limit: MemoryLimit) -> Result<u64> {
        let backend = self.required(Controller::Memory)?.0;
        let text = self.read(Controller::Memory, limit.file(backend))?;
        if text == "max" {
            return Ok(UNLIMITED_KIB);
        }
        let kib = number::<u64>(&text)? >> 10;
        Ok(if kib >= UNLIMITED_KIB - ROUNDING_KIB {
            UNLIMITED_KIB
        } else {
            kib
        })
    }

    /// Sets a limit in KiB, from [`UNLIMITED_KIB`] on to none.
    ///
    /// # Errors
    /// The kernel's: such as less than is in use.
    pub fn set_memory_limit(&self, limit: MemoryLimit, kib: u64) -> Result<()> {
        let backend = self.required(Controller::Memory)?.0;
        let value = match (kib >= UNLIMITED_KIB, backend) {
            (true, Backend::V1) => "-1".to_owned(),
            (true, Backend::V2) => "max".to_owned(),
            (false, _) => (kib << 10).to_string(),
        };
        self.write(Controller::Memory, limit.file(backend), &value)
    }
}
