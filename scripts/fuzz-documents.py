#!/usr/bin/python3
"""Differential fuzzing of documents: changed documents are given to two daemons, and their answers compared.

    fuzz-documents.py --ours URI --reference URI [--seeds PATH ...] [--count N] [--seed NUMBER] [--out FILE] [--show N]
    fuzz-documents.py --ours URI --reference URI --replay FILE [--show N]

A seed is an XML file, a directory of them, a tar of them, or lines of JSON (also as .xz) with "xml". From a seed a document
is made by one to three changes: an element or attribute dropped, doubled, moved, taken from another document of the same
place, or set to a value that is out of range, of a wrong type or unknown. The document is defined, dumped in all forms
(inactive, secure, migratable, with its CPU updated), undefined, defined with validation, and translated to a command line.
Both daemons run on one host, each in a sandbox of its own. Results, codes, domains, texts and documents are compared;
what differs is counted by kind and written to FILE, a line of JSON each, which `--replay` tries again after mending.
Some documents end libvirt's daemon or keep it busy for minutes. Its keeper has to start it again, and `--unstick COMMAND` to
end it when it has not answered for 20 seconds; such documents are counted by themselves.
Exit 1 if anything differs.
"""
import argparse
import collections
import difflib
import json
import lzma
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from xml.dom import minidom

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)
NAME = "fuzzed"
UUID = "0f3a7a3e-0000-4000-8000-00000000f022"
NUMBERS = ["0", "1", "-1", "2", "7", "31", "32", "255", "256", "65535", "65536", "4294967295", "4294967296",
           "18446744073709551615", "18446744073709551616", "0x10", "010", "1.5", "", " 5", "5 ", "+5", "abc"]
WORDS = ["", "nonsense", "yes", "no", "on", "off", "none", "auto", "default", "0", "-1", "a/b", "a b", "\u00e4", "YES", "/", "x" * 300]
FORMS = {"inactive": libvirt.VIR_DOMAIN_XML_INACTIVE,
         "secure": libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE,
         "migratable": libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE,
         "update-cpu": libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_UPDATE_CPU}


def texts_of(path):
    """The documents of a seed."""
    if os.path.isdir(path):
        for base, _, names in sorted(os.walk(path)):
            for name in sorted(names):
                if name.endswith((".xml", ".jsonl", ".jsonl.xz", ".tar.xz")):
                    yield from texts_of(os.path.join(base, name))
    elif ".tar" in path:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".xml"):
                    yield tar.extractfile(member).read().decode("utf-8", "replace")
    elif ".jsonl" in path:
        opener = lzma.open if path.endswith(".xz") else open
        for line in opener(path, "rt"):
            yield json.loads(line).get("xml", "")
    else:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield file.read()


def read(text):
    """A document of a domain, without what only lays it out."""
    try:
        tree = minidom.parseString(text.encode())
    except Exception:
        return None
    return without_layout(tree) if tree.documentElement.tagName == "domain" else None


def without_layout(tree):
    """A tree without comments and blanks between elements."""
    for node in list(walk(tree.documentElement)):
        for child in list(node.childNodes):
            if child.nodeType == child.COMMENT_NODE or child.nodeType == child.TEXT_NODE and not child.data.strip():
                node.removeChild(child)
    return tree


def walk(node):
    yield node
    for child in node.childNodes:
        if child.nodeType == child.ELEMENT_NODE:
            yield from walk(child)


def place(node):
    """Where an element is: its own name and its parent's."""
    parent = node.parentNode
    return (getattr(parent, "tagName", ""), node.tagName)


class Pool:
    """What seeds have in each place: elements, values of attributes, texts."""

    def __init__(self, trees):
        self.children = collections.defaultdict(list)
        self.values = collections.defaultdict(set)
        self.names = collections.defaultdict(set)
        self.texts = collections.defaultdict(set)
        for tree in trees:
            for node in walk(tree.documentElement):
                for key, value in (node.attributes or {}).items():
                    self.values[node.tagName, key].add(value)
                    self.names[place(node)].add(key)
                if node.firstChild is not None and node.firstChild.nodeType == node.TEXT_NODE:
                    self.texts[place(node)].add(node.firstChild.data)
                for child in node.childNodes:
                    if child.nodeType == child.ELEMENT_NODE:
                        self.children[node.tagName].append(child)
        for table in (self.values, self.names, self.texts):
            for key in table:
                table[key] = sorted(table[key])


def other_value(rng, pool, old, known):
    number = re.fullmatch(r"[-+]?(0x)?[0-9a-fA-F]+", old or "") is not None
    choice = rng.random()
    if known and choice < 0.55:
        return rng.choice(known)
    if number and choice < 0.9:
        return rng.choice(NUMBERS)
    return rng.choice(WORDS + NUMBERS)


def change(rng, pool, tree):
    """One change; what it was."""
    nodes = [node for node in walk(tree.documentElement) if node.tagName not in ("name", "uuid")]
    node = rng.choice(nodes)
    inner = [n for n in nodes if n is not tree.documentElement]
    kind = rng.choice(["drop", "drop", "double", "swap", "value", "value", "value", "value", "attribute", "unset", "text", "text", "graft"])
    if kind in ("drop", "double", "swap") and inner:
        node = rng.choice(inner)
        parent = node.parentNode
        if kind == "drop":
            parent.removeChild(node)
        elif kind == "double":
            parent.insertBefore(node.cloneNode(True), node)
        else:
            siblings = [n for n in parent.childNodes if n is not node]
            parent.removeChild(node)
            parent.insertBefore(node, rng.choice(siblings + [None]))
    elif kind in ("value", "unset"):
        having = [n for n in nodes if n.attributes and len(n.attributes)]
        if not having:
            return None
        node = rng.choice(having)
        key = rng.choice(sorted(node.attributes.keys()))
        if key.startswith("xmlns"):
            return None
        if kind == "unset":
            node.removeAttribute(key)
        else:
            node.setAttribute(key, other_value(rng, pool, node.getAttribute(key), pool.values[node.tagName, key]))
        kind = f"{kind} {key}"
    elif kind == "attribute":
        names = pool.names[place(node)]
        if not names:
            return None
        key = rng.choice(names)
        if key.startswith("xmlns"):
            return None
        node.setAttribute(key, other_value(rng, pool, "", pool.values[node.tagName, key]))
        kind = f"{kind} {key}"
    elif kind == "text":
        having = [n for n in inner if n.firstChild is not None and n.firstChild.nodeType == n.TEXT_NODE]
        if not having:
            return None
        node = rng.choice(having)
        node.firstChild.data = other_value(rng, pool, node.firstChild.data, pool.texts[place(node)])
    elif kind == "graft":
        having = [n for n in nodes if pool.children[n.tagName]]
        if not having:
            return None
        node = rng.choice(having)
        child = rng.choice(pool.children[node.tagName])
        if ":" in child.tagName or node.firstChild is not None and node.firstChild.nodeType == node.TEXT_NODE:
            return None
        node.insertBefore(tree.importNode(child, True), rng.choice(list(node.childNodes) + [None]))
        kind = f"{kind} {child.tagName}"
    return f"{'/'.join(place(node))}: {kind}"


def named(tree):
    """The document under a name and an identity that no other has."""
    root = tree.documentElement
    for node in list(root.childNodes):
        if getattr(node, "tagName", "") == "uuid":
            root.removeChild(node)
    names = [node for node in root.childNodes if getattr(node, "tagName", "") == "name"]
    if names and names[0].firstChild is not None:
        names[0].firstChild.data = NAME
        uuid = tree.createElement("uuid")
        uuid.appendChild(tree.createTextNode(UUID))
        root.insertBefore(uuid, names[0].nextSibling)
    return root.toxml()


PATIENCE = 20


class Mask:
    """What the two may say differently: what is made up anew."""

    def text(self, text):
        text = re.sub(r"52:54:00:[0-9a-f:]{8}", "MAC", text or "")
        text = re.sub(r"qmp-[A-Za-z0-9]{6}", "qmp-N", text)
        text = re.sub(r"/dev/shm/[^ ']*|mac=[0-9a-f:]{17}", "X", text)
        text = re.sub(r'("fd":"|\bfd=|"(data|iv)":")[^",]*', r"\1N", text)
        text = re.sub(r"portid='[0-9a-f-]{36}'", "portid='N'", text)
        text = re.sub(r"\b(vnet|macvtap)\d+", r"\1N", text)
        text = re.sub(r"domain-(-?\d+|N)-", "domain-N-", text)
        return text


class Daemon:
    def __init__(self, uri):
        self.uri = uri
        self.mask = Mask()
        self.connect()

    def connect(self):
        self.connection = libvirt.open(self.uri)

    def ask(self, question):
        begun = time.monotonic()
        try:
            answer = {"ok": self.mask.text(question())}
        except libvirt.libvirtError as error:
            code, domain = error.get_error_code(), error.get_error_domain()
            answer = {"code": code, "domain": domain, "text": self.mask.text(error.get_error_message())}
            if not self.connection.isAlive():
                answer["lost"] = True
                for _ in range(30):
                    try:
                        self.connect()
                        break
                    except libvirt.libvirtError:
                        time.sleep(1)
        if time.monotonic() - begun > 10:
            answer["slow"] = round(time.monotonic() - begun)
        return answer

    def answers(self, xml, quick=False):
        def undefine():
            try:
                domain = self.connection.lookupByUUIDString(UUID)
            except libvirt.libvirtError:
                try:
                    domain = self.connection.lookupByName(NAME)
                except libvirt.libvirtError:
                    return
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

        given = {}

        def define(flags):
            domain = self.connection.defineXMLFlags(xml, flags)
            given["domain"] = domain
            return domain.name()

        said = {"define": self.ask(lambda: define(0))}
        if quick:
            self.ask(lambda: undefine() or "")
            return said
        if "ok" in said["define"]:
            for form, flags in FORMS.items():
                said[form] = self.ask(lambda: given["domain"].XMLDesc(flags))
            gone = self.ask(lambda: given["domain"].undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM) and "")
            said["undefine"] = gone
        said["validate"] = self.ask(lambda: define(libvirt.VIR_DOMAIN_DEFINE_VALIDATE))
        if "ok" in said["validate"]:
            self.ask(lambda: given["domain"].undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM) and "")
        said["argv"] = self.ask(lambda: self.connection.domainXMLToNative("qemu-argv", xml, 0))
        self.ask(lambda: undefine() or "")
        return said


def first_difference(ours, reference):
    split = "\n" if "\n" in reference.strip() else " "
    for line in difflib.unified_diff(ours.split(split), reference.split(split), lineterm="", n=0):
        if line[:1] in "+-" and line[:3] not in ("+++", "---"):
            return re.sub(r"\d+", "N", line)
    return ""


def kind_of(step, ours, reference):
    """How two answers differ; none: they do not."""
    def said(answer):
        return "ok" if "ok" in answer else f"{answer['code']}/{answer['domain']}"

    def general(text):
        return re.sub(r"'[^']*'|\d+", "*", text)

    for who, answer in (("ours", ours), ("reference", reference)):
        if answer.get("lost"):
            return f"{step}: connection lost ({who})"
        if answer.get("slow"):
            return f"{step}: slow ({who})"
    if said(ours) != said(reference):
        text = general(reference.get("text") or ours.get("text"))
        mine = general(ours.get("text") or "") if "ok" not in reference and "ok" not in ours else ""
        return f"{step}: {said(ours)}, reference {said(reference)}: {text[:150]}" + (f" | ours: {mine[:110]}" if mine else "")
    if "ok" in ours:
        if ours["ok"] == reference["ok"]:
            return None
        return f"{step}: {first_difference(ours['ok'], reference['ok'])[:100]}"
    # What a schema says of a document is libxml2's own.
    if ours["code"] == libvirt.VIR_ERR_XML_INVALID_SCHEMA:
        return None
    # Where it fails without a word, ours names what is missing.
    if "the cause is unknown" in reference["text"]:
        return None
    if ours["text"] != reference["text"]:
        return f"{step} text: {general(reference['text'])[:110]} | ours: {general(ours['text'])[:110]}"
    return None


def compare(daemons, xml, unstick):
    answers = [None, None]

    def run(at):
        answers[at] = daemons[at].answers(xml)

    threads = [threading.Thread(target=run, args=(at,)) for at in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join()
    while threads[1].is_alive():
        threads[1].join(PATIENCE)
        if threads[1].is_alive() and unstick:
            subprocess.run(unstick, shell=True, check=False)
    ours, reference = answers
    found = {}
    for step in reference:
        if step in ours:
            kind = kind_of(step, ours[step], reference[step])
            if kind:
                found[step] = kind
    return found, ours, reference


def documents(options, judge):
    if options.replay:
        with open(options.replay, encoding="utf-8") as file:
            for line in file:
                find = json.loads(line)
                yield find["xml"], find.get("changes", [])
        return
    trees = [tree for path in options.seeds for tree in map(read, texts_of(path)) if tree]
    if not trees:
        sys.exit("no seed is a document of a domain")
    pool = Pool(trees)
    good, bad = [], []
    for tree in trees:
        plain = named(tree.cloneNode(True))
        (good if "ok" in judge.answers(plain, quick=True)["define"] else bad).append(tree)
    print(f"{len(trees)} seeds, of which the reference accepts {len(good)}", file=sys.stderr)
    for number in range(options.first, options.first + options.count):
        rng = random.Random(f"{options.seed}/{number}")
        # One that the reference refuses as it is says little.
        of = good if good and (rng.random() < 0.93 or not bad) else bad
        tree = rng.choice(of).cloneNode(True)
        done = []
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
            change_made = change(rng, pool, tree)
            if change_made:
                done.append(change_made)
        yield named(tree), done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--seeds", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--out")
    parser.add_argument("--replay")
    parser.add_argument("--show", type=int, default=40)
    parser.add_argument("--unstick", help="a command that ends a reference that does not answer")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="give no document after so long")
    options = parser.parse_args()
    daemons = [Daemon(options.ours), Daemon(options.reference)]
    kinds, examples = collections.Counter(), {}
    totals, equal = collections.Counter(), collections.Counter()
    out = open(options.out, "w", encoding="utf-8") if options.out else None
    differing = unanswered = 0
    begun = time.monotonic()
    number = 0
    # Ended early, it still says what it found.
    signal.signal(signal.SIGTERM, lambda *_: setattr(options, "seconds", 0))
    for number, (xml, changes) in enumerate(documents(options, daemons[1])):
        if time.monotonic() - begun > options.seconds:
            break
        found, ours, reference = compare(daemons, xml, options.unstick)
        if any(answer.get("lost") or answer.get("slow") for answer in reference.values()):
            unanswered += 1
            if not any(answer.get("lost") or answer.get("slow") for answer in ours.values()):
                continue
        for step in reference:
            if step in ours:
                totals[step] += 1
                equal[step] += step not in found
        differing += bool(found)
        # What follows from a difference is none of its own.
        for step in list(found)[:1] if "define" in found else found:
            kinds[found[step]] += 1
            examples.setdefault(found[step], (number, changes))
        if found and out:
            out.write(json.dumps({"number": number, "changes": changes, "found": found, "xml": xml,
                                  "ours": {s: ours[s] for s in found}, "reference": {s: reference[s] for s in found}}) + "\n")
            out.flush()
    for kind, count in kinds.most_common(options.show):
        at, changes = examples[kind]
        print(f"{count:5} {kind}   [{at}: {'; '.join(changes)[:100]}]")
    total = number + 1 - unanswered
    print(f"{unanswered} documents that the reference does not answer")
    print(f"{total} documents, {total - differing} equal in all ({100 * (total - differing) / total:.2f} %)")
    for step, of in totals.items():
        print(f"  {step}: {equal[step]} of {of} equal ({100 * equal[step] / of:.2f} %)")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
