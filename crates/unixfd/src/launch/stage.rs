//! The steps from a fork to an exec, and their numbers on the report pipe.

use std::fmt;

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// What was being done when a program could not be started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum Stage { $($(#[$doc])* $name = $code,)* }

        impl Stage {
            /// Code 0 is no stage: it announces the pid.
            pub(super) fn from_code(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }

        impl fmt::Display for Stage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

stages! {
    /// Pipes, descriptors, strings, the pid file.
    Prepare = 1, "cannot prepare";
    /// Either fork.
    Fork = 2, "fork";
    /// The wait for the new process, or its release.
    Watch = 3, "cannot watch the new process";
    /// A session of its own.
    Session = 4, "setsid";
    /// Descriptors at their numbers.
    Descriptors = 5, "cannot pass descriptors";
    /// Working directory.
    Directory = 6, "chdir to /";
    /// Resource limits.
    Limits = 7, "cannot set resource limits";
    /// Lock and contents of the pid file; `EAGAIN` or `EACCES`: another living process holds it.
    PidFile = 8, "cannot lock or write the pid file";
    /// Supplementary groups.
    Groups = 9, "setgroups";
    /// Group.
    Gid = 10, "setgid";
    /// User.
    Uid = 11, "setuid";
    /// No new privileges.
    NoNewPrivileges = 12, "prctl(PR_SET_NO_NEW_PRIVS)";
    /// The exec itself.
    Exec = 13, "exec";
    /// A connection that the new process itself makes; `EAGAIN`: the peer is too busy to take it.
    Connect = 14, "connect";
}
