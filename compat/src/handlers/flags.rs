//! The flags of a call. Which ones it takes is said in its line of the table of routes.
//!
//! A handler is given its flags unread. It makes the checks of libvirt's API layer first, in libvirt's
//! order, and then asks for the bits: so no handler can forget to refuse what its call does not take.

use wire::procedure::ProcedureInfo;
use wire::{ErrorDomain, WireError};

use super::args::refused;

/// A flag and its name in libvirt's headers.
pub(crate) type Named = (u32, &'static str);

/// Two flags of `wire::consts` with their names.
macro_rules! named {
    ($first:ident, $second:ident) => {
        [
            (wire::consts::$first, stringify!($first)),
            (wire::consts::$second, stringify!($second)),
        ]
    };
}
pub(crate) use named;

/// The flags that choose between a guest's run and its stored configuration.
pub(crate) const AFFECT: u32 = wire::consts::VIR_DOMAIN_AFFECT_LIVE | wire::consts::VIR_DOMAIN_AFFECT_CONFIG;
/// The flags that choose snapshots by what they are, wherever in the tree.
pub(crate) const SNAPSHOTS: u32 = {
    use wire::consts::*;
    VIR_DOMAIN_SNAPSHOT_LIST_METADATA
        | VIR_DOMAIN_SNAPSHOT_LIST_LEAVES
        | VIR_DOMAIN_SNAPSHOT_LIST_NO_LEAVES
        | VIR_DOMAIN_SNAPSHOT_LIST_NO_METADATA
        | VIR_DOMAIN_SNAPSHOT_LIST_INACTIVE
        | VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE
        | VIR_DOMAIN_SNAPSHOT_LIST_DISK_ONLY
        | VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL
        | VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL
        | VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL
};
/// Two flags that exclude each other in every call that reads one configuration.
pub(crate) const LIVE_OR_CONFIG: [Named; 2] = named!(VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_AFFECT_CONFIG);

/// The function that refuses the flags a call does not take, as errors name it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refuser {
    /// The QEMU driver's function of the same name as the API's.
    Driver,
    /// This function of another part of libvirt.
    Function(ErrorDomain, &'static str),
}

/// The flags of one call, not yet checked.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Flags {
    pub(crate) given: u32,
    /// All that the call takes.
    pub(crate) taken: u32,
    pub(crate) info: &'static ProcedureInfo,
    pub(crate) refuser: Refuser,
}

impl Flags {
    /// Refuses two flags together, as the API layer does.
    pub(crate) fn exclusive(self, two: [Named; 2]) -> Result<Self, WireError> {
        exclusive(self.info.area(), self.info, self.given, two)?;
        Ok(self)
    }

    /// Refuses the first flag without the second, as the API layer does.
    pub(crate) fn requires(
        self,
        [(flag, name), (needed, needed_name)]: [Named; 2],
    ) -> Result<Self, WireError> {
        required(
            self.info.area(),
            self.info,
            self.given,
            [(flag, name), (needed, needed_name)],
        )?;
        Ok(self)
    }

    /// The bits.
    ///
    /// # Errors
    /// When there are some that the call does not take.
    pub(crate) fn checked(self) -> Result<u32, WireError> {
        let unknown = self.given & !self.taken;
        if unknown == 0 {
            return Ok(self.given);
        }
        let api = self.info.api;
        let (area, function) = match self.refuser {
            Refuser::Driver => (
                ErrorDomain::QEMU,
                format!("qemu{}", api.strip_prefix("vir").unwrap_or(api)),
            ),
            Refuser::Function(area, function) => (area, function.to_owned()),
        };
        let text = format!("unsupported flags ({unknown:#x}) in function {function}");
        Err(refused(area, &function, "flags", &text))
    }
}

/// Refuses two flags together, for `area`.
pub(crate) fn exclusive(
    area: ErrorDomain,
    info: &ProcedureInfo,
    given: u32,
    [(first, first_name), (second, second_name)]: [Named; 2],
) -> Result<(), WireError> {
    if given & first == 0 || given & second == 0 {
        return Ok(());
    }
    let text = format!("Flags '{first_name}' and '{second_name}' are mutually exclusive");
    Err(refused(area, info.api, "ctl", &text))
}

/// Refuses the first flag without the second, for `area`.
pub(crate) fn required(
    area: ErrorDomain,
    info: &ProcedureInfo,
    given: u32,
    [(flag, name), (needed, needed_name)]: [Named; 2],
) -> Result<(), WireError> {
    if given & flag == 0 || given & needed != 0 {
        return Ok(());
    }
    let text = format!("Flag '{needed_name}' is required by flag '{name}'");
    Err(refused(area, info.api, "ctl", &text))
}

/// What two flags of a group choose; both are as good as none.
pub(super) fn either(flags: u32, yes: u32, no: u32) -> Option<bool> {
    match (flags & yes != 0, flags & no != 0) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wire::Procedure;
    use wire::consts::{VIR_DOMAIN_AFFECT_CONFIG, VIR_DOMAIN_AFFECT_LIVE};
    use wire::remote::DomainPinEmulator;

    use super::*;

    const BOTH: u32 = VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG;

    fn flags(given: u32, refuser: Refuser) -> Flags {
        Flags {
            given,
            taken: BOTH,
            info: &<DomainPinEmulator as Procedure>::INFO,
            refuser,
        }
    }

    #[test]
    fn only_flags_that_are_not_taken_are_refused_and_told() {
        let checked = |given| flags(given, Refuser::Driver).checked().map_err(|e| e.to_string());
        assert_eq!((checked(0), checked(BOTH)), (Ok(0), Ok(BOTH)));
        let refused = "unsupported flags (0x80000008) in function qemuDomainPinEmulator";
        assert_eq!(checked(BOTH | 0x8000_0008), Err(refused.into()));
    }

    #[test]
    fn another_function_refuses_in_its_own_name() {
        let other = Refuser::Function(ErrorDomain::NONE, "virHostCPUGetMap");
        let error = flags(4, other).checked().unwrap_err();
        let text = "unsupported flags (0x4) in function virHostCPUGetMap";
        assert_eq!(
            (error.to_string().as_str(), error.domain),
            (text, ErrorDomain::NONE)
        );
    }

    #[test]
    fn flags_that_exclude_or_need_each_other() {
        let exclusive = flags(BOTH, Refuser::Driver)
            .exclusive(LIVE_OR_CONFIG)
            .unwrap_err();
        let text = "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive";
        assert_eq!(exclusive.to_string(), text);
        let needed = flags(VIR_DOMAIN_AFFECT_LIVE, Refuser::Driver)
            .requires(LIVE_OR_CONFIG)
            .unwrap_err();
        let text = "Flag 'VIR_DOMAIN_AFFECT_CONFIG' is required by flag 'VIR_DOMAIN_AFFECT_LIVE'";
        assert_eq!(needed.to_string(), text);
    }
}
