//! CPUs, I/O threads and limits of disks that change while the guest runs: each at every step, and killed.

use anyhow::Result;
use virtqemud_client::proto as pb;

use crate::grpc::{Answer, Grpc, by_name};
use crate::steps::{CPU, Call, Done, Operation, SCSI, disk, every_step, image};

const TWO: &str = "<vcpu current='1'>2</vcpu>";
const PLUGGED: &str = "<vcpu current='2'>2</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no' order='1'/>\
    <vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/></vcpus>";

async fn set_vcpus(grpc: Grpc, name: String, count: u32) -> Answer<()> {
    grpc.set_vcpus(&name, pb::Scope::Live, count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_that_is_plugged_in_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "plug-cpu",
        devices: String::new(),
        cpus: TWO,
        call: Call::Other(|grpc, name| Box::pin(set_vcpus(grpc, name, 2))),
        done: Done::Shown("<vcpu id='1' enabled='yes' hotpluggable='yes' order='2'/>"),
        had: &[],
        commands: &["device_add"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_that_is_unplugged_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "unplug-cpu",
        devices: String::new(),
        cpus: PLUGGED,
        call: Call::Other(|grpc, name| Box::pin(set_vcpus(grpc, name, 1))),
        done: Done::Shown("<vcpu id='1' enabled='no' hotpluggable='yes'/>"),
        had: &[("device vcpu1", "there")],
        commands: &["device_del"],
    })
    .await
}

async fn add_iothread(grpc: Grpc, name: String) -> Answer<()> {
    grpc.add_iothread(&name, pb::Scope::Live).await
}

async fn remove_iothread(grpc: Grpc, name: String) -> Answer<()> {
    let request = pb::RemoveIoThreadRequest {
        domain: by_name(&name),
        scope: pb::Scope::Live.into(),
        id: 1,
        options: None,
    };
    grpc.tuning().remove_io_thread(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_io_thread_that_comes_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "add-iothread",
        devices: String::new(),
        cpus: CPU,
        call: Call::Other(|grpc, name| Box::pin(add_iothread(grpc, name))),
        done: Done::Shown("<iothread id='7'/>"),
        had: &[],
        commands: &["object-add"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_io_thread_that_goes_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "remove-iothread",
        devices: String::new(),
        cpus: "<vcpu>1</vcpu><iothreads>1</iothreads>",
        call: Call::Other(|grpc, name| Box::pin(remove_iothread(grpc, name))),
        done: Done::Gone("<iothreads>"),
        had: &[("object iothread1", "there")],
        // The thread comes back where its removal was cut off.
        commands: &["object-del", "object-add"],
    })
    .await
}

fn operations(count: u64) -> Option<pb::DiskLimitsChange> {
    use pb::disk_limits_change::{Rate, Rates};
    let total = Rate {
        average: Some(count),
        ..Default::default()
    };
    Some(pb::DiskLimitsChange {
        operations: Some(Rates {
            total: Some(total),
            ..Default::default()
        }),
        ..Default::default()
    })
}

async fn limit_disk(grpc: Grpc, name: String) -> Answer<()> {
    let request = pb::SetDiskLimitsRequest {
        domain: by_name(&name),
        disk: "sda".to_owned(),
        scope: pb::Scope::Live.into(),
        limits: operations(100),
        options: None,
    };
    grpc.disks().set_limits(request).await.map(drop)
}

async fn make_group(grpc: Grpc, name: String) -> Answer<()> {
    let request = pb::SetThrottleGroupRequest {
        domain: by_name(&name),
        group: "some".to_owned(),
        scope: pb::Scope::Live.into(),
        limits: operations(100),
        options: None,
    };
    grpc.disks().set_throttle_group(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_disk_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "limit-disk",
        devices: format!("{SCSI}{}", disk(&image("limited.img")?)),
        cpus: CPU,
        call: Call::Other(|grpc, name| Box::pin(limit_disk(grpc, name))),
        done: Done::Shown("<total_iops_sec>100</total_iops_sec>"),
        had: &[("operations a second", "0")],
        commands: &["block_set_io_throttle"],
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_group_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "throttle-group",
        devices: String::new(),
        cpus: CPU,
        call: Call::Other(|grpc, name| Box::pin(make_group(grpc, name))),
        done: Done::Shown("<group_name>some</group_name>"),
        had: &[],
        commands: &["object-add"],
    })
    .await
}

/// An interface with an end on the host.
const TAP: &str = "<interface type='ethernet'><mac address='52:54:00:00:00:09'/><target dev='vqsteps0'/>\
    <model type='virtio'/></interface>";

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_is_changed_with_its_plug_at_every_step() -> Result<()> {
    if !std::path::Path::new("/dev/net/tun").exists() {
        testkit::skip::skip("there are no TAP devices here");
        return Ok(());
    }
    let changed = TAP
        .replace("type='ethernet'", "type='ethernet' trustGuestRxFilters='yes'")
        .replace("</interface>", "<link state='down'/></interface>");
    every_step(Operation {
        name: "rewire",
        devices: TAP.to_owned(),
        cpus: CPU,
        call: Call::Update(changed),
        done: Done::Shown("trustGuestRxFilters='yes'"),
        had: &[("link", "true")],
        commands: &["set_link"],
    })
    .await
}

/// A disk that is the first half of its file.
fn half(image: &std::path::Path) -> String {
    let part = "<slices><slice type='storage' offset='0' size='2048'/></slices></source>";
    disk(image).replace("'/><target", &format!("'>{part}<target"))
}

async fn resize(grpc: Grpc, name: String) -> Answer<()> {
    let request = pb::ResizeDiskRequest {
        domain: by_name(&name),
        disk: "sda".to_owned(),
        bytes: 8192,
        ..Default::default()
    };
    grpc.disks().resize(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_file_that_becomes_the_whole_at_every_step() -> Result<()> {
    every_step(Operation {
        name: "drop-slice",
        devices: format!("{SCSI}{}", half(&image("half.img")?)),
        cpus: CPU,
        call: Call::Other(|grpc, name| Box::pin(resize(grpc, name))),
        done: Done::Gone("<slices>"),
        had: &[("the file's", "part")],
        commands: &["blockdev-reopen", "block_resize"],
    })
    .await
}
