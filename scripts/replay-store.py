#!/usr/bin/python3
"""Replays recorded saves, restores, dumps, external snapshots, checkpoints and backups of guests on a daemon and says
where its answers differ.

usage: replay-store.py --facts FILE --uri URI --dir DIR [--conf DIR/etc/libvirt/qemu.conf] [options]

FILE has one recorded operation a line, as JSON: `op`, `group`, `call` (a line of virsh), `result`, `err`, `events`, `qmp`,
`files`, `programs`, `state`. Files of the recording are below /tmp/w; here they are made in DIR. The guests are defined and
started here, with real QEMUs under TCG, and brought into the state that an operation begins from. What QEMU was told is
traced by QEMU itself.

An operation is equal if result, error (text), events, commands, the guest's state and the files that come and go are. Sizes,
times and numbers of nodes are of the moment, and so are the order of bitmaps in a transaction and how often the firmware resets
a machine. What is asked of QEMU and not told is a daemon's own affair, and so is the helper that writes a file. What differs on
purpose is in EXPLAINED, by the number of its row, with what must be equal all the same, and the reason.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import libvirt

ASKED = re.compile(r"^(query-|qom-list|qom-get|qmp_capabilities|<event|\(|device-list|human-monitor)")
KINDS = {"LIFECYCLE": 0, "MIGRATION_ITERATION": 20, "JOB_COMPLETED": 21, "REBOOT": 1, "BLOCK_JOB": 8, "BLOCK_JOB_2": 16}
LIFECYCLE = {
    0: ("DEFINED", ["ADDED", "UPDATED", "RENAMED", "FROM_SNAPSHOT"]),
    1: ("UNDEFINED", ["REMOVED", "RENAMED"]),
    2: ("STARTED", ["BOOTED", "MIGRATED", "RESTORED", "FROM_SNAPSHOT", "WAKEUP"]),
    3: ("SUSPENDED", ["PAUSED", "MIGRATED", "IOERROR", "WATCHDOG", "RESTORED", "FROM_SNAPSHOT", "API_ERROR"]),
    4: ("RESUMED", ["UNPAUSED", "MIGRATED", "FROM_SNAPSHOT"]),
    5: ("STOPPED", ["SHUTDOWN", "DESTROYED", "CRASHED", "MIGRATED", "SAVED", "FAILED", "FROM_SNAPSHOT"]),
    6: ("SHUTDOWN", ["FINISHED", "GUEST", "HOST"]),
    8: ("CRASHED", ["PANICKED"]),
}
# Events of documents that are stored: not of what is replayed.
PASSED_OVER = ("lifecycle DEFINED/ADDED", "lifecycle DEFINED/UPDATED", "lifecycle UNDEFINED")
# The damage of the recording's images, by their number.
DAMAGE = {
    1: lambda b: b"X" * 16 + b[16:],
    2: lambda b: b"LibvirtQemudPart" + b[16:],
    3: lambda b: b[:50],
    4: lambda b: b[:16] + (3).to_bytes(4, "little") + b[20:],
    5: lambda b: b[:28] + (9).to_bytes(4, "little") + b[32:],
    6: lambda b: b[:20] + (0).to_bytes(4, "little") + b[24:],
    7: lambda b: b[:500],
    8: lambda b: b[:200000],
    9: lambda b: b[:67670] + os.urandom(len(b) - 67670),
    10: lambda b: b[:28] + (1).to_bytes(4, "little") + b[32:],
    11: lambda b: b[:24] + (7).to_bytes(4, "little") + b[28:],
}
# Operations that begin from a guest with new images, and what it has beside its two disks.
MOMENTS = "checkpoint-backup"
FRESH = {
    "checkpoint-create-as, all disks": "",
    "backup-begin push, default XML": "",
    "domjobabort of a push backup that already ended": "",
    "checkpoint with a raw disk": """<disk type='file' device='disk'><driver name='qemu' type='raw'/>
        <source file='{dir}/r.raw'/><target dev='vdc' bus='virtio'/></disk>
        <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>""",
}
# How a document is changed, by a word of the operation.
CHANGES = [
    ("memory changed", lambda x: re.sub(r"(<(memory|currentMemory) unit='KiB'>)\d+", r"\g<1>65536", x)),
    ("ABI change", lambda x: re.sub(r"(<(memory|currentMemory) unit='KiB'>)\d+", r"\g<1>65536", x)),
    ("other uuid", lambda x: re.sub(r"<uuid>........", "<uuid>deadbeef", x)),
    ("disk target changed", lambda x: x.replace("dev='vdb'", "dev='vdc'")),
    ("disk path changed", lambda x: x.replace("/b.qcow2", "/b2.qcow2")),
    ("changed disk path", lambda x: x.replace("/b.qcow2", "/b2.qcow2")),
    ("larger than the room", lambda x: x.replace("</name>", "</name><title>" + "x" * 80000 + "</title>")),
    ("broken XML", lambda _: "<domain"),
    ("name changed", lambda x: x.replace("<name>st<", "<name>st2<")),
    ("other name", lambda x: x.replace("<name>st<", "<name>st2<")),
    ("vcpus changed", lambda x: x.replace("<vcpu placement='static'>1", "<vcpu placement='static'>2")),
    ("machine changed", lambda x: x.replace("pc-q35-10.0", "pc-q35-9.2")),
    ("disk removed", lambda x: re.sub(r"<disk(?:(?!</disk>).)*b2?\.qcow2.*?</disk>", "", x, flags=re.S)),
]


class Events:
    def __init__(self, uri):
        libvirt.virEventRegisterDefaultImpl()
        self.told = []
        self.conn = libvirt.open(uri)
        for name, number in KINDS.items():
            self.conn.domainEventRegisterAny(None, number, self.tell, name)
        threading.Thread(target=self.run, daemon=True).start()

    @staticmethod
    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    def tell(self, _conn, _dom, *detail):
        *detail, name = detail
        if name == "LIFECYCLE":
            kind, details = LIFECYCLE.get(detail[0], (str(detail[0]), []))
            text = details[detail[1]] if detail[1] < len(details) else str(detail[1])
            self.told.append(f"lifecycle {kind}/{text}")
        elif name == "JOB_COMPLETED":
            self.told.append(f"job-completed {detail[0].get('operation')} {' '.join(sorted(detail[0]))}")
        elif name == "REBOOT":
            self.told.append("reboot")
        elif name.startswith("BLOCK_JOB"):
            self.told.append(f"{name.lower().replace('_', '-')} {' '.join(map(str, detail))}")

    def take(self):
        told, self.told = self.told, []
        return told


def once(events):
    """Events with one reset for several: how often the firmware resets the machine again is of the moment."""
    return [event for at, event in enumerate(events) if event != "reboot" or "reboot" not in events[:at]]


def recorded(events):
    """The events of the recording, but passes over memory: how many there are is of the moment."""
    lines = []
    for event in events or []:
        kind, *rest = event
        if kind == "lifecycle":
            lines.append(f"lifecycle {rest[0]}")
        elif kind == "job-completed":
            lines.append(f"job-completed {rest[0]['operation']} {' '.join(sorted(rest[0]))}")
        elif kind == "reboot":
            lines.append("reboot")
        elif kind.startswith("block-job"):
            lines.append(f"{kind} {' '.join(str(part) for part in rest if part != 'after reply')}")
    return [line for line in lines if not line.startswith(PASSED_OVER)]


# What operations on external snapshots begin from, where the one before does not leave it: commands of virsh, or a name
# of a method here, by the operation's description. DIR is the directory of the images.
BEFORE = {
    "external disk-only, all disks": ["afresh"],
    "external --reuse-external": ["reuse"],
    "external --quiesce without agent": ["resume st"],
    "ext x1 memory": ["afresh"],
    "revert disk-only with managed save": ["start st", "managedsave st"],
    "new snapshot after revert (branch)": ["managedsave-remove st", "start st"],
    "delete external middle, running (commit job)": [
        "afresh",
        *(f"snapshot-create-as st {name} --disk-only" for name in ["y1", "y2", "y3"]),
    ],
    "delete external current, shut off (starts QEMU)": ["destroy st"],
    "delete external while a block job runs": [
        "afresh",
        "snapshot-create-as st z1 --disk-only",
        "blockcopy st vda DIR/copy.qcow2 --transient-job --wait",
    ],
    "delete external --metadata": ["blockjob st vda --abort"],
    "snapshot-list --tree before": [
        "afresh",
        *(f"snapshot-create-as st {name} --disk-only" for name in ["n1", "n2", "n3"]),
        "snapshot-revert st n2 --running",
    ],
    "snapshot-list --tree (external, two branches)": [
        "afresh",
        *(f"snapshot-create-as st {name} --disk-only" for name in ["p1", "p2", "p3"]),
        "snapshot-revert st p1 --running",
        "snapshot-create-as st q1 --disk-only",
    ],
    "delete external --children, descendants of both kinds": ["snapshot-create-as st i1"],
}
# Operations of the group "more" that are replayed, by the beginning of their descriptions.
MORE = (
    "snapshot-list --tree",
    "delete external n",
    "delete external with two",
    "delete external inner one off",
    "delete external --children",
    "delete external whose only",
    "delete external leaf off",
    "delete external p1 after",
)


def is_external(op):
    return op["group"] == "snapshot-external" or op["group"] == "more" and op["op"].startswith(MORE)


class Replay:
    def __init__(self, options):
        self.options, self.directory = options, options.dir
        self.events = Events(options.uri)
        self.position = 0
        self.memory = 32768
        self.more = ""

    def virsh(self, *words):
        words = ["virsh", "-q", "-c", self.options.uri, *words]
        return subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)

    def here(self, text):
        return text.replace("/tmp/w/", f"{self.directory}/")

    def there(self, text):
        return text.replace(f"{self.directory}/", "/tmp/w/")

    def prepare(self):
        os.makedirs(self.directory, exist_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{self.directory}/r.raw", "8M"], check=True)
        for name in ["a", "b"]:
            path = f"{self.directory}/{name}.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "32M"], check=True)
        self.define("st")

    def document(self, name):
        trace = f"enable=handle_qmp_command,file={self.directory}/trace"
        disks = "".join(
            f"""<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{self.directory}/{file}.qcow2'/>
            <target dev='{target}' bus='virtio'/></disk>"""
            for file, target in [("a", "vda"), ("b", "vdb")]
        )
        return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name>
            <memory>{self.memory}</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>
            <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>{disks}{self.more}
            <serial type='pty'/><memballoon model='none'/></devices>
            <qemu:commandline><qemu:arg value='-trace'/><qemu:arg value='{trace}'/></qemu:commandline></domain>"""

    def define(self, name):
        path = f"{self.directory}/{name}.xml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.document(name))
        self.virsh("create" if name == "tr" else "define", path)

    def state(self, name):
        return self.virsh("domstate", name).stdout.strip()

    def run(self, name):
        if name == "tr" and not self.state("tr"):
            self.virsh("destroy", "st")
            self.define("tr")
        if self.state(name) != "running":
            self.virsh("destroy", name)
            self.virsh("start", name, "--force-boot")

    def stop(self, name):
        self.virsh("destroy", name)

    def take_commands(self):
        path = f"{self.directory}/trace"
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(self.position if os.path.getsize(path) >= self.position else 0)
            lines = file.readlines()
            self.position = file.tell()
        commands = []
        for line in lines:
            _, _, text = line.partition(" req: ")
            try:
                command = json.loads(text)
            except ValueError:
                continue
            commands.append([command.get("execute"), command.get("arguments") or {}])
        return commands

    def whole(self, text, op):
        """A document with the guest's in it, which the recording left out."""
        shown = self.virsh("checkpoint-dumpxml", "st", "c2").stdout
        domain = re.search(r"<domain .*</domain>", shown, re.S)
        if domain is None:
            return text
        domain = domain[0]
        for word, change in CHANGES:
            if word in op["op"]:
                domain = change(domain)
        return text.replace("<domain ...>(as written by dumpxml)</domain>", domain)

    def begin_anew(self, more):
        """A guest that runs on new images, without checkpoints."""
        self.stop("st")
        self.virsh("undefine", "st", "--checkpoints-metadata", "--snapshots-metadata")
        self.more = more.replace("{dir}", self.directory)
        self.prepare()
        self.run("st")

    def afresh(self):
        """New images, no snapshots, and the guest runs."""
        self.virsh("destroy", "st")
        self.virsh("undefine", "st", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
        for name in os.listdir(self.directory):
            os.remove(f"{self.directory}/{name}")
        self.prepare()
        self.position = 0
        self.virsh("start", "st")

    def reuse(self):
        top = re.search(r"<source file='([^']*)'", self.virsh("dumpxml", "st").stdout).group(1)
        words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", top, f"{self.directory}/reuse.qcow2"]
        subprocess.run(["qemu-img", *words], check=True)

    def of_external(self, op):
        """Brings about what an operation on external snapshots begins from; they follow from each other."""
        self.name = "st"
        for step in BEFORE.get(op["op"], []):
            if hasattr(self, step):
                getattr(self, step)()
            else:
                done = self.virsh(*step.replace("DIR", self.directory).split())
                if done.returncode:
                    print(f"    {step}: {done.stderr.strip()}")
        for name, text in (op.get("xml_in") or {}).items():
            with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
                file.write(self.here(text))
        if op["result"] == "ok" and ("snapshot-revert" in op["call"] or "starts QEMU" in op["op"]):
            # QEMU begins a new one.
            if os.path.exists(f"{self.directory}/trace"):
                os.remove(f"{self.directory}/trace")
            self.position = 0

    def bring_about(self, op):
        """Brings about the state that the operation begins from."""
        if is_external(op):
            self.of_external(op)
            return
        words = shlex.split(op["call"])[1:]
        for name, text in (op.get("xml_in") or {}).items():
            with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
                file.write(self.whole(self.here(text), op))
        if op["group"] == MOMENTS:
            self.name = "st"
            if op["op"] in FRESH:
                self.begin_anew(FRESH[op["op"]])
            return
        name = "tr" if "tr" in words or "tr.img" in op["call"] else "st"
        self.name = name
        verb = words[0]
        text = op["op"]
        before = (op.get("state") or [None])[0]
        if verb in ("save", "managedsave", "dump"):
            if "shut-off" in text or "shut off" in text:
                self.stop(name)
            elif "paused guest" in text and "--reset" not in text or before == "paused":
                self.run(name)
                self.virsh("suspend", name)
            elif "of a paused guest" not in text:
                self.run(name)
        elif verb == "restore":
            if "while active" in text:
                self.run(name)
            else:
                self.stop(name)
        elif verb == "start":
            self.stop(name)
            self.damage_managed(text)
        if verb in ("restore", "start") and "while active" not in text:
            # QEMU begins a new one.
            if os.path.exists(f"{self.directory}/trace"):
                os.remove(f"{self.directory}/trace")
            self.position = 0
        for path in re.findall(r"/tmp/w/bad(\d+)\.img", op["call"]):
            with open(self.here("/tmp/w/s.img"), "rb") as file:
                content = file.read()
            with open(self.here(f"/tmp/w/bad{path}.img"), "wb") as file:
                file.write(DAMAGE[int(path)](content))
        if "n.xml" in op["call"]:
            self.make_document(op, words)

    def damage_managed(self, text):
        """Makes the managed save of which the operation tells."""
        path = f"{self.options.saves}/st.save"
        damage = next((n for word, n in [("incomplete", 2), ("truncated", 8), ("garbage", 1)] if word in text), None)
        if damage is None or not self.options.saves:
            return
        self.run("st")
        self.virsh("managedsave", "st")
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(DAMAGE[damage](content))

    def make_document(self, op, words):
        images = [self.here(w) for w in words if w.endswith(".img") and os.path.exists(self.here(w))]
        if words[0].startswith("managedsave"):
            xml = self.virsh("managedsave-dumpxml", "st", "--security-info").stdout
        elif words[0] == "save":
            xml = self.virsh("dumpxml", "st", "--migratable").stdout
        else:
            xml = self.virsh("save-image-dumpxml", *images[:1], "--security-info").stdout
        if op["op"].endswith("define back"):
            xml = xml.replace("/b2.qcow2", "/b.qcow2")
        for word, change in CHANGES:
            if word in op["op"]:
                xml = change(xml)
        with open(f"{self.directory}/n.xml", "w", encoding="utf-8") as file:
            file.write(xml)

    def newest(self, word):
        """A checkpoint that was named by its time."""
        if not re.fullmatch(r"1\d{9}", word):
            return word
        named = [n for n in self.virsh("checkpoint-list", "st", "--name").stdout.split() if re.fullmatch(r"1\d{9}", n)]
        return named[-1] if named else word

    def wait_for_events(self, op):
        """Waits for what is told after the reply, and for what a machine with much to do tells late."""
        wanted, until = len(once(recorded(op.get("events")))), time.time() + 10

        def told():
            return len([event for event in once(self.events.told) if not event.startswith(PASSED_OVER)])

        while told() < wanted and time.time() < until:
            time.sleep(0.1)

    def files(self, op, before):
        """The images that came and went: of the recording, and here."""
        told = {f: what for f, what in (op.get("files") or {}).items() if f.startswith("/tmp/w/")}
        wanted = [f"{'+' if what.startswith('new') else '-'}{f}" for f, what in told.items() if not what.startswith("changed")]
        now = set(os.listdir(self.directory)) - {"trace", "x.xml"}
        before = before - {"trace", "x.xml"}
        found = [f"+/tmp/w/{f}" for f in now - before] + [f"-/tmp/w/{f}" for f in before - now]
        return sorted(map(timeless, wanted)), sorted(map(timeless, found))

    def replay(self, op):
        self.bring_about(op)
        words = [self.here(self.newest(word)) for word in shlex.split(op["call"])[1:]]
        files = set(os.listdir(self.directory))
        before = self.state(self.name)
        time.sleep(self.options.settle)
        self.take_commands()
        self.events.take()
        try:
            done = self.virsh(*words)
            result, stderr = ("ok" if done.returncode == 0 else "error"), self.there(done.stderr)
        except subprocess.TimeoutExpired:
            result, stderr = "timeout", ""
        self.wait_for_events(op)
        time.sleep(self.options.settle)
        found = {"result": (op["result"], result)}
        message = (op.get("err") or {}).get("message")
        if op["result"] == result == "error" and message:
            message, stderr = plain(message), plain(stderr)
            found["error"] = (message, message if message in stderr else stderr.strip())
        told = [self.there(event) for event in self.events.take() if not event.startswith(PASSED_OVER)]
        told = [event for event in told if not event.startswith(("lifecycle 0/", "lifecycle 1/"))]
        if op["group"] != MOMENTS and not is_external(op):
            told = [event for event in told if not event.startswith("block-job")]
        found["events"] = (once(recorded(op.get("events"))), once(told))
        if op["group"] == MOMENTS:
            # Disks end in any order, and an event of each comes twice.
            found["events"] = tuple(sorted(map(timeless, events)) for events in found["events"])
        wanted = [normal(c) for c in op.get("qmp") or [] if not ASKED.match(c[0])]
        given = [self.there(normal(c)) for c in self.take_commands() if not ASKED.match(c[0] or "")]
        given = moving(given)
        found["commands"] = (wanted, given)
        if op["group"] == MOMENTS:
            found["commands"] = (in_order(numbered(wanted)), in_order(numbered(map(self.there, given))))
        if op.get("state"):
            found["state"] = (op["state"], [before, self.state(self.name)])
        made = {f for f, what in (op.get("files") or {}).items() if what.startswith("new") and f.startswith("/tmp/w/")}
        new = {f"/tmp/w/{f}" for f in set(os.listdir(self.directory)) - files if f.endswith(".img")}
        if is_external(op):
            found["files"] = self.files(op, files)
            found["commands"] = tuple(numbered(commands) for commands in found["commands"])
            return {kind: pair for kind, pair in found.items() if plain(str(pair[0])) != plain(str(pair[1]))}
        made = {f for f in made if f.endswith(".img")}
        found["files"] = (sorted(made & new or made), sorted(new or (made if all(os.path.exists(self.here(f)) for f in made) else new)))
        return {kind: pair for kind, pair in found.items() if pair[0] != pair[1]}


def timeless(text):
    """A text without the times at which images and checkpoints were named."""
    return re.sub(r"\b1\d{9}\b", "TIME", text)


def numbered(commands):
    """Commands with nodes counted as they come: their numbers depend on what was done before."""
    numbers = {}

    def number(match):
        return f"libvirt-{numbers.setdefault(match[1], len(numbers) + 1)}-"

    return [re.sub(r"\blibvirt-(\d+)-", number, timeless(command)) for command in commands]


def moving(commands):
    """Commands without those that have something stand for a moment, which libvirt does not do: CPUs while a copy is swapped in, so
    that nothing of what the guest is told is lost if QEMU ends then, and a pull while QEMU is asked about its nodes, which can end it."""
    kept, stands = [], False
    for at, command in enumerate(commands):
        ahead = [c.split(" ")[0] for c in commands[at + 1:at + 4]]
        if command == "stop {}" and "job-complete" in ahead:
            stands = True
        elif command == "cont {}" and stands:
            stands = False
        elif not re.match(r'job-(pause|resume) {"id": "pull-', command):
            kept.append(command)
    return kept


def in_order(commands):
    """What follows from the ends of several jobs may come in any order."""
    kept = [c for c in commands if not c.startswith(("blockdev-del", "job-dismiss"))]
    return kept + sorted(c for c in commands if c.startswith(("blockdev-del", "job-dismiss")))


def plain(message):
    """A message without what is of the moment, or of the program that writes the file."""
    message = timeless(message)
    message = re.sub(r"/usr/lib/libvirt/libvirt_iohelper: ", "", message)
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", message)


def by_bitmap(actions):
    """Actions of a transaction, those that follow each other on bitmaps by the bitmaps' names: libvirt's order is a hash's."""
    done, bitmaps = [], []
    for action in [*actions, None]:
        if action and action["type"].startswith("block-dirty-bitmap"):
            bitmaps.append(action)
            continue
        done += sorted(bitmaps, key=lambda action: action["data"].get("target") or action["data"].get("name") or "")
        bitmaps = []
        if action:
            done.append(action)
    return done


def normal(command):
    """A command without what is of the moment: numbers of descriptors, capabilities that are off."""
    name, *rest = command
    arguments = dict((rest[0] if rest else None) or {})
    if name == "transaction":
        arguments["actions"] = by_bitmap(arguments["actions"])
    if name == "migrate-set-capabilities":
        on = arguments.get("on")
        if on is None:
            on = [c["capability"] for c in arguments.get("capabilities", []) if c["state"]]
        return f"{name} {sorted(on)}"
    if arguments.get("qom-type") == "tls-creds-x509":
        arguments["dir"] = "DIR"
    for key in ["uri"]:
        if key in arguments:
            arguments[key] = re.sub(r"fd:\d+|offset=0x[0-9a-f]+", "N", arguments[key])
    return f"{name} {json.dumps(arguments, sort_keys=True)}"


def anything(_op, _kind, _wanted, _found):
    return True


def beside(*names):
    """Commands are the same, but for those."""
    def same(_op, _kind, wanted, found):
        kept = [[c for c in part if c.split(" ")[0] not in names] for part in (wanted, found)]
        return kept[0] == kept[1]
    return same


# Operations that other calls are made during, or that a daemon is restarted for: replay-scenes.py makes them.
OF_SCENES = {334, 335, 336, 337, 338, 339, 340, 533, 534}
# Differences that are meant: rows, kinds of differences, what else must hold, why.
EXPLAINED = [
    ({38}, "result state events", anything, "libvirt's restore hangs"),
    ({59, 63, 67}, "commands", beside("remove-fd", "migrate-set-capabilities", "migrate-set-parameters"),
     "what a sparse image had set in QEMU is set back, and QEMU does not keep the file"),
]


def explained(op, differs, table=None):
    """Why an operation differs, if all of it is meant."""
    reasons = set()
    for kind, (wanted, found) in differs.items():
        fits = [why for rows, kinds, holds, why in table or EXPLAINED
                if op["row"] in rows and kind in kinds.split() and holds(op, kind, wanted, found)]
        if not fits:
            return None
        reasons.add(fits[0])
    return "; ".join(sorted(reasons))


def rows(facts):
    """The recorded operations, each with the number of its row."""
    with open(facts, encoding="utf-8") as file:
        return [{**json.loads(line), "row": number} for number, line in enumerate(file, 1)]


class Tally:
    """How many operations were equal, and what the others differed in; a line of JSON for each goes to `report`."""

    def __init__(self, report=None):
        self.kinds, self.equal, self.everything = Counter(), 0, 0
        self.reasons, self.report = Counter(), report

    def note(self, op, verdict, why=""):
        self.everything += 1
        if self.report:
            with open(self.report, "a", encoding="utf-8") as file:
                file.write(json.dumps({"row": op["row"], "group": op["group"], "op": op["op"], "verdict": verdict, "why": why}) + "\n")

    def explain(self, op, why):
        """An operation that differs on purpose."""
        self.note(op, "explained", why)
        self.reasons[why] += 1
        print(f"EXPLAINED {op['row']} {op['group']} {op['op']}: {why}", flush=True)

    def count(self, op, differs, verbose, table=None):
        why = explained(op, differs, table) if differs else None
        if why:
            self.explain(op, why)
            return
        self.note(op, "open" if differs else "equal", ", ".join(differs))
        self.equal += not differs
        self.kinds.update(differs.keys())
        if differs:
            print(f"DIFFERS {op['row']} {op['group']} {op['op']} | {op['call']}: {', '.join(differs)}")
            for what, (wanted, found) in differs.items() if verbose else ():
                print(f"    {what}\n      recorded {wanted}\n      here     {found}")
        sys.stdout.flush()

    def end(self):
        meant = sum(self.reasons.values())
        for why, count in sorted(self.reasons.items()):
            print(f"{count:4} {why}")
        print(f"equal {self.equal} of {self.everything}, explained {meant}; other differences by kind: {dict(self.kinds)}")
        return 0 if self.equal + meant == self.everything else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--dir", required=True, help="where files of the recording are made")
    parser.add_argument("--saves", help="the daemon's directory of managed saves")
    parser.add_argument("--groups", default="save,dump")
    parser.add_argument("--settle", type=float, default=0.3, help="seconds to wait for what follows a call")
    parser.add_argument("--only", default="", help="operations whose description has this")
    parser.add_argument("--report", help="a file to which a line of JSON for each operation is added")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    replay = Replay(options)
    replay.prepare()
    libvirt.registerErrorHandler(lambda *_: None, None)
    tally, group = Tally(options.report), None
    for op in rows(options.facts):
        if op["group"] not in options.groups.split(",") or op["row"] in OF_SCENES:
            continue
        if op["group"] == "more" and not is_external(op):
            continue
        if op["group"] != group:
            group = op["group"]
            replay.stop("st")
            replay.stop("tr")
            replay.memory = 65536 if group == "dump" else 32768
            replay.virsh("undefine", "st", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
            replay.more = ""
            replay.define("st")
        try:
            differs = replay.replay(op)
        except Exception as error:  # noqa: BLE001 - one call must not end the replay
            differs = {"replay": ("", repr(error))}
        if options.only and options.only not in op["op"]:
            continue
        tally.count(op, differs, options.verbose)
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
