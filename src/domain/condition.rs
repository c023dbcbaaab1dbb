//! The state of a guest and its reason, with libvirt's numbers and words, as one table.

macro_rules! conditions {
    ($($state:ident = $number:literal $word:literal { $($name:ident = $reason:literal $rword:literal,)* })*) => {
        /// State and reason; the reasons of one state are its own.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct Condition { state: u8, reason: u8 }

        #[allow(missing_docs, reason = "state and reason, as in libvirt's manual")]
        impl Condition {
            $($(pub const $name: Condition = Condition { state: $number, reason: $reason };)*)*

            const TABLE: &'static [(u8, &'static str, u8, &'static str)] = &[$($(($number, $word, $reason, $rword),)*)*];
        }

        /// What a guest does now.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the states of libvirt's manual")]
        pub enum RunState { $($state = $number,)* }

        impl Condition {
            /// The state alone.
            pub fn state(self) -> RunState {
                $(if self.state == $number { return RunState::$state; })*
                RunState::Shutoff
            }
        }
    };
}

conditions! {
    Running = 1 "running" {
        RUNNING_UNKNOWN = 0 "unknown",
        RUNNING_BOOTED = 1 "booted",
        RUNNING_MIGRATED = 2 "migrated",
        RUNNING_RESTORED = 3 "restored",
        RUNNING_FROM_SNAPSHOT = 4 "from snapshot",
        RUNNING_UNPAUSED = 5 "unpaused",
        RUNNING_MIGRATION_CANCELED = 6 "migration canceled",
        RUNNING_SAVE_CANCELED = 7 "save canceled",
        RUNNING_WAKEUP = 8 "wakeup",
        RUNNING_CRASHED = 9 "crashed",
        RUNNING_POSTCOPY = 10 "post-copy",
        RUNNING_POSTCOPY_FAILED = 11 "post-copy failed",
    }
    Paused = 3 "paused" {
        PAUSED_UNKNOWN = 0 "unknown",
        PAUSED_USER = 1 "user",
        PAUSED_MIGRATION = 2 "migration",
        PAUSED_SAVE = 3 "save",
        PAUSED_DUMP = 4 "dump",
        PAUSED_IOERROR = 5 "ioerror",
        PAUSED_WATCHDOG = 6 "watchdog",
        PAUSED_FROM_SNAPSHOT = 7 "from snapshot",
        PAUSED_SHUTTING_DOWN = 8 "shutdown",
        PAUSED_SNAPSHOT = 9 "snapshot",
        PAUSED_CRASHED = 10 "panicked",
        PAUSED_STARTING_UP = 11 "starting up",
        PAUSED_POSTCOPY = 12 "post-copy",
        PAUSED_POSTCOPY_FAILED = 13 "post-copy failed",
        PAUSED_API_ERROR = 14 "api error",
    }
    Shutdown = 4 "in shutdown" {
        SHUTDOWN_UNKNOWN = 0 "unknown",
        SHUTDOWN_USER = 1 "user",
    }
    Shutoff = 5 "shut off" {
        SHUTOFF_UNKNOWN = 0 "unknown",
        SHUTOFF_SHUTDOWN = 1 "shutdown",
        SHUTOFF_DESTROYED = 2 "destroyed",
        SHUTOFF_CRASHED = 3 "crashed",
        SHUTOFF_MIGRATED = 4 "migrated",
        SHUTOFF_SAVED = 5 "saved",
        SHUTOFF_FAILED = 6 "failed",
        SHUTOFF_FROM_SNAPSHOT = 7 "from snapshot",
        SHUTOFF_DAEMON = 8 "daemon",
    }
    Crashed = 6 "crashed" {
        CRASHED_UNKNOWN = 0 "unknown",
        CRASHED_PANICKED = 1 "panicked",
    }
    PmSuspended = 7 "pmsuspended" {
        PMSUSPENDED_UNKNOWN = 0 "unknown",
    }
}

impl Condition {
    /// libvirt's number of the state.
    pub fn state_number(self) -> i32 {
        i32::from(self.state)
    }
    /// libvirt's number of the reason.
    pub fn reason_number(self) -> i32 {
        i32::from(self.reason)
    }
    /// libvirt's word for the state.
    pub fn state_word(self) -> &'static str {
        self.row().map_or("no state", |row| row.1)
    }
    /// libvirt's word for the reason.
    pub fn reason_word(self) -> &'static str {
        self.row().map_or("unknown", |row| row.3)
    }
    /// From libvirt's words, as status XML has them. An unknown reason of a known state is reason 0.
    pub fn from_words(state: &str, reason: &str) -> Option<Self> {
        let of_state = || Self::TABLE.iter().filter(|row| row.1 == state);
        let row = of_state()
            .find(|row| row.3 == reason)
            .or_else(|| of_state().next())?;
        Some(Self {
            state: row.0,
            reason: row.2,
        })
    }
    /// Whether the guest has a QEMU process in this state.
    pub fn is_active(self) -> bool {
        !matches!(self.state(), RunState::Shutoff)
    }
    fn row(self) -> Option<&'static (u8, &'static str, u8, &'static str)> {
        Self::TABLE
            .iter()
            .find(|row| row.0 == self.state && row.2 == self.reason)
    }
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.state_word(), self.reason_word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_name_the_same_condition() {
        for row in Condition::TABLE {
            let condition = Condition::from_words(row.1, row.3).expect(row.1);
            assert_eq!(
                (condition.state_number(), condition.reason_number()),
                (i32::from(row.0), i32::from(row.2))
            );
        }
        assert_eq!(
            Condition::from_words("paused", "something new"),
            Some(Condition::PAUSED_UNKNOWN)
        );
        assert_eq!(Condition::from_words("on fire", "unknown"), None);
    }
}
