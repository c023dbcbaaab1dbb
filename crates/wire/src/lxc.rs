//! The LXC program: known, so that its calls get a proper refusal.

#![expect(
    missing_docs,
    reason = "the fields are the protocol's own and carry its names"
)]

use crate::procedures;
use crate::remote::NonnullDomain;

procedures! {
    Lxc = 0x0006_8000, version 1;
    1 Low DomainOpenNamespace "virDomainLxcOpenNamespace" { dom: NonnullDomain, flags: u32 } [nobody fds_out];
}
