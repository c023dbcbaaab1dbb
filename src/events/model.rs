//! Events as the journal holds them: numbers are libvirt's, as QEMU's reports and libvirt's clients have them.
//!
//! `api` turns them into the contract's messages, which have words. The journal's files hold this encoding, so a field
//! keeps its number.
#![allow(
    missing_docs,
    reason = "fields are those of the contract's Event, where they are documented"
)]

pub use crate::pb::{EventKind, Version, event::moment_change::Type as MomentType};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    #[prost(message, optional, tag = "1")]
    pub version: Option<Version>,
    #[prost(message, optional, tag = "2")]
    pub time: Option<prost_types::Timestamp>,
    #[prost(string, tag = "3")]
    pub uuid: String,
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(int32, tag = "5")]
    pub id: i32,
    #[prost(enumeration = "EventKind", tag = "6")]
    pub kind: i32,
    #[prost(
        oneof = "event::Detail",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 40, 41, 42"
    )]
    pub detail: Option<event::Detail>,
}
pub mod event {
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct Lifecycle {
        #[prost(int32, tag = "1")]
        pub r#type: i32,
        #[prost(int32, tag = "2")]
        pub detail: i32,
        #[prost(enumeration = "crate::pb::State", tag = "3")]
        pub state: i32,
        #[prost(enumeration = "crate::pb::StateReason", tag = "4")]
        pub reason: i32,
        #[prost(bool, tag = "5")]
        pub gone: bool,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct RtcChange {
        #[prost(int64, tag = "1")]
        pub offset: i64,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct Watchdog {
        #[prost(int32, tag = "1")]
        pub action: i32,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct IoError {
        #[prost(string, tag = "1")]
        pub path: String,
        #[prost(string, tag = "2")]
        pub device: String,
        #[prost(int32, tag = "3")]
        pub action: i32,
        #[prost(string, tag = "4")]
        pub reason: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Graphics {
        #[prost(int32, tag = "1")]
        pub phase: i32,
        #[prost(message, optional, tag = "2")]
        pub local: Option<graphics::Address>,
        #[prost(message, optional, tag = "3")]
        pub remote: Option<graphics::Address>,
        #[prost(string, tag = "4")]
        pub auth_scheme: String,
        #[prost(message, repeated, tag = "5")]
        pub subject: Vec<graphics::Identity>,
    }
    pub mod graphics {
        #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
        pub struct Address {
            #[prost(int32, tag = "1")]
            pub family: i32,
            #[prost(string, tag = "2")]
            pub node: String,
            #[prost(string, tag = "3")]
            pub service: String,
        }
        #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
        pub struct Identity {
            #[prost(string, tag = "1")]
            pub r#type: String,
            #[prost(string, tag = "2")]
            pub name: String,
        }
    }
    /// Numbers of its type are the contract's: libvirt has no such event.
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct MomentChange {
        #[prost(enumeration = "crate::pb::event::moment_change::Type", tag = "1")]
        pub r#type: i32,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub parent: String,
        #[prost(bool, tag = "4")]
        pub current: bool,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct TrayChange {
        #[prost(string, tag = "1")]
        pub alias: String,
        #[prost(int32, tag = "2")]
        pub reason: i32,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct BalloonChange {
        #[prost(uint64, tag = "1")]
        pub actual: u64,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct DeviceChange {
        #[prost(string, tag = "1")]
        pub alias: String,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct AgentLifecycle {
        #[prost(int32, tag = "1")]
        pub state: i32,
        #[prost(int32, tag = "2")]
        pub reason: i32,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct MetadataChange {
        #[prost(int32, tag = "1")]
        pub r#type: i32,
        #[prost(string, tag = "2")]
        pub uri: String,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct Monitor {
        #[prost(string, tag = "1")]
        pub event: String,
        #[prost(int64, tag = "2")]
        pub seconds: i64,
        #[prost(uint32, tag = "3")]
        pub microseconds: u32,
        #[prost(string, tag = "4")]
        pub details: String,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct BlockJob {
        #[prost(string, tag = "1")]
        pub path: String,
        #[prost(string, tag = "2")]
        pub target: String,
        #[prost(int32, tag = "3")]
        pub r#type: i32,
        #[prost(int32, tag = "4")]
        pub status: i32,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct BlockThreshold {
        #[prost(string, tag = "1")]
        pub target: String,
        #[prost(string, tag = "2")]
        pub path: String,
        #[prost(uint64, tag = "3")]
        pub threshold: u64,
        #[prost(uint64, tag = "4")]
        pub excess: u64,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct NicMacChange {
        #[prost(string, tag = "1")]
        pub alias: String,
        #[prost(string, tag = "2")]
        pub old_mac: String,
        #[prost(string, tag = "3")]
        pub new_mac: String,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct MemoryDeviceSizeChange {
        #[prost(string, tag = "1")]
        pub alias: String,
        #[prost(uint64, tag = "2")]
        pub size_kib: u64,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct MemoryFailure {
        #[prost(int32, tag = "1")]
        pub recipient: i32,
        #[prost(int32, tag = "2")]
        pub action: i32,
        #[prost(uint32, tag = "3")]
        pub flags: u32,
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct DiskChange {
        #[prost(string, tag = "1")]
        pub old_path: String,
        #[prost(string, tag = "2")]
        pub new_path: String,
        #[prost(string, tag = "3")]
        pub alias: String,
        #[prost(int32, tag = "4")]
        pub reason: i32,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Tunable {
        #[prost(message, repeated, tag = "1")]
        pub values: Vec<tunable::Value>,
    }
    pub mod tunable {
        #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
        pub struct Value {
            #[prost(string, tag = "1")]
            pub name: String,
            #[prost(oneof = "value::Value", tags = "2, 3, 4")]
            pub value: Option<value::Value>,
        }
        pub mod value {
            #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
            pub enum Value {
                #[prost(string, tag = "2")]
                Text(String),
                #[prost(uint64, tag = "3")]
                Unsigned(u64),
                #[prost(int64, tag = "4")]
                Signed(i64),
            }
        }
    }
    #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
    pub struct Job {
        #[prost(int32, tag = "1")]
        pub kind: i32,
        #[prost(int32, tag = "2")]
        pub state: i32,
        #[prost(uint64, tag = "3")]
        pub elapsed_ms: u64,
        #[prost(string, tag = "4")]
        pub error: String,
        #[prost(message, optional, tag = "5")]
        pub transfer: Option<Transfer>,
        #[prost(message, optional, tag = "6")]
        pub dump: Option<Amount>,
        #[prost(message, optional, tag = "7")]
        pub disks: Option<Amount>,
        #[prost(message, optional, tag = "8")]
        pub scratch: Option<Amount>,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct Amount {
        #[prost(uint64, tag = "1")]
        pub done: u64,
        #[prost(uint64, tag = "2")]
        pub total: u64,
    }
    #[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
    pub struct Transfer {
        #[prost(uint64, tag = "1")]
        pub total: u64,
        #[prost(uint64, tag = "2")]
        pub processed: u64,
        #[prost(uint64, tag = "3")]
        pub remaining: u64,
        #[prost(uint64, optional, tag = "4")]
        pub bps: Option<u64>,
        #[prost(uint64, tag = "5")]
        pub constant: u64,
        #[prost(uint64, tag = "6")]
        pub normal: u64,
        #[prost(uint64, tag = "7")]
        pub normal_bytes: u64,
        #[prost(uint64, tag = "8")]
        pub dirty_rate: u64,
        #[prost(uint64, tag = "9")]
        pub page_size: u64,
        #[prost(uint64, tag = "10")]
        pub iteration: u64,
        #[prost(uint64, tag = "11")]
        pub postcopy_requests: u64,
        #[prost(uint64, optional, tag = "12")]
        pub setup_ms: Option<u64>,
        #[prost(uint64, optional, tag = "13")]
        pub downtime_ms: Option<u64>,
    }
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Detail {
        #[prost(message, tag = "10")]
        Lifecycle(Lifecycle),
        #[prost(message, tag = "11")]
        RtcChange(RtcChange),
        #[prost(message, tag = "12")]
        Watchdog(Watchdog),
        #[prost(message, tag = "13")]
        IoError(IoError),
        #[prost(message, tag = "14")]
        Graphics(Graphics),
        #[prost(message, tag = "15")]
        TrayChange(TrayChange),
        #[prost(message, tag = "16")]
        BalloonChange(BalloonChange),
        #[prost(message, tag = "17")]
        Device(DeviceChange),
        #[prost(message, tag = "18")]
        AgentLifecycle(AgentLifecycle),
        #[prost(message, tag = "19")]
        MetadataChange(MetadataChange),
        #[prost(message, tag = "20")]
        Monitor(Monitor),
        #[prost(int32, tag = "21")]
        PmReason(i32),
        #[prost(message, tag = "22")]
        BlockJob(BlockJob),
        #[prost(message, tag = "23")]
        BlockThreshold(BlockThreshold),
        #[prost(message, tag = "24")]
        NicMacChange(NicMacChange),
        #[prost(message, tag = "25")]
        MemoryDeviceSizeChange(MemoryDeviceSizeChange),
        #[prost(message, tag = "26")]
        MemoryFailure(MemoryFailure),
        #[prost(message, tag = "27")]
        DiskChange(DiskChange),
        #[prost(message, tag = "28")]
        Tunable(Tunable),
        #[prost(message, tag = "40")]
        Job(Job),
        #[prost(int32, tag = "41")]
        MigrationIteration(i32),
        #[prost(message, tag = "42")]
        Moment(MomentChange),
    }
}
