//! What one QEMU binary can do, derived from its own replies.
//!
//! The daemon asks a binary once ([`probe`] says what) and keeps the raw replies; everything here is computed
//! from them by tables, so a better table needs no new probe. Flags carry libvirt's names because status files
//! store them and a running guest is judged by its own list.

mod compact;
mod flag;
mod model;
pub mod probe;
mod replies;
mod retired;
mod rule;
mod schema;

use std::sync::Arc;

pub use flag::{Flag, FlagSet};
pub use model::{CpuModel, HostCpu, HostProperty, Machine, Sev, Sgx};
pub use replies::{Exchange, Replies, Run};
use retired::RETIRED;

use crate::Error;

/// The accelerators of a binary that a guest can ask for (`<domain type=...>`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accel {
    /// Hardware virtualization through `/dev/kvm`.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accel {
    /// The accelerator that a domain type names: `kvm` or `qemu`.
    pub fn from_virt_type(name: &str) -> Option<Self> {
        match name {
            "kvm" => Some(Self::Kvm),
            "qemu" => Some(Self::Tcg),
            _ => None,
        }
    }

    /// The domain type that asks for it.
    pub const fn virt_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }
}

/// Why replies could not be turned into capabilities.
#[derive(Debug, thiserror::Error)]
pub enum CapsError {
    /// A query without which nothing can be said is missing or failed.
    #[error("QEMU gave no usable answer to {0}")]
    Missing(&'static str),
    /// The binary is older than [`Caps::OLDEST`].
    #[error("QEMU version >= 6.2.0 is required, but {0}.{1}.{2} found")]
    TooOld(u32, u32, u32),
}

/// What depends on the accelerator.
#[derive(Debug, Clone, Default)]
pub struct AccelCaps {
    /// Machine types, in QEMU's order with the default one first.
    pub machines: Vec<Machine>,
    /// CPU models, in QEMU's order.
    pub cpus: Vec<CpuModel>,
    /// The model that the host can give: `host` with KVM, `max` with TCG.
    pub host: HostCpu,
}

/// What one QEMU binary can do.
#[derive(Debug, Clone)]
pub struct Caps {
    arch: String,
    version: u32,
    package: String,
    flags: FlagSet,
    hyperv: Vec<&'static str>,
    sev: Option<Sev>,
    sgx: Option<Sgx>,
    kvm: Option<AccelCaps>,
    tcg: Option<AccelCaps>,
}

impl Caps {
    /// Oldest QEMU taken, as libvirt encodes versions: major * 1000000 + minor * 1000 + micro.
    pub const OLDEST: u32 = 6_002_000;

    /// Derives capabilities from the replies of a probe: one run, or two when the first had an accelerator.
    ///
    /// # Errors
    /// [`CapsError`] when version, target or schema are not there, or QEMU is too old.
    pub fn derive(replies: &Replies) -> Result<Self, CapsError> {
        let first = replies
            .runs
            .first()
            .ok_or(CapsError::Missing("qmp_capabilities"))?;
        let version = first.version().ok_or(CapsError::Missing("query-version"))?;
        let arch = first
            .target()
            .ok_or(CapsError::Missing("query-target"))?
            .to_owned();
        let number = version.number();
        if number < Self::OLDEST {
            return Err(CapsError::TooOld(version.major, version.minor, version.micro));
        }
        let flags = rule::derive(first).ok_or(CapsError::Missing("query-qmp-schema"))?;
        let accelerated = flags.has(Flag::Kvm);
        let kvm = accelerated.then(|| AccelCaps::of(first));
        let tcg_run = if accelerated {
            replies.runs.get(1)
        } else {
            Some(first)
        };
        let tcg = tcg_run.filter(|_| flags.has(Flag::Tcg)).map(AccelCaps::of);
        Ok(Self {
            arch,
            version: number,
            package: version.package,
            flags,
            hyperv: model::hyperv(first),
            sev: model::sev(first),
            sgx: model::sgx(first),
            kvm,
            tcg,
        })
    }

    /// Guest architecture, with libvirt's name (`x86_64`, `i686`, `aarch64`).
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// Whether guests of an architecture run: its own, and the 32-bit one that it contains.
    pub fn runs_arch(&self, arch: &str) -> bool {
        const CONTAINED: &[(&str, &str)] = &[("x86_64", "i686"), ("aarch64", "armv7l"), ("ppc64", "ppc64le")];
        self.arch == arch || CONTAINED.contains(&(self.arch(), arch))
    }

    /// QEMU's version: major * 1000000 + minor * 1000 + micro.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The packager's version text; may be empty.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.has(flag)
    }

    /// All flags.
    pub const fn flags(&self) -> &FlagSet {
        &self.flags
    }

    /// The same capabilities with another set of flags: those that a running guest was started with.
    #[must_use]
    pub fn with_flags(mut self, flags: FlagSet) -> Self {
        self.flags = flags;
        self
    }

    /// The capabilities as a guest's document wants them seen: with flags that are added, and without some.
    ///
    /// # Errors
    /// A flag that libvirt never had.
    pub fn as_wanted_by(self: &Arc<Self>, def: &domxml::Domain) -> crate::Result<Arc<Self>> {
        let Some(wanted) = &def.qemu.capabilities else {
            return Ok(Arc::clone(self));
        };
        let mut flags = self.flags;
        for (entry, add) in wanted
            .add
            .iter()
            .map(|entry| (entry, true))
            .chain(wanted.del.iter().map(|entry| (entry, false)))
        {
            let name = entry.capability.as_str();
            match Flag::from_name(name) {
                Some(flag) if add => flags.set(flag),
                Some(flag) => flags.clear(flag),
                None if RETIRED.contains(&name) => {}
                None => {
                    let message = format!("invalid qemu namespace capability '{name}'");
                    return Err(Error::internal_qemu(message));
                }
            }
        }
        Ok(Arc::new(Self::clone(self).with_flags(flags)))
    }

    /// Hyper-V enlightenments that a guest here can have, with libvirt's names and in its order.
    pub fn hyperv(&self) -> &[&'static str] {
        &self.hyperv
    }

    /// AMD's encryption of guests, when it works here.
    pub const fn sev(&self) -> Option<&Sev> {
        self.sev.as_ref()
    }

    /// Intel's enclaves, when they work here.
    pub const fn sgx(&self) -> Option<Sgx> {
        self.sgx
    }

    /// What depends on an accelerator; `None` when the binary cannot use it here.
    pub const fn accel(&self, accel: Accel) -> Option<&AccelCaps> {
        match accel {
            Accel::Kvm => self.kvm.as_ref(),
            Accel::Tcg => self.tcg.as_ref(),
        }
    }

    /// The accelerator that a guest gets when it names none.
    pub const fn preferred_accel(&self) -> Accel {
        if self.kvm.is_some() {
            Accel::Kvm
        } else {
            Accel::Tcg
        }
    }

    /// A machine type by name or alias.
    pub fn machine(&self, accel: Accel, name: &str) -> Option<&Machine> {
        let machines = &self.accel(accel)?.machines;
        machines
            .iter()
            .find(|m| m.name == name || m.alias.as_deref() == Some(name))
    }

    /// The machine type that a guest gets when it names none.
    pub fn default_machine(&self, accel: Accel) -> Option<&Machine> {
        let machines = &self.accel(accel)?.machines;
        machines.iter().find(|m| m.default).or_else(|| machines.first())
    }

    /// A CPU model by name.
    pub fn cpu(&self, accel: Accel, name: &str) -> Option<&CpuModel> {
        self.accel(accel)?.cpus.iter().find(|c| c.name == name)
    }
}

impl AccelCaps {
    fn of(run: &Run) -> Self {
        Self {
            machines: model::machines(run),
            cpus: model::cpus(run),
            host: model::host(run),
        }
    }
}
