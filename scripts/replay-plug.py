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
document of the running guest is named by its document here: terminals have other names. A QEMU that dies in a call is
started again as it was, without what was to leave, so that what follows is compared.
"""

import argparse
import atexit
import contextlib
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
from xml.etree import ElementTree

import libvirt

CALLS = {
    "attach-device": "attachDeviceFlags",
    "detach-device": "detachDeviceFlags",
    "update-device": "updateDeviceFlags",
    "detach-device-alias": "detachDeviceAlias",
}
FLAGS = {"--live": 1, "--config": 2, "--current": 0, "--persistent": 2, "--force": 4}
# The groups as they were recorded: the guest of the first three is the one of "tuning".
ORDER = ["disk", "devices", "net-graphics", "tuning", "agent", "os-guest", "no-os-guest", "other-machines-and-config"]
# Operations before which the recording starts a guest anew, and which of the documents below it has from there.
BEGINNINGS = {899: "g", 455: "g with a fixed port", 483: "g alone"}
# Calls that the recording made before an operation, and are not in it; operations that wait for a guest's system.
BETWEEN = {769: ["change-media", "g", "sda", "--eject", "--live"], 470: ["suspend", "g"], 471: ["resume", "g"], 970: ["destroy", "g"]}
AWAIT_AGENT = {899, 969}
# Calls that end a guest, and seconds that the guest takes to answer others.
ENDS = {"shutdown", "destroy"}
SLOW = {"detach-device-alias": 1.2, "reset": 2, "resume": 2, "reboot": 8, "dompmwakeup": 4, "dompmsuspend": 2, "domdirtyrate-calc": 4}
# What a guest got after it was started, and before the first operation on it that is recorded.
AFTER_START = {
    "g with a fixed port": ["attach-disk", "g", "/img/big.raw", "vdz", "--driver", "qemu", "--subdriver", "raw", "--live", "--config"],
}
# Kinds of differences that an explanation may have all of.
ALL = {"result", "error", "events", "live", "stored", "commands", "out"}
# What differs on purpose, or by the machine: numbers of operations, kinds of differences, and why.
EXPLAINED = [
    ({30, 31, 32, 33, 36, 38, 626, 627, 628}, {"live", "commands"},
     "a new medium is opened before the old one goes, so that a drive is never left without one; an empty drive takes no number"),
    ({159}, {"commands"}, "the character device goes with its channel; libvirt leaves it in QEMU"),
    ({191}, {"error"}, "the text names the device; libvirt says nothing of the cause"),
    ({312, 321}, {"live", "commands"}, "libvirt goes on holding the ports of USB devices that have left"),
    ({294, 300}, {"commands"}, "QEMU has the descriptor before the limits fail, and gives it back"),
    ({298, 588}, {"result", "error", "events", "live", "commands"}, "whether passt is there, and what it says, is the machine's"),
    ({344, 346}, {"result", "live"}, "ports of this kernel's bridges can't be isolated"),
    ({730, 731}, {"live"}, "the guest's balloon moves meanwhile"),
    ({856, 857}, {"events", "commands"}, "the format is asked for before the guest is stopped"),
    ({867}, {"live"}, "an empty drive keeps the number of its place over a reset"),
    ({969}, {"events", "live"}, "the guest's system here does not power off by itself"),
    ({957}, {"error"}, "the words are the parser's"),
    ({592, 593, 423, 424, 425, 482}, {"result", "error", "live", "out", "commands"},
     "a CPU whose end QEMU tells without its id is found by its place, so counts go on from another one"),
    ({536}, {"events", "live", "commands"}, "three devices leave at once, in whatever order QEMU tells of them"),
    ({456, 457}, ALL, "the guest's kernel here lets the module go"),
    ({476, 477, 478}, {"result", "out"}, "the recording's guest has a file system mounted"),
    ({489}, {"live", "commands"}, "the image is looked for first: a disk that can't come leaves no controllers behind"),
    ({490, 491, 493}, {"result", "out", "error"}, "the guest's system is another one"),
    ({388, 389, 392, 393}, ALL, "the recording's virtiofsd is not here"),
    ({514}, ALL | {"died"}, "QEMU 10.0.2 aborts when a pci-serial leaves"),
    ({601, 607}, {"commands", "out"}, "the image of a run's own is made before QEMU has it, not by QEMU"),
]
# What it prints is of the host, or of the moment.
VARIES = re.compile(
    r"^(domblkinfo|dommemstat|schedinfo|memtune|iothreadinfo|vcpupin|emulatorpin|blkiotune|guestinfo|domtime|domifaddr|"
    r"domfsinfo|qemu-agent-command|domfstrim|perf|domifstat|domblkstat|domstats|screenshot|domcontrol|domdisplay|vncdisplay|"
    r"qemu-monitor-command|domhostname)$"
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
        <node>0</node></target></memory><memballoon model='virtio'/>"""
    )
    fixed = (
        PORT
        + "<controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>"
        + PORT * 22
        + "<controller type='virtio-serial' index='0'/><controller type='usb' index='0' model='qemu-xhci'/>"
        + "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='pci' index='0' model='pcie-root'/>"
        + disk("d1.qcow2", "vda")
        + card("52:54:00:00:00:01")
        + card("52:54:00:00:00:11").replace("</interface>", "<address type='pci' bus='0x02' slot='0x00'/></interface>")
        + serial
        + agent
        + "<memballoon model='virtio'/>"
    )
    alone = (
        ports(24)
        + "<controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>"
        + "<controller type='virtio-serial' index='0'/>"
        + disk("d1.qcow2", "vda")
        + card("52:54:00:00:00:01")
        + serial
        + agent
        + "<memballoon model='virtio'/>"
    )
    old = f"""<controller type='usb' model='none'/>{cdrom('hda', 'ide')}
        <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{img}/fl1.img'/><target dev='fda' bus='fdc'/></disk>
        {serial}<memballoon model='none'/>"""
    stored = f"""<controller type='usb' index='0' model='qemu-xhci'/><controller type='virtio-serial' index='0'/>
        {serial}{agent}<memballoon model='virtio'/>"""
    with_module = "<memory>327680</memory><currentMemory>196608</currentMemory>"
    small = "<memory>65536</memory>"
    acpi = "<features><acpi/></features>"
    return {
        "g": domain("g", numa, "q35", rich, acpi, boot + "<boot dev='hd'/>"),
        "h": domain("h", numa.replace("<memory>196608</memory>", with_module), "q35", other, shared + nvdimm, boot),
        "g with a fixed port": domain("g", numa, "q35", fixed, acpi, boot + "<boot dev='hd'/>"),
        "g alone": domain("g", numa, "q35", alone, acpi, boot + "<boot dev='hd'/>"),
        "n": domain("n", numa.replace("196608", "65536"), "q35", quiet, shared + nvdimm, ""),
        "p": domain("p", small, "pc", old, acpi, "<boot dev='hd'/>"),
        "pt": domain("pt", small, "pc", "<controller type='usb' model='none'/><memballoon model='none'/>", acpi, ""),
        "c": domain("c", numa, "q35", stored, acpi, ""),
    }


FD_DISK = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/img/r5.raw' fdgroup='myfd'/>
    <target dev='vdf' bus='virtio'/></disk>"""
# Calls of virsh that take a descriptor: its words, and what it reads.
ON_DESCRIPTORS = {
    "dom-fd-associate + attach disk with fdgroup in one session":
        ([], "dom-fd-associate h myfd {fd}\nattach-device h {document} --live\n"),
    "detach disk with fdgroup": (["detach-disk", "h", "vdf", "--live"], ""),
    "attach disk with unknown fdgroup": (["attach-device", "h", "{document}", "--live"], ""),
    "dom-fd-associate flags seclabel": ([], "dom-fd-associate h b {fd} --seclabel-writable --seclabel-restore\n"),
    "qemu-monitor-command with files (pass-fds)": (
        ["qemu-monitor-command", "h", "--pass-fds", "{fd}", '{{"execute":"getfd","arguments":{{"fdname":"xx"}}}}'], "",
    ),
}


def open_graphics(dom, index, flags):
    fd = dom.openGraphicsFD(index, flags)
    time.sleep(0.1)
    os.close(fd)
    return [None, "ok"]


def send_many_keys(dom):
    """The library refuses them, and its binding answers without an error's text."""
    if dom.sendKey(0, 0, [30] * 17, 17, 0) != 0:
        raise libvirt.libvirtError("")


# Calls of the binding, by what the recording calls them.
BINDING = {
    "blockPeek raw 0 16": lambda dom, _: dom.blockPeek("vda", 0, 16).hex(),
    "blockPeek raw offset beyond end": lambda dom, _: dom.blockPeek("vda", 1 << 30, 16),
    "blockPeek raw by source path": lambda dom, replay: dom.blockPeek(replay.here("/img/r1.raw"), 0, 4).hex(),
    "blockPeek of a network disk": lambda dom, _: dom.blockPeek("vdn", 0, 16),
    "openGraphicsFD with password": lambda dom, _: open_graphics(dom, 0, 0),
    "openGraphicsFD skipauth": lambda dom, _: open_graphics(dom, 0, 1),
    "openGraphicsFD vnc": lambda dom, _: open_graphics(dom, 0, 1),
    "openGraphicsFD idx 5": lambda dom, _: open_graphics(dom, 5, 1),
    "blockPeek vda 0 16": lambda dom, _: dom.blockPeek("vda", 0, 16),
    "blockPeek by path": lambda dom, replay: dom.blockPeek(replay.here("/img/d1.qcow2"), 0, 16),
    "blockPeek missing": lambda dom, _: dom.blockPeek("vdq", 0, 16),
    "blockPeek zero size": lambda dom, _: dom.blockPeek("vda", 0, 0),
    "memoryPeek virtual": lambda dom, _: dom.memoryPeek(4096, 16, 1),
    "memoryPeek physical": lambda dom, _: dom.memoryPeek(4096, 16, 2).hex(),
    "memoryPeek both flags": lambda dom, _: dom.memoryPeek(4096, 16, 3),
    "sendKey 17 keys": lambda dom, _: send_many_keys(dom),
    "title with newline": lambda dom, _: dom.setMetadata(1, "a\nb", None, None, 1),
    "getGuestInfo unknown type bit": lambda dom, _: dom.guestInfo(1 << 20, 0),
    "getGuestInfo interface bit": lambda dom, _: dom.guestInfo(1 << 6, 0),
}


# A passt that is not passt: it writes its number, listens at its socket, and lives as long as one connection.
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/data/passt.py"), encoding="utf-8") as stand_in:
    PASST = stand_in.read()
# A tc that writes down how it is called, and limits nothing.
TC = """#!/bin/sh
echo "tc $*" >>"${0%/*}/calls"
"""


class Calls:
    """The calls of programs of the host, as their stand-ins write them down."""

    def __init__(self, directory):
        self.path, self.read = directory and f"{directory}/calls", 0

    def take(self):
        if not self.path or not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            file.seek(self.read)
            lines = file.read().splitlines()
            self.read = file.tell()
        return lines


class Events:
    """What the daemon tells, in order."""

    KINDS = {
        "LIFECYCLE": 0, "TRAY_CHANGE": 10, "DEVICE_REMOVED": 15, "TUNABLE": 17, "DEVICE_ADDED": 19,
        "DEVICE_REMOVAL_FAILED": 22, "MEMORY_DEVICE_SIZE_CHANGE": 26, "METADATA_CHANGE": 23, "REBOOT": 1, "PMWAKEUP": 11,
        "PMSUSPEND": 12, "DISK_CHANGE": 9, "BLOCK_JOB_2": 16,
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
        self.calls = Calls(options.programs)
        self.servers = []
        boot = ""
        if options.kernel:
            boot = f"<kernel>{options.kernel}</kernel><initrd>{options.initrd}</initrd><cmdline>console=ttyS0</cmdline>"
        self.documents = guests(self.directory, boot)
        self.booted = {}

    def prepare(self):
        for part in ("img", "x"):
            os.makedirs(f"{self.directory}/{part}", exist_ok=True)
        os.chmod(self.directory, 0o755)
        for name in ["d1", "d2", "d3", "d4", "d5", "d6", "n1", "n2", "n3", "n4", "p1", "p2", "big", "q1", "q2", "q3", "under"]:
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", f"{self.directory}/img/{name}.qcow2", "16M"], check=True
            )
        sizes = {"cd1.iso": 1, "cd2.iso": 1, "fl1.img": 1, "fl2.img": 1, "nv.img": 128, "nv1.img": 128, "pm.img": 128}
        sizes.update({f"r{n}.raw": 16 for n in range(1, 6)})
        sizes.update({"big.raw": 64, "copy.raw": 64})
        with open(f"{self.directory}/img/a.txt", "w", encoding="ascii") as file:
            file.write("some words\n")
        backing = f"{self.directory}/img/under.qcow2"
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
        self.servers = self.start_servers(img, x)

    def end_servers(self):
        for server in self.servers:
            server.kill()
            server.wait()
        self.servers = []
        for name in ("nbd.sock", "vub.sock"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(f"{self.directory}/x/{name}")

    @staticmethod
    def start_servers(img, x):
        return [
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

    def start(self, name, key):
        """Starts the guest of an operation, unless it is the one that runs."""
        if self.booted.get(name) == key or key not in self.documents:
            return
        if name in self.booted:
            self.forget(name)
        self.booted[name] = key
        xml = self.documents[key]
        if name == "pt":
            self.conn.createXML(xml)
            time.sleep(self.options.settle)
            return
        dom = self.conn.defineXML(xml)
        if name != "c":
            dom.create()
        # What is told of the beginning is not told of the first operation.
        time.sleep(self.options.settle)
        self.wait_for_system(name)
        if key in AFTER_START:
            result, errors = self.virsh([self.here(word) for word in AFTER_START[key]])
            if result == "error":
                print(f"{key}: {errors}", file=sys.stderr)

    def end_others(self, name, left):
        """Ends the guests that no operation is about any more, as another one begins: they hold locks of images."""
        if name not in self.booted:
            for other in [other for other in self.booted if not left[other]]:
                self.forget(other)

    def wait_for_system(self, name):
        if self.options.kernel and name in ("g", "h"):
            time.sleep(self.options.boot)

    def raise_again(self, name, live, gone):
        """Starts a guest whose QEMU died as it was before, without the device that was to leave."""
        ElementTree.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
        document = ElementTree.fromstring(live)
        devices = document.find("devices")
        for device in list(devices):
            alias = device.find("alias")
            if alias is not None and alias.get("name") in gone:
                devices.remove(device)
        self.trace.read.pop(name, None)
        self.conn.createXML(ElementTree.tostring(document, encoding="unicode"))
        self.wait_for_system(name)

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
        self.out = None
        if op["virsh"].startswith("python: "):
            return self.call_binding(op)
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
                return "error", [(error.get_error_code(), self.there(error.get_error_message()), error.get_error_domain())]
            return "ok", []
        words = [self.here(word) for word in words]
        # An empty argument of the recording is not in its words.
        words += [""] if words[-1] == "--new-desc" else []
        return self.virsh(words)

    def virsh(self, words, fds=(), stdin=None):
        done = subprocess.run(
            ["virsh", "-c", self.options.uri, *words], capture_output=True, text=True, timeout=120, check=False,
            pass_fds=fds, input=stdin,
        )
        self.out = self.there(done.stdout)
        return ("ok" if done.returncode == 0 else "error"), [(None, self.there(done.stderr))]

    def call_binding(self, op):
        """A call that the recording made through the binding, or with descriptors."""
        what = op["virsh"].removeprefix("python: ")
        dom = self.conn.lookupByName(op["dom"])
        if what in ON_DESCRIPTORS:
            return self.call_with_descriptor(what)
        try:
            given = BINDING[what](dom, self)
        except libvirt.libvirtError as error:
            return "error", [(error.get_error_code(), self.there(error.get_error_message() or ""), error.get_error_domain())]
        self.out = json.dumps(given)
        return "ok", []

    def call_with_descriptor(self, what):
        document = f"{self.directory}/x/fd.xml"
        with open(document, "w", encoding="ascii") as file:
            file.write(self.here(FD_DISK))
        fd = os.open(f"{self.directory}/img/r5.raw", os.O_RDWR)
        try:
            words, script = ON_DESCRIPTORS[what]
            words = [word.format(fd=fd, document=document) for word in words]
            result, errors = self.virsh(words, (fd,), script.format(fd=fd, document=document))
            # The recording holds what virsh said, and not how it ended.
            given = "ok", errors
            self.out += errors[0][1] if result == "error" else ""
            self.out = self.out.replace(f" {fd}\n", " 7\n").replace(f" {fd} ", " 7 ")
            return given
        finally:
            os.close(fd)

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
        self.prepare_for(op)
        before = self.documents_of(name)
        self.trace.take(name)
        self.events.take(name)
        self.calls.take()
        result, errors = self.call(op)
        self.wait_after(op, result)
        after = self.documents_of(name)
        word = op["virsh"].split()[0]
        found = {"result": (op["result"], result)}
        if op["result"] == "ok" != result:
            found["result"] = ("ok", str(errors))
        if op["result"] == result == "error":
            wanted = [(e["code"], plain(e["msg"]), e["domain"]) for e in op.get("err", [])][-1:]
            errors = [(code, plain(text), *domain) for code, text, *domain in errors]
            if word not in CALLS and word != "python:":
                text = wanted[0][1] if wanted else op.get("stderr", "")
                found["error"] = (text, text if text in errors[0][1] else errors[0][1])
            else:
                found["error"] = (wanted, errors)
        varies = VARIES.match(word) or "getGuestInfo" in op["virsh"]
        if self.out is not None and "out" in op and result == "ok" and not varies:
            found["out"] = (printed(op["out"]), printed(self.out))
        events = json.loads(self.there(json.dumps(self.events.take(name))))
        found["events"] = (told(op.get("events", [])), told(events))
        numbers = [Numbers(), Numbers()]
        found["live"] = (changes(op.get("live_diff", [])), changes(self.diff(before[0], after[0])))
        found["stored"] = (changes(op.get("config_diff", [])), changes(self.diff(before[1], after[1])))
        wanted = [c[:2] for c in op.get("qmp", []) if not ASKED.match(c[0])]
        given = [json.loads(self.there(json.dumps(c))) for c in self.trace.take(name) if not ASKED.match(c[0] or "")]
        found["commands"] = (commands(wanted), commands(given))
        called = [line for line in op.get("host_commands", []) if line.startswith("tc ")]
        leaves = op["virsh"].startswith("detach-")
        found["programs"] = ([], [])
        if self.options.programs:
            found["programs"] = (limiting(called, leaves), limiting(self.calls.take(), leaves))
        for kind in ("commands", "live", "stored", "events", "programs"):
            numbered = [[n.of(line) for line in side] for n, side in zip(numbers, found[kind])]
            found[kind] = tuple(numbered if kind in ("commands", "programs") else map(sorted, numbered))
        if word in ("undefine", "destroy") or "(domain no longer running)" in op.get("live_diff", []):
            found["live"] = found["stored"] = ([], [])
        elif before[0] and not after[0]:
            found["died"] = (False, True)
            self.raise_again(name, before[0], set(re.findall(r"<alias name='([^']*)'", op.get("xml_in", ""))))
        return {kind: pair for kind, pair in found.items() if pair[0] != pair[1]}

    def restart(self, op):
        """The daemon ends, the guest goes on, the daemon comes back: what it makes of that."""
        if not self.options.restart:
            return None
        name = op["dom"]
        before = self.documents_of(name)
        self.trace.take(name)
        self.conn.close()
        subprocess.run([self.options.restart, name], check=True)
        self.conn = libvirt.open(self.options.uri)
        self.events = Events(self.options.uri)
        time.sleep(self.options.settle)
        after = self.documents_of(name)
        given = [json.loads(self.there(json.dumps(c))) for c in self.trace.take(name) if not ASKED.match(c[0] or "")]
        wanted = [c[:2] for c in op.get("qmp", []) if not ASKED.match(c[0])]
        pairs = {
            "live": (changes(op.get("live_diff", [])), changes(self.diff(before[0], after[0]))),
            "commands": (commands(wanted), [c for c in commands(given) if '"cont"' not in c]),
        }
        numbered = {kind: tuple([Numbers().of(line) for line in side] for side in pair) for kind, pair in pairs.items()}
        return {kind: pair for kind, pair in numbered.items() if pair[0] != pair[1]}

    def put_program(self, name, text, there):
        """Has a stand-in of a program there, or the host's own found."""
        path = f"{self.options.programs}/{name}"
        if there:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o755)
        elif os.path.exists(path):
            os.remove(path)

    def prepare_for(self, op):
        """What the recording did before an operation and did not record, and what it waited for."""
        number = number_of(op)
        if op["op"] == "attach disk vhostuser no server":
            self.end_servers()
        if self.options.programs:
            self.put_program("passt", PASST, "passt (stand-in program)" in op["op"])
            self.put_program("tc", TC, any(line.startswith("tc ") for line in op.get("host_commands", [])))
        if number in BETWEEN:
            self.virsh(BETWEEN[number])
            time.sleep(self.options.settle)
        if number in AWAIT_AGENT:
            self.wait_until(lambda: self.virsh(["qemu-agent-command", op["dom"], '{"execute":"guest-ping"}'])[0] == "ok")

    def wait_after(self, op, result):
        """Waits for what follows a call: the end of a guest, the guest's answer."""
        words = op["virsh"].split()
        if words[0] in ENDS and result == op["result"] == "ok" and "(domain no longer running)" in op.get("live_diff", []):
            self.wait_until(lambda: not self.documents_of(op["dom"])[0])
        time.sleep(max(self.options.settle, SLOW.get(words[0], 0)))

    def wait_until(self, is_so):
        for _ in range(60):
            if is_so():
                return
            time.sleep(1)

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
    number = number_of(op)
    for numbers, kinds, why in EXPLAINED:
        if differs and number in numbers and set(differs) <= kinds:
            return why
    return None


def number_of(op):
    return int(op["id"].rsplit("-", 1)[1])


def printed(text):
    """What was printed, without what differs from run to run."""
    text = text.strip('"').replace("\\n", "\n").replace('\\"', '"')
    text = re.sub(r"libvirt-\d+", "libvirt-N", text)
    words = re.sub(r"52:54:00:(?!00:)[0-9a-f:]*", "MAC", text).split()
    # A rule is as long as the longest name.
    return [word for word in words if not word.startswith(("/tmp/x/", "virsh", "----"))]


def plain(text):
    """An error without names that are made up."""
    return re.sub(r"\bvnet\d+\b", "vnetN", text)


def limiting(calls, leaves):
    """The calls of tc that make a difference: not questions, not a queue that goes at once, none for an interface that leaves."""
    calls = [call for call in calls if " show " not in call]
    kept = [call for call, then in zip(calls, calls[1:] + [""]) if not (call.endswith("noqueue") and " del " in then)]
    return [] if leaves else kept


def told(events):
    return sorted(json.dumps(event) for event in events if event[0] in Events.KINDS)


def changes(lines):
    """The lines that come and go, without what differs from run to run."""
    plain = (re.sub(r"/dev/pts/\d+", "/dev/pts/N", line) for line in lines if line[:1] in "+-")
    plain = (re.sub(r"port='59\d\d'", "port='N'", line) for line in plain)
    plain = (re.sub(r"(passt/)\d+-", r"\1N-", line) for line in plain)
    plain = (re.sub(r" portid='[-0-9a-f]*'", "", line) for line in plain)
    # The guest's agent comes and goes by its own time.
    plain = (line for line in plain if "name='org.qemu.guest_agent.0' state=" not in line)
    plain = (re.sub(r"(bus='0x)[0-9a-f]+(' slot='0x00')", r"\1N\2", line) for line in plain)
    plain = (re.sub(r"(<mac address='52:54:00):(?!00:)[0-9a-f:]*", r"\1:N", line) for line in plain)
    kept = Counter(line[0] + line[1:].strip() for line in plain if line[1:].strip())
    # A line that goes and comes again has only moved.
    for line in list(kept):
        other = {"+": "-", "-": "+"}[line[0]] + line[1:]
        both = min(kept[line], kept[other])
        kept[line] -= both
        kept[other] -= both
    return sorted((+kept).elements())


def said(name, arguments):
    """The arguments that say something: of limits that QEMU may be told or not, 0 is none."""
    if name != "block_set_io_throttle":
        return arguments
    return {key: value for key, value in arguments.items() if value != 0 or not re.search("_max|_size", key)}


def commands(list_):
    lines = (json.dumps([name, said(name, arguments)], sort_keys=True) for name, arguments in list_)
    lines = (re.sub(r"(passt/|domain-)(?:ID|\d+)-", r"\1N-", line) for line in lines)
    lines = (re.sub(r"qemu\.(mem|screendump|screenshot)\.\w+", r"qemu.\1.N", line) for line in lines)
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
        "--groups", default=",".join(ORDER)
    )
    parser.add_argument("--guests", help="only operations on these guests")
    parser.add_argument("--servers", action="store_true", help="serve the recording's disks that are no files")
    parser.add_argument("--networks", action="store_true", help="make the recording's bridges and networks")
    parser.add_argument("--programs", metavar="DIR", help="an empty directory in the daemon's search path, for stand-ins of the recording's programs")
    parser.add_argument("--settle", type=float, default=0.3, help="seconds to wait for what follows a call")
    parser.add_argument("--skip", default="server mode", help="operations whose description has this are left out")
    parser.add_argument(
        "--restart", help="program that stops the daemon, lets the CPUs of the guest that it is given run, and starts it again"
    )
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    replay = Replay(options)
    replay.prepare()
    if options.servers:
        replay.serve()
        atexit.register(replay.end_servers)
    if options.networks:
        replay.make_networks()
    only = options.guests.split(",") if options.guests else None
    groups = options.groups.split(",")
    kinds, totals, explained = Counter(), Counter(), Counter()
    with open(options.facts, encoding="utf-8") as file:
        recorded = [json.loads(line) for line in file]
    recorded.sort(key=lambda op: ORDER.index(op["group"]))
    current = {}
    left = Counter(op["dom"] for op in recorded)
    for op in recorded:
        replay.end_others(op["dom"], left)
        left[op["dom"]] -= 1
        current.setdefault(op["dom"], op["dom"])
        current[op["dom"]] = BEGINNINGS.get(number_of(op), current[op["dom"]])
        # A vhost-user server without a client stops QEMU, and libvirt's daemon with it.
        if options.skip and options.skip in op["op"]:
            continue
        if op["group"] not in groups or op["dom"] not in replay.documents or only and op["dom"] not in only:
            continue
        replay.start(op["dom"], current[op["dom"]])
        try:
            differs = replay.restart(op) if op["virsh"].startswith("(") else replay.replay(op)
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
        if differs and options.verbose:
            for what, (wanted, found) in differs.items():
                print(f"    {what}\n      recorded {wanted}\n      here     {found}")
        sys.stdout.flush()
    equal = sum(n for (_, same), n in totals.items() if same is True)
    everything = sum(totals.values())
    for at in (0, 1):
        for name in sorted({kind[at] for kind, _ in totals}):
            sums = [sum(n for (kind, sort), n in totals.items() if kind[at] == name and sort == s) for s in (True, "explained", False)]
            print(f"{name:28} rows {sum(sums):4}  equal {sums[0]:4}  explained {sums[1]:4}  differs {sums[2]:4}")
    for why, count in explained.items():
        print(f"{count:4} explained: {why}")
    print(f"equal {equal} of {everything}, {sum(explained.values())} explained; differences by kind: {dict(kinds)}")
    return 0 if equal + sum(explained.values()) == everything else 1


if __name__ == "__main__":
    sys.exit(main())
