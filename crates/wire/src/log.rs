//! The program of virtlogd, which writes the guests' log files and rotates them. We are its client.

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::xdr::{Text, Uuid};
use crate::{procedures, xdr_struct};

xdr_struct! {
    /// Whose log it is.
    LogDomain { uuid: Uuid, name: Text }
    /// A place in a log that may be rotated.
    LogFilePosition { inode: u64, offset: u64 }
}

procedures! {
    Log = 0x8753_9319, version 1;
    1 Low DomainOpenLogFile { driver: Text, dom: LogDomain, path: Text, flags: u32 } -> DomainOpenLogFileRet { pos: LogFilePosition }
        [nobody fds_out];
    2 Low DomainGetLogFilePosition { path: Text, flags: u32 } -> DomainGetLogFilePositionRet { pos: LogFilePosition } [nobody];
    3 Low DomainReadLogFile { path: Text, pos: LogFilePosition, maxlen: u64, flags: u32 } -> DomainReadLogFileRet { data: Text } [nobody];
    4 Low DomainAppendLogFile { driver: Text, dom: LogDomain, path: Text, message: Text, flags: u32 } -> DomainAppendLogFileRet { ret: i32 }
        [nobody];
}
