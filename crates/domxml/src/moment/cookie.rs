//! `<cookie>`: what a later start from saved memory must know of the QEMU that saved it.

use xmlform::{Rest, Xml};

use crate::cpu::Cpu;

/// What the run was that memory was saved of.
#[derive(Xml, Clone, Debug, Default, PartialEq)]
pub struct Cookie {
    /// The CPU with everything that QEMU gave it.
    #[xml(child)]
    pub cpu: Option<Cpu>,
    /// Helpers of user networks can be migrated.
    #[xml(flag = "slirpHelper")]
    pub slirp_helper: bool,
    /// What another version knows beside that.
    #[xml(rest)]
    pub rest: Rest,
}
