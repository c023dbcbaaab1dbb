//! What QEMU says of a running guest, read once, for deciding what becomes of what was under way.

use std::collections::BTreeSet;

use qemu_plan::command::plug::Part;
use qmp::{commands, types::BlockInfo};

use crate::{error::Result, ops::run::guest::Guest};

/// The devices of a guest as QEMU has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    /// Names of block nodes.
    pub(crate) nodes: BTreeSet<String>,
    /// Drives and what is in them.
    pub(crate) drives: Vec<BlockInfo>,
    /// Devices, by their aliases.
    pub(crate) devices: BTreeSet<String>,
    /// What the device that is looked at would have beside itself; QEMU is not asked which of it there is, but to take it
    /// away.
    pub(crate) parts: Vec<Part>,
}

impl Truth {
    /// Asks QEMU.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn read(guest: &Guest) -> Result<Self> {
        let nodes = guest
            .execute(commands::QueryNamedBlockNodes { flat: true })
            .await?;
        Ok(Self {
            nodes: nodes.into_iter().filter_map(|n| n.node_name).collect(),
            drives: guest.execute(commands::QueryBlock {}).await?,
            devices: guest.monitor()?.device_ids().await?,
            parts: Vec::new(),
        })
    }
}
