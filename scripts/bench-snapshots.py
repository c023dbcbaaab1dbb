#!/usr/bin/python3
"""Measures snapshots and chains of images: by the daemon and by libvirt's own.

usage: bench-snapshots.py --uri URI --reference URI --dir DIR [--rounds N] [--snapshots N] [--pid PID --reference-pid PID]

* How long a guest of 256 MiB stands still while an external snapshot with its memory is made, by the events that say so.
* How long a guest stands still while the overlay on its disk is merged into the image below and swapped for it, by what QEMU says of its
  CPUs (0: they run all the while), and how long the swap takes.
* A list of the snapshots of one guest, and the document of one; with the PIDs of both daemons, what memory the snapshots take (of daemons that were
  just started).
* Attaching a disk, a guest's document and its statistics, with chains of 8 to 64 images.

The daemons take turns. Times are medians in milliseconds; nan is what a daemon refuses. Images are made in DIR.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time

import libvirt
import libvirt_qemu

QEMU = "/usr/bin/qemu-system-x86_64"
CHAINS = [8, 16, 32, 64]
SNAPSHOTS = "bench-many-snapshots"


def document(name, memory, devices=""):
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>
        <os><type arch='x86_64' machine='q35'>hvm</type></os><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
        <devices><emulator>{QEMU}</emulator><controller type='scsi' model='virtio-scsi'/>{devices}</devices></domain>"""


def disk(path, target):
    return f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>
        <target dev='{target}' bus='scsi'/></disk>"""


def image(path, backing=None):
    more = ["-b", backing, "-F", "qcow2"] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "16M"], check=True)


def resident(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss_Anon:"))


class Side:
    """One of the daemons."""

    def __init__(self, name, uri, directory, pid):
        self.name, self.directory, self.pid = name, f"{directory}/{name}", pid
        os.makedirs(self.directory, exist_ok=True)
        self.connection = libvirt.open(uri)
        self.told = []
        self.domains = []
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self.connection.domainEventRegisterAny(None, kind, lambda _c, _d, event, *_: self.told.append((event, time.monotonic())), None)

    def domain(self, name, memory, devices=""):
        domain = self.connection.defineXML(document(name, memory, devices))
        self.domains.append(domain)
        return domain

    def pauses(self, rounds):
        path = f"{self.directory}/pause.qcow2"
        image(path)
        domain = self.domain("bench-pause", 256, disk(path, "sda"))
        domain.create()
        for turn in range(rounds):
            self.told.clear()
            memory = f"{self.directory}/memory-{turn}"
            snapshot = f"""<domainsnapshot><name>s{turn}</name><memory snapshot='external' file='{memory}'/>
                <disks><disk name='sda' snapshot='external'><source file='{self.directory}/over-{turn}.qcow2'/></disk></disks></domainsnapshot>"""
            domain.snapshotCreateXML(snapshot)
            os.remove(memory)
            until = time.monotonic() + 5
            while time.monotonic() < until and not any(event == libvirt.VIR_DOMAIN_EVENT_RESUMED for event, _ in self.told):
                time.sleep(0.005)
            when = dict(reversed(self.told))
            yield 1000 * (when[libvirt.VIR_DOMAIN_EVENT_RESUMED] - when[libvirt.VIR_DOMAIN_EVENT_SUSPENDED])

    def pivots(self, rounds):
        """How long each swap takes, and how long CPUs stand in it."""
        path = f"{self.directory}/pivot.qcow2"
        image(path)
        domain = self.domain("bench-pivot", 64, disk(path, "sda"))
        domain.create()
        told = []

        def tell(_connection, _domain, event, seconds, micros, *_):
            told.append((event, 1000 * seconds + micros / 1000))

        for event in ["STOP", "RESUME"]:
            libvirt_qemu.qemuMonitorEventRegister(self.connection, domain, event, tell, None)
        for turn in range(rounds):
            over = f"<domainsnapshot><disks><disk name='sda'><source file='{self.directory}/pivot-{turn}.qcow2'/></disk></disks></domainsnapshot>"
            domain.snapshotCreateXML(over, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)
            domain.blockCommit("sda", path, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
            while "ready='yes'" not in domain.XMLDesc():
                time.sleep(0.01)
            told.clear()
            took = timed(lambda: domain.blockJobAbort("sda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT))
            until = time.monotonic() + 0.5
            while time.monotonic() < until and not any(event == "RESUME" for event, _ in told):
                time.sleep(0.005)
            when = dict(reversed(told))
            yield took, when["RESUME"] - when["STOP"] if len(when) == 2 else 0

    def make_snapshots(self, number):
        domain = self.domain(SNAPSHOTS, 64)
        inner = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        before = self.pid and resident(self.pid)
        for at in range(number):
            snapshot = f"""<domainsnapshot><name>snapshot-{at:04}</name><state>shutoff</state>
                <creationTime>{at + 1}</creationTime>{inner}</domainsnapshot>"""
            domain.snapshotCreateXML(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
        self.grown = self.pid and resident(self.pid) - before

    def chain(self, length):
        """Images and a running guest for a chain that is attached."""
        last = None
        for at in range(length):
            path = f"{self.directory}/chain-{length}-{at}.qcow2"
            image(path, last)
            last = path
        domain = self.domain(f"bench-chain-{length}", 64)
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        return domain, last

    def end(self):
        for domain in self.domains:
            try:
                if domain.isActive():
                    domain.destroy()
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            except libvirt.libvirtError as error:
                print(f"{self.name}: {error}", file=sys.stderr)


def timed(call):
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def show(what, figures):
    ours, theirs = (statistics.median(figures[name] or [float("nan")]) for name in ["daemon", "libvirt"])
    ratio = ours / theirs if theirs else float("nan")
    print(f"{what:44} daemon {ours:9.2f}  libvirt {theirs:9.2f}  {ratio:.2f}", flush=True)


def turns(sides, rounds, call, between=lambda side: None):
    """What the calls take, but for what comes between them; of a daemon that refuses there are no figures."""
    figures = {side.name: [] for side in sides}
    refused = set()
    for _ in range(rounds):
        for side in sides:
            if side.name in refused:
                continue
            try:
                if figures[side.name]:
                    between(side)
                figures[side.name].append(timed(lambda: call(side)))
            except libvirt.libvirtError as error:
                refused.add(side.name)
                print(f"{side.name}: {error}", file=sys.stderr)
    return figures


def in_turns(sides, rounds, work):
    """What each side's own rounds give."""
    going = {side.name: work(side) for side in sides}
    figures = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            figures[side.name].append(next(going[side.name]))
    return figures


def pivots(sides, options):
    made = in_turns(sides, options.rounds, lambda side: side.pivots(options.rounds))
    show("swap to the image below", {name: [took for took, _ in all] for name, all in made.items()})
    show("CPUs stand in it", {name: [stood for _, stood in all] for name, all in made.items()})


def snapshots(sides, options):
    for side in sides:
        side.make_snapshots(options.snapshots)
    if all(side.pid for side in sides):
        show(f"memory of {options.snapshots} snapshots, KiB", {side.name: [side.grown] for side in sides})
    domains = {side.name: side.connection.lookupByName(SNAPSHOTS) for side in sides}
    show("list of all snapshots", turns(sides, options.rounds * 5, lambda side: domains[side.name].listAllSnapshots()))
    named = {name: domain.snapshotLookupByName("snapshot-0007") for name, domain in domains.items()}
    show("document of a snapshot", turns(sides, options.rounds * 20, lambda side: named[side.name].getXMLDesc()))


def chains(sides, options):
    for length in CHAINS:
        made = {side.name: side.chain(length) for side in sides}

        def attach(side):
            domain, path = made[side.name]
            domain.attachDeviceFlags(disk(path, "sda"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

        def detach(side):
            domain, path = made[side.name]
            domain.detachDeviceFlags(disk(path, "sda"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

        def statistics_of(side):
            side.connection.domainListGetStats([made[side.name][0]], libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING)

        show(f"chain of {length}: attached", turns(sides, options.rounds, attach, detach))
        show(f"chain of {length}: document", turns(sides, options.rounds * 5, lambda side: made[side.name][0].XMLDesc()))
        show(f"chain of {length}: statistics of all images", turns(sides, options.rounds, statistics_of))


def events():
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--dir", required=True, help="where images are made")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--reference-pid", type=int)
    options = parser.parse_args()
    directory = os.path.abspath(options.dir)
    libvirt.registerErrorHandler(lambda *_: None, None)
    events()
    sides = [
        Side("daemon", options.uri, directory, options.pid),
        Side("libvirt", options.reference, directory, options.reference_pid),
    ]
    try:
        pauses = in_turns(sides, options.rounds, lambda side: side.pauses(options.rounds))
        show("pause of an external snapshot with memory", pauses)
        pivots(sides, options)
        snapshots(sides, options)
        chains(sides, options)
    finally:
        for side in sides:
            side.end()
            subprocess.run(["rm", "-rf", side.directory], check=True)


if __name__ == "__main__":
    main()
