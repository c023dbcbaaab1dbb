//! Whether a guest sees the same machine with another document: asked wherever its memory goes on, after a save, a
//! snapshot or a migration.
//!
//! What the guest can see is a table: a text with two holes, for the new value and the old, and where the value stands.
//! Paths, caches, the host's end of networks and displays are not compared. The first difference is the error, in the
//! order in which libvirt looks.

mod device;
mod row;

use domxml::{Domain, clock::Clock, cpu::Cpu};

use crate::error::{Area, Code};
use crate::{Error, Result};
use row::{Row, compare, show};

/// Whether a guest that has run with `old` may go on with `new`.
///
/// # Errors
/// The first difference that the guest would see.
pub fn check(new: &Domain, old: &Domain) -> Result<()> {
    compare(IDENTITY, new, old)?;
    compare(MEMORY, new, old)?;
    compare(MACHINE, new, old)?;
    if new.features != old.features {
        return Err(Error::conflicting("Target domain features do not match source"));
    }
    check_clock(new.clock.as_ref(), old.clock.as_ref())?;
    check_cpu(new.cpu.as_ref(), old.cpu.as_ref())?;
    if new.sysinfo.len() != old.sysinfo.len() {
        return Err(Error::conflicting(
            "Target domain count of sysinfo does not match source",
        ));
    }
    if new.sysinfo != old.sysinfo {
        return Err(Error::conflicting("Target sysinfo does not match source"));
    }
    device::check(&new.devices, &old.devices)
}

// table
const IDENTITY: &[Row<Domain>] = &[
    Row("Target domain virt type {} does not match source {}", |d| {
        d.kind.to_string()
    }),
    Row("Target domain uuid {} does not match source {}", |d| {
        show(d.uuid.as_ref())
    }),
    Row("Target domain requested genid does not match source", |d| {
        d.genid.is_some().to_string()
    }),
    Row("Target domain genid {} does not match source {}", |d| {
        show(d.genid.and_then(|genid| genid.value).as_ref())
    }),
    Row("Target domain name '{}' does not match source '{}'", |d| {
        d.name.clone()
    }),
];

// table
const MEMORY: &[Row<Domain>] = &[
    Row("Target domain max memory {} does not match source {}", |d| {
        d.memory.map_or(0, |memory| memory.size.0).to_string()
    }),
    Row("Target domain current memory {} does not match source {}", |d| {
        d.current_memory.map_or(0, |memory| memory.0).to_string()
    }),
    Row("Target maximum memory size '{}' doesn't match source '{}'", |d| {
        d.max_memory.map_or(0, |memory| memory.size.0).to_string()
    }),
    Row(
        "Target domain memory slots count '{}' doesn't match source '{}'",
        |d| {
            d.max_memory
                .and_then(|memory| memory.slots)
                .unwrap_or(0)
                .to_string()
        },
    ),
    Row(
        "Target memoryBacking source '{}' doesn't match source memoryBacking source'{}'",
        |d| {
            let source = d
                .memory_backing
                .as_ref()
                .and_then(|backing| backing.source.as_ref());
            source.map_or_else(
                || "none".to_owned(),
                |source| format!("{source:?}").to_lowercase(),
            )
        },
    ),
];

// table
const MACHINE: &[Row<Domain>] = &[
    Row("Target domain vCPU max {} does not match source {}", |d| {
        d.vcpu.as_ref().map_or(0, |vcpu| vcpu.count).to_string()
    }),
    Row("Target domain OS type {} does not match source {}", |d| {
        d.os.kind
            .as_ref()
            .map(|kind| kind.value.clone())
            .unwrap_or_default()
    }),
    Row("Target domain architecture {} does not match source {}", |d| {
        show(d.os.kind.as_ref().and_then(|kind| kind.arch.as_ref()))
    }),
    Row("Target domain machine type {} does not match source {}", |d| {
        show(d.os.kind.as_ref().and_then(|kind| kind.machine.as_ref()))
    }),
    Row("Target domain SMBIOS mode {} does not match source {}", |d| {
        d.os.smbios
            .as_ref()
            .map_or_else(|| "none".to_owned(), ToString::to_string)
    }),
];

fn check_clock(new: Option<&Clock>, old: Option<&Clock>) -> Result<()> {
    use domxml::clock::Timer;
    // table
    const TIMER: &[Row<Timer>] = &[
        Row("Target timer {} does not match source {}", |t| t.name.to_string()),
        Row("Target timer presence '{}' does not match source '{}'", |t| {
            show(t.present.as_ref())
        }),
        Row("Target TSC frequency {} does not match source {}", |t| {
            t.frequency.unwrap_or(0).to_string()
        }),
        Row("Target TSC mode {} does not match source {}", |t| {
            show(t.mode.as_ref())
        }),
    ];
    let timers = |clock: Option<&Clock>| clock.map(|clock| clock.timers.clone()).unwrap_or_default();
    let (new, old) = (timers(new), timers(old));
    if new.len() != old.len() {
        return Err(Error::conflicting("Target domain timers do not match source"));
    }
    new.iter()
        .zip(&old)
        .try_for_each(|(new, old)| compare(TIMER, new, old))
}

// table
const CPU: &[Row<Cpu>] = &[
    Row("Target CPU mode {} does not match source {}", |c| {
        show(c.mode.as_ref())
    }),
    Row("Target CPU model {} does not match source {}", |c| {
        show(c.model.as_ref().and_then(|model| model.name.as_ref()))
    }),
    Row("Target CPU vendor {} does not match source {}", |c| {
        show(c.vendor.as_ref())
    }),
    Row("Target CPU vendor id {} does not match source {}", |c| {
        show(c.model.as_ref().and_then(|model| model.vendor_id.as_ref()))
    }),
    Row("Target CPU sockets {} does not match source {}", |c| {
        c.topology.map_or(0, |topology| topology.sockets).to_string()
    }),
    Row("Target CPU dies {} does not match source {}", |c| {
        c.topology.map_or(0, |topology| topology.dies).to_string()
    }),
    Row("Target CPU clusters {} does not match source {}", |c| {
        c.topology.map_or(0, |topology| topology.clusters).to_string()
    }),
    Row("Target CPU cores {} does not match source {}", |c| {
        c.topology.map_or(0, |topology| topology.cores).to_string()
    }),
    Row("Target CPU threads {} does not match source {}", |c| {
        c.topology.map_or(0, |topology| topology.threads).to_string()
    }),
    Row("Target CPU feature count {} does not match source {}", |c| {
        c.features.len().to_string()
    }),
    Row("Target CPU cache does not match source", |c| {
        format!("{:?}", c.cache)
    }),
    Row("Target CPU maximum physical address does not match source", |c| {
        format!("{:?}", c.maxphysaddr)
    }),
    Row("Target NUMA cells do not match source", |c| {
        let cells = c.numa.iter().flat_map(|numa| &numa.cells);
        cells
            .map(|cell| format!("{:?} {:?}", cell.cpus, cell.memory))
            .collect()
    }),
];

/// The CPU; without one it is QEMU's own.
fn check_cpu(new: Option<&Cpu>, old: Option<&Cpu>) -> Result<()> {
    let (none, none_either) = (Cpu::default(), Cpu::default());
    let (new, old) = (new.unwrap_or(&none), old.unwrap_or(&none_either));
    let of_cpu = |error: Error| Error {
        area: Area::Cpu,
        ..error
    };
    compare(CPU, new, old).map_err(of_cpu)?;
    for feature in &new.features {
        let same = old.features.iter().find(|other| other.name == feature.name);
        let policy = |feature: &domxml::cpu::CpuFeature| show(feature.policy.as_ref());
        let what = match same {
            None => format!("Target CPU feature {} does not match source", feature.name),
            Some(other) if other.policy != feature.policy => format!(
                "Target CPU feature policy {} does not match source {}",
                policy(feature),
                policy(other)
            ),
            Some(_) => continue,
        };
        return Err(Error::new(Code::ConfigUnsupported, Area::Cpu, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domxml::ParseFlags;

    use super::*;

    const GUEST: &str = "<domain type='qemu'><name>a</name><uuid>8a7b4f2e-0000-4000-8000-000000000001</uuid>
        <memory>65536</memory><currentMemory>65536</currentMemory><vcpu>1</vcpu>
        <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
        <cpu mode='custom'><model>qemu64</model><feature policy='require' name='lahf_lm'/></cpu>
        <clock offset='utc'><timer name='hpet' present='no'/></clock><devices>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/a'/>
        <target dev='vda' bus='virtio'/><serial>one</serial>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></disk>
        <controller type='usb' index='0' model='qemu-xhci' ports='15'/>
        <filesystem type='mount' accessmode='mapped'><source dir='/s'/><target dir='share'/></filesystem>
        <interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/><mtu size='1400'/></interface>
        <serial type='pty'><target type='isa-serial' port='0'/></serial>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
        <input type='tablet' bus='usb'/><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
        <sound model='ich9'/><video><model type='vga' vram='16384' heads='1'/></video>
        <hostdev mode='subsystem' type='usb'><source><vendor id='1'/><product id='2'/></source></hostdev>
        <redirdev bus='usb' type='spicevmc'/><watchdog model='itco' action='reset'/>
        <memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
        <panic model='isa'/><shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
        <vsock model='virtio'/></devices></domain>";

    fn parse(text: &str) -> Domain {
        Domain::parse(text, ParseFlags::INACTIVE).unwrap()
    }

    /// table: what is replaced, by what, and the error.
    const CASES: &[(&str, &str, &str)] = &[
        (
            "<name>a<",
            "<name>b<",
            "Target domain name 'b' does not match source 'a'",
        ),
        (
            "type='qemu'>",
            "type='kvm'>",
            "Target domain virt type kvm does not match source qemu",
        ),
        (
            ">65536</memory>",
            ">131072</memory>",
            "Target domain max memory 131072 does not match source 65536",
        ),
        (
            "<vcpu>1",
            "<vcpu>2",
            "Target domain vCPU max 2 does not match source 1",
        ),
        (
            "q35-10.0",
            "q35-9.2",
            "Target domain machine type pc-q35-9.2 does not match source pc-q35-10.0",
        ),
        (
            ">qemu64<",
            ">qemu32<",
            "Target CPU model qemu32 does not match source qemu64",
        ),
        ("lahf_lm", "sse4", "Target CPU feature sse4 does not match source"),
        (
            "present='no'",
            "present='yes'",
            "Target timer presence 'yes' does not match source 'no'",
        ),
        (
            "dev='vda'",
            "dev='vdb'",
            "Target disk vdb does not match source vda",
        ),
        (
            "device='disk'",
            "device='lun'",
            "Target disk device lun does not match source disk",
        ),
        (
            ">one<",
            ">two<",
            "Target disk serial two does not match source one",
        ),
        (
            "bus='0x01'",
            "bus='0x02'",
            "Target device PCI address 0000:02:00.0 does not match source 0000:01:00.0",
        ),
        (
            "ports='15'",
            "ports='8'",
            "Target controller ports 8 does not match source 15",
        ),
        (
            "dir='share'",
            "dir='other'",
            "Target filesystem guest target other does not match source share",
        ),
        (
            "00:00:01'",
            "00:00:02'",
            "Target network card mac 52:54:00:00:00:02 does not match source 52:54:00:00:00:01",
        ),
        (
            "size='1400'",
            "size='1500'",
            "Target network card MTU 1500 does not match source 1400",
        ),
        (
            "port='0'/></serial>",
            "port='1'/></serial>",
            "Target serial port 1 does not match source 0",
        ),
        (
            "org.qemu.guest_agent.0",
            "org.x.0",
            "Target channel name org.x.0 does not match source org.qemu.guest_agent.0",
        ),
        (
            "type='tablet'",
            "type='mouse'",
            "Target input device type mouse does not match source tablet",
        ),
        (
            "tpm-crb",
            "tpm-tis",
            "Target TPM device model doesn't match source",
        ),
        (
            "'ich9'",
            "'ich6'",
            "Target sound card model ich6 does not match source ich9",
        ),
        (
            "vram='16384'",
            "vram='32768'",
            "Target video card vram 32768 does not match source 16384",
        ),
        (
            "<redirdev bus='usb' type='spicevmc'/>",
            "",
            "Target domain redirected devices count 0 does not match source 1",
        ),
        (
            "'itco'",
            "'i6300esb'",
            "Target watchdog model i6300esb does not match source itco",
        ),
        (
            "<memballoon model='virtio'/>",
            "",
            "Target domain memory balloon count 0 does not match source 1",
        ),
        (
            "panic model='isa'",
            "panic model='pvpanic'",
            "Target panic model 'pvpanic' does not match source 'isa'",
        ),
        (
            ">4</size>",
            ">8</size>",
            "Target shared memory size '8388608' does not match source size '4194304'",
        ),
        (
            "vsock model='virtio'",
            "vsock model='virtio-transitional'",
            "Target domain vsock device model 'virtio-transitional' does not match source 'virtio'",
        ),
    ];

    #[test]
    fn what_the_guest_sees_must_stay() {
        let old = parse(GUEST);
        check(&old, &old).unwrap();
        for (what, by, error) in CASES {
            assert!(GUEST.contains(what), "{what}");
            let new = parse(&GUEST.replacen(what, by, 1));
            let found = check(&new, &old).expect_err(what);
            assert_eq!(found.message, *error, "{what}");
            assert_eq!(found.code, Code::ConfigUnsupported);
        }
    }

    #[test]
    fn what_only_the_host_sees_may_change() {
        let old = parse(GUEST);
        for (what, by) in [
            ("file='/a'", "file='/b'"),
            ("cache='none'", "cache='writeback'"),
            ("type='qcow2'", "type='raw'"),
            ("dir='/s'", "dir='/t'"),
            ("action='reset'", "action='none'"),
            ("<name>a</name>", "<name>a</name><title>b</title>"),
        ] {
            let new = parse(&GUEST.replacen(what, by, 1));
            check(&new, &old).expect(what);
        }
    }
}
