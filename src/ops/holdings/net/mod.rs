//! What an interface has of the host and of other daemons.

pub mod bridge_helper;
pub mod interface;
pub(crate) mod mac_filter;
pub mod macvtap;
pub mod openvswitch;
pub mod ports;
pub mod script;
pub mod tap;
pub mod traffic;
pub mod traffic_control;
