#!/usr/bin/python3
"""Count which refusals of libvirt's are built here, and which are tested.

    count-checks.py FACTS [--list missing|code|named|tested]

FACTS is a directory of libvirt's refusals, each a line of JSON with "code", "domain" and "text" (a template, %s for what is
filled in): parse.jsonl, validate.jsonl, address.jsonl, qemu.jsonl, start.jsonl. A row is
  tested   if a golden line of our tests has its code, its domain and its text, or a test names its text;
  code     if a text in the sources becomes it;
  named    if a list says why no document leads to it (elsewhere.txt, rules.tsv, not-here.tsv, or the facts themselves);
  missing  otherwise.
Exit 1 if any is missing.
"""
import argparse
import collections
import glob
import json
import os
import re
import sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
LISTS = ["parse", "validate", "address", "qemu", "start"]
PREFIX = re.compile(r"^(internal error|this function is not supported by the connection driver|invalid argument|operation failed|XML error|"
                    r"Requested operation is not valid|unsupported configuration|Timed out during operation|Hook script execution failed|"
                    r"argument unsupported|numerical overflow|Operation not supported|the CPU is incompatible with host CPU|"
                    r"XML document failed to validate against schema): ")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)


def path(*parts):
    return os.path.join(HERE, *parts)


def lines(name):
    with open(path(name), encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]


def template(text):
    """A pattern of what a row's text becomes."""
    text = PREFIX.sub("", text)
    return re.compile("".join(".*" if part == "%s" else re.escape(part) for part in re.split("(%s)", text)) + r"\Z", re.S)


def golden():
    """What our tests expect: code, domain, text."""
    known = []
    for line in lines("crates/domxml/tests/data/reading/refused.txt"):
        code, domain, text, _ = line.split("\t", 3)
        known.append((int(code), int(domain), PREFIX.sub("", text)))
    for name in ("refusals.tsv", "native.tsv"):
        for line in lines("crates/qemu-plan/tests/data/" + name):
            for part in line.split("\t")[1:]:
                match = re.match(r"(\d+) (\d+) (.*)\Z", part, re.S)
                if match:
                    known.append((int(match[1]), int(match[2]), PREFIX.sub("", match[3])))
    return known


def sources(*patterns):
    text = []
    for pattern in patterns:
        for name in glob.glob(path(pattern), recursive=True):
            with open(name, encoding="utf-8", errors="replace") as file:
                text.append(file.read())
    return "\n".join(text)


def literals(text):
    """What is in quotes, as patterns with a mark where something is filled in."""
    found = set()
    for match in LITERAL.finditer(text):
        said = re.sub(r"\\\n\s*", "", match[1]).replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        said = said.replace("{{", "\1").replace("}}", "\2")
        said = PREFIX.sub("", re.sub(r"\{[^{}]*\}", "%s", said)).replace("\1", "{").replace("\2", "}")
        if len(said.replace("%s", "").strip()) > 5:
            found.add(said)
    return found


class Texts:
    """Texts of the sources, by which a row is found though more is filled in here than there, or less."""

    def __init__(self, text):
        self.plain = literals(text)
        self.open = [template(said) for said in self.plain if "%s" in said]

    def have(self, text):
        text = PREFIX.sub("", text)
        # libvirt's text of an errno is ours, too.
        forms = {text, text.removesuffix(": %s")}
        if forms & self.plain:
            return True
        filled = [form.replace("%s", "X") for form in forms]
        return any(pattern.match(form) for pattern in self.open for form in filled if len(pattern.pattern) > 12)


def elsewhere():
    named = set()
    for line in lines("crates/domxml/tests/data/reading/elsewhere.txt"):
        parts = line.split("\t")
        numbers, _, text = parts[2].partition(" ")
        named.add((numbers, text))
    for line in lines("crates/qemu-plan/tests/data/rules.tsv"):
        _, _, numbers, text, state = line.split("\t")
        if state not in ("built", "the reader of documents says it, or does not keep what it needs"):
            named.add((numbers, text))
    for line in lines("crates/qemu-plan/tests/data/not-here.tsv"):
        numbers, text, why = line.replace("\\n", "\n").split("\t")
        assert why
        named.add((numbers, text))
    return named


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("facts")
    parser.add_argument("--list", choices=["missing", "code", "named", "tested"])
    options = parser.parse_args()
    known, named = golden(), elsewhere()
    by_numbers = collections.defaultdict(set)
    for code, domain, text in known:
        by_numbers[code, domain].add(text)
    tests = Texts(sources("tests/**/*.rs", "tests/**/*.txt", "crates/*/tests/**/*.rs", "src/**/tests.rs"))
    code = Texts(sources("src/**/*.rs", "crates/*/src/**/*.rs", "compat/src/**/*.rs"))
    missing = 0
    for name in LISTS:
        counts = collections.Counter()
        for line in open(os.path.join(options.facts, name + ".jsonl"), encoding="utf-8"):
            row = json.loads(line)
            pattern, numbers = template(row["text"]), f"{row['code']}/{row['domain']}"
            if any(pattern.match(text) for text in by_numbers[row["code"], row["domain"]]) and len(row["text"]) > 4:
                state = "tested"
            elif row.get("reachable") is False or (numbers, row["text"]) in named:
                state = "named"
            elif tests.have(row["text"]):
                state = "tested"
            elif code.have(row["text"]):
                state = "code"
            else:
                state = "missing"
            counts[state] += 1
            if state == options.list:
                where = row["element"] + (f"@{row['attribute']}" if row.get("attribute") else "")
                print(f"{name} {row['order']} {where} | {row['condition'][:120]} | {numbers} {row['text'][:160]!r}")
        missing += counts["missing"]
        print(f"{name}: {sum(counts.values())} rows: " + ", ".join(f"{counts[k]} {k}" for k in ("tested", "code", "named", "missing")))
    sys.exit(missing > 0)


if __name__ == "__main__":
    main()
