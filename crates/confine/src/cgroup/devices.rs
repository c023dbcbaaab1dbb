//! Which device nodes a group's processes may open.

use std::{fs, os::unix::fs::FileTypeExt, os::unix::fs::MetadataExt, path::Path};

use unixfd::{ANY_DEVICE, DeviceTable};

use super::{Backend, Controller, Error, Group, Result};

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceNode {
    /// A block device, rather than one of characters.
    pub block: bool,
    /// Its driver.
    pub major: u32,
    /// Which of the driver's; none for all.
    pub minor: Option<u32>,
}

/// What may be done with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

impl DeviceNode {
    /// The node at `path`, links followed; none if there is nothing or something else.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return None;
        }
        let (major, minor) = (
            nix::sys::stat::major(metadata.rdev()),
            nix::sys::stat::minor(metadata.rdev()),
        );
        Some(Self {
            block: kind.is_block_device(),
            major: u32::try_from(major).ok()?,
            minor: Some(u32::try_from(minor).ok()?),
        })
    }

    /// All of a driver for characters.
    #[must_use]
    pub fn driver(major: u32) -> Self {
        Self {
            block: false,
            major,
            minor: None,
        }
    }

    /// As version 1 has it.
    fn line(self, access: &str) -> String {
        let minor = self
            .minor
            .map_or_else(|| "*".to_owned(), |minor| minor.to_string());
        format!(
            "{} {}:{minor} {access}",
            if self.block { 'b' } else { 'c' },
            self.major
        )
    }

    /// The kernel's bit for its kind.
    fn kind(self) -> u32 {
        if self.block { 1 } else { 2 }
    }
}

impl Access {
    fn letters(self) -> &'static str {
        if self == Self::Read { "r" } else { "rw" }
    }
    /// The kernel's bits, above those of the kind.
    fn bits(self) -> u32 {
        (if self == Self::Read { 2 } else { 6 }) << 16
    }
}

impl Group {
    /// Forbids all device nodes but `allowed`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn confine_devices(&self, allowed: &[(DeviceNode, Access)]) -> Result<()> {
        let (backend, directory) = self.required(Controller::Devices)?;
        let table = match backend {
            Backend::V1 => {
                self.write(Controller::Devices, "devices.deny", "a")?;
                None
            }
            Backend::V2 => Some(
                DeviceTable::attach(directory)
                    .map_err(|error| refused("attach a filter of devices to", directory, error))?,
            ),
        };
        allowed
            .iter()
            .try_for_each(|(node, access)| self.allow(table.as_ref(), *node, *access))
    }

    /// Allows one more node.
    ///
    /// # Errors
    /// The kernel's.
    pub fn allow_device(&self, node: DeviceNode, access: Access) -> Result<()> {
        self.allow(self.table()?.as_ref(), node, access)
    }

    /// Forbids a node again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forbid_device(&self, node: DeviceNode) -> Result<()> {
        let (backend, directory) = self.required(Controller::Devices)?;
        match (backend, self.table()?) {
            (Backend::V1, _) => self.write(Controller::Devices, "devices.deny", &node.line("rwm")),
            (Backend::V2, Some(table)) => table
                .remove(node.major, node.minor.unwrap_or(ANY_DEVICE))
                .map_err(|error| refused("change the filter of devices of", directory, error)),
            (Backend::V2, None) => Ok(()),
        }
    }

    fn table(&self) -> Result<Option<DeviceTable>> {
        let (backend, directory) = self.required(Controller::Devices)?;
        match backend {
            Backend::V1 => Ok(None),
            Backend::V2 => DeviceTable::of(directory)
                .map_err(|error| refused("read the filter of devices of", directory, error)),
        }
    }

    fn allow(&self, table: Option<&DeviceTable>, node: DeviceNode, access: Access) -> Result<()> {
        let (backend, directory) = self.required(Controller::Devices)?;
        if backend == Backend::V1 {
            return self.write(Controller::Devices, "devices.allow", &node.line(access.letters()));
        }
        // Without a filter everything is allowed.
        let Some(table) = table else { return Ok(()) };
        let minor = node.minor.unwrap_or(ANY_DEVICE);
        let known = table.get(node.major, minor).unwrap_or(0);
        table
            .set(node.major, minor, known | access.bits() | node.kind())
            .map_err(|error| refused("change the filter of devices of", directory, error))
    }
}

fn refused(what: &str, directory: &Path, error: std::io::Error) -> Error {
    Error::new(format_args!("Unable to {what} '{}'", directory.display()), error)
}
