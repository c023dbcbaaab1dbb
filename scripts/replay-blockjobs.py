#!/usr/bin/python3
"""Replays recorded block jobs, resizes and thresholds on a daemon and says where its answers differ.

usage: replay-blockjobs.py --facts FILE --uri URI --dir DIR [options]

FILE and what is compared are those of replay-store.py, and the differences of the running document besides. The guest has a
disk on a chain of four images and one on a single image; it is made anew whenever what an operation changed in the
recording is not there, since many operations use up the chain that they begin with. Operations that need a restart of the
daemon are made by replay-scenes.py. Numbers of nodes count by their order of appearance: they depend on what the guest had
been through before.
"""

import argparse
import difflib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import libvirt

SPEC = importlib.util.spec_from_file_location("store", f"{os.path.dirname(os.path.abspath(__file__))}/replay-store.py")
store = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(store)

CHAIN = ["base", "mid", "top", "a"]
# Rows that go on with the guest as the row before left it, though it is not as a new one; and those that begin with a new one.
GOES_ON = {317, 327, 346, 347, 348, 350, 394}
ANEW = {313}


class Replay(store.Replay):
    def __init__(self, options):
        super().__init__(options)
        self.name = "st"

    def prepare(self):
        os.makedirs(self.directory, exist_ok=True)

    def image(self, *words):
        subprocess.run(["qemu-img", *words], check=True, capture_output=True, cwd=self.directory)

    def make(self, op):
        """Makes the guest anew, with its images as the operation needs them."""
        self.stop("st")
        self.virsh("undefine", "st", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
        self.odd = bool(re.search(r"\b(vdc|sda)\b", op["call"]))
        relative = "relative chain" in op["op"] or "keep-relative" in op["op"] and op["result"] == "ok"
        short = op["call"].startswith("virsh blockcopy") and not self.odd
        below = None
        for number, name in enumerate(CHAIN):
            if short and name == "top" or self.odd and name != "a":
                continue
            path = f"{self.directory}/{name}.qcow2"
            if os.path.exists(path):
                os.remove(path)
            backing = [] if below is None else ["-b", below, "-F", "qcow2"]
            self.image("create", "-q", "-f", "qcow2", *backing, path, "128M")
            subprocess.run(["qemu-io", "-c", f"write -P {number + 1} {20 * number}M 20M", path], check=True, capture_output=True)
            below = f"{name}.qcow2" if relative else path
        self.image("create", "-q", "-f", "qcow2", f"{self.directory}/b.qcow2", "32M")
        self.image("create", "-q", "-f", "raw", f"{self.directory}/r.raw", "8M")
        if os.path.exists(f"{self.directory}/trace"):
            os.remove(f"{self.directory}/trace")
        self.position = 0
        self.define("st")
        self.virsh("start", "st")

    def document(self, name):
        xml = super().document(name)
        if self.odd:
            more = f"""<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk><disk type='file' device='disk'>
                <driver name='qemu' type='raw'/><source file='{self.directory}/r.raw'/><target dev='vdc' bus='virtio'/></disk>"""
            xml = xml.replace("<serial", more + "<serial")
        return xml

    def live(self):
        return self.there(self.virsh("dumpxml", "st").stdout)

    def bring_about(self, op):
        words = shlex.split(op["call"])[1:]
        if "shut off" in op["op"]:
            self.stop("st")
            return
        gone = [line[1:].strip() for line in op.get("live_diff") or [] if line.startswith("-")]
        live = self.live()
        odd = bool(re.search(r"\b(vdc|sda)\b", op["call"]))
        missing = any(line not in live for line in gone)
        numbers = re.findall(r"vd[ab]\[(\d+)\]", op["call"])
        places = re.findall(r"'(\d+)'", (op.get("note") or "").partition("image number")[2])
        missing |= op["result"] == "ok" and any(not self.has(live, *pair) for pair in zip(numbers, places))
        if words[0] in ("blockpull", "blockcommit"):
            single = "could not find base image" in (op.get("err") or {}).get("message", "")
            missing |= op["result"] == "ok" or "<backingStore type" not in live and not single and "vda" in words
        if words[0].startswith(("blockresize", "domblk")):
            missing = "index='2'" not in live or "<mirror" in live
        if words[0] == "blockcopy" and not odd:
            # In the recording copies follow each other; a fresh guest's first image beside its own is number 5.
            added = re.search(r'"(?:blockdev-add|blockdev-create)", .*?"libvirt-(\d+)-', json.dumps(op.get("qmp") or []))
            missing = bool(added) and added.group(1) == "5" or not self.copying
        self.copying = words[0] == "blockcopy" or self.copying and words[0] in ("blockjob", "suspend", "dumpxml", "undefine")
        # What another operation left, and what only asks or is refused, begins with what is there.
        missing &= words[0] != "blockjob"
        missing |= self.state("st") != "running" or odd != self.odd or "relative chain" in op["op"]
        if op["row"] in ANEW or missing and op["row"] not in GOES_ON:
            self.make(op)
        if op["op"] == "blockjob --abort --async":
            # In the recording the job of the operation before was begun anew.
            self.virsh("blockpull", "st", "vda", "--bandwidth", "1")
        if "--reuse-external" in op["call"] and op["result"] == "ok":
            for path in re.findall(r"/tmp/w/(c\d+\.qcow2)", op["call"]):
                self.image("create", "-q", "-f", "qcow2", f"{self.directory}/{path}", "128M")
        for name, text in (op.get("xml_in") or {}).items():
            with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
                file.write(self.here(text))
        if "dest exists" not in op["op"]:
            for path in re.findall(r"/tmp/w/(c\d+\.\w+|rr\.raw)", op["call"] + json.dumps(op.get("xml_in") or {})):
                if "reuse" not in op["call"] and os.path.exists(f"{self.directory}/{path}"):
                    os.remove(f"{self.directory}/{path}")

    odd = copying = False

    @staticmethod
    def has(live, number, place):
        """Whether the image with that number is at that place below the top of the chain."""
        disk = next((d for d in live.split("<disk ") if "dev='vda'" in d), "").partition("<mirror")[0]
        found = re.findall(r"index='(\d+)'", "".join(line for line in disk.splitlines(True) if "backingStore" in line))
        return number in found and found.index(number) + 1 == int(place)

    def replay(self, op):
        self.bring_about(op)
        words = [self.here(word) for word in shlex.split(op["call"])[1:]]
        time.sleep(self.options.settle)
        self.take_commands()
        self.events.take()
        before = self.live()
        try:
            done = self.virsh(*words)
            result, stderr = ("ok" if done.returncode == 0 else "error"), self.there(done.stderr)
        except subprocess.TimeoutExpired:
            result, stderr = "timeout", ""
        wanted = [f"{e[0]} {e[1]} {e[2]} {e[3]}" for e in op.get("events") or [] if e[0].startswith("block-job")]
        deadline = time.monotonic() + 15
        while len(self.events.told) < len(wanted) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(self.options.settle)
        found = {"result": (op["result"], result)}
        message = (op.get("err") or {}).get("message")
        if op["result"] == result == "error" and message:
            found["error"] = (message, message if message in stderr else stderr.strip())
        found["events"] = (sorted(wanted), sorted(self.there(e) for e in self.events.take() if e.startswith("block-job")))
        commands = [store.normal(c) for c in op.get("qmp") or [] if not store.ASKED.match(c[0])]
        given = [self.there(store.normal(c)) for c in self.take_commands() if not store.ASKED.match(c[0] or "")]
        found["commands"] = (store.numbered(commands), store.numbered(store.moving(given)))
        diff = difflib.unified_diff(before.splitlines(), self.live().splitlines(), n=0, lineterm="")
        changed = lambda lines: [line.strip() for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        found["document"] = (counted(changed(op.get("live_diff") or [])), counted(changed(diff)))
        return {kind: pair for kind, pair in found.items() if pair[0] != pair[1]}


def counted(lines):
    """Lines of a document with images counted as they come."""
    numbers = {}
    return [re.sub(r"index='(\d+)'", lambda m: f"index='{numbers.setdefault(m[1], len(numbers) + 1)}'", line) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--dir", required=True, help="where files of the recording are made")
    parser.add_argument("--settle", type=float, default=0.3, help="seconds to wait for what follows a call")
    parser.add_argument("--only", default="", help="operations whose description has this")
    parser.add_argument("--report", help="a file to which a line of JSON for each operation is added")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    libvirt.registerErrorHandler(lambda *_: None, None)
    replay = Replay(options)
    replay.prepare()
    tally = store.Tally(options.report)
    for op in store.rows(options.facts):
        if op["group"] != "blockjob" or op["row"] in store.OF_SCENES or options.only not in op["op"]:
            continue
        try:
            differs = replay.replay(op)
        except Exception as error:  # noqa: BLE001 - one call must not end the replay
            differs = {"replay": ("", repr(error))}
        tally.count(op, differs, options.verbose)
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
