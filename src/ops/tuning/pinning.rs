//! The host's CPUs that the threads of a guest may run on.
//!
//! What the document does not say of a thread, it says for all in `<vcpu cpuset>`; what it does not say at all, is every
//! CPU of the host.

use std::sync::Arc;

use domxml::{
    Bitmap, Domain,
    tuning::{CpuTune, IoThreadPin, Placement, Vcpu, VcpuPin},
};

use crate::{
    domain::{Run, View},
    error::{Code, Error, Result},
    ops::{
        Driver,
        document::scope::{self, Scope},
        holdings::cgroup::thread::Thread,
        host::node,
    },
};

/// Where the threads of a guest may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinning {
    /// Each CPU that the guest may have.
    pub vcpus: Vec<Bitmap>,
    /// QEMU's own.
    pub emulator: Bitmap,
}

/// A thread for I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoThread {
    /// Its number.
    pub id: u32,
    /// Where it may run.
    pub cpus: Bitmap,
}

/// What the document says of a thread, or of all.
pub(crate) fn of(document: &Domain, thread: Thread) -> Option<&Bitmap> {
    of_parts(document.cputune.as_ref(), document.vcpu.as_ref(), thread)
}

/// The same of a document's two elements for it.
pub(crate) fn of_parts<'a>(
    tune: Option<&'a CpuTune>,
    vcpu: Option<&'a Vcpu>,
    thread: Thread,
) -> Option<&'a Bitmap> {
    let own = tune.and_then(|tune| match thread {
        Thread::Vcpu(id) => tune.vcpupin.iter().find(|p| p.vcpu == id).map(|p| &p.cpuset),
        Thread::Emulator => tune.emulatorpin.as_ref(),
        Thread::Io(id) => tune
            .iothreadpin
            .iter()
            .find(|p| p.iothread == id)
            .map(|p| &p.cpuset),
    });
    let vcpu = vcpu.filter(|v| v.placement != Some(Placement::Auto));
    own.or_else(|| vcpu?.cpuset.as_ref())
}

/// Where the threads of a guest may run.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration.
pub async fn read(driver: &Driver, view: &View, scope: Scope) -> Result<Pinning> {
    let document = scope::read(view, scope)?;
    let all = every_cpu(driver).await?;
    let domain = document.domain()?;
    let shown = |thread| of(&domain, thread).unwrap_or(&all).clone();
    let vcpus = (0..document.facts().max_vcpus)
        .map(|id| shown(Thread::Vcpu(id)))
        .collect();
    Ok(Pinning {
        vcpus,
        emulator: shown(Thread::Emulator),
    })
}

/// The threads for I/O: of a running guest as QEMU and the kernel have them.
///
/// # Errors
/// `OperationInvalid` if the guest has no such configuration; what QEMU refuses.
pub async fn iothreads(driver: &Arc<Driver>, view: &View, scope: Scope) -> Result<Vec<IoThread>> {
    let document = scope::read(view, scope)?;
    if document.is_live() {
        let run = view.running()?;
        let threads = threads_of(driver, view, run).await?;
        let threads = threads.into_iter().map(|(id, tid)| {
            let cpus = confine::affinity(tid).map_err(|error| {
                Error::system(format_args!("cannot get CPU affinity of process {tid}"), error)
            });
            Ok(IoThread {
                id,
                cpus: cpus?.into_iter().collect(),
            })
        });
        return threads.collect();
    }
    let all = every_cpu(driver).await?;
    let domain = document.domain()?;
    let shown = |id| IoThread {
        id,
        cpus: of(&domain, Thread::Io(id)).unwrap_or(&all).clone(),
    };
    Ok(ids(&domain).into_iter().map(shown).collect())
}

/// The CPUs online.
pub(crate) async fn every_cpu(driver: &Driver) -> Result<Bitmap> {
    Ok(node::cpu_map(driver).await?.online.iter().copied().collect())
}

/// The numbers of a document's threads for I/O.
pub(crate) fn ids(domain: &Domain) -> Vec<u32> {
    let listed: Vec<u32> = domain
        .iothreadids
        .iter()
        .flat_map(|ids| &ids.all)
        .map(|thread| thread.id)
        .collect();
    let count = domain.iothreads.unwrap_or(0);
    if listed.is_empty() {
        (1..=count).collect()
    } else {
        listed
    }
}

/// Threads for I/O by number, with the host's numbers of the threads, in QEMU's order.
async fn threads_of(driver: &Arc<Driver>, view: &View, run: &Run) -> Result<Vec<(u32, i32)>> {
    if ids(&run.document.domain).is_empty() {
        return Ok(Vec::new());
    }
    let told = driver
        .guests
        .of(view)?
        .execute(qmp::commands::QueryIothreads {})
        .await?;
    Ok(numbered(&told))
}

/// QEMU names them `iothreadN`.
pub(crate) fn numbered(told: &[qmp::types::IoThreadInfo]) -> Vec<(u32, i32)> {
    let number =
        |t: &qmp::types::IoThreadInfo| Some((t.id.strip_prefix("iothread")?.parse().ok()?, t.thread_id));
    told.iter().filter_map(number).collect()
}

pub(crate) fn apply(domain: &mut Domain, thread: Thread, cpus: &Bitmap) -> Result<()> {
    check(domain, thread)?;
    if cpus.is_empty() {
        return Err(Error::argument("Empty cpu list for pinning"));
    }
    let tune = domain.cputune.get_or_insert_default();
    match thread {
        Thread::Vcpu(id) => pin_vcpu(
            tune,
            VcpuPin {
                vcpu: id,
                cpuset: cpus.clone(),
            },
        ),
        Thread::Emulator => tune.emulatorpin = Some(cpus.clone()),
        Thread::Io(id) => pin_iothread(
            tune,
            IoThreadPin {
                iothread: id,
                cpuset: cpus.clone(),
            },
        ),
    }
    Ok(())
}

fn check(domain: &Domain, thread: Thread) -> Result<()> {
    // Only a document of a run has an id.
    let live = domain.id.is_some();
    match thread {
        Thread::Vcpu(id) => {
            let most = domain.vcpu.as_ref().map_or(1, |v| v.count);
            let which = if live { "live" } else { "persistent" };
            let message =
                || Error::argument(format!("vcpu {id} is out of range of {which} cpu count {most}"));
            if id < most { Ok(()) } else { Err(message()) }
        }
        Thread::Io(id) if !ids(domain).contains(&id) => Err(Error::argument(format!(
            "{} {id} not found",
            if live { "iothread" } else { "iothreadid" }
        ))),
        Thread::Emulator | Thread::Io(_) => Ok(()),
    }
}

fn pin_vcpu(tune: &mut CpuTune, pin: VcpuPin) {
    let place = tune.vcpupin.partition_point(|p| p.vcpu < pin.vcpu);
    match tune.vcpupin.get_mut(place).filter(|p| p.vcpu == pin.vcpu) {
        Some(old) => *old = pin,
        None => tune.vcpupin.insert(place, pin),
    }
}

fn pin_iothread(tune: &mut CpuTune, pin: IoThreadPin) {
    let place = tune.iothreadpin.partition_point(|p| p.iothread < pin.iothread);
    match tune
        .iothreadpin
        .get_mut(place)
        .filter(|p| p.iothread == pin.iothread)
    {
        Some(old) => *old = pin,
        None => tune.iothreadpin.insert(place, pin),
    }
}

/// Where a thread of a running guest may run now, by the kernel's word; none: it is of a CPU that is not plugged.
pub(crate) async fn before(driver: &Arc<Driver>, view: &View, thread: Thread) -> Result<Option<Bitmap>> {
    let Some(tid) = tid_of(driver, view, thread).await? else {
        return Ok(None);
    };
    let cpus = confine::affinity(tid)
        .map_err(|error| Error::system(format_args!("cannot get CPU affinity of process {tid}"), error))?;
    Ok(Some(cpus.into_iter().collect()))
}

pub(crate) async fn carry_out(
    driver: &Arc<Driver>,
    view: &View,
    thread: Thread,
    cpus: &Bitmap,
) -> Result<()> {
    let tid = tid_of(driver, view, thread).await?;
    tid.map_or(Ok(()), |tid| set(tid, cpus))
}

/// The host's number of a guest's thread; none: it is of a CPU that is not plugged.
async fn tid_of(driver: &Arc<Driver>, view: &View, thread: Thread) -> Result<Option<i32>> {
    let run = view.running()?;
    match thread {
        Thread::Emulator => Ok(Some(run.launched.pid)),
        Thread::Vcpu(_) if run.status.vcpus.is_empty() => {
            Err(Error::invalid("cpu affinity is not supported"))
        }
        Thread::Vcpu(id) => Ok(run.status.vcpus.iter().find(|v| v.id == id).map(|v| v.pid)),
        Thread::Io(id) => {
            let threads = threads_of(driver, view, run).await?;
            let thread = threads.iter().find(|(number, _)| *number == id);
            let (_, tid) = thread.ok_or_else(|| Error::argument(format!("iothread {id} not found")))?;
            Ok(Some(*tid))
        }
    }
}

/// Lets one thread run on `cpus` only.
///
/// # Errors
/// `System`: none of them is there, or the thread is gone.
pub(crate) fn set(tid: i32, cpus: &Bitmap) -> Result<()> {
    confine::set_affinity(tid, cpus.iter())
        .map_err(|error| Error::system(format_args!("cannot set CPU affinity on process {tid}"), error))
}

pub(crate) fn event_name(thread: Thread) -> String {
    match thread {
        Thread::Vcpu(id) => format!("cputune.vcpupin{id}"),
        Thread::Emulator => "cputune.emulatorpin".to_owned(),
        Thread::Io(id) => format!("cputune.iothreadpin{id}"),
    }
}

/// A set of CPUs from a bit for each, the first in the lowest bit of the first byte.
///
/// # Errors
/// `InvalidArg` if it has more bits than a host has CPUs.
pub fn from_bits(bits: &[u8]) -> Result<Bitmap> {
    const MOST: usize = 2048;
    if bits.len() > MOST {
        return Err(Error::new(
            Code::InvalidArg,
            format!("a set of CPUs has at most {MOST} bytes"),
        ));
    }
    let numbers = (0u32..).zip(bits).flat_map(|(byte, bits)| {
        (0..8)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| byte * 8 + bit)
    });
    Ok(numbers.collect())
}

/// The bits of a set of CPUs, as few bytes as hold the last one.
pub fn to_bits(cpus: &Bitmap) -> Vec<u8> {
    let mut bits = vec![0; cpus.last().map_or(0, |last| last as usize / 8 + 1)];
    for cpu in cpus.iter() {
        if let Some(byte) = bits.get_mut(cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_numbers_and_back() {
        for (text, bits) in [
            ("0", vec![1]),
            ("0-1,9", vec![3, 2]),
            ("7-8,63", vec![0x80, 1, 0, 0, 0, 0, 0, 0x80]),
        ] {
            let set: Bitmap = text.parse().unwrap();
            assert_eq!(to_bits(&set), bits);
            assert_eq!(from_bits(&bits).unwrap(), set);
        }
        assert!(from_bits(&[0; 4096]).is_err());
    }

    fn guest(xml: &str) -> Domain {
        Domain::parse(
            &format!("<domain type='qemu'><name>a</name><os><type>hvm</type></os>{xml}</domain>"),
            domxml::ParseFlags::INACTIVE,
        )
        .unwrap()
    }

    #[test]
    fn what_is_not_said_of_a_thread_is_said_of_all() {
        let both = guest(
            "<vcpu cpuset='0-3'>2</vcpu><cputune><vcpupin vcpu='1' cpuset='2'/><emulatorpin cpuset='7'/></cputune>",
        );
        let shown = |thread| of(&both, thread).map(ToString::to_string);
        assert_eq!(shown(Thread::Vcpu(0)).as_deref(), Some("0-3"));
        assert_eq!(shown(Thread::Vcpu(1)).as_deref(), Some("2"));
        assert_eq!(shown(Thread::Emulator).as_deref(), Some("7"));
        assert_eq!(shown(Thread::Io(1)).as_deref(), Some("0-3"));
        assert_eq!(of(&guest("<vcpu>2</vcpu>"), Thread::Vcpu(0)), None);
    }

    #[test]
    fn pins_stand_in_order_and_once() {
        let mut domain = guest("<vcpu>3</vcpu><iothreads>2</iothreads>");
        let pin = |domain: &mut Domain, thread, cpus: &str| {
            apply(domain, thread, &cpus.parse().unwrap()).map_err(|e| e.to_string())
        };
        for (thread, cpus) in [
            (Thread::Vcpu(2), "1"),
            (Thread::Vcpu(0), "0"),
            (Thread::Vcpu(2), "0-1"),
            (Thread::Io(2), "1"),
        ] {
            pin(&mut domain, thread, cpus).unwrap();
        }
        let tune = domain.cputune.clone().unwrap();
        let pins: Vec<_> = tune
            .vcpupin
            .iter()
            .map(|p| (p.vcpu, p.cpuset.to_string()))
            .collect();
        assert_eq!(pins, [(0, "0".to_owned()), (2, "0-1".to_owned())]);
        assert_eq!(tune.iothreadpin.len(), 1);
        let refused = "invalid argument: vcpu 3 is out of range of persistent cpu count 3";
        assert_eq!(pin(&mut domain, Thread::Vcpu(3), "0"), Err(refused.to_owned()));
        assert_eq!(
            pin(&mut domain, Thread::Io(3), "0"),
            Err("invalid argument: iothreadid 3 not found".to_owned())
        );
        let empty = apply(&mut domain, Thread::Emulator, &Bitmap::default()).map_err(|e| e.to_string());
        assert_eq!(
            empty,
            Err("invalid argument: Empty cpu list for pinning".to_owned())
        );
    }
}
