#!/usr/bin/python3
"""Measures changes of a running guest: by the daemon, by libvirt's own, and by QEMU alone.

usage: bench-live.py --uri URI --reference URI --dir DIR [--rounds N] [--verbose]

Each of the three has a guest of its own that is paused and has no system: attach and detach of a SCSI disk and of a USB
network interface, limits of a disk, one vCPU more. They take turns, one call each. QEMU alone is driven by its monitor with the
commands that nobody can do without; what it takes is the floor under both daemons, but for a vCPU, whose threads both move to
control groups of their own, for which a kernel can take longer than for all the rest. Printed are medians in milliseconds, the
ratio of the daemons, and the ratio of what they take above the floor. Run the daemons with their run directories in memory.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

import libvirt

from monitor import Monitor

QEMU = "/usr/bin/qemu-system-x86_64"
VCPUS = 40
PORTS = 6
MAC = "52:54:00:00:66:01"


class Guest:
    """A guest of a daemon's."""

    def __init__(self, uri, directory, name):
        self.first, self.second = (f"{directory}/{name}-{which}.raw" for which in "ab")
        for path in self.first, self.second:
            with open(path, "wb") as file:
                file.truncate(1 << 20)
        ports = "<controller type='pci' model='pcie-root-port'/>" * PORTS
        document = f"""<domain type='qemu'><name>bench-live</name><memory unit='MiB'>64</memory>
            <vcpu current='1'>{VCPUS}</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
            <cpu mode='custom' match='exact'><model>qemu64</model></cpu><devices><emulator>{QEMU}</emulator>
            <controller type='pci' model='pcie-root'/>{ports}<controller type='scsi' model='virtio-scsi'/>
            <controller type='usb' model='qemu-xhci'/>{self.disk(self.first, 'sda')}</devices></domain>"""
        self.connection = libvirt.open(uri)
        self.domain = self.connection.createXML(document, libvirt.VIR_DOMAIN_START_PAUSED)
        self.vcpus = 1

    @staticmethod
    def disk(path, target):
        return f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>
            <target dev='{target}' bus='scsi'/></disk>"""

    INTERFACE = f"<interface type='user'><mac address='{MAC}'/><model type='usb-net'/></interface>"

    def attach_disk(self, _):
        self.domain.attachDeviceFlags(self.disk(self.second, "sdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach_disk(self, _):
        self.domain.detachDeviceFlags(self.disk(self.second, "sdb"), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def attach_interface(self, _):
        self.domain.attachDeviceFlags(self.INTERFACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach_interface(self, _):
        self.domain.detachDeviceFlags(self.INTERFACE, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def limit(self, turn):
        self.domain.setBlockIoTune("sda", {"total_iops_sec": 1000 + turn}, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def one_vcpu_more(self, _):
        self.vcpus += 1
        self.domain.setVcpusFlags(self.vcpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def end(self):
        self.domain.destroy()
        self.connection.close()


class Alone:
    """A QEMU that nobody manages."""

    def __init__(self, directory):
        self.second = f"{directory}/alone-b.raw"
        first, monitor = f"{directory}/alone-a.raw", f"{directory}/monitor"
        for path in first, self.second:
            with open(path, "wb") as file:
                file.truncate(1 << 20)
        words = ["-nodefaults", "-display", "none", "-S", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "64"]
        words += ["-smp", f"1,maxcpus={VCPUS},sockets={VCPUS},cores=1,threads=1", "-qmp", f"unix:{monitor},server=on,wait=off"]
        for port in range(1, PORTS + 1):
            words += ["-device", f"pcie-root-port,id=pci.{port},chassis={port},port={port}"]
        words += ["-device", "virtio-scsi-pci,id=scsi0,bus=pci.1", "-device", "qemu-xhci,id=usb,bus=pci.2"]
        words += ["-blockdev", f"driver=file,filename={first},node-name=a", "-device", "scsi-hd,id=scsi0-0-0-0,drive=a,bus=scsi0.0"]
        self.process = subprocess.Popen([QEMU, *words])
        self.monitor = Monitor(monitor)
        self.ask = self.monitor.ask
        self.vcpus = 1

    def unplug(self, device):
        self.monitor.events = []
        self.ask("device_del", id=device)
        gone = lambda event: event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device
        while not any(map(gone, self.monitor.events)):
            self.monitor.events = [json.loads(self.monitor.file.readline())]

    def attach_disk(self, _):
        file = {"driver": "file", "filename": self.second}
        self.ask("blockdev-add", **{"driver": "raw", "node-name": "b", "file": file})
        where = {"bus": "scsi0.0", "scsi-id": 0, "lun": 1}
        self.ask("device_add", driver="scsi-hd", id="scsi0-0-0-1", drive="b", **where)

    def detach_disk(self, _):
        self.unplug("scsi0-0-0-1")
        self.ask("blockdev-del", **{"node-name": "b"})

    def attach_interface(self, _):
        self.ask("netdev_add", type="user", id="hostnet0")
        self.ask("device_add", driver="usb-net", netdev="hostnet0", id="net0", mac=MAC, bus="usb.0", port="1")

    def detach_interface(self, _):
        self.unplug("net0")
        self.ask("netdev_del", id="hostnet0")

    def limit(self, turn):
        zero = dict.fromkeys(["bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"], 0)
        self.ask("block_set_io_throttle", id="scsi0-0-0-0", iops=1000 + turn, **zero)

    def one_vcpu_more(self, _):
        place = {"socket-id": self.vcpus, "core-id": 0, "thread-id": 0}
        self.ask("device_add", driver="qemu64-x86_64-cpu", id=f"vcpu{self.vcpus}", **place)
        self.ask("query-cpus-fast")
        self.vcpus += 1

    def end(self):
        self.process.kill()
        self.process.wait()


CALLS = ["attach_disk", "detach_disk", "attach_interface", "detach_interface", "limit", "one_vcpu_more"]
PAIRS = {"a disk, there and back": ("attach_disk", "detach_disk"), "an interface, there and back": ("attach_interface", "detach_interface")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--dir", required=True, help="where the images of the disks lie")
    parser.add_argument("--rounds", type=int, default=30, help=f"fewer than {VCPUS}")
    parser.add_argument("--verbose", action="store_true", help="print each figure")
    options = parser.parse_args()
    if not 0 < options.rounds < VCPUS:
        parser.error(f"--rounds: from 1 to {VCPUS - 1}")
    directory = os.path.abspath(options.dir)
    os.makedirs(directory, exist_ok=True)
    libvirt.registerErrorHandler(lambda *_: None, None)
    figures, guests = {}, {}
    try:
        guests["daemon"] = Guest(options.uri, directory, "daemon")
        guests["libvirt"] = Guest(options.reference, directory, "libvirt")
        guests["QEMU"] = Alone(directory)
        for turn in range(options.rounds):
            for call in CALLS:
                # In any order: what the kernel has done for one may be quicker for the next.
                for who, guest in random.sample(list(guests.items()), len(guests)):
                    began = time.perf_counter()
                    getattr(guest, call)(turn)
                    figures.setdefault(call, {}).setdefault(who, []).append(1000 * (time.perf_counter() - began))
    finally:
        for guest in guests.values():
            guest.end()
    for name, (there, back) in PAIRS.items():
        figures[name] = {who: list(map(sum, zip(figures[there][who], figures[back][who]))) for who in guests}
    for call, of in figures.items():
        daemon, reference, floor = (statistics.median(of[who]) for who in ["daemon", "libvirt", "QEMU"])
        own = (daemon - floor) / max(reference - floor, 0.001)
        shown = call.replace("_", " ")
        print(f"{shown:30} daemon {daemon:7.2f}  libvirt {reference:7.2f}  QEMU {floor:7.2f}  ratio {daemon / reference:.2f}  above QEMU {own:.2f}")
        if options.verbose:
            print({who: [round(figure, 2) for figure in of[who]] for who in of}, file=sys.stderr)


if __name__ == "__main__":
    main()
