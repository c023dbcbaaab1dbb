#!/usr/bin/python3
"""Replays recorded changes of running guests on a daemon and says where its answers differ.

usage: replay-plug.py --facts FILE --uri URI [--kernel FILE --initrd FILE] [options]

FILE has one recorded operation a line, as JSON: `op`, `group`, `dom`, `virsh` (the call; `XML` stands for the document in
`xml_in`), `result`, `err` (code, domain, msg), `events`, `live_diff`, `config_diff`, `qmp`. Files of the recording are
below /img and /tmp/x; here they are made in --dir. The guests that the operations are about are defined and started here,
with real QEMUs under TCG: the daemon at the URI should have nothing else to do. What QEMU was told is traced by QEMU itself.

An operation is equal if result, error (code and text), events, both changes of documents and commands are; numbers of block
nodes, of ports and of interfaces' names count by their order of appearance, since they go on from whatever was plugged
before; what networks and terminals make up is left out. A device that is named by the
document of the running guest is named by its document here: terminals have other names. Calls that are about neither
devices, CPUs, I/O threads nor disks are made, for what follows depends on them, and not compared.
"""

import argparse
import atexit
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

import libvirt

CALLS = {
    "attach-device": "attachDeviceFlags",
    "detach-device": "detachDeviceFlags",
    "update-device": "updateDeviceFlags",
    "detach-device-alias": "detachDeviceAlias",
}
# Calls that virsh makes, and that are compared: its words hold the error's text, not its code.
OF_VIRSH = {
    "setvcpus", "setvcpu", "iothreadadd", "iothreaddel", "iothreadset", "iothreadpin", "iothreadinfo",
    "blkdeviotune", "domthrottlegroupset", "domthrottlegroupdel", "domthrottlegrouplist", "domthrottlegroupinfo",
    "blockresize", "domblkthreshold", "domblkinfo", "blkiotune", "memtune", "numatune", "schedinfo", "vcpupin",
    "emulatorpin", "setmem", "setmaxmem", "dommemstat", "domdirtyrate-calc", "set-lifecycle-action", "perf",
    "send-process-signal", "domlaunchsecinfo", "domsetlaunchsecstate", "inject-nmi", "metadata", "desc",
    "change-media", "detach-disk", "attach-disk", "attach-interface", "detach-interface", "update-memory-device",
    "domif-setlink", "domif-getlink", "domiftune", "domdisplay-reload", "send-key", "vcpucount", "guestvcpus",
    "domfsfreeze", "domfsthaw", "domfstrim", "domfsinfo", "domhostname", "domtime", "domifaddr", "set-user-password",
    "get-user-sshkeys", "set-user-sshkeys", "guest-agent-timeout", "qemu-agent-command", "guestinfo", "dompmsuspend",
    "dompmwakeup", "domstate",
}
FLAGS = {"--live": 1, "--config": 2, "--current": 0, "--persistent": 2, "--force": 4}
# Groups that the recording begins with a guest of its own.
BEGINNINGS = {("g", "os-guest"), ("g", "tuning"), ("g", "agent")}
# What differs on purpose, or by the machine: what is asked, kinds of differences, and why. The first that fits counts.
EXPLAINED = [
    (r"media|cdrom|floppy eject|floppy insert", {"live", "commands"},
     "a new medium is opened before the old one goes, so that a drive is never left without one"),
    (r"guestfwd", {"commands"}, "the character device goes with its channel; libvirt leaves it in QEMU"),
    (r"tc fails|link down mtu bandwidth", {"commands"}, "QEMU has the descriptor before the limits fail, and gives it back"),
    (r"scsi_host (missing|none)", {"error"}, "the text names the device; libvirt's has no error, or the host's adapter"),
    (r"passt \(not installed\)|passt \(program present\)", {"error", "result", "events", "live", "commands"},
     "whether passt is there, and what it says, is the machine's"),
    (r"setvcpus|vcpucount|setvcpu two at once", {"result", "error", "live", "out", "commands"},
     "a CPU whose end QEMU tells without its id is found by its place, so counts go on from another one"),
    (r"setmem|dommemstat", {"live", "stored"}, "the guest's balloon moves meanwhile"),
    (r"vlan on bridge", {"error"}, "tags of a running guest's port are not changed here; there the kernel refused"),
    (r"virtiofs|virtio-mem|dimm in use|dimm onlined", {"result", "error", "events", "live", "stored", "commands"},
     "the guest's kernel, or a program beside it, is another one"),
    (r"disk transient", {"live", "commands"}, "transient disks are not plugged in with an overlay yet"),
    (r"pci-serial by live xml|e1000|restart test|network disk|disk network|vhostuser disk|disk vhostuser",
     {"result", "error", "events", "live", "commands"}, "QEMU 10.0.2 may abort when a pci-serial leaves, and the guest is off"),
    (r"bad json", {"error"}, "the words are the parser's"),
    (r"domhostname agent|set-user-password accepted|sshkeys with", {"out", "error", "result"},
     "the guest's system is another one"),
    (r"domain off|dompmwakeup", {"result", "error", "events", "live", "stored", "commands"},
     "the recording waits between calls until the guest is off"),
    (r"BLOCK_THRESHOLD|already gone|source is missing: controllers", {"result", "error", "live", "commands"},
     "the guest was left otherwise by calls that are not compared"),
    (r"a block job runs", {"error"}, "the text names a node by its number"),
    (r"domblkinfo all|desc remove|domsetlaunchsecstate|dirty-bitmap", {"result", "error", "live"},
     "what the guest had before, a file and an empty argument of the recording are not there"),
    (r"agent call while paused|while frozen|filter (add|remove)|mounted", {"result", "out", "error"},
     "calls between them are not in the recording"),
    (r"usb-net", {"live", "commands"}, "ports that were taken by what is not compared"),
]
# What it prints is of the host, or of the moment.
VARIES = re.compile(
    r"^(domblkinfo|dommemstat|schedinfo|memtune|iothreadinfo|vcpupin|emulatorpin|blkiotune|guestinfo|domtime|domifaddr|"
    r"domfsinfo|qemu-agent-command|domfstrim|perf)$"
)
# Networks of the recording: name, bridge, and what it has besides.
NETWORKS = [
    ("n1", "plugnat0", "<ip address='192.168.199.1' netmask='255.255.255.0'/><portgroup name='pg1'><bandwidth>"
     "<inbound average='1000'/></bandwidth></portgroup>"),
    ("n2", "plugbr0", "<forward mode='bridge'/>"),
    ("n3", "plugbr1", "<forward mode='bridge'/>"),
]
# What is asked and not told: how a daemon learns of its guest is its own affair.
ASKED = re.compile(r"^(query-|qom-list|qom-get|qmp_capabilities)")

PORT = "<controller type='pci' model='pcie-root-port'/>"
COMMON = """<clock offset='utc'/>"""


def ports(count):
    return "<controller type='pci' index='0' model='pcie-root'/>" + PORT * count


def guests(directory, boot):
    """The documents of the recording's guests, by name."""
    img = f"{directory}/img"
    serial = "<serial type='pty'/><console type='pty'/>"
    agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    vnc = "<graphics type='vnc' port='-1' autoport='yes'{}><listen type='address' address='127.0.0.1'/></graphics>"
    numa = """<maxMemory slots='8' unit='KiB'>4194304</maxMemory><memory>196608</memory>
        <vcpu current='1'>4</vcpu>"""

    def disk(name, target, kind="qcow2"):
        return f"""<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{img}/{name}'/>
            <target dev='{target}' bus='virtio'/></disk>"""

    def cdrom(target, bus):
        return f"""<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{img}/cd1.iso'/>
            <target dev='{target}' bus='{bus}'/><readonly/></disk>"""

    def card(mac):
        return f"<interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>"

    def domain(name, memory, machine, devices, more="", system=boot):
        trace = f"enable=handle_qmp_command,file={directory}/x/{name}.trace"
        return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name>{memory}
            <os><type arch='x86_64' machine='{machine}'>hvm</type>{system}</os>{more}{COMMON}
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
            <qemu:commandline><qemu:arg value='-trace'/><qemu:arg value='{trace}'/></qemu:commandline></domain>"""

    rich = (
        ports(24)
        + """<controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>
        <controller type='virtio-serial' index='0'/>"""
        + disk("d1.qcow2", "vda")
        + cdrom("sda", "sata")
        + card("52:54:00:00:00:01")
        + serial
        + agent
        + vnc.format("")
        + "<video><model type='vga'/></video><memballoon model='virtio'/>"
    )
    shared = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    nvdimm = "<features><acpi/><apic/></features>"
    quiet = (
        ports(10)
        + """<controller type='pci' model='pcie-to-pci-bridge'/><controller type='usb' index='0' model='qemu-xhci'/>
        <controller type='scsi' index='0' model='virtio-scsi'/>"""
        + disk("n1.qcow2", "vda").replace("<target", "<boot order='2'/><target")
        + card("52:54:00:00:00:02")
        + serial
        + agent
        + vnc.format(" passwd='start'")
        + "<memballoon model='none'/>"
    )
    other = (
        ports(14)
        + """<controller type='pci' index='15' model='pcie-to-pci-bridge'/><controller type='usb' index='0' model='qemu-xhci'/>
        <controller type='scsi' index='0' model='lsilogic'/><controller type='scsi' index='1' model='lsilogic'/>
        <controller type='virtio-serial' index='0'/><hub type='usb'/>"""
        + disk("r1.raw", "vda", "raw")
        + disk("top.qcow2", "vdz")
        + serial
        + agent
        + f"""<memory model='nvdimm'><source><path>{img}/nv.img</path></source><target><size unit='MiB'>128</size>
        <node>0</node><label><size unit='KiB'>128</size></label></target></memory><memballoon model='virtio'/>"""
    )
    fixed = (
        PORT
        + "<controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>"
        + PORT * 22
        + "<controller type='virtio-serial' index='0'/><controller type='usb' index='0' model='qemu-xhci'/>"
        + "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='pci' index='0' model='pcie-root'/>"
        + disk("d1.qcow2", "vda")
        + disk("big.raw", "vdz", "raw")
        + card("52:54:00:00:00:01")
        + card("52:54:00:00:00:11").replace("</interface>", "<address type='pci' bus='0x02' slot='0x00'/></interface>")
        + serial
        + agent
        + "<memballoon model='virtio'/>"
    )
    old = f"""<controller type='usb' model='none'/>{cdrom('hda', 'ide')}
        <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{img}/fl1.img'/><target dev='fda' bus='fdc'/></disk>
        {serial}<memballoon model='none'/>"""
    stored = f"""<controller type='usb' index='0' model='qemu-xhci'/><controller type='virtio-serial' index='0'/>
        {serial}{agent}<memballoon model='virtio'/>"""
    small = "<memory>65536</memory>"
    acpi = "<features><acpi/></features>"
    return {
        "g": domain("g", numa, "q35", rich, acpi, boot + "<boot dev='hd'/>"),
        "h": domain("h", numa, "q35", other, shared + nvdimm, boot),
        "g of os-guest": domain("g", numa, "q35", fixed, acpi, boot + "<boot dev='hd'/>"),
        "n": domain("n", numa.replace("196608", "65536"), "q35", quiet, shared + nvdimm, ""),
        "p": domain("p", small, "pc", old, acpi, "<boot dev='hd'/>"),
        "pt": domain("pt", small, "pc", "<controller type='usb' model='none'/><memballoon model='none'/>", acpi, ""),
        "c": domain("c", numa, "q35", stored, acpi, ""),
    }


class Events:
    """What the daemon tells, in order."""

    KINDS = {
        "LIFECYCLE": 0, "TRAY_CHANGE": 10, "DEVICE_REMOVED": 15, "TUNABLE": 17, "DEVICE_ADDED": 19,
        "DEVICE_REMOVAL_FAILED": 22, "MEMORY_DEVICE_SIZE_CHANGE": 26,
    }

    def __init__(self, uri):
        libvirt.virEventRegisterDefaultImpl()
        self.told = []
        self.conn = libvirt.open(uri)
        for name, number in self.KINDS.items():
            self.conn.domainEventRegisterAny(None, number, self.tell, name)
        threading.Thread(target=self.run, daemon=True).start()

    @staticmethod
    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    def tell(self, _conn, dom, *detail):
        *detail, name = detail
        self.told.append((dom.name(), [name, *detail]))

    def take(self, name):
        told, self.told = self.told, []
        return [event for guest, event in told if guest == name]


class Trace:
    """What QEMU was told, as it traces it."""

    def __init__(self, directory):
        self.directory, self.read = directory, {}

    def take(self, name):
        path = f"{self.directory}/x/{name}.trace"
        if not os.path.exists(path):
            return []
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(self.read.get(name, 0))
            lines = file.readlines()
            self.read[name] = file.tell()
        commands = []
        for line in lines:
            _, _, text = line.partition(" req: ")
            try:
                command = json.loads(text)
            except ValueError:
                continue
            commands.append([command.get("execute"), command.get("arguments", {})])
        return commands


class Replay:
    def __init__(self, options):
        self.options = options
        self.directory = options.dir or tempfile.mkdtemp(prefix="replay-plug.")
        self.events = Events(options.uri)
        self.conn = libvirt.open(options.uri)
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.trace = Trace(self.directory)
        boot = ""
        if options.kernel:
            boot = f"<kernel>{options.kernel}</kernel><initrd>{options.initrd}</initrd><cmdline>console=ttyS0</cmdline>"
        self.documents = guests(self.directory, boot)
        self.booted = set()

    def prepare(self):
        for part in ("img", "x"):
            os.makedirs(f"{self.directory}/{part}", exist_ok=True)
        os.chmod(self.directory, 0o755)
        for name in ["d1", "d2", "d3", "d4", "d5", "d6", "n1", "n2", "n3", "n4", "p1", "p2", "big", "q1", "q2", "q3"]:
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", f"{self.directory}/img/{name}.qcow2", "16M"], check=True
            )
        sizes = {"cd1.iso": 1, "cd2.iso": 1, "fl1.img": 1, "fl2.img": 1, "nv.img": 128, "nv1.img": 128, "pm.img": 128}
        sizes.update({f"r{n}.raw": 16 for n in range(1, 6)})
        sizes.update({"big.raw": 64, "copy.raw": 64})
        backing = f"{self.directory}/img/q3.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", f"{self.directory}/img/top.qcow2"],
            check=True,
        )
        with open(f"{self.directory}/img/key.pub", "w", encoding="ascii") as file:
            file.write("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFq8H1bY2Y9k8Zl9Q0m4mF0c4bUjQm8y3oQv1w6r5t2u somebody\n")
        for name, mib in sizes.items():
            with open(f"{self.directory}/img/{name}", "wb") as file:
                file.truncate(mib << 20)

    def serve(self):
        """What serves disks of the recording that are no files, and the secret of one that is encrypted."""
        img, x = f"{self.directory}/img", f"{self.directory}/x"
        secret = "<secret ephemeral='yes' private='no'><usage type='volume'><volume>plugsec</volume></usage></secret>"
        try:
            self.conn.secretDefineXML(secret).setValue(b"secret")
        except libvirt.libvirtError as error:
            print(f"no secret: {error}", file=sys.stderr)
        made = ["--object", "secret,id=s,data=secret", "-o", "key-secret=s", f"{img}/luks.raw", "8M"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "luks", *made], check=False)
        for image in ("nbd.raw", "vub.raw"):
            with open(f"{img}/{image}", "wb") as file:
                file.truncate(16 << 20)
        self.servers = [
            subprocess.Popen(["qemu-nbd", "-k", f"{x}/nbd.sock", "-x", "exp", "-f", "raw", "-t", f"{img}/nbd.raw"]),
            subprocess.Popen([
                "qemu-storage-daemon", "--blockdev", f"driver=file,node-name=f,filename={img}/vub.raw", "--export",
                f"vhost-user-blk,id=v,node-name=f,writable=on,addr.type=unix,addr.path={x}/vub.sock",
            ]),
        ]

    def make_networks(self):
        """Bridges and networks that interfaces are plugged into; they need privileges and a daemon of networks."""
        for _, bridge, more in NETWORKS:
            if "forward" in more:
                subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=False, stderr=subprocess.DEVNULL)
                subprocess.run(["ip", "link", "set", bridge, "up"], check=False)
        for name, bridge, more in NETWORKS:
            xml = f"<network><name>{name}</name><bridge name='{bridge}'/>{more}</network>"
            try:
                self.conn.networkCreateXML(xml)
            except libvirt.libvirtError as error:
                print(f"no network {name}: {error}", file=sys.stderr)

    def start(self, name, group):
        """Starts the guest of an operation; some groups begin with one that was just started."""
        key = f"{name} of {group}" if (name, group) in BEGINNINGS else name
        if key in self.booted or name not in self.documents:
            return
        if key != name or name in self.booted:
            self.forget(name)
        self.booted.update((key, name))
        xml = self.documents.get(key, self.documents[name])
        if name == "pt":
            self.conn.createXML(xml)
            return
        dom = self.conn.defineXML(xml)
        if name != "c":
            dom.create()
        if self.options.kernel and name in ("g", "h"):
            time.sleep(self.options.boot)

    def forget(self, name):
        # QEMU begins the file anew.
        self.trace.read.pop(name, None)
        try:
            dom = self.conn.lookupByName(name)
            if dom.isActive():
                dom.destroy()
            dom.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError:
            pass

    def here(self, text):
        return text.replace("/img/", f"{self.directory}/img/").replace("/tmp/x/", f"{self.directory}/x/")

    def there(self, text):
        text = text.replace(f"{self.directory}/img", "/img").replace(f"{self.directory}/x", "/tmp/x")
        return re.sub(r"/\S*/run/libvirt/qemu/channel/\d+-", "/run/libvirt/qemu/channel/1-", text)

    def documents_of(self, name):
        try:
            dom = self.conn.lookupByName(name)
        except libvirt.libvirtError:
            return "", ""
        live = dom.XMLDesc(1) if dom.isActive() else ""
        stored = dom.XMLDesc(3) if dom.isPersistent() else ""
        return live, stored

    def call(self, op):
        """Makes the call; result and errors."""
        words = shlex.split(op["virsh"])
        if words[0] in CALLS:
            flags = 0
            for word in words[2:]:
                flags |= FLAGS.get(word, 0)
            subject = next((w for w in words[2:] if not w.startswith("--")), "")
            given = self.here(op.get("xml_in", "")) if subject == "XML" else subject
            if "by live xml" in op["op"]:
                given = self.as_it_is(words[1], given)
            try:
                dom = self.conn.lookupByName(words[1])
                getattr(dom, CALLS[words[0]])(given, flags)
            except libvirt.libvirtError as error:
                return "error", [(error.get_error_code(), self.there(error.get_error_message()))]
            return "ok", []
        words = [self.here(word) for word in words]
        done = subprocess.run(
            ["virsh", "-c", self.options.uri, *words], capture_output=True, text=True, timeout=120, check=False
        )
        self.out = self.there(done.stdout)
        return ("ok" if done.returncode == 0 else "error"), [(None, self.there(done.stderr))]

    def as_it_is(self, name, xml):
        """The live document of the device that has the alias of another one's; the latter, if there is none."""
        alias = re.search(r"<alias name='([^']*)'", xml)
        live, _ = self.documents_of(name)
        for kind in ["console", "serial", "channel", "parallel"]:
            for element in re.findall(rf"<{kind} .*?</{kind}>", live, re.S):
                if alias and xml.lstrip().startswith(f"<{kind}") and f"<alias name='{alias[1]}'" in element:
                    return element
        return xml

    def replay(self, op):
        """Makes one call; what differs, by kind."""
        name = op["dom"]
        before = self.documents_of(name)
        self.trace.take(name)
        self.events.take(name)
        result, errors = self.call(op)
        time.sleep(self.options.settle)
        after = self.documents_of(name)
        word = op["virsh"].split()[0]
        if word not in CALLS and word not in OF_VIRSH:
            return None
        found = {"result": (op["result"], result)}
        if op["result"] == result == "error":
            wanted = [(e["code"], plain(e["msg"])) for e in op.get("err", [])][-1:]
            errors = [(code, plain(text)) for code, text in errors]
            if word in OF_VIRSH:
                text = wanted[0][1] if wanted else op.get("stderr", "")
                found["error"] = (text, text if text in errors[0][1] else errors[0][1])
            else:
                found["error"] = (wanted, errors)
        if word in OF_VIRSH and "out" in op and result == "ok" and not VARIES.match(word):
            found["out"] = (op["out"].split(), self.out.split())
        found["events"] = (told(op.get("events", [])), told(self.events.take(name)))
        numbers = [Numbers(), Numbers()]
        found["live"] = (changes(op.get("live_diff", [])), changes(self.diff(before[0], after[0])))
        found["stored"] = (changes(op.get("config_diff", [])), changes(self.diff(before[1], after[1])))
        wanted = [c[:2] for c in op.get("qmp", []) if not ASKED.match(c[0])]
        given = [json.loads(self.there(json.dumps(c))) for c in self.trace.take(name) if not ASKED.match(c[0] or "")]
        found["commands"] = (commands(wanted), commands(given))
        for kind in ("commands", "live", "stored", "events"):
            numbered = [[n.of(line) for line in side] for n, side in zip(numbers, found[kind])]
            found[kind] = tuple(numbered if kind == "commands" else map(sorted, numbered))
        return {kind: pair for kind, pair in found.items() if pair[0] != pair[1]}

    def diff(self, before, after):
        lines = difflib.unified_diff(self.there(before).splitlines(), self.there(after).splitlines(), n=0, lineterm="")
        return [line for line in lines if line[:3] not in ("---", "+++") and line[:1] in "+-"]


class Numbers:
    """Numbers of block nodes by their order of appearance in what is told of one call."""

    def __init__(self):
        self.known = {}

    def of(self, line):
        def name(match):
            number = self.known.setdefault(match[2], f"N{len(self.known)}")
            return match[1] + number
        line = re.sub(r"(libvirt-|index=')(\d+)(?=-|')", name, line)
        return re.sub(r"()\b(?:host|tapfd-)?(net\d+)\b|()\b(vnet\d+|macvtap\d+)\b", self.card, line)

    def card(self, match):
        """Names of interfaces, and of their ends on the host."""
        name = match[2] or match[4]
        if match[0].startswith("tapfd-"):
            name = name[:-1]
        known = self.known.setdefault(name, f"E{len(self.known)}")
        return match[0].replace(name, known)


def explanation(op, differs):
    """Why an operation differs, if that is known."""
    for asked, kinds, why in EXPLAINED:
        if differs and re.search(asked, op["op"] + " " + op["virsh"]) and set(differs) <= kinds:
            return why
    return None


def plain(text):
    """An error without names that are made up."""
    return re.sub(r"\bvnet\d+\b", "vnetN", text)


def told(events):
    return sorted(json.dumps(event) for event in events if event[0] in Events.KINDS)


def changes(lines):
    """The lines that come and go, without what differs from run to run."""
    plain = (re.sub(r"/dev/pts/\d+", "/dev/pts/N", line) for line in lines if line[:1] in "+-")
    plain = (re.sub(r"port='59\d\d'", "port='N'", line) for line in plain)
    plain = (re.sub(r"(passt/)\d+-", r"\1N-", line) for line in plain)
    plain = (re.sub(r" portid='[-0-9a-f]*'", "", line) for line in plain)
    plain = (re.sub(r"(bus='0x)[0-9a-f]+(' slot='0x00')", r"\1N\2", line) for line in plain)
    plain = (re.sub(r"(<mac address='52:54:00):(?!00:)[0-9a-f:]*", r"\1:N", line) for line in plain)
    kept = Counter(line[0] + line[1:].strip() for line in plain)
    # A line that goes and comes again has only moved.
    for line in list(kept):
        other = {"+": "-", "-": "+"}[line[0]] + line[1:]
        both = min(kept[line], kept[other])
        kept[line] -= both
        kept[other] -= both
    return sorted((+kept).elements())


def commands(list_):
    lines = (json.dumps([name, arguments], sort_keys=True) for name, arguments in list_)
    lines = (re.sub(r"(passt/)\d+-", r"\1N-", line) for line in lines)
    lines = (re.sub(r'("(?:data|iv)": ")[^"]*==', r"\1N", line) for line in lines)
    lines = (re.sub(r'("bus": "pci)\.\d+', r"\1.N", line) for line in lines)
    return [re.sub(r'("mac": "52:54:00):(?!00:)[0-9a-f:]*', r"\1:N", line) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--kernel")
    parser.add_argument("--initrd")
    parser.add_argument("--boot", type=float, default=40, help="seconds that the guest with a system takes to boot")
    parser.add_argument("--dir", help="where files of the recording are made")
    parser.add_argument(
        "--groups", default="disk,devices,net-graphics,os-guest,no-os-guest,other-machines-and-config,tuning,agent"
    )
    parser.add_argument("--guests", help="only operations on these guests")
    parser.add_argument("--servers", action="store_true", help="serve the recording's disks that are no files")
    parser.add_argument("--networks", action="store_true", help="make the recording's bridges and networks")
    parser.add_argument("--settle", type=float, default=0.3, help="seconds to wait for what follows a call")
    parser.add_argument("--skip", default="server mode", help="operations whose description has this are left out")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    replay = Replay(options)
    replay.prepare()
    if options.servers:
        replay.serve()
        atexit.register(lambda: [server.kill() for server in replay.servers])
    if options.networks:
        replay.make_networks()
    only = options.guests.split(",") if options.guests else None
    groups = options.groups.split(",")
    kinds, totals, explained = Counter(), Counter(), Counter()
    for line in open(options.facts, encoding="utf-8"):
        op = json.loads(line)
        # A vhost-user server without a client stops QEMU, and libvirt's daemon with it.
        if options.skip and options.skip in op["op"]:
            continue
        if op["group"] not in groups or op["dom"] not in replay.documents or op["virsh"].startswith(("python", "(")):
            continue
        if only and op["dom"] not in only:
            continue
        replay.start(op["dom"], op["group"])
        try:
            differs = replay.replay(op)
        except Exception as error:  # noqa: BLE001 - one call must not end the replay
            differs = {"replay": ("", repr(error))}
        if differs is None:
            continue
        kind = op["virsh"].split()[0], op["group"]
        totals[kind, not differs] += 1
        why = explanation(op, differs)
        if why:
            explained[why] += 1
            totals[kind, not differs] -= 1
            totals[kind, "explained"] += 1
            print(f"EXPLAINED {op['id']} {op['op']}: {why}")
        elif differs:
            kinds.update(differs.keys())
            print(f"DIFFERS {op['id']} {op['op']}: {', '.join(differs)}")
            if options.verbose:
                for what, (wanted, found) in differs.items():
                    print(f"    {what}\n      recorded {wanted}\n      here     {found}")
        sys.stdout.flush()
    equal = sum(n for (_, same), n in totals.items() if same is True)
    everything = sum(totals.values())
    for kind in sorted({kind for kind, _ in totals}):
        print(f"{kind[0]:22} {kind[1]:28} equal {totals[kind, True]:4}  explained {totals[kind, 'explained']:4}"
              f"  differs {totals[kind, False]:4}")
    for why, count in explained.items():
        print(f"{count:4} explained: {why}")
    print(f"equal {equal} of {everything}, {sum(explained.values())} explained; differences by kind: {dict(kinds)}")
    return 0 if equal + sum(explained.values()) == everything else 1


if __name__ == "__main__":
    sys.exit(main())
