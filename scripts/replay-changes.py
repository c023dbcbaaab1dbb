#!/usr/bin/python3
"""Replays all recorded changes of running guests on a daemon, and says how many rows of the recording are equal.

usage: replay-changes.py --facts FILE --root DIR --daemon PROGRAM [--kernel FILE --initrd FILE] [--verbose] [OPTION...]

FILE, OPTION, and what equal means, are those of replay-plug.py. The daemon is started here, below DIR by scripts/sandbox.sh, and
beside it a libvirtd without its QEMU driver, whose networks and secrets the recording's guests use.
"""

import argparse
import glob
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVERS = "/usr/lib/*/libvirt/connection-driver"
# Those that come with libvirt.
FILTERS = "/etc/libvirt/nwfilter"
QEMU_DRIVER = "libvirt_driver_qemu.so"


class Place:
    def __init__(self, options):
        self.root = os.path.abspath(options.root)
        self.daemon = options.daemon
        self.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt/{options.socket}"
        self.sandbox = f"{HERE}/sandbox.sh"

    def spawn(self, name, words, **environment):
        """Starts a program in the sandbox; it outlives the process that starts it."""
        with open(f"{self.root}/{name}.log", "ab") as log:
            started = subprocess.Popen(
                [self.sandbox, self.root, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | environment,
            )
        with open(f"{self.root}/{name}.pid", "w", encoding="utf-8") as file:
            file.write(str(started.pid))

    def begin_daemon(self):
        self.spawn("daemon", shlex.split(self.daemon), PATH=f"{self.root}/bin:{os.environ['PATH']}")
        until = time.time() + 60
        while subprocess.run(["virsh", "-c", self.uri, "version"], capture_output=True, check=False).returncode:
            if time.time() > until:
                raise SystemExit(f"the daemon does not answer: see {self.root}/daemon.log")
            time.sleep(0.2)

    def begin_networks(self):
        """Starts libvirtd with all drivers but QEMU's."""
        drivers = f"{self.root}/drivers"
        os.makedirs(drivers)
        for driver in glob.glob(f"{DRIVERS}/*.so"):
            if os.path.basename(driver) != QEMU_DRIVER:
                os.symlink(driver, f"{drivers}/{os.path.basename(driver)}")
        with open(f"{self.root}/networks.conf", "w", encoding="utf-8") as file:
            file.write('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        words = ["libvirtd", "-f", f"{self.root}/networks.conf", "-p", "/run/libvirt/libvirtd.pid"]
        self.spawn("networks", words, LIBVIRT_DRIVER_DIR=drivers)

    def end_networks(self):
        """Networks outlive their daemon."""
        for name in ["n1", "n2", "n3"]:
            subprocess.run(["virsh", "-c", self.uri, "net-destroy", name], capture_output=True, check=False)

    def end(self, name):
        with open(f"{self.root}/{name}.pid", encoding="utf-8") as file:
            pid = int(file.read())
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], 30)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)

    def let_run(self, guest):
        """What the recording did while there was no daemon: the guest's CPUs run."""
        for path in glob.glob(f"{self.root}/var/lib/libvirt/qemu/domain-*-{guest}/monitor.sock"):
            # A path of a socket is short.
            os.chdir(os.path.dirname(path))
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.settimeout(10)
                monitor.connect("monitor.sock")
                for command in ["qmp_capabilities", "cont"]:
                    monitor.recv(65536)
                    monitor.sendall(json.dumps({"execute": command}).encode())
                monitor.recv(65536)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts")
    parser.add_argument("--root", required=True, help="where the daemons keep their files, and the images are")
    parser.add_argument("--daemon", required=True, help="program of the daemon, with its options")
    parser.add_argument("--socket", default="virtqemud-sock", help="name of its socket")
    parser.add_argument("--again", metavar="GUEST", help="only ends the daemon of --root, lets the guest run, and starts the daemon")
    options, more = parser.parse_known_args()
    place = Place(options)
    if options.again:
        place.end("daemon")
        place.let_run(options.again)
        place.begin_daemon()
        return 0
    if not options.facts:
        parser.error("--facts is missing")
    shutil.rmtree(place.root, ignore_errors=True)
    os.makedirs(place.root)
    # The first call writes the configuration.
    subprocess.run([place.sandbox, place.root, "true"], check=True)
    again = f"{place.root}/again"
    words = [sys.executable, os.path.abspath(__file__), "--root", place.root, "--daemon", options.daemon, "--socket", options.socket]
    with open(again, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join(words)} --again "$1"\n')
    os.chmod(again, 0o755)
    try:
        os.makedirs(f"{place.root}/bin")
        if os.path.isdir(FILTERS):
            shutil.copytree(FILTERS, f"{place.root}{FILTERS}", dirs_exist_ok=True)
        place.begin_networks()
        place.begin_daemon()
        directory = f"{place.root}/w"
        os.makedirs(directory)
        words = ["--facts", options.facts, "--uri", place.uri, "--dir", directory, "--servers", "--networks", "--restart", again,
                 "--programs", f"{place.root}/bin", *more]
        return subprocess.run([sys.executable, f"{HERE}/replay-plug.py", *words], check=False).returncode
    finally:
        listed = subprocess.run(["virsh", "-c", place.uri, "list", "--name"], capture_output=True, text=True, check=False).stdout
        for name in listed.split():
            subprocess.run(["virsh", "-c", place.uri, "destroy", name], capture_output=True, check=False)
        if os.path.exists(f"{place.root}/networks.pid"):
            place.end_networks()
        for name in ["daemon", "networks"]:
            if os.path.exists(f"{place.root}/{name}.pid"):
                place.end(name)


if __name__ == "__main__":
    sys.exit(main())
