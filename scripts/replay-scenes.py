#!/usr/bin/python3
"""Replays recorded operations that need a scene: internal snapshots, changes of qemu.conf, calls of the API, full file systems,
slow compressors, block devices, firmware, and daemons and QEMUs that are killed.

usage: replay-scenes.py --facts FILE --root DIR --daemon PROGRAM [options]

FILE is that of replay-store.py. The daemon is started here, below DIR by scripts/sandbox.sh, since some operations begin with
another configuration or end with its death. What an operation begins from is made by SCENES, by its description, where the
operation before does not leave it: lines of virsh, of a shell in the directory of images (they begin with `!`), or a method
with its arguments. ACTS do what no line of virsh says. An operation is equal if result, error (text), events, commands to
QEMU, the guest's state, what virsh prints of lists and states, and the files that come and go are. Rows of other groups that
need a restart or other calls meanwhile are those of the group "beside". With --kernel and --initrd a guest has an agent.
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import libvirt

HERE = os.path.dirname(os.path.abspath(__file__))
SPEC = importlib.util.spec_from_file_location("store", f"{HERE}/replay-store.py")
store = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(store)

CHAIN = ["base", "mid", "top", "a"]
SLOW_CONF = ['save_image_format = "gzip"', 'dump_image_format = "gzip"', 'snapshot_image_format = "gzip"']
RAW = "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='DIR/r.raw'/><target dev='vdc' bus='virtio'/>{}</disk>"
PANIC = "<panic model='isa'/>"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
NVRAM = "<loader readonly='yes' type='pflash'>ROOT/code.fd</loader><nvram template='ROOT/vars.fd'{}>DIR/nv.{}</nvram>"


def made(*names, internal=False):
    return [f"snapshot-create-as st {name}{'' if internal else ' --disk-only'}" for name in names]


def of_format(key, word, *more):
    return [("conf", f'{key} = "{word}"'), *more]


def on_vdb(word):
    return [("afresh", {"vdb": f" snapshot='{word}'"})]


# The rows of other groups that are made here are chosen by this name.
BESIDE = "beside"
# What a guest with an agent takes to boot, seconds.
BOOT = 120
AWAY = [("chain", ["base", "mid", "a"], 8)]
# A guest whose memory does not fit into a pipe.
SLOW = [("afresh", {"memory": True}), ("slow", True)]
REDEFINED = [("afresh", {}), *made("s1", "s2", internal=True), "snapshot-revert st s1", "snapshot-create-as st s1b"]
PUSHED = [("afresh", {"size": "2G", "full": True})]
SCENES = {
    # block jobs over a restart
    "after daemon kill and restart: job info": [*AWAY, "blockcommit st vda --active --bandwidth 1", ("restart", signal.SIGKILL)],
    "job became ready while the daemon was away": [
        *AWAY, "blockcommit st vda --active --bandwidth 4", ("restart", signal.SIGKILL, 8),
    ],
    "pull finished while the daemon was away": [*AWAY, "blockpull st vda --bandwidth 8", ("restart", signal.SIGKILL, 8)],
    "daemon start with a pull that concluded while it was away (QMP of the reconnect)": [
        *AWAY, "blockpull st vda --bandwidth 8", ("stop_daemon", signal.SIGKILL), ("pause", 8),
    ],
    # a slow reader
    "memory-only dump into a slow FIFO": [("afresh", {}), ("fifo", "slow.fifo")],
    # internal snapshots
    "snapshot-create-as, shut off (internal)": [("afresh", {}), "destroy st"],
    "snapshot-delete --children-only": ["destroy st"],
    "snapshot revert, part missing in the first image": ["!qemu-img snapshot -d off1 a.qcow2"],
    "snapshot internal, running": [("afresh", {})],
    "snapshot internal, paused": ["suspend st"],
    "snapshot internal --halt": ["resume st"],
    "internal snapshot with a raw disk, shut off": [("afresh", {"more": RAW.format("")}), "destroy st"],
    "internal snapshot with a raw disk, running": ["start st"],
    "internal snapshot with a readonly raw disk, running": [("afresh", {"more": RAW.format("<readonly/>"), "one": True})],
    "external snapshot of a shareable raw disk": [("afresh", {"more": RAW.format("<shareable/>"), "one": True})],
    "redefine, state running -> shutoff without memory": [
        *[("afresh", {}), *made("s1", "s2", internal=True), "snapshot-revert st s1"],
        *[*made("s3", internal=True), "snapshot-revert st s1", "snapshot-create-as st s1b"],
    ],
    "delete internal, running, leaf not current": ["snapshot-delete st dsk --metadata"],
    "delete --children-only, running": made("t1", "t2", "t3", internal=True),
    "delete internal, running": made("u1", internal=True),
    "revert to running snapshot, part gone from vdb": [
        *["snapshot-delete st t1", *made("u1", "u2", internal=True), "destroy st"],
        "!qemu-img snapshot -d u2 b.qcow2",
    ],
    "after daemon restart: list": ["domrename st2 st", ("restart",)],
    "after restart with a broken metadata file: list": [("spoil", "snapshot/st/u2.xml"), ("restart",)],
    "snapshot with a different inactive config": [("afresh", {}), "desc st --config stored"],
    "revert restores the inactive config": ["desc st --config other"],
    "snapshot of a transient guest": [("transient",)],
    "internal snapshot shut off, nvram raw": [("afresh", {"boot": NVRAM.format("", "fd")}), "destroy st"],
    "internal snapshot running, nvram raw": ["start st"],
    "internal snapshot shut off, nvram qcow2": [
        ("afresh", {"boot": NVRAM.format(" format='qcow2'", "qcow2"), "start": False}),
    ],
    # configuration
    **{f'qemu.conf save_image_format = "{w}": managedsave': of_format("save_image_format", w, ("afresh", {}))
       for w in ["gzip", "zstd", "lzop", "sparse"]},
    **{f'qemu.conf dump_image_format = "{w}": dump': of_format("dump_image_format", w, ("afresh", {}))
       for w in ["xz", "lzop", "sparse"]},
    **{f'qemu.conf snapshot_image_format = "{w}": external snapshot with memory':
       of_format("snapshot_image_format", w, ("afresh", {})) for w in ["zstd", "sparse", "lzop"]},
    # checkpoints
    "checkpoint-delete shut off": [
        *[("conf",), ("afresh", {}), "checkpoint-create-as st d1", "checkpoint-create-as st d2", "destroy st"],
    ],
    "undefine with checkpoints, shut off": ["snapshot-delete st is2"],
    "after restart: checkpoint-list --tree": ["domrename st2 st", ("restart",)],
    "checkpoint-delete middle (children get its parent)": [
        ("afresh", {}), *(f"checkpoint-create-as st f{n}" for n in [1, 2, 3]),
    ],
    "backup incremental, bitmap gone": [
        *[("afresh", {}), "checkpoint-create-as st g1"],
        ("qmp", "block-dirty-bitmap-remove", {"node": "libvirt-2-format", "name": "g1"}),
    ],
    # choices of a disk
    **{f"snapshot, vdb has snapshot='{w}' in the domain": on_vdb(w) for w in ["no", "external", "manual", "internal"]},
    "start with a transient disk": [("afresh", {"transient": "vdb", "start": False})],
    # calls of the API
    "BlockRebase SHALLOW without COPY": [("chain",)],
    "BlockCopy granularity 3000": [("afresh", {})],
    "BlockRebase COPY on a transient guest": [("chain", ["base", "a"]), "undefine st"],
    "BlockRebase COPY|RAW": [("remove", "c1.qcow2")],
    # full file systems
    "blockcopy to a full file system": [("tiny",), ("afresh", {"full": True})],
    "push backup to a full file system": [("remove", "tiny/c.qcow2")],
    "save to a full file system": [("remove", "tiny/p.qcow2"), ("fill", 100)],
    "pull backup": [("afresh", {}), "suspend st", "resume st"],
    "QEMU dies during a block copy": [
        ("afresh", {"full": True}), "blockcopy st vda DIR/c.qcow2 --transient-job --bandwidth 1",
    ],
    "domstate while copying": [
        ("afresh", {"full": True}), "blockcopy st vda DIR/c.qcow2 --transient-job --bandwidth 1",
    ],
    "block copy after daemon kill: info": [("restart", signal.SIGKILL)],
    # branches
    "snapshot-list --tree before": [("afresh", {}), *made("n1", "n2", "n3"), "snapshot-revert st n2 --running"],
    "active commit while config names the base": [
        ("afresh", {}), "snapshot-create-as st x --disk-only --no-metadata", ("redefine",),
    ],
    # firmware
    "internal snapshot shut off, nvram qcow2 not there yet": [
        ("afresh", {"boot": NVRAM.format(" templateFormat='raw' format='raw'", "qcow2").replace("raw", "qcow2")
                    .replace("vars.fd", "vars.qcow2"), "start": False}),
    ],
    "internal snapshot running, nvram qcow2": ["start st"],
    "revert off, nvram qcow2": ["destroy st"],
    "save with nvram": [("afresh", {"boot": NVRAM.format("", "fd")})],
    # the agent
    "external --quiesce, agent not connected yet": [("afresh", {"more": AGENT, "system": True})],
    "external --quiesce with agent": [("agent",)],
    "external --quiesce of a paused guest": ["suspend st"],
    # panics
    "guest panic with on_crash coredump-restart (autodump)": [("afresh", {"more": PANIC, "crash": "coredump-restart"})],
    "guest panic with on_crash coredump-destroy (autodump)": [("afresh", {"more": PANIC, "crash": "coredump-destroy"})],
    # block devices
    "external snapshot onto a block device": [("afresh", {}), ("devices",)],
    "revert to external on a block device": [],
    "blockresize --capacity, block raw": [("devices",), ("afresh", {"block": "loop6"})],
    # slow compressors
    **{name: SLOW for name in ["slow save", "save aborted by domjobabort", "save, QEMU dies meanwhile"]},
    **{f"{before}{name}{after}": SLOW for name in ["dump", "external snapshot with memory", "dump --live"]
       for before, after in [("slow ", ""), ("", " aborted by domjobabort"), ("", ", QEMU dies meanwhile")]},
    **{f"daemon killed during {name}: reconnect": [*SLOW, "!touch s.img d.img ab.mem"]
       for name in ["save", "dump", "external snapshot with memory"]},
    # chains
    "blockcommit inactive --keep-relative on an absolute chain": [("slow", False), ("conf",), ("chain",)],
    "pull backup with base k1": [("afresh", {}), "checkpoint-create-as st k1"],
    # restores
    "restore, name exists with another uuid": [
        ("afresh", {}), "save st DIR/s.img", "undefine st", ("redefine",),
    ],
    "restore of a guest that is not defined": ["undefine st"],
    "save with --xml from managed definition": [("redefine",)],
    "blockcopy of a transient guest": [("transient",)],
    "blockcopy, guest destroyed while it runs": [("transient",), ("more_data",)],
    "blockcopy onto the image in use": [("afresh", {})],
    "start, managed save file of another uuid": [
        *[("afresh", {}), "managedsave st", ("keep_save",), "undefine st --managed-save", ("redefine",), ("put_save",)],
        ("restart",),
    ],
    "suspend": ["destroy st", "start st --force-boot"],
    "managedsave --paused": ["resume st"],
    # backups
    "push backup of two disks, one slow": PUSHED,
    "push backup again": [("wait_for_job",)],
    "push backup for the restart": [("wait_for_job",)],
    "daemon killed during deletion of an external snapshot: reconnect": [
        ("afresh", {"size": "2G", "full": True}), *made("m1"), ("more_data",), *made("m0"),
    ],
    # external snapshots
    "snapshot-list --tree (external, two branches)": [
        *[("afresh", {}), *made("p1", "p2", "p3"), "snapshot-revert st p1 --running", *made("q1")],
    ],
    "delete external --children, descendants of both kinds": made("i1", internal=True),
    "revert to disk-only with managed save, --force": [("afresh", {}), *made("ms"), "managedsave st"],
    "redefine with snapshotDeleteInProgress": [
        "managedsave-remove st", ("afresh", {}), *made("p1", "p2"),
    ],
    "snapshot-list --tree": [*made("q1"), *made("i1", internal=True)],
    "save --paused to a missing directory (running guest)": [("afresh", {})],
    "save --running to a missing directory (paused guest)": ["suspend st"],
    "blockcopy for the next": [("afresh", {})],
}
# Rows of the group "more" that repeat what another group begins with, where "snapshot-list --tree" is another row.
ONLY_IN = {"snapshot-list --tree": "more", "pull backup": "more"}
XML = "<domainsnapshot><name>q</name></domainsnapshot>"
COPY_XML = "<disk type='file'><source file='DIR/c.qcow2'/><driver type='qcow2'/></disk>"
NBD_XML = """<disk type='network'><source protocol='nbd' name='x'><host name='127.0.0.1' port='1'/></source>
<driver type='raw'/></disk>"""
PUSH_XML = "<domainbackup><disks><disk name='vda'/></disks></domainbackup>"
ON_CLOSED = "on a read-only connection"
API = {
    "virDomainBlockRebase(vda, base, 0, SHALLOW)": lambda d, p: d.blockRebase("vda", p("base.qcow2"), 0, 1),
    "virDomainBlockRebase(vda, NULL, 0, COPY)": lambda d, p: d.blockRebase("vda", None, 0, 8),
    "virDomainBlockRebase(vda, c1, 0, COPY)": lambda d, p: d.blockRebase("vda", p("c1.qcow2"), 0, 8),
    "virDomainBlockRebase(vda, c1, 0, COPY|RELATIVE)": lambda d, p: d.blockRebase("vda", p("c1.qcow2"), 0, 24),
    "virDomainBlockRebase(vda, NULL, 0, RELATIVE)": lambda d, p: d.blockRebase("vda", None, 0, 16),
    "virDomainBlockRebase(vda, NULL, 0, 0x1000)": lambda d, p: d.blockRebase("vda", None, 0, 0x1000),
    "virDomainBlockRebase(vda, c2.raw, 0, COPY|COPY_RAW)": lambda d, p: d.blockRebase("vda", p("c2.raw"), 0, 12),
    "virDomainBlockRebase(vda, c3, 0, COPY|SHALLOW)": lambda d, p: d.blockRebase("vda", p("c3"), 0, 9),
    "virDomainBlockPull(vda, 2^44, 0)": lambda d, p: d.blockPull("vda", 2**44, 0),
    "virDomainBlockCommit(vda, NULL, NULL, 0, 0x100)": lambda d, p: d.blockCommit("vda", None, None, 0, 0x100),
    "virDomainBlockResize(vda, 2^60, 0)": lambda d, p: d.blockResize("vda", 2**60, 0),
    "virDomainBlockCopy(vda, <disk>, {granularity:3000}, TRANSIENT_JOB)":
        lambda d, p: d.blockCopy("vda", COPY_XML.replace("DIR/", p("")), {"granularity": 3000}, 4),
    "virDomainBlockCopy(vda, <foo/>)": lambda d, p: d.blockCopy("vda", "<foo/>", None, 4),
    "virDomainBlockCopy(vda, <disk type=network nbd>)": lambda d, p: d.blockCopy("vda", NBD_XML, None, 6),
    "virDomainSnapshotCreateXML(xml, 0x1000)": lambda d, p: d.snapshotCreateXML(XML, 0x1000),
    "virDomainRevertToSnapshot(0x100)":
        lambda d, p: d.revertToSnapshot(d.snapshotCreateXML(XML.replace(">q<", ">z<")), 0x100),
    "virDomainSnapshotCreateXML(xml, REDEFINE|HALT)": lambda d, p: d.snapshotCreateXML(XML, 1 | 8),
    "virDomainSnapshotCreateXML(xml, REDEFINE|NO_METADATA)": lambda d, p: d.snapshotCreateXML(XML, 1 | 4),
    "virDomainSnapshotCreateXML(xml, REDEFINE|LIVE)": lambda d, p: d.snapshotCreateXML(XML, 1 | 256),
    "virDomainSnapshotListNames(0), Num(0), HasCurrentSnapshot, isCurrent, hasMetadata": lambda d, p: [
        d.snapshotListNames(0), d.snapshotNum(0), d.hasCurrentSnapshot(0), any_snapshot(d).isCurrent(0), any_snapshot(d).hasMetadata(0)],
    "virDomainListAllSnapshots(0x10000)": lambda d, p: d.listAllSnapshots(0x10000),
    "virDomainCoreDumpWithFormat(99, MEMORY_ONLY)": lambda d, p: d.coreDumpWithFormat(p("cdx"), 99, 16),
    "virDomainCoreDumpWithFormat(5, MEMORY_ONLY)": lambda d, p: d.coreDumpWithFormat(p("cdx"), 5, 16),
    "virDomainCoreDumpWithFormat(6, MEMORY_ONLY)": lambda d, p: d.coreDumpWithFormat(p("cdx"), 6, 16),
    "virDomainCoreDumpWithFormat(7, MEMORY_ONLY)": lambda d, p: d.coreDumpWithFormat(p("cdx"), 7, 16),
    "virDomainCoreDumpWithFormat(1, 0)": lambda d, p: d.coreDumpWithFormat(p("cdx"), 1, 0),
    "virDomainSaveFlags(0x100)": lambda d, p: d.saveFlags(p("s.img"), None, 0x100),
    "virDomainSaveParams({foo:1})": lambda d, p: d.saveParams({"foo": 1}, 0),
    "virDomainRestoreParams({})": lambda d, p: d.connect().restoreParams({}, 0),
    "virDomainBackupBegin(xml, NULL, 0x10)": lambda d, p: d.backupBegin(PUSH_XML, None, 0x10),
    "virDomainBackupGetXMLDesc(1)": lambda d, p: d.backupGetXMLDesc(1),
    "virDomainCheckpointCreateXML(xml, 2)": lambda d, p: d.checkpointCreateXML("<domaincheckpoint/>", 2),
    "virDomainCheckpointCreateXML(xml, 4)": lambda d, p: d.checkpointCreateXML("<domaincheckpoint/>", 4),
    "virDomainGetBlockInfo(path)": lambda d, p: d.blockInfo(p("a.qcow2"))[:1],
    "virDomainGetBlockJobInfo(vdz)": lambda d, p: d.blockJobInfo("vdz", 0),
    f"virDomainManagedSave {ON_CLOSED}": lambda d, p: d.managedSave(0),
    f"virDomainSnapshotCreateXML {ON_CLOSED}": lambda d, p: d.snapshotCreateXML(XML, 0),
    f"virDomainBlockPull {ON_CLOSED}": lambda d, p: d.blockPull("vda", 0, 0),
    f"virDomainSnapshotGetXMLDesc SECURE {ON_CLOSED}": lambda d, p: any_snapshot(d).getXMLDesc(1),
    f"virDomainSaveImageGetXMLDesc {ON_CLOSED}": lambda d, p: d.connect().saveImageGetXMLDesc(p("s.img"), 0),
    f"virDomainGetBlockJobInfo {ON_CLOSED}": lambda d, p: d.blockJobInfo("vda", 0) or {},
    "virDomainBlockJobAbort(vda, 0)": lambda d, p: d.blockJobAbort("vda", 0),
    "virDomainBlockJobAbort(vda, PIVOT|ASYNC)": lambda d, p: d.blockJobAbort("vda", 3),
    "virDomainBlockJobAbort(vda, ASYNC) twice": lambda d, p: [d.blockJobAbort("vda", 1), d.blockJobAbort("vda", 1)],
}


def any_snapshot(domain):
    return domain.listAllSnapshots(0)[0]


CONFIGURED = ["+/etc/libvirt/qemu/st.xml"]


def only_there(*extra):
    """What is recorded is what was found, and this."""
    return lambda op, kind, wanted, found: sorted(wanted) == sorted([*found, *extra])


def still_running(_op, kind, wanted, found):
    """A backup of two disks, of which one fails: the other is cancelled if it is not done."""
    if kind == "events":
        return [event.replace("5 0", "5 2") for event in wanted] == [event.replace("5 0", "5 2") for event in found]
    return [command for command in found if not command.startswith("block-job-cancel")] == wanted


OF_ANOTHER = 'job-dismiss {"id": "internal-snapshot-save-x"}'
BEFORE_OTHERS = "the recording ended before the other calls"
BEFORE_IT_IS_STOPPED = "what can't be done is refused before the guest is stopped"
ITS_CONFIGURATION = "libvirt writes a configuration of a guest that has none"
CHECKPOINTS_MOVED = "libvirt moves checkpoints to where it does not find them"
IN_THE_OVERLAY = "libvirt destroys the internal snapshot that is in the overlay"
NOT_DESTROYED = "the snapshot is still there, since the internal one was not destroyed"
LEFT_AS_IT_WAS = "a save that fails leaves the guest as it was"
GONE_ON_WITH = "the removal is gone on with, where libvirt cancels it"
# Differences that are meant: rows, kinds of differences, what else must hold, why.
EXPLAINED = [
    ({173, 663}, "error", lambda op, kind, wanted, found: "cause is unknown" in wanted and found, "libvirt's error has no text"),
    ({276}, "events commands", store.anything, "images are looked at before a QEMU is started for them"),
    ({286, 625, 721}, "files", only_there(*CONFIGURED), ITS_CONFIGURATION),
    ({533}, "commands", lambda op, kind, wanted, found: found[:len(wanted)] == wanted, BEFORE_OTHERS),
    ({684}, "commands", lambda op, kind, wanted, found: [c for c in found if c != OF_ANOTHER] == wanted, BEFORE_OTHERS),
    ({630}, "error", lambda op, kind, wanted, found: "does not have an active block job" in found,
     "the first abort was over before the second came"),
    ({542}, "commands", store.beside("remove-fd", "migrate-set-capabilities", "migrate-set-parameters"),
     "what a sparse image had set in QEMU is set back, and QEMU does not keep the file"),
    ({554}, "commands", store.beside("migrate-incoming", "remove-fd", "migrate-set-capabilities", "migrate-set-parameters"),
     "the memory of a snapshot is a plain stream also where its head says sparse, and loaded as one"),
    ({564, 566}, "files", store.anything, CHECKPOINTS_MOVED),
    ({581}, "commands", store.beside("blockdev-add", "blockdev-create", "transaction", "job-dismiss"),
     "the image of a transient disk is made before QEMU is started"),
    ({609}, "events commands", lambda op, kind, wanted, found: len(wanted) == 2 and not found, BEFORE_IT_IS_STOPPED),
    ({632}, "commands events", still_running, "whether the other disk's copy ends before the one that fails is of the moment"),
    ({641}, "error", lambda op, kind, wanted, found: "No space left on device" in found,
     "which part of the image has no room is of the moment"),
    ({645}, "events", lambda op, kind, wanted, found: found == ["lifecycle STOPPED/FAILED"],
     "the recording did not wait for the event"),
    ({740}, "result files events commands state", store.anything,
     "libvirt deletes the other guest's image, and says that the guest was started"),
    ({741}, "result", store.anything, "the other guest's image is kept"),
    ({753}, "result commands", store.anything, "libvirt lets the caller wait 30 s and refuses"),
    ({763, 764}, "result events commands files", store.anything, GONE_ON_WITH),
    ({772, 785}, "result events commands files", lambda op, kind, wanted, found: kind != "result" or found == "error", IN_THE_OVERLAY),
    ({775}, "result events commands files", store.anything, NOT_DESTROYED),
    ({786}, "result events commands state", store.anything, NOT_DESTROYED),
    ({787, 789}, "events commands state", store.anything, LEFT_AS_IT_WAS),
    ({788}, "output", lambda op, kind, wanted, found: (wanted, found) == ("paused (saving)", "running (save canceled)"), LEFT_AS_IT_WAS),
    ({790}, "output", store.anything, LEFT_AS_IT_WAS),
]


class Replay(store.Replay):
    def __init__(self, options):
        self.root = os.path.abspath(options.root)
        os.makedirs(f"{self.root}/bin", exist_ok=True)
        with open(f"{self.root}/bin/gzip", "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\n[ -e {self.root}/slow ] && sleep 6\nexec /usr/bin/gzip "$@"\n')
        os.chmod(f"{self.root}/bin/gzip", 0o755)
        if shutil.which("lzop") is None:
            # What it writes nobody looks at; gzip does not know one of its options.
            with open(f"{self.root}/bin/lzop", "w", encoding="utf-8") as file:
                file.write('#!/bin/sh\n[ "$2" = --ignore-warn ] && set -- "$1"\n[ "$1" = --ignore-warn ] && shift\nexec /usr/bin/gzip "$@"\n')
            os.chmod(f"{self.root}/bin/lzop", 0o755)
        with open(f"{self.root}/memory", "wb") as file:
            file.write(os.urandom(16 << 20))
        for name, size in [("code.fd", "1M"), ("vars.fd", "512K")]:
            subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{self.root}/{name}", size], check=True)
        subprocess.run(["qemu-img", "convert", "-q", "-O", "qcow2", f"{self.root}/vars.fd", f"{self.root}/vars.qcow2"], check=True)
        os.makedirs(options.dir, exist_ok=True)
        self.daemon, self.kept, self.loops, self.compared = None, None, False, None
        self.options = options
        options.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt/{options.socket}"
        self.began, self.files_conf = None, ""
        self.start_daemon()
        super().__init__(options)
        self.tracks, self.answers, self.name, self.heard = [], None, "st", True
        self.what = {}

    # The daemon.

    def start_daemon(self):
        log = open(f"{self.root}/daemon.log", "ab")
        env = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        words = [f"{HERE}/sandbox.sh", self.root, *shlex.split(self.options.daemon)]
        self.daemon = subprocess.Popen(words, stdout=log, stderr=log, env=env)
        until = time.time() + 60
        while time.time() < until:
            if self.daemon.poll() is not None:
                return False
            if subprocess.run(["virsh", "-c", self.options.uri, "version"], capture_output=True, check=False).returncode == 0:
                return True
            time.sleep(0.2)
        return False

    def stop_daemon(self, how=signal.SIGTERM):
        if self.daemon.poll() is None:
            self.daemon.send_signal(how)
            self.daemon.wait()

    def restart(self, how=signal.SIGTERM, away=0):
        self.stop_daemon(how)
        time.sleep(away)
        started = self.start_daemon()
        if started:
            self.events = store.Events(self.options.uri)
        return started

    def conf(self, *lines):
        path = f"{self.root}/etc/libvirt/qemu.conf"
        with open(path, encoding="utf-8") as file:
            kept = [line for line in file.read().splitlines() if "image_format" not in line]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([*kept, *lines]) + "\n")
        return self.restart()

    def slow(self, on):
        path = f"{self.root}/slow"
        if on and not os.path.exists(path):
            self.conf(*SLOW_CONF)
            with open(path, "w", encoding="utf-8"):
                pass
        elif not on and os.path.exists(path):
            os.remove(path)

    # The guest.

    def document(self, name):
        what = self.what
        disks = []
        for file, target in [("a", "vda"), ("b", "vdb")]:
            source, kind, form = f"file='{self.directory}/{file}.qcow2'", "file", "qcow2"
            if target == "vdb" and what.get("block"):
                source, kind, form = f"dev='/dev/{what['block']}'", "block", "raw"
            if target == "vdb" and what.get("one"):
                continue
            attribute = what.get("vdb", "") if target == "vdb" else ""
            transient = "<transient/>" if what.get("transient") == target else ""
            disks.append(f"""<disk type='{kind}' device='disk'{attribute}><driver name='qemu' type='{form}'/>
                <source {source}/><target dev='{target}' bus='virtio'/>{transient}</disk>""")
        more = what.get("more", "").replace("DIR", self.directory)
        boot = what.get("boot", "").replace("DIR", self.directory).replace("ROOT", self.root)
        memory = 32768
        if what.get("system") and self.options.kernel:
            kernel, initrd = self.options.kernel, self.options.initrd
            boot = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0</cmdline>"
            memory = 196608
        uuid = f"<uuid>{what['uuid']}</uuid>" if what.get("uuid") else ""
        crash = f"<on_crash>{what['crash']}</on_crash>" if what.get("crash") else ""
        trace = f"enable=handle_qmp_command,file={self.root}/trace"
        device = f"loader,file={self.root}/memory,addr=0x800000,force-raw=on"
        loaded = f"<qemu:arg value='-device'/><qemu:arg value='{device}'/>" if what.get("memory") else ""
        return f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{name}</name>{uuid}
            <memory>{memory}</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>
            <features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>{crash}
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>{"".join(disks)}{more}
            <serial type='pty'/><memballoon model='none'/></devices>
            <qemu:commandline><qemu:arg value='-trace'/><qemu:arg value='{trace}'/>{loaded}</qemu:commandline></domain>"""

    def clean(self):
        for _ in range(3):
            self.virsh("destroy", "st")
            self.virsh("undefine", "st2", "--snapshots-metadata", "--checkpoints-metadata", "--managed-save", "--nvram")
            done = self.virsh("undefine", "st", "--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram")
            if done.returncode == 0 or not self.state("st"):
                break
        for kind in ["snapshot", "checkpoint"]:
            shutil.rmtree(f"{self.root}/var/lib/libvirt/qemu/{kind}/st", ignore_errors=True)
        for name in os.listdir(self.directory):
            path = f"{self.directory}/{name}"
            if not os.path.isdir(path):
                os.remove(path)

    def prepare(self):
        size = self.what.get("size", "32M")
        self.image("create", "-q", "-f", "raw", "r.raw", "8M")
        for name, data in [("a", "8M"), ("b", "4M")]:
            self.image("create", "-q", "-f", "qcow2", f"{name}.qcow2", size if name == "a" else "32M")
            data = "32M" if self.what.get("full") else data
            subprocess.run(["qemu-io", "-c", f"write -P 7 0 {data}", f"{self.directory}/{name}.qcow2"], check=True, capture_output=True)
            if size != "32M" and name == "a":
                subprocess.run(["qemu-io", "-c", "write -P 7 0 1G", f"{self.directory}/a.qcow2"], check=True, capture_output=True)

    def image(self, *words):
        subprocess.run(["qemu-img", *words], check=True, capture_output=True, cwd=self.directory)

    def afresh(self, what=None):
        self.clean()
        self.what = what or {}
        self.prepare()
        self.redefine()
        if self.what.get("start", True):
            self.fail_loudly(self.virsh("start", "st"), "start")

    def redefine(self):
        path = f"{self.root}/st.xml"
        known = self.virsh("domuuid", "st").stdout.strip()
        self.what = {**self.what, "uuid": known}
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.document("st"))
        self.fail_loudly(self.virsh("define", path), "define")

    @staticmethod
    def fail_loudly(done, what):
        if done.returncode:
            print(f"    scene: {what}: {done.stderr.strip()}")

    def transient(self):
        self.afresh({"start": False})
        self.virsh("undefine", "st")
        self.fail_loudly(self.virsh("create", f"{self.root}/st.xml"), "create")

    def chain(self, names=CHAIN, data=1):
        """The first disk on these images, each with so many MiB of its own."""
        self.clean()
        self.what, below = {}, None
        for number, name in enumerate(names):
            backing = [] if below is None else ["-b", below, "-F", "qcow2"]
            below = f"{self.directory}/{name}.qcow2"
            self.image("create", "-q", "-f", "qcow2", *backing, below, "32M")
            write = f"write -P {number + 1} {number * data}M {data}M"
            subprocess.run(["qemu-io", "-c", write, below], check=True, capture_output=True)
        self.image("create", "-q", "-f", "qcow2", "b.qcow2", "32M")
        self.redefine()
        self.fail_loudly(self.virsh("start", "st"), "start")

    def more_data(self):
        """The guest has written."""
        for disk in ["virtio-disk0"]:
            line = f'qemu-io -d /machine/peripheral/{disk}/virtio-backend "write -P 9 0 24M"'
            self.fail_loudly(self.virsh("qemu-monitor-command", "st", "--hmp", line), "write")

    def qmp(self, name, arguments):
        text = json.dumps({"execute": name, "arguments": arguments})
        self.fail_loudly(self.virsh("qemu-monitor-command", "st", text), name)

    def spoil(self, path):
        with open(f"{self.root}/var/lib/libvirt/qemu/{path}", "w", encoding="utf-8") as file:
            file.write("<domainsnapshot")

    def remove(self, name):
        if os.path.exists(f"{self.directory}/{name}"):
            os.remove(f"{self.directory}/{name}")

    @staticmethod
    def pause(seconds):
        time.sleep(seconds)

    def fifo(self, name):
        os.mkfifo(f"{self.directory}/{name}")

    def agent(self):
        """Waits until the guest's system listens."""
        until = time.time() + BOOT
        while time.time() < until:
            if self.virsh("qemu-agent-command", "st", '{"execute":"guest-ping"}').returncode == 0:
                return
            time.sleep(1)
        print("    scene: the guest's agent does not answer")

    def tiny(self):
        path = f"{self.directory}/tiny"
        os.makedirs(path, exist_ok=True)
        self.stop_daemon()
        if not os.path.ismount(path):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "tmpfs", path], check=True)
        self.restart()

    def fill(self, left):
        """Leaves so many KiB of the small file system."""
        found = os.statvfs(f"{self.directory}/tiny")
        with open(f"{self.directory}/tiny/full", "wb") as file:
            file.write(b"x" * (found.f_bavail * found.f_frsize - left * 1024))

    def devices(self):
        """Two block devices of 40 MiB."""
        if not self.loops:
            for name in ["loop6", "loop7"]:
                subprocess.run(["qemu-img", "create", "-q", "-f", "raw", f"{self.root}/{name}", "40M"], check=True)
                subprocess.run(["losetup", f"/dev/{name}", f"{self.root}/{name}"], check=True)
            self.loops = True

    def keep_save(self):
        with open(f"{self.root}/var/lib/libvirt/qemu/save/st.save", "rb") as file:
            self.kept = file.read()

    def put_save(self):
        with open(f"{self.root}/var/lib/libvirt/qemu/save/st.save", "wb") as file:
            file.write(self.kept)

    def wait_for_job(self):
        until = time.time() + 30
        while "None" not in self.virsh("domjobinfo", "st").stdout and time.time() < until:
            time.sleep(0.2)

    def kill_qemu(self):
        with open(f"{self.root}/run/libvirt/qemu/st.pid", encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGKILL)

    # One operation.

    def step(self, step):
        if isinstance(step, tuple):
            getattr(self, step[0])(*step[1:])
        elif step.startswith("!"):
            done = subprocess.run(step[1:], shell=True, cwd=self.directory, capture_output=True, text=True, check=False)
            self.fail_loudly(done, step)
        else:
            self.fail_loudly(self.virsh(*step.replace("DIR", self.directory).split()), step)

    def bring_about(self, op):
        scene = SCENES.get(op["op"], [])
        if ONLY_IN.get(op["op"], op["group"]) == op["group"]:
            for step in scene:
                self.step(step)
        for name, text in (op.get("xml_in") or {}).items():
            with open(f"{self.directory}/{name}", "w", encoding="utf-8") as file:
                file.write(self.filled(self.here(text), op))

    def filled(self, text, op):
        """A document of a snapshot with the guest's in it, which the recording left out."""
        if "(as written by dumpxml)" not in text:
            return text
        name = "p1" if "snapshotDeleteInProgress" in op["op"] else "s1b"
        shown = self.virsh("snapshot-dumpxml", "st", name, "--security-info").stdout
        for tag in ["domain", "inactiveDomain"]:
            found = re.search(rf"<{tag}( |>).*</{tag}>", shown, re.S)
            body = found[0] if found else ""
            if tag == "domain":
                for word, change in store.CHANGES:
                    if word in op["op"]:
                        body = change(body)
                if "other domain uuid" in op["op"]:
                    body = re.sub(r"<uuid>........", "<uuid>deadbeef", body)
            text = text.replace(f"<{tag} ...>(as written by dumpxml)</{tag}>", body)
        return re.sub(r"<cookie>.*</cookie>", lambda _: (re.search(r"<cookie>.*</cookie>", shown, re.S) or [""])[0], text, flags=re.S)

    def mark(self):
        """From here on commands are of the operation."""
        path = f"{self.root}/trace"
        if os.path.exists(path):
            if not self.tracks or os.fstat(self.tracks[-1].fileno()).st_ino != os.stat(path).st_ino:
                self.tracks.append(open(path, encoding="utf-8", errors="replace"))
            os.rename(path, f"{path}.{len(self.tracks) % 2}")
        self.tracks = self.tracks[-1:]
        for track in self.tracks:
            track.read()

    def take_commands(self):
        path, commands = f"{self.root}/trace", []
        if os.path.exists(path):
            self.tracks.append(open(path, encoding="utf-8", errors="replace"))
        for track in self.tracks:
            for line in track:
                _, _, text = line.partition(" req: ")
                try:
                    command = json.loads(text)
                except ValueError:
                    continue
                commands.append([command.get("execute"), command.get("arguments") or {}])
        if os.path.exists(path):
            os.rename(path, f"{path}.{len(self.tracks) % 2}")
        return commands

    def listing(self):
        found = {f"/tmp/w/{name}" for name in os.listdir(self.directory)}
        for place in ["var/lib/libvirt/qemu/snapshot", "var/lib/libvirt/qemu/checkpoint", "var/lib/libvirt/qemu/save", "var/lib/libvirt/qemu/dump"]:
            for path, _, names in os.walk(f"{self.root}/{place}"):
                found |= {f"{path.removeprefix(self.root)}/{name}" for name in names}
        found |= {f"/etc/libvirt/qemu/{n}" for n in os.listdir(f"{self.root}/etc/libvirt/qemu") if n.endswith(".xml")}
        if os.path.isdir(f"{self.directory}/tiny"):
            found |= {f"/tmp/w/tiny/{name}" for name in os.listdir(f"{self.directory}/tiny")}
        return found

    def call_api(self, text):
        """A call of the library, as the recording names it."""
        conn = libvirt.openReadOnly(self.options.uri.replace("-sock", "-sock-ro")) if ON_CLOSED in text else libvirt.open(self.options.uri)
        try:
            out = API[text](conn.lookupByName("st"), lambda name: f"{self.directory}/{name}")
            return "ok", "", out
        except libvirt.libvirtError as error:
            return "error", self.there(error.get_error_message() or ""), ""
        finally:
            conn.close()

    def call(self, op):
        """Carries the operation out: result, text of the error, output."""
        text = op["call"]
        act = next((act for word, act in ACTS.items() if word in op["op"]), None)
        if act is not None:
            return act(self, op)
        if text in API:
            return self.call_api(text)
        return self.call_virsh(text)

    def call_virsh(self, text):
        words = [self.here(self.newest(word)) for word in shlex.split(text)[1:]]
        try:
            done = self.virsh(*words)
        except subprocess.TimeoutExpired:
            return "timeout", "", ""
        return ("ok" if done.returncode == 0 else "error"), self.there(done.stderr), self.there(done.stdout).strip()

    def newest(self, word):
        if not re.fullmatch(r"1\d{9}", word):
            return word
        named = [n for n in self.virsh("snapshot-list", "st", "--name").stdout.split() if re.fullmatch(r"1\d{9}", n)]
        return named[-1] if named else word

    def wait_for_events(self, op):
        wanted, until = len(recorded(op.get("events"))), time.time() + 10
        while len([e for e in self.events.told if not e.startswith("migration")]) < wanted and time.time() < until:
            time.sleep(0.1)

    def replay(self, op):
        self.bring_about(op)
        files = self.listing()
        before = self.state("st")
        time.sleep(self.options.settle)
        self.mark()
        self.events.take()
        result, error, out = self.call(op)
        self.wait_for_events(op)
        time.sleep(self.options.settle)
        found = {"result": (op["result"], result)}
        message = (op.get("err") or {}).get("message")
        if op["result"] == result == "error" and message:
            message, error = store.plain(message), store.plain(error)
            found["error"] = (message, message if message in error else error.strip())
        told = [self.there(event) for event in self.events.take()] if self.heard else []
        self.heard = True
        found["events"] = (sorted(map(store.timeless, recorded(op.get("events")))), sorted(map(store.timeless, told)))
        wanted = [store.normal(c) for c in op.get("qmp") or [] if not store.ASKED.match(c[0])]
        given = [self.there(store.normal(c)) for c in self.take_commands() if not store.ASKED.match(c[0] or "")]
        given = store.moving(given)
        if "slowed by" in (op.get("note") or ""):
            given = [c for c in given if not c.startswith("block-job-set-speed")]
        found["commands"] = tuple(map(ordered, (wanted, given)))
        if op["op"].startswith("slow "):
            # Those that waited go on in any order.
            found["commands"] = tuple(map(sorted, found["commands"]))
        if op.get("state"):
            found["state"] = ([state or "" for state in op["state"]], [before, self.state("st")])
        if self.compared:
            found["answers"], self.compared = self.compared, None
        now = self.listing()
        told = {f: what for f, what in (op.get("files") or {}).items()}
        wanted = [f"{'+' if what.startswith('new') else '-'}{f}" for f, what in told.items() if not what.startswith("changed")]
        came = [f"+{f}" for f in now - files] + [f"-{f}" for f in files - now]
        found["files"] = tuple(sorted({dated(f) for f in part if telling(f)}) for part in (wanted, came))
        if op["result"] == result == "ok" and op.get("out") and SHOWN.search(op["call"]) and "set as" not in op["out"]:
            found["output"] = (shown(op["out"]), shown(out))
        return {kind: pair for kind, pair in found.items() if pair[0] != pair[1]}


SHOWN = re.compile(r"-list|domstate|snapshot-info|snapshot-(current|parent).*(--name|--current| \w+$)|ListNames|blockjob|backup-dumpxml")


def shown(text):
    """What is printed, without times and borders."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000", "TIME", str(text))
    lines = [line for line in text.splitlines() if not line.startswith(("---", " Name", "Name"))]
    return store.plain("\n".join(re.sub(r"(?<=\S) {2,}", "  ", line.rstrip()) for line in lines).strip())


def telling(path):
    """Whether a file is of the operation: documents of the recording are not, nor what a QEMU leaves that is asked what it can."""
    return (not path.endswith((".xml", "x.qmp")) or "/tmp/w/" not in path) and "/qemu/qmp-" not in path


def dated(path):
    return re.sub(r"\d+-st-\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d", "DUMP", store.timeless(path))


def ordered(commands):
    return store.in_order(store.numbered(commands))


def recorded(events):
    """The events of the recording, but passes over memory."""
    lines = store.recorded([e for e in events or [] if e[0] != "migration-iteration"])
    more = [f"lifecycle {e[1]}" for e in events or [] if e[0] == "lifecycle"]
    return [line for line in lines if not line.startswith("lifecycle")] + more


# What no line of virsh does.


def dying(replay, op):
    answer = replay.call_virsh(op["call"])
    replay.kill_qemu()
    time.sleep(1)
    return answer


def panicking(replay, op):
    answer = replay.call_virsh(op["call"])
    replay.virsh("qemu-monitor-command", "st", "--hmp", "o /b 0x505 1")
    time.sleep(3)
    return answer


def meanwhile(replay, op, then):
    """The call goes on while another thing is done."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(replay.call_virsh(op["call"])))
    thread.start()
    time.sleep(2)
    then()
    thread.join(60)
    return answer[0] if answer else ("timeout", "", "")


def aborted(replay, op):
    return meanwhile(replay, op, lambda: replay.virsh("domjobabort", "st"))


def killed(replay, op):
    return meanwhile(replay, op, replay.kill_qemu)


def slowly(replay, op):
    """Other calls while a slow one runs: they are those of the record that follows."""
    asked, waiting = [], []

    def ask():
        for line, *_ in replay.following["out"]:
            words = [line.split(" ")[0], *line.split(" ")[1:]]
            call = subprocess.Popen(["virsh", "-q", "-c", replay.options.uri, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                out, _ = call.communicate(timeout=0.6)
                asked.append([line, call.returncode, out.strip()])
            except subprocess.TimeoutExpired:
                asked.append([line, "waits", ""])
                waiting.append((asked[-1], call))

    result = meanwhile(replay, op, ask)
    for row, call in waiting:
        out, _ = call.communicate(timeout=60)
        # What QEMU itself is asked says in the end whether there is one.
        if row[0].startswith("qemu-monitor-command"):
            row[1:] = [call.returncode, out.strip()]
    replay.answers = asked
    return result


def slowly_read(replay, op):
    """A dump whose pipe is read 5 s later, and what other calls answer until then: they are those of the record that follows."""
    path, asked, waiting = f"{replay.directory}/slow.fifo", [], []

    def read():
        with open(path, "rb") as pipe:
            time.sleep(6)
            while pipe.read(1 << 20):
                pass

    def ask():
        for line in ["domjobinfo st"] * 2:
            done = replay.virsh(*line.split())
            asked.append([line, done.returncode, ""])
        for line, *_ in [row for row in replay.following["out"] if isinstance(row, list)]:
            words = ["virsh", "-q", "-c", replay.options.uri, *line.split(" ")]
            call = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                out, _ = call.communicate(timeout=None if "snapshot" in line else 2)
                asked.append([line, call.returncode, out.strip()])
            except subprocess.TimeoutExpired:
                waiting.append(call)
                asked.append([line, "waits", ""])

    threading.Thread(target=read, daemon=True).start()
    result = meanwhile(replay, op, ask)
    for call in waiting:
        call.wait(60)
    replay.answers = asked
    return result


def daemon_comes(replay, _op):
    replay.mark()
    return ("ok" if replay.restart() else "error"), "", ""


def answered(replay, op):
    def rows(out):
        infos = [["domjobinfo st", 0, ""] for row in out if isinstance(row, str)]
        return infos + [[line, "waits" if str(code).startswith("blocks") else code, text]
                        for line, code, text in (row for row in out if not isinstance(row, str))]

    wanted, found = rows(op["out"]), rows(replay.answers or [])
    for was, now in zip(wanted, found):
        # These take the guest's job: whether they waited or began after its end is of the moment. Who waits in the recording
        # need not wait here, but not the other way round.
        late = was[0].startswith(("setmem", "snapshot-create-as", "qemu-monitor-command", "suspend"))
        if {was[1], now[1]} <= {0, "waits"} and (late or was[1] == "waits"):
            now[1] = was[1]
        if not was[0].startswith("domstate") and was[1] != 1:
            was[2] = now[2] = ""
    replay.compared = (wanted, found)
    return "ok", "", ""


def daemon_killed(replay, op):
    """The daemon is killed 2 s into a call, and the next one goes on."""
    call = {"save": "save st DIR/s.img", "dump": "dump st DIR/d.img"}
    words = next((line for word, line in call.items() if f"during {word}" in op["op"]), "snapshot-create-as st ab --memspec file=DIR/ab.mem")
    if "deletion" in op["op"]:
        words = "snapshot-delete st m1"
    running = subprocess.Popen(
        ["virsh", "-q", "-c", replay.options.uri, *words.replace("DIR", replay.directory).split()],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    time.sleep(0.4 if "deletion" in op["op"] else 2)
    replay.stop_daemon(signal.SIGKILL)
    running.wait()
    replay.mark()
    replay.restart()
    time.sleep(2)
    if "deletion" in op["op"]:
        return "ok", "", ""
    # Nobody listened in the recording while the daemon came back.
    replay.heard = False
    replay.compared = (op["out"][1], replay.virsh("domstate", "st", "--reason").stdout.strip())
    return "ok", "", ""


def daemon_starts(replay, op):
    key, word = re.search(r'qemu.conf (\w+) = "(\w+)"', op["op"]).groups()
    started = replay.conf(f'{key} = "{word}"')
    if not started:
        replay.conf()
    return ("ok" if started else "error"), "", ""


def slow_push(replay, op):
    result = replay.call_virsh(op["call"])
    replay.qmp("block-job-set-speed", {"device": "backup-vda-libvirt-2-format", "speed": 1048576})
    return result


def push_and_restart(replay, op):
    replay.stop_daemon(signal.SIGKILL)
    replay.mark()
    replay.restart()
    time.sleep(1)
    out = [replay.virsh("domjobinfo", "st").stdout, replay.virsh("backup-dumpxml", "st").stdout]
    good = "Operation:        Backup" in out[0] and store.plain(replay.there(out[1]).strip()) == store.plain(op["out"][1])
    return ("ok" if good else "error"), "", out


def nbd_client(replay, op):
    for line, code, _ in op["out"]:
        done = subprocess.run(shlex.split(replay.here(line)), capture_output=True, check=False)
        if (done.returncode == 0) != (code == 0):
            return "error", f"{line}: {done.stderr}", ""
    replay.remove("copy.qcow2")
    return "ok", "", ""


def destroyed_while_copying(replay, op):
    result = replay.call_virsh(op["call"])
    replay.virsh("destroy", "st")
    return result


ACTS = {
    "(QMP of the reconnect)": daemon_comes,
    "slow FIFO: what other calls": answered,
    "slow FIFO": slowly_read,
    "QEMU dies (kill -9)": dying,
    "QEMU dies during": dying,
    "guest panic": panicking,
    "aborted by domjobabort": aborted,
    "QEMU dies meanwhile": killed,
    "what other calls answer meanwhile": answered,
    "slow save": slowly,
    "slow dump": slowly,
    "slow external": slowly,
    "daemon killed during a push backup": push_and_restart,
    "daemon killed during": daemon_killed,
    "daemon start": daemon_starts,
    "push backup of two disks, one slow": slow_push,
    "push backup again": slow_push,
    "push backup for the restart": slow_push,
    "NBD client": nbd_client,
    "guest destroyed while it runs": destroyed_while_copying,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", required=True)
    parser.add_argument("--root", required=True, help="where the daemon keeps its files, and the images are")
    parser.add_argument("--daemon", required=True, help="program of the daemon, with its options")
    parser.add_argument("--kernel", help="of a guest with an agent")
    parser.add_argument("--initrd", help="of a guest with an agent")
    parser.add_argument("--socket", default="virtqemud-sock", help="name of its socket")
    parser.add_argument("--groups", default="snapshot,config,more,beside")
    parser.add_argument("--settle", type=float, default=0.3, help="seconds to wait for what follows a call")
    parser.add_argument("--from", dest="first", default="", help="begin with the operation whose description has this")
    parser.add_argument("--until", default="", help="end before the operation whose description has this")
    parser.add_argument("--report", help="a file to which a line of JSON for each operation is added")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    options.dir, options.saves = f"{os.path.abspath(options.root)}/w", None
    libvirt.registerErrorHandler(lambda *_: None, None)
    replay, tally = Replay(options), store.Tally(options.report)
    groups = options.groups.split(",")
    rows = [op for op in store.rows(options.facts)
            if op["group"] in groups or BESIDE in groups and op["row"] in store.OF_SCENES]
    begun = not options.first
    try:
        for number, op in enumerate(rows):
            begun = begun or options.first in op["op"]
            if options.until and begun and options.until in op["op"]:
                break
            if not begun:
                continue
            replay.following = rows[number + 1] if number + 1 < len(rows) else None
            try:
                differs = replay.replay(op)
            except Exception as error:  # noqa: BLE001 - one call must not end the replay
                differs = {"replay": ("", repr(error))}
            tally.count(op, differs, options.verbose, EXPLAINED)
    finally:
        replay.clean()
        replay.stop_daemon()
        for path in [f"{replay.directory}/tiny"]:
            if os.path.ismount(path):
                subprocess.run(["umount", path], check=False)
        if replay.loops:
            for name in ["loop6", "loop7"]:
                subprocess.run(["losetup", "-d", f"/dev/{name}"], check=False)
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
