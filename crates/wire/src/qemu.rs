//! The QEMU program: monitor and guest-agent passthrough, monitor events.

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::procedures;
use crate::remote::NonnullDomain;
use crate::xdr::Text;

procedures! {
    Qemu = 0x2000_8087, version 1;
    1 Low DomainMonitorCommand "virDomainQemuMonitorCommand" { dom: NonnullDomain, cmd: Text, flags: u32 }
        -> DomainMonitorCommandRet { result: Text } [qemu];
    2 Low DomainAttach "virDomainQemuAttach" { pid_value: u32, flags: u32 } -> DomainAttachRet { dom: NonnullDomain } [nobody];
    3 Low DomainAgentCommand "virDomainQemuAgentCommand" { dom: NonnullDomain, cmd: Text, timeout: i32, flags: u32 }
        -> DomainAgentCommandRet { result: Option<Text> } [qemu];
    4 High ConnectDomainMonitorEventRegister "virConnectDomainQemuMonitorEventRegister" { dom: Option<NonnullDomain>, event: Option<Text>,
        flags: u32 } -> ConnectDomainMonitorEventRegisterRet { callback_id: i32 } [qemu];
    5 High ConnectDomainMonitorEventDeregister "virConnectDomainQemuMonitorEventDeregister" { callback_id: i32 } [qemu];
    6 Low DomainMonitorEvent { callback_id: i32, dom: NonnullDomain, event: Text, seconds: i64, micros: u32, details: Option<Text> }
        [event];
    7 Low DomainMonitorCommandWithFiles "virDomainQemuMonitorCommandWithFiles" { dom: NonnullDomain, cmd: Text, flags: u32 }
        -> DomainMonitorCommandWithFilesRet { result: Text } [qemu fds_in fds_out];
}
