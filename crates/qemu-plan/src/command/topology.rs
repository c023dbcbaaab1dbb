//! `-smp` and I/O threads.

use std::collections::BTreeSet;

use domxml::devices::common::YesNo;
use domxml::tuning::{IoThread, IoThreadPool};

use super::context::Context;
use super::line::CommandLine;
use crate::props::{Keyval, Props};

/// Appends `-smp`. CPUs that can be unplugged are plugged in after QEMU runs.
pub fn build_smp(cx: Context<'_>, line: &mut CommandLine) {
    let max = cx.def.vcpu.as_ref().map_or(1, |vcpu| vcpu.count);
    let present = present(cx, max);
    let mut smp = Keyval::implied(present.to_string());
    if present != max {
        smp.set("maxcpus", max);
    }
    match cx.def.cpu.as_ref().and_then(|cpu| cpu.topology) {
        Some(topology) => {
            smp.set("sockets", topology.sockets)
                .set("dies", topology.dies)
                .set("clusters", topology.clusters)
                .set("cores", topology.cores)
                .set("threads", topology.threads);
        }
        None => {
            smp.set("sockets", max).set("cores", 1).set("threads", 1);
        }
    }
    line.push("-smp", smp);
}

fn present(cx: Context<'_>, max: u32) -> u32 {
    match &cx.def.vcpus {
        Some(vcpus) if !vcpus.all.is_empty() => {
            let fixed = vcpus
                .all
                .iter()
                .filter(|vcpu| vcpu.enabled == YesNo::Yes && vcpu.hotpluggable != Some(YesNo::Yes));
            u32::try_from(fixed.count()).unwrap_or(max)
        }
        _ => cx.def.vcpu.as_ref().and_then(|vcpu| vcpu.current).unwrap_or(max),
    }
}

/// The guest's I/O threads: those listed, and as many more with the lowest free numbers as the count says.
pub fn iothreads(cx: Context<'_>) -> Vec<IoThread> {
    /// Far above any use, so that a count cannot ask for endless memory.
    const MOST: u32 = 65_536;
    let listed = cx
        .def
        .iothreadids
        .as_ref()
        .map(|ids| ids.all.clone())
        .unwrap_or_default();
    let count = cx.def.iothreads.unwrap_or_default().min(MOST) as usize;
    let taken: BTreeSet<u32> = listed.iter().map(|thread| thread.id).collect();
    let free = (1..).filter(|id| !taken.contains(id));
    let more = free.take(count.saturating_sub(listed.len()));
    let more = more.map(|id| IoThread {
        id,
        ..IoThread::default()
    });
    listed.iter().copied().chain(more).collect()
}

/// Appends I/O threads and the options of the main loop.
pub fn build_iothreads(cx: Context<'_>, line: &mut CommandLine) {
    for thread in iothreads(cx) {
        line.object(iothread_props(&thread));
    }
    if let Some(pool) = cx.def.defaultiothread {
        let mut props = Props::object("main-loop", "main-loop");
        put_pool(pool, &mut props);
        line.object(props);
    }
}

/// Properties of an I/O thread.
pub fn iothread_props(thread: &IoThread) -> Props {
    let mut props = Props::object("iothread", format!("iothread{}", thread.id));
    put_pool(thread.pool, &mut props);
    let poll = thread.poll.unwrap_or_default();
    props
        .opt("poll-max-ns", poll.max)
        .opt("poll-grow", poll.grow)
        .opt("poll-shrink", poll.shrink);
    props
}

fn put_pool(pool: IoThreadPool, props: &mut Props) {
    props
        .opt("thread-pool-min", pool.thread_pool_min)
        .opt("thread-pool-max", pool.thread_pool_max);
}
