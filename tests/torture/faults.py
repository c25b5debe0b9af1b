"""The other end of fault_preload.so: decides which call of a running replogd fails.

A Fault is a small file that the library in the process and this one map; what is written here holds
at once. Its layout is `struct control` in fault_preload.c.
"""

import errno
import mmap
import os
import random
import signal
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "cluster"))

from common import preloadable  # noqa: E402
from harness import check, needs  # noqa: E402

FULL = bool(os.environ.get("REPLOG_TORTURE_FULL"))  # no sampling
LONG = FULL or bool(os.environ.get("REPLOG_TORTURE_LONG"))  # none where half a minute does for all

OPEN, WRITE, FDATASYNC, FSYNC, ALLOCATE, TRUNCATE, RENAME, UNLINK, READ = (1 << i for i in range(9))
CHANGES = WRITE | FDATASYNC | FSYNC | ALLOCATE | TRUNCATE | RENAME | UNLINK
ALL = CHANGES | OPEN | READ

COUNT, ERRNO, SHORT, KILL_BEFORE, KILL_AFTER, THEN_ERRNO, LOSE, LIE = range(8)

# Whose allocations fail. protobuf-c's and the others' are told apart, and never chosen: replog gives
# protobuf-c an allocator of its own, which is PROGRAM.
PROGRAM, NGHTTP2, NNG, PROTOBUF, OTHERS = (1 << i for i in range(5))

MAGIC = 0x52504C46
AT = {"magic": (0, "I"), "ops": (4, "I"), "action": (8, "I"), "errno": (12, "I"),
      "at": (16, "Q"), "repeat": (24, "Q"), "seen": (32, "Q"), "hits": (40, "Q"),
      "hit_ns": (48, "Q"), "path": (56, "128s"), "last": (184, "256s"),
      "who": (440, "I"), "mem_at": (448, "Q"), "mem_repeat": (456, "Q"),
      "mem_seen": (464, "Q"), "mem_hits": (472, "Q"), "mem_where": (480, "Q")}
CONTROL_BYTES = 488
FOREVER = 1 << 62


class Fault:
    def __init__(self, path):
        self.path = path
        with open(path, "w+b") as f:
            f.truncate(CONTROL_BYTES)
            self.map = mmap.mmap(f.fileno(), CONTROL_BYTES)

    def get(self, name):
        offset, form = AT[name]
        value = struct.unpack_from("=" + form, self.map, offset)[0]
        return value.rstrip(b"\0").decode() if isinstance(value, bytes) else value

    def put(self, name, value):
        offset, form = AT[name]
        value = value.encode() if isinstance(value, str) else value
        struct.pack_into("=" + form, self.map, offset, value)

    def clear(self):
        """Nothing fails any more."""
        for name in ("at", "mem_at", "ops", "who"):
            self.put(name, 0)

    def disk(self, path, ops, action, at, number=errno.EIO, repeat=1):
        """From now on: of the calls in `ops` on files whose path holds `path`, the at-th (and
        repeat - 1 behind it) suffers `action`. at 0: they are only counted."""
        self.clear()
        for name, value in (("path", path), ("last", ""), ("seen", 0), ("hits", 0),
                            ("errno", number), ("action", action), ("repeat", repeat),
                            ("at", at), ("ops", ops)):
            self.put(name, value)

    def memory(self, who, at, repeat=1):
        self.clear()
        for name, value in (("mem_seen", 0), ("mem_hits", 0), ("mem_where", 0),
                            ("mem_repeat", repeat), ("mem_at", at), ("who", who)):
            self.put(name, value)


def built(test, name):
    """Where the build put a program of tests/torture; skips the test if it did not."""
    path = os.path.join(os.path.dirname(os.path.dirname(test.replogd)), "tests", name)
    needs(os.path.exists(path), f"{path} is not built")
    return path


def preload(test, node, name=None):
    """Has the node run with the library from its next start on; gives its Fault."""
    library = preloadable(test, built(test, "fault_preload.so"))
    fault = Fault(os.path.join(test.dir, name or f"fault-{node.id}-{node.port}"))
    plain = node.argv
    node.argv = lambda: ["/usr/bin/env", f"LD_PRELOAD={library}", f"REPLOG_FAULT={fault.path}",
                         *plain()]
    return fault


def loaded(fault):
    """Whether the library is in; a test without its faults would show nothing."""
    return fault.get("magic") == MAGIC


def seed():
    """For drawing samples; printed by who uses it."""
    given = os.environ.get("REPLOG_TORTURE_SEED")
    return int(given) if given else random.randrange(1 << 32)


def sample(rng, last, n):
    """The numbers 1 to last: all of them, or n in CI mode, one drawn from each n-th part."""
    if FULL or last <= n:
        return list(range(1, last + 1))
    cuts = [1 + last * i // n for i in range(n + 1)]
    return [rng.randrange(a, b) for a, b in zip(cuts, cuts[1:])]


def ended(node):
    """The exit status of a node that has ended by itself; None while it runs."""
    return None if node.alive() else node.process.returncode


def ended_by_rocksdb(node):
    """Distributions build RocksDB with its assertions, and some do not hold after an error of the
    disk; one of them (a file that is used again after its first error) can be faster than the
    node's own word. Then the test may go on: its end does not look at how this node ended."""
    if node.alive() or node.process.returncode != -signal.SIGABRT:
        return False
    said = [line for line in node.said_last() if "rocksdb::" in line and "Assertion `" in line]
    for line in said[-1:]:
        print(f"node {node.id} was ended by an assertion of RocksDB's: {line}")
        node.process = None
    return bool(said)


def check_named_end(node, what, words=()):
    """A node that gave up did so with status 1 and a last word that says why."""
    last = node.last_word()
    check(node.process.returncode == 1, f"{what}: status {node.process.returncode}; {last}")
    check(" ERROR " in last and ("; stopping" in last or "cannot start: " in last),
          f"{what}: ended without a word of why: {last}")
    for word in words:
        check(word in last, f"{what}: its last word should name {word!r}: {last}")
    return last


def check_end(node, what, words=()):
    """The same, or RocksDB was faster."""
    if not ended_by_rocksdb(node):
        check_named_end(node, what, words)


def kill(node, what, words=()):
    """Kills a node that may have ended by itself a moment before. True: it had, and said why."""
    node.kill()
    had_ended = node.process.returncode != -signal.SIGKILL
    if had_ended:
        check_end(node, what, words)
    return had_ended

