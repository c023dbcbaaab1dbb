#!/usr/bin/python3
"""Differential fuzzing of devices: changed documents of devices are given to running guests of two daemons.

    fuzz-devices.py --ours URI --reference URI --seeds FILE [--each] [--count N] [--seed NUMBER] [--out FILE]
                    [--show N] [--seconds N]
    fuzz-devices.py --ours URI --reference URI --replay FILE [--show N]

With --each, documents are changed in one place each: the attributes of each kind of device have odd values, its elements are
dropped, doubled, and have an empty one before them. FILE has lines of JSON with "xml_in", as recordings of changes have. A
document is changed as fuzz-documents.py changes one. Each daemon has a guest that is paused and never answers; the document is attached to, put in the place of, and detached from what is
stored, then what runs; results, codes, domains, texts and the lines of documents that come and go are compared. A guest whose
live document has changed is started anew. What differs is counted by kind and written to --out, which `--replay` tries again.
Some documents end libvirt's daemon: its keeper has to start it again. Exit 1 if anything differs.
"""
import argparse
import collections
import difflib
import importlib.util
import json
import os
import random
import re
import sys

import libvirt

SPEC = importlib.util.spec_from_file_location("fuzz_documents", os.path.join(os.path.dirname(os.path.abspath(__file__)), "fuzz-documents.py"))
documents = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(documents)

ENDED = "the reference ended"
LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
PORT = "<controller type='pci' model='pcie-root-port'/>"
GUEST = f"""<domain type='qemu'><name>plugged</name><uuid>0f3a7a3e-0000-4000-8000-00000000f023</uuid>
<maxMemory slots='8' unit='KiB'>1048576</maxMemory><memory>65536</memory><vcpu current='1'>4</vcpu><iothreads>1</iothreads>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<cpu><numa><cell id='0' cpus='0-3' memory='65536'/></numa></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='pci' model='pcie-root'/>{PORT * 12}
<controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>
<controller type='virtio-serial' index='0'/>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='DIR/disk.raw'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='DIR/cd.iso'/><target dev='sda' bus='sata'/><readonly/></disk>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<serial type='pty'/><console type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>
<video><model type='vga'/></video><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<memballoon model='virtio'/></devices></domain>"""


class Mask(documents.Mask):
    """And what a guest has for itself: its image."""

    def text(self, text):
        return re.sub(r"/disk[01]\.raw", "/diskN.raw", super().text(text))


class Guest(documents.Daemon):
    """A guest of a daemon, which is as it was before each document."""

    def __init__(self, uri, directory, number):
        super().__init__(uri)
        self.mask = Mask()
        # An image has one writer.
        self.xml = GUEST.replace("DIR/disk.raw", f"{directory}/disk{number}.raw").replace("DIR", directory)
        self.begin()

    def begin(self):
        for _ in range(60):
            if self.connection.isAlive():
                break
            documents.time.sleep(1)
            self.ask(lambda: self.connection.getHostname())
        self.end()
        self.domain = self.connection.defineXML(self.xml)
        for left in reversed(range(5)):
            # A port may be another's for a moment.
            try:
                self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                break
            except libvirt.libvirtError:
                if not left:
                    raise
        self.before = self.told()

    def end(self):
        try:
            domain = self.connection.lookupByName("plugged")
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        except libvirt.libvirtError:
            pass

    def told(self):
        """The live and the stored document."""
        secure = libvirt.VIR_DOMAIN_XML_SECURE
        return [self.domain.XMLDesc(flags) for flags in (secure, secure | libvirt.VIR_DOMAIN_XML_INACTIVE)]

    def step(self, call, xml, flags, at):
        """One call: its error, or which lines of the document it changed."""
        def made():
            getattr(self.domain, call)(xml, flags)
            now = self.told()[at]
            lines = difflib.unified_diff(self.before[at].splitlines(), now.splitlines(), n=0, lineterm="")
            return "\n".join(masked(line) for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---"))

        return self.ask(made)

    def answers(self, xml):
        said = {}
        for at, flags, name in ((1, CONFIG, "stored"), (0, LIVE, "live")):
            for call in ("updateDeviceFlags", "attachDeviceFlags", "detachDeviceFlags"):
                if call == "detachDeviceFlags" and at == 0 and "ok" in said["live attachDeviceFlags"]:
                    # It would be waited for: this guest answers nobody.
                    continue
                said[f"{name} {call}"] = self.step(call, xml, flags, at)
                if said[f"{name} {call}"].get("lost"):
                    self.begin()
                    return said
        # What the guest was asked to let go, it may yet.
        if "ok" in said.get("live detachDeviceFlags", ()) or not self.is_restored():
            self.begin()
        return said

    def is_restored(self):
        """Whether the guest is as it was before; what is stored is put back."""
        try:
            if self.told()[0] != self.before[0]:
                return False
            if self.told()[1] != self.before[1]:
                self.domain = self.connection.defineXML(self.xml)
            return self.told() == self.before
        except libvirt.libvirtError:
            return False


def masked(line):
    line = re.sub(r"/dev/pts/\d+", "/dev/pts/N", line)
    line = re.sub(r"port='59\d\d'", "port='N'", line)
    line = re.sub(r"(domain-|channel/|passt/)\d+-", r"\1N-", line)
    return re.sub(r" index='\d+'", " index='N'", line)


def read(text):
    try:
        tree = documents.minidom.parseString(text.encode())
    except Exception:
        return None
    return documents.without_layout(tree)


def compare(guests, xml):
    # One after the other: both are on one host, whose names and paths one guest has at a time.
    answers = [guest.answers(xml) for guest in guests]
    ours, reference = answers
    for step in ours:
        if step not in reference:
            continue
        if reference[step].get("lost"):
            return f"{step}: {ENDED}", {}
        kind = documents.kind_of(step, ours[step], reference[step])
        if kind:
            return kind, {"ours": ours[step], "reference": reference[step]}
    return None, None


ODD = ["", "nonsense", "-1", "0", "4294967296", "0x10", " 1", None]


def one_by_one(trees):
    """Each attribute of each kind of device with each odd value and without, each element dropped, doubled, and
    behind an empty one; as text."""
    met = set()

    def is_new(root, node, *what):
        kind = [root.tagName] + [root.getAttribute(key) for key in ("type", "device", "mode", "model")]
        path = []
        while node is not root:
            path.append(node.tagName)
            node = node.parentNode
        before = len(met)
        met.add((*kind, *path, *what))
        return len(met) > before

    for tree in trees:
        root = tree.documentElement
        for node in list(documents.walk(root)):
            for key, old in list(node.attributes.items()):
                for value in ODD if is_new(root, node, key) else ():
                    if value is None:
                        node.removeAttribute(key)
                    else:
                        node.setAttribute(key, value)
                    yield root.toxml()
                node.setAttribute(key, old)
            text = node.firstChild
            if text is not None and text.nodeType == text.TEXT_NODE and is_new(root, node, "text"):
                old = text.data
                for value in filter(None, ODD):
                    text.data = value
                    yield root.toxml()
                text.data = old
            if node is root or not is_new(root, node, "element"):
                continue
            parent, after = node.parentNode, node.nextSibling
            twin = parent.insertBefore(node.cloneNode(True), node)
            yield root.toxml()
            parent.removeChild(twin)
            empty = parent.insertBefore(root.ownerDocument.createElement(node.tagName), node)
            yield root.toxml()
            parent.removeChild(empty)
            parent.removeChild(node)
            yield root.toxml()
            parent.insertBefore(node, after)


def texts(options, directory):
    if options.replay:
        with open(options.replay, encoding="utf-8") as file:
            yield from (json.loads(line)["xml"] for line in file)
        return
    with open(options.seeds, encoding="utf-8") as file:
        seeds = sorted({json.loads(line).get("xml_in", "") for line in file} - {""})
    seeds = [text.replace("/img/", f"{directory}/").replace("/tmp/x/", f"{directory}/") for text in seeds]
    # Which terminal a guest has is chance.
    seeds = [re.sub(r"/dev/pts/\d+", "/dev/pts/999", text) for text in seeds]
    trees = [tree for tree in map(read, seeds) if tree is not None]
    pool = documents.Pool(trees)
    rng = random.Random(options.seed)
    if options.each:
        yield from rng.sample(every := sorted(one_by_one(trees)), min(options.count, len(every)))
        return
    for _ in range(options.count):
        tree = rng.choice(trees).cloneNode(True)
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
            documents.change(rng, pool, tree)
        yield tree.documentElement.toxml()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--seeds")
    parser.add_argument("--replay")
    parser.add_argument("--each", action="store_true", help="not at random: each attribute with odd values, each element twice and not")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", required=True, help="where images are; both daemons see it")
    parser.add_argument("--out")
    parser.add_argument("--show", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="give no document after so long")
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    for name in ("disk0.raw", "disk1.raw", "cd.iso", "r1.raw", "r2.raw", "r3.raw", "r4.raw", "r5.raw", "d1.qcow2", "cd1.iso", "cd2.iso"):
        with open(f"{options.dir}/{name}", "ab") as file:
            file.truncate(1 << 20)
    guests = [Guest(uri, options.dir, number) for number, uri in enumerate((options.ours, options.reference))]
    kinds, examples, done, ended = collections.Counter(), {}, 0, 0
    out = open(options.out, "w", encoding="utf-8") if options.out else None
    begun = documents.time.monotonic()
    for xml in texts(options, options.dir):
        if documents.time.monotonic() - begun > options.seconds:
            break
        done += 1
        kind, answers = compare(guests, xml)
        if kind and kind.endswith(ENDED):
            done -= 1
            ended += 1
        elif kind:
            kinds[kind] += 1
            examples.setdefault(kind, xml)
            if out:
                out.write(json.dumps({"kind": kind, "xml": xml, **answers}) + "\n")
                out.flush()
    for guest in guests:
        guest.end()
    for kind, count in kinds.most_common(options.show):
        print(f"{count:5} {kind}\n      {examples[kind][:400]}")
    differ = sum(kinds.values())
    print(f"{ended} documents that the reference does not answer")
    print(f"{done} documents, {done - differ} equal in all ({100 * (done - differ) / max(done, 1):.2f} %)")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
