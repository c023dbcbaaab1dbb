//! What a Unix daemon does with raw descriptors: peer credentials, passing descriptors over sockets,
//! pidfds, memory files, TAP devices and other links, KVM's word on the CPU, device filters of cgroups, listeners with an exact mode, scheduling policies, core scheduling, counters of performance, and starting a program that outlives its starter.
//!
//! The one crate of the workspace that may say `unsafe`; every use of it is one system call, with
//! the reason beside it. It has no policy: callers decide who may do what.

mod async_file;
mod attribute;
mod bpf;
mod clock;
mod core_sched;
mod inherited;
mod kvm;
mod launch;
mod links;
mod listener;
mod lock;
mod memfd;
mod netlink;
mod passing;
mod peer;
pub mod perf;
mod pidfd;
mod policy;
mod quiet;
mod rlimit;
mod tap;
mod virtual_function;
mod vsock;

pub use async_file::AsyncFile;
pub use attribute::{attribute, remove_attribute, set_attribute};
pub use bpf::{ANY_DEVICE, DeviceTable};
pub use clock::local_offset;
pub use core_sched::{cookie, has_core_scheduling, new_cookie, new_cookie_of_process, share_cookie};
pub use inherited::keep_from_programs;
pub use kvm::{Kvm, Tsc};
pub use launch::{Held, Launch, LaunchError, Limit, Started, stage::Stage};
pub use links::{
    Macvtap, MacvtapMode, PortVlan, add_bridge_address, add_macvtap, add_port_vlan, is_up, leave_bridge,
    link_index, mac, macvtap_node, open_macvtap, remove_bridge_address, remove_macvtap, remove_port_vlan,
    send_without_queue,
};
pub use listener::{Owner, bind_listener};
pub use lock::lock_holder;
pub use memfd::{bounded_memfd, memfd, sealed_memfd};
pub use passing::{
    MAX_FDS, copy_of_inherited, recv_fd, recv_with_fds, send_fd, send_with_fds, try_recv_with_fds,
};
pub use peer::{Fds, Peer, PeerCred, peer_label};
pub use pidfd::{PidFd, start_time};
pub use policy::{Policy, set_policy};
pub use quiet::QuietStream;
pub use rlimit::{locked_memory, set_locked_memory};
pub use tap::{
    NAME_MAX, TapFlags, add_to_bridge, mtu, set_down, set_mac, set_macvtap_flags, set_mtu,
    set_receive_frames, set_up, tap, tap_name, vhost_net,
};
pub use virtual_function::{FunctionConfig, configure_function, function_config};
pub use vsock::{set_guest_cid, vhost_vsock};
