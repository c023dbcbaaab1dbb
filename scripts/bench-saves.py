#!/usr/bin/python3
"""Measures saving and restoring a guest of 256 MiB against what QEMU alone takes to write and read the same memory.

usage: bench-saves.py --uri URI --dir DIR [--memory MIB] [--rounds N]

Both write past the page cache into a file of mapped memory in DIR, which is best on a disk. QEMU alone is driven by its
monitor: it stops, migrates into the file and ends; then a new one is started, loads the file and runs. The daemon does the
same by one call of libvirt's interface each, on a connection that is open: format sparse, past the cache. They take turns; what is printed
are the fastest and the median of all rounds, in milliseconds, and how fast the daemon is in relation to QEMU: 1 is as fast.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import libvirt

import monitor

# Seconds between a start and the save.
SETTLE = 1
QEMU = "/usr/bin/qemu-system-x86_64"
# A parameter of a save that older bindings have no name for.
IMAGE_FORMAT = "image_format"


class Monitor(monitor.Monitor):
    """A QEMU that saves and restores."""

    def migrated(self):
        while True:
            for event in self.events:
                status = event.get("data", {}).get("status")
                if event["event"] == "MIGRATION" and status in ("completed", "failed"):
                    self.events = []
                    if status == "failed":
                        raise RuntimeError(str(self.ask("query-migrate")))
                    return
            self.events = [json.loads(self.file.readline())]

    def prepare(self):
        on = ["events", "mapped-ram", "multifd"]
        self.ask("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in on])
        self.ask("migrate-set-parameters", **{"max-bandwidth": 9223372036853727232, "multifd-channels": 1, "direct-io": True})


class Bench:
    def __init__(self, options):
        self.options = options
        self.memory = f"{options.dir}/memory"
        with open(self.memory, "wb") as file:
            file.write(os.urandom((options.memory - 8) << 20))
        self.socket = f"{options.dir}/monitor"
        self.image = f"{options.dir}/image"
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.connection = libvirt.open(options.uri)

    # QEMU alone.

    def qemu(self, *more):
        machine = ["-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", str(self.options.memory)]
        # Also of one that loads an image: the daemon has the device, too.
        loaded = ["-device", f"loader,file={self.memory},addr=0x400000,force-raw=on"]
        words = [QEMU, *machine, "-S", "-qmp", f"unix:{self.socket},server=on,wait=off", *loaded, *more]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        return process, Monitor(self.socket)

    def open(self, monitor, flags):
        for flag in [0, os.O_DIRECT]:
            fd = os.open(self.image, flags | flag, 0o600)
            monitor.ask("add-fd", fd=fd, **{"fdset-id": 0})
            os.close(fd)

    def alone(self):
        process, monitor = self.qemu()
        time.sleep(SETTLE)
        began = time.monotonic()
        monitor.ask("stop")
        monitor.prepare()
        self.open(monitor, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        monitor.ask("migrate", uri="file:/dev/fdset/0,offset=0x100000", detach=True)
        monitor.migrated()
        process.terminate()
        process.wait()
        saved = time.monotonic()
        process, monitor = self.qemu("-incoming", "defer")
        monitor.prepare()
        self.open(monitor, os.O_RDONLY)
        monitor.ask("migrate-incoming", uri="file:/dev/fdset/0,offset=0x100000")
        monitor.migrated()
        monitor.ask("cont")
        restored = time.monotonic()
        process.kill()
        process.wait()
        return saved - began, restored - saved

    # The daemon.

    def define(self):
        arguments = ["-device", f"loader,file={self.memory},addr=0x400000,force-raw=on"]
        more = "".join(f"<qemu:arg value='{word}'/>" for word in arguments)
        text = f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>bench-saves</name>
            <memory unit='MiB'>{self.options.memory}</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
            <cpu mode='custom' match='exact'><model>qemu64</model></cpu><devices><emulator>{QEMU}</emulator>
            <controller type='usb' model='none'/><memballoon model='none'/></devices>
            <qemu:commandline>{more}</qemu:commandline></domain>"""
        self.guest = self.connection.defineXML(text)

    def managed(self):
        # Its CPUs never ran, as with QEMU alone, and what follows a start is over.
        self.guest.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        time.sleep(SETTLE)
        image = {libvirt.VIR_DOMAIN_SAVE_PARAM_FILE: self.image}
        began = time.monotonic()
        self.guest.saveParams(image | {IMAGE_FORMAT: "sparse"}, libvirt.VIR_DOMAIN_SAVE_BYPASS_CACHE)
        saved = time.monotonic()
        self.connection.restoreParams(image, libvirt.VIR_DOMAIN_SAVE_BYPASS_CACHE | libvirt.VIR_DOMAIN_SAVE_RUNNING)
        restored = time.monotonic()
        self.guest.destroy()
        return saved - began, restored - saved

    def run(self):
        self.define()
        figures = {"QEMU": [], "daemon": []}
        try:
            for _ in range(self.options.rounds):
                for name, measure in [("QEMU", self.alone), ("daemon", self.managed)]:
                    figures[name].append(measure())
                    os.remove(self.image)
        finally:
            if self.guest.isActive():
                self.guest.destroy()
            self.guest.undefine()
            os.remove(self.memory)
        for at, what in enumerate(["save", "restore"]):
            for which, of in [("fastest", min), ("median", statistics.median)]:
                qemu, daemon = (1000 * of([figure[at] for figure in figures[name]]) for name in ["QEMU", "daemon"])
                print(f"{what:8} {which:8} QEMU {qemu:6.0f} ms  daemon {daemon:6.0f} ms  {qemu / daemon:.2f}")
            if self.options.verbose:
                print({name: [round(1000 * figure[at]) for figure in figures[name]] for name in figures})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--dir", required=True, help="where the images are written")
    parser.add_argument("--memory", type=int, default=256, help="MiB of the guest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--verbose", action="store_true", help="print each figure")
    options = parser.parse_args()
    options.dir = os.path.abspath(options.dir)
    os.makedirs(options.dir, exist_ok=True)
    Bench(options).run()


if __name__ == "__main__":
    main()
