"""Instructions that replogd spends on a record, by part of the program. It runs under callgrind, which
counts what is executed outside of the kernel, whatever else the machine does. The figures of one
load differ by how appends fall into groups, and by what happens besides, heartbeats for instance."""

import collections
import os
import re
import shutil
import subprocess

from processes import Failed

ELECTION_MS, STALL_MS = 5000, 20000  # under callgrind all is several times slower
FLAGS = ["--election-ms", str(ELECTION_MS), "--stall-ms", str(STALL_MS)]
CONTROL_S = 60
# memcpy by vectors: callgrind would count each byte that one `rep movsb` moves.
TUNABLES = ("GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x10000000:"
            "glibc.cpu.x86_rep_stosb_threshold=0x10000000")
OWN = re.compile(r"(?:^|/)(src/\w+|server)/[\w.]+$")
LIBRARIES = {"libxxhash": "XXH3", "libc": "libc", "libnghttp2": "nghttp2", "libnng": "nng",
             "librocksdb": "RocksDB"}
PARTS = ["server", "src/rpc", "src/node", "src/raft", "src/wal", "src/base", "src/store", "XXH3",
         "libc", "nghttp2", "nng", "RocksDB", "the rest"]
NAMED = re.compile(r"(ob|fl|fi|fe|cob|cfi|cfl)=(?:\((\d+)\))? ?(.*)$")


def missing():
    """Why it cannot be measured here, or None."""
    for program in ("valgrind", "callgrind_control"):
        if not shutil.which(program):
            return f"{program} is not installed"
    return None


def part_of(library, source):
    own = OWN.search(source)
    if own:
        return own.group(1)
    return LIBRARIES.get(os.path.basename(library).split(".so")[0], "the rest")


def parse(lines):
    """{part: instructions} of a profile: its own lines, not those of calls, which are counted where
    they are executed. Names are given once and referred to by number from then on."""
    names, now, sums, is_call = {}, {"ob": "", "fl": ""}, collections.Counter(), False
    for line in lines:
        named = NAMED.match(line)
        if named:
            kind, number, name = named.groups()
            table = "ob" if kind.endswith("ob") else "fl"
            if number and name:
                names[table, number] = name
            if kind in ("ob", "fl", "fi", "fe"):
                now[table] = name or names[table, number]
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit() or line[:1] in ("+", "-", "*"):
            if not is_call:
                sums[part_of(now["ob"], now["fl"])] += int(line.split()[1])
            is_call = False
    return sums


class Counted:
    """A cluster's nodes under callgrind; to be made before it starts."""

    def __init__(self, cluster):
        self.cluster, self.dumps = cluster, 0
        cluster.under = lambda i: ["/usr/bin/env", TUNABLES, "valgrind", "-q", "--tool=callgrind",
                                   "--instr-atstart=no", f"--callgrind-out-file={self.path(i)}"]

    def path(self, i):
        return os.path.join(self.cluster.directory, f"counts-{i}")

    def control(self, *args):
        for node in self.cluster.nodes.values():
            done = subprocess.run(["callgrind_control", *args, str(node.pid)], timeout=CONTROL_S,
                                  capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"callgrind_control {' '.join(args)}: {done.stderr or done.stdout}")

    def begin(self):
        self.control("-i", "on")

    def end(self):
        """{node: {part: instructions}} since begin()."""
        self.control("-i", "off")
        self.control("-d")
        self.dumps += 1
        counts = {}
        for i in self.cluster.nodes:
            with open(f"{self.path(i)}.{self.dumps}", errors="replace") as f:
                counts[i] = parse(f)
        return counts
