#!/usr/bin/python3
"""Replays all recorded operations on storage on a daemon, and says how many rows of the recording are equal.

usage: replay-storage.py --facts FILE --root DIR --daemon PROGRAM [--kernel FILE --initrd FILE] [--groups a,b] [--verbose]

FILE, and what equal means, are those of replay-store.py. The daemon is started here, below DIR by scripts/sandbox.sh, anew for
each part: replay-store.py, replay-blockjobs.py and replay-scenes.py make a part of the rows each. In the end there is a table: rows that are
equal, that differ on purpose (each with its reason, by its number), and that differ otherwise or were not made.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
GROUPS = ["save", "dump", "snapshot-external", "checkpoint-backup", "blockjob", "snapshot", "config", "more", "beside"]
STORE, SCENES = set(GROUPS[:4]), set(GROUPS[5:])


def certificates(directory):
    """Those of a server of backups, signed by an authority of this replay's own."""
    os.makedirs(directory)

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)

    with open(f"{directory}/server.ext", "w", encoding="utf-8") as file:
        file.write("subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", "2",
            "-subj", "/CN=replay")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server-key.pem", "-out", "server.csr", "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-out", "server-cert.pem", "-days", "2", "-extfile", "server.ext")


class Daemon:
    """A daemon in a sandbox of its own."""

    def __init__(self, options, name):
        self.root = f"{options.root}/{name}"
        shutil.rmtree(self.root, ignore_errors=True)
        os.makedirs(self.root)
        # The first call writes the configuration.
        sandbox = f"{HERE}/sandbox.sh"
        subprocess.run([sandbox, self.root, "true"], check=True)
        certificates(f"{self.root}/pki")
        with open(f"{self.root}/etc/libvirt/qemu.conf", "a", encoding="utf-8") as file:
            file.write(f'backup_tls_x509_cert_dir = "{self.root}/pki"\n')
        self.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt/{options.socket}"
        with open(f"{self.root}/daemon.log", "ab") as log:
            self.process = subprocess.Popen([sandbox, self.root, *shlex.split(options.daemon)], stdout=log, stderr=log)

    def __enter__(self):
        until = time.time() + 60
        while subprocess.run(["virsh", "-c", self.uri, "version"], capture_output=True, check=False).returncode:
            if time.time() > until or self.process.poll() is not None:
                raise SystemExit(f"the daemon does not answer: see {self.root}/daemon.log")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for name in ["st", "tr"]:
            subprocess.run(["virsh", "-c", self.uri, "destroy", name], capture_output=True, check=False)
        self.process.terminate()
        self.process.wait()


def run(script, options, *words):
    common = ["--facts", options.facts, "--report", options.report]
    words = [sys.executable, f"{HERE}/{script}", *common, *words, *(["--verbose"] if options.verbose else [])]
    subprocess.run(words, check=False)


def parts(options):
    groups = options.groups.split(",")
    for group in groups:
        if group in STORE:
            with Daemon(options, group) as daemon:
                saves = f"{daemon.root}/var/lib/libvirt/qemu/save"
                run("replay-store.py", options, "--uri", daemon.uri, "--dir", f"{daemon.root}/w", "--saves", saves, "--groups", group)
        elif group == "blockjob":
            with Daemon(options, group) as daemon:
                run("replay-blockjobs.py", options, "--uri", daemon.uri, "--dir", f"{daemon.root}/w")
    scenes = [group for group in groups if group in SCENES]
    if scenes:
        root = f"{options.root}/scenes"
        shutil.rmtree(root, ignore_errors=True)
        system = ["--kernel", options.kernel, "--initrd", options.initrd] if options.kernel else []
        words = ["--root", root, "--daemon", options.daemon, "--socket", options.socket, "--groups", ",".join(scenes), *system]
        run("replay-scenes.py", options, *words)


def table(options):
    """The table, and whether nothing is open."""
    with open(options.facts, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with open(options.report, encoding="utf-8") as file:
        made = {found["row"]: found for found in map(json.loads, file)}
    counts = {}
    for number, op in enumerate(rows, 1):
        verdict = made[number]["verdict"] if number in made else "not made"
        line = counts.setdefault(op["group"], {})
        line[verdict] = line.get(verdict, 0) + 1
    print()
    for verdict in ["explained", "open"]:
        for number, found in sorted(made.items()):
            if found["verdict"] == verdict:
                print(f"{verdict:9} {number:3} {found['op']}: {found['why']}")
    verdicts = ["equal", "explained", "open", "not made"]
    print(f"\n{'group':18} {'rows':>5} " + " ".join(f"{verdict:>9}" for verdict in verdicts))
    counts["all"] = {verdict: sum(line.get(verdict, 0) for line in counts.values()) for verdict in verdicts}
    for group, line in counts.items():
        shown = " ".join(f"{line.get(verdict, 0):9}" for verdict in verdicts)
        print(f"{group:18} {sum(line.values()):5} {shown}")
    everything = counts["all"]
    print(f"equal: {100 * everything['equal'] / len(rows):.1f} %")
    return everything["open"] + everything["not made"] == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--root", required=True, help="where daemons keep their files, and the images are")
    parser.add_argument("--daemon", required=True, help="program of the daemon, with its options")
    parser.add_argument("--socket", default="virtqemud-sock", help="name of its socket")
    parser.add_argument("--kernel", help="of a guest with an agent")
    parser.add_argument("--initrd", help="of a guest with an agent")
    parser.add_argument("--groups", default=",".join(GROUPS), help="parts that are made; others keep what was found before")
    parser.add_argument("--verbose", action="store_true", help="say what was recorded and what is found")
    options = parser.parse_args()
    options.root = os.path.abspath(options.root)
    os.makedirs(options.root, exist_ok=True)
    options.report = f"{options.root}/report"
    with open(options.report, "a", encoding="utf-8"):
        pass
    parts(options)
    return 0 if table(options) else 1


if __name__ == "__main__":
    sys.exit(main())
