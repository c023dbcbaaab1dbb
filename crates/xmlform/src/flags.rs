//! The forms of a document: what is read, and what is written.

use std::ops::{BitOr, BitOrAssign};

macro_rules! flag_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$flag_meta:meta])* $flag:ident = $bit:expr,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name(u32);

        impl $name {
            /// No flag.
            pub const NONE: Self = Self(0);
            $($(#[$flag_meta])* pub const $flag: Self = Self(1 << $bit);)*

            /// Whether every flag of `other` is set.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// This set less the other.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }

        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.with(other);
            }
        }
    };
}

flag_set! {
    /// Which form of a document is written.
    FormatFlags {
        /// With passwords and other secrets.
        SECURE = 0,
        /// The configuration, without what only a running guest has (id, labels, aliases).
        INACTIVE = 1,
        /// For the daemon's own status file.
        STATUS = 2,
        /// What a network interface really became, in place of what was asked for.
        ACTUAL_NET = 3,
        /// The host's own state of a PCI device, to be restored later.
        PCI_ORIG_STATES = 4,
        /// The clock's adjustment kept relative to a base.
        CLOCK_ADJUST = 5,
        /// For a peer of an older version: without what was added later by default.
        MIGRATABLE = 6,
    }
}

flag_set! {
    /// Which form of a document is read.
    ParseFlags {
        /// The configuration: what only a running guest has is dropped.
        INACTIVE = 0,
        /// The daemon's own status file.
        STATUS = 1,
        /// With what a network interface really became.
        ACTUAL_NET = 2,
        /// With the host's own state of a PCI device.
        PCI_ORIG_STATES = 3,
        /// A guest that is already incoming or saved: kept as it is.
        MIGRATABLE = 4,
        /// A new document, not one of ours: defaults may be chosen afresh.
        ABI_UPDATE = 5,
        /// Checks that depend on this host are left out.
        SKIP_VALIDATE = 6,
    }
}

/// In which forms a field takes part (`when = "..."`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Of a running guest: not in the inactive form.
    Live,
    /// Only in the inactive form.
    Inactive,
    /// Secrets: written only when asked for, always read.
    Secure,
    /// Only in the status file.
    Status,
    /// A running guest's, and always in the status file.
    ActualNet,
    /// Only in the status file, for PCI devices.
    PciOrigStates,
    /// Only when the clock's base is kept.
    ClockAdjust,
    /// Only for a peer.
    Migratable,
    /// Not for a peer of an older version.
    NotMigratable,
}

impl When {
    /// Whether the field is read.
    #[must_use]
    pub const fn reads(self, flags: ParseFlags) -> bool {
        match self {
            Self::Live => !flags.has(ParseFlags::INACTIVE),
            Self::Status => flags.has(ParseFlags::STATUS),
            Self::ActualNet => flags.has(ParseFlags::ACTUAL_NET),
            Self::PciOrigStates => flags.has(ParseFlags::PCI_ORIG_STATES),
            Self::Inactive | Self::Secure | Self::ClockAdjust | Self::Migratable | Self::NotMigratable => {
                true
            }
        }
    }

    /// Whether the field is written.
    #[must_use]
    pub const fn writes(self, flags: FormatFlags) -> bool {
        match self {
            Self::Live => !flags.has(FormatFlags::INACTIVE),
            Self::Inactive => flags.has(FormatFlags::INACTIVE),
            Self::Secure => flags.has(FormatFlags::SECURE),
            Self::Status => flags.has(FormatFlags::STATUS),
            Self::ActualNet => flags.has(FormatFlags::ACTUAL_NET),
            Self::PciOrigStates => flags.has(FormatFlags::PCI_ORIG_STATES),
            Self::ClockAdjust => flags.has(FormatFlags::CLOCK_ADJUST),
            Self::Migratable => flags.has(FormatFlags::MIGRATABLE),
            Self::NotMigratable => !flags.has(FormatFlags::MIGRATABLE),
        }
    }
}
