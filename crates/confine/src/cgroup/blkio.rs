//! What a group gets of block devices.

use super::{Backend, Controller, Group, Result, cpu::number};

/// What of a device is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockLimit {
    /// Reads a second.
    ReadIops,
    /// Writes a second.
    WriteIops,
    /// Bytes read a second.
    ReadBytes,
    /// Bytes written a second.
    WriteBytes,
}

/// Files of weights, in the order in which they are looked for; with what stands before the number.
const WEIGHTS: [&[(&str, &str)]; 2] = [
    &[("blkio.weight", ""), ("blkio.bfq.weight", "")],
    &[("io.bfq.weight", ""), ("io.weight", "default ")],
];
/// Files of the weights of devices.
const DEVICE_WEIGHTS: [&str; 2] = ["blkio.weight_device", "io.weight"];

impl BlockLimit {
    fn file(self) -> &'static str {
        match self {
            Self::ReadIops => "blkio.throttle.read_iops_device",
            Self::WriteIops => "blkio.throttle.write_iops_device",
            Self::ReadBytes => "blkio.throttle.read_bps_device",
            Self::WriteBytes => "blkio.throttle.write_bps_device",
        }
    }
    fn key(self) -> &'static str {
        match self {
            Self::ReadIops => "riops",
            Self::WriteIops => "wiops",
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
        }
    }
}

impl Group {
    /// Its weight against others that want a disk; none where the kernel's scheduler has no weights.
    ///
    /// # Errors
    /// The kernel's.
    pub fn block_weight(&self) -> Result<Option<u32>> {
        let Some((file, _)) = self.weight_file()? else {
            return Ok(None);
        };
        let text = self.read(Controller::Blkio, file)?;
        let first = text.lines().next().unwrap_or_default();
        number(first.strip_prefix("default ").unwrap_or(first)).map(Some)
    }

    /// Sets its weight; whether the kernel has weights.
    ///
    /// # Errors
    /// The kernel's: such as a weight out of its range.
    pub fn set_block_weight(&self, weight: u32) -> Result<bool> {
        let Some((file, before)) = self.weight_file()? else {
            return Ok(false);
        };
        self.write(Controller::Blkio, file, &format!("{before}{weight}"))
            .map(|()| true)
    }

    fn weight_file(&self) -> Result<Option<(&'static str, &'static str)>> {
        let (backend, directory) = self.required(Controller::Blkio)?;
        Ok(WEIGHTS[backend as usize]
            .iter()
            .find(|(file, _)| directory.join(file).exists())
            .copied())
    }

    /// Sets its weight with one device, by major and minor number; whether the kernel has such weights.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_device_weight(&self, device: (u64, u64), weight: u32) -> Result<bool> {
        let (backend, directory) = self.required(Controller::Blkio)?;
        let file = DEVICE_WEIGHTS[backend as usize];
        if !directory.join(file).exists() {
            return Ok(false);
        }
        self.write(
            Controller::Blkio,
            file,
            &format!("{}:{} {weight}", device.0, device.1),
        )
        .map(|()| true)
    }

    /// Limits what it does with one device; 0 is no limit.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_block_limit(&self, device: (u64, u64), limit: BlockLimit, value: u64) -> Result<()> {
        let device = format!("{}:{}", device.0, device.1);
        match self.required(Controller::Blkio)?.0 {
            Backend::V1 => self.write(Controller::Blkio, limit.file(), &format!("{device} {value}")),
            Backend::V2 => {
                let value = if value == 0 {
                    "max".to_owned()
                } else {
                    value.to_string()
                };
                self.write(
                    Controller::Blkio,
                    "io.max",
                    &format!("{device} {}={value}", limit.key()),
                )
            }
        }
    }
}
