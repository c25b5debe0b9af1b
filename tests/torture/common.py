"""What the torture tests share: the test object, loads, and the judging of a whole cluster.

A module of this folder offers TESTS = {"name": function(t)}. run.py gives the function a Torture:
a harness.Test with a seeded generator and a time to fill. A function made by `timed` runs for a
while (its share of --minutes); others run once.
"""

import contextlib
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "cluster"))

import harness  # noqa: E402
from harness import (SLOW, Failure, Skip, check, equal, needs, shorten, spawn,  # noqa: E402, F401
                     wait)
from oracle import Loss, Oracle, Told_by, parse, sound  # noqa: E402, F401

FULL = bool(os.environ.get("REPLOG_TORTURE_FULL"))
PART = "skipped part: "  # begins a line of a test's, for run.py


def timed(function, *args, short_s, share=1, long_only=False, **kwargs):
    """A test that fills `short_s` seconds, or its share of --minutes."""
    made = functools.partial(function, *args, **kwargs)
    made.SHORT_S, made.SHARE, made.LONG_ONLY = short_s, share, long_only
    return made


class Torture(harness.Test):
    nodes_may_end = True

    def __init__(self, bin_dir, directory, seed=1, seconds=None):
        super().__init__(bin_dir, directory)
        self.tests_dir = os.path.join(os.path.dirname(bin_dir), "tests")
        self.seed, self.rng, self.seconds = seed, random.Random(seed), seconds
        self.disks, self.loads, self.children = [], [], []
        self.tallies = []  # functions that tell what was counted so far, as {name: number}
        self.begun = time.monotonic()

    def program(self, name):
        path = os.path.join(self.tests_dir, name)
        needs(os.path.exists(path), f"no {path}: built without the tests?")
        return path

    def skip_part(self, part, why):
        """The rest of the test goes on; the summary counts what was left out as skipped."""
        print(f"{PART}{part}: {why}")

    def time_left(self):
        return self.begun + self.seconds - time.monotonic()

    def tally(self):
        """What was counted, of all kinds."""
        sums = {}
        for told in self.tallies:
            for name, n in told().items():
                sums[name] = sums.get(name, 0) + n
        return sums

    def background(self, *argv):
        """A command beside the test, forgotten: it is ended with the test at the latest."""
        self.children = [c for c in self.children if c.poll() is None]
        child = spawn([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL)
        self.children.append(child)
        return child

    def keep_evidence(self):
        """After a failure: copies what the end of this process would unmount."""
        self.end_children()
        for node in self.nodes:
            if node.alive():
                node.kill()
        for disk in self.disks:
            if disk.mounted:
                kept = os.path.join(self.dir, f"kept-{disk.name}")
                subprocess.run(["cp", "-a", "--sparse=always", disk.path, kept], check=False,
                               stderr=subprocess.DEVNULL)

    def end_children(self):
        for child in self.children + [load.process for load in self.loads]:
            if child.poll() is None:
                child.kill()
            child.wait(10)

    def finish(self):
        self.end_children()
        super().finish()


@contextlib.contextmanager
def environment(**variables):
    """What is started in it has these variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def preloadable(t, library):
    """The library under a path that LD_PRELOAD can hold: it takes spaces and colons for separators."""
    if not any(c in library for c in " :"):
        return library
    copy = os.path.join(t.dir, os.path.basename(library))
    if not os.path.exists(copy):
        shutil.copy(library, copy)
    return copy


def other_disk(t, how):
    """The environment that gives a process the disk of disk_preload.c: "lies", "slow:US", or ""."""
    return with_disk(t, TORTURE_DISK=how) if how else {}


def with_disk(t, **env):
    return {"LD_PRELOAD": preloadable(t, t.program("torture-disk.so")), **env,
            "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}


def draw_disk(t):
    """Half of the disks are as fast as memory; others take up to 40 ms to sync. With half of them the
    page cache is what a power cut loses: see disk_preload.c."""
    how = t.rng.choice(("", "", "slow:2000", "slow:10000", "slow:40000"))
    cache = {"TORTURE_PAGE_CACHE": "1"} if t.rng.random() < 0.5 else {}
    return with_disk(t, **({"TORTURE_DISK": how} if how else {}), **cache) if how or cache else {}


# ---- Loads


class Load:
    """A torture-load that runs until stopped; its record lies in the test's directory."""

    def __init__(self, t, endpoints, name, seed, **options):
        self.t, self.name = t, name
        self.path = os.path.join(t.dir, f"load-{name}.record")
        argv = [t.program("torture-load"), "--endpoints", endpoints, "--record", self.path,
                "--name", name, "--seed", str(seed)]
        for option, value in options.items():
            argv += ["--" + option.replace("_", "-"), str(value)]
        with open(os.path.join(t.dir, f"load-{name}.err"), "wb") as err:
            self.process = spawn(argv, stdin=subprocess.PIPE, stdout=err, stderr=err)
        t.loads.append(self)

    def stop_sending(self):
        if self.process.stdin:
            self.process.stdin.close()
            self.process.stdin = None

    def wait_end(self, timeout=60):
        self.stop_sending()
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise Failure(f"the load {self.name} did not end in {timeout * SLOW:.0f} s: "
                          f"{self.stacks()}") from None
        equal(status, 0, f"exit status of the load {self.name}")
        self.t.loads.remove(self)

    def stacks(self):
        """Where its threads hang, if there is a gdb; in the test's directory."""
        path = os.path.join(self.t.dir, f"load-{self.name}.stacks")
        if not shutil.which("gdb"):
            return "no gdb here"
        with open(path, "wb") as f, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["gdb", "-p", str(self.process.pid), "-batch", "-ex",
                            "thread apply all bt 20"], stdin=subprocess.DEVNULL, stdout=f,
                           stderr=subprocess.DEVNULL, timeout=60, check=False)
        return f"see {path}"


SHAPES = (
    dict(rate=600, window=64, batch=8, filler=2000, keyed=30),
    dict(rate=150, window=16, batch=60, filler=600, keyed=70),
    dict(rate=40, window=8, batch=4, filler=60000, keyed=10),
)


class Loads:
    """The loads of one round, and their names; `acks`: one for each."""

    def __init__(self, t, cluster, oracle, acks="qqm"):
        self.t, self.cluster, self.oracle, self.acks = t, cluster, oracle, acks
        self.round, self.running = 0, []
        t.tallies.append(lambda: oracle.totals)

    def start(self, pace=1.0, timeout_ms=40000):
        self.round += 1
        for i, ack in enumerate(self.acks):
            shape = dict(SHAPES[i % len(SHAPES)])
            shape["rate"] = max(1, int(shape["rate"] * pace / SLOW))
            name = f"{'abcdefgh'[i]}{self.round}"
            load = Load(self.t, self.cluster.endpoints, name, self.t.rng.getrandbits(48), ack=ack,
                        timeout_ms=int(timeout_ms * SLOW), **shape)
            self.oracle.add(name, load.path)
            self.running.append(load)
        return self

    def wait_acknowledged(self, more, timeout=30, meanwhile=lambda: None):
        """Until so many more appends have been acknowledged than now; `meanwhile` is called."""
        def count():
            meanwhile()
            self.oracle.refresh()
            return sum(u.state == "A" for told in self.oracle.loads.values()
                       for u in told.units.values())
        wanted = count() + more
        wait(lambda: count() >= wanted, timeout, f"{more} more appends acknowledged")

    def stop(self, timeout=180, meanwhile=None):
        for load in self.running:
            load.stop_sending()
        deadline = time.monotonic() + timeout * SLOW
        while (meanwhile and time.monotonic() < deadline
               and any(load.process.poll() is None for load in self.running)):
            meanwhile()
            time.sleep(0.03)
        for load in self.running:
            load.wait_end(timeout)
        self.running = []


# ---- The log of a cluster


def read_raw(cluster, node, first, last):
    """One member's committed log from `first` to `last`, every record, as the lines of JSON."""
    if last < first:
        return b""
    return cluster.cli("read", "--markers", "--node", "--from", str(first), "--to", str(last),
                       at=node, timeout=120, call_ms=60000).ok().out


def agree(cluster, oracle, timeout=60, without=()):
    """Waits until all members hold the same; compares them to the byte, and feeds the oracle."""
    nodes = [n for n in cluster.nodes if n not in without]
    check_alive(nodes)
    last = cluster.wait_equal(timeout, without)["last_seq"]
    raw = read_raw(cluster, nodes[0], oracle.next_seq, last)
    for node in nodes[1:]:
        other = read_raw(cluster, node, oracle.next_seq, last)
        sound(raw == other, f"nodes {nodes[0].id} and {node.id} differ from {oracle.next_seq} on: "
              f"{first_difference(raw, other)}")
    oracle.feed(parse(raw))
    sound(oracle.next_seq == last + 1, f"the log ends at {last}, read was {oracle.next_seq - 1}")
    return last


def feed_committed(cluster, node, oracle):
    """Feeds the oracle what one member knows to be committed: that stays and may be truncated."""
    result = cluster.cli("read", "--markers", "--node", "--from", str(oracle.next_seq), at=node,
                         call_ms=5000)
    if result.rc == 0:
        oracle.feed(parse(result.out))
    else:  # nothing new, or it has just stopped
        sound("DATA_LOSS" not in result.text, f"read of node {node.id}: {result}")
        result.fails("OUT_OF_RANGE|UNAVAILABLE|DEADLINE")


def first_difference(a, b):
    for x, y in zip(a.splitlines(), b.splitlines()):
        if x != y:
            return f"{x[:150]} and {y[:150]}"
    return f"{len(a)} and {len(b)} bytes"


def check_stores(t, cluster, oracle, keys=12, without=()):
    """Some keys, as every member's store has them: what replay of the log gives."""
    nodes = [n for n in cluster.nodes if n not in without]
    ids = [n.id for n in nodes]

    def applied():
        status = cluster.status(at=nodes[0])
        return status and all(m["applied_seq"] == status["last_seq"] for m in status["members"]
                              if m["id"] in ids)
    wait(applied, 30, "every store has replayed the log")
    names = sorted(oracle.latest)
    for key in t.rng.sample(names, min(keys, len(names))):
        for node in nodes:
            result = cluster.cli("get", key, "--stale", at=node)
            sound("NOT_FOUND" not in result.text, f"{key} in the store of node {node.id}: {result}")
            got, wanted = result.ok().json[0]["value"], oracle.latest[key]
            sound(got == wanted, f"{key} in the store of node {node.id}: {shorten(got)}, in the "
                  f"log: {shorten(wanted)}")


def of_files(t, *args):
    """replog wal ...: what it prints. Files that are damaged or gone are a Loss."""
    result = t.run(t.replog, "--json", "wal", *args, timeout=120)
    sound(not re.search("DATA_LOSS|NOT_FOUND", result.text), f"wal {args[0]}: {result}")
    return result.ok()


def dump_raw(t, directory, first):
    return of_files(t, "dump", directory, "--from", str(first)).out


def verify(t, directory, *args):
    """The verdict on a log that is sound."""
    return of_files(t, "verify", directory, *args).json[0]


def check_offline(t, cluster, oracle, without=()):
    """The stopped members' files: sound, and the same to the byte where all of them have it."""
    nodes = [n for n in cluster.nodes if n not in without]
    found = [verify(t, node.dir) for node in nodes]
    last = min(f["last_seq"] for f in found)
    chains = {verify(t, node.dir, "--at", str(last))["chain"] for node in nodes}
    sound(len(chains) == 1, f"chains at {last}: {chains}")
    sound(last >= oracle.next_seq - 1, f"the files end at {last}, read was {oracle.next_seq - 1}")
    return found


def check_said(nodes, expected="(?!)"):
    """What no fault of ours accounts for: errors, and quarrels between members of one build."""
    for node in nodes:
        odd = [line for line in node.log().splitlines()
               if re.search(r" ERROR |INTERNAL|INVALID_ARGUMENT|DATA_LOSS", line)
               and not re.search(expected, line)]
        text = f"node {node.id} said {len(odd)} odd things, the first: {odd[:1]}"
        sound(not any("DATA_LOSS" in line for line in odd), text)
        check(not odd, text)


def end_of(node):
    """Kills a node that may have ended by itself: then with status 1, never by a crash."""
    if node.alive():
        node.kill()
    check(node.wait_end() in (-signal.SIGKILL, 0, 1),
          f"node {node.id} ended with status {node.process.returncode}: {node.log()[-600:]}")


def check_alive(nodes):
    for node in nodes:
        check(node.alive(), f"node {node.id} has ended: {node.log()[-400:]}")


# The last word of a node that finds its own files damaged, at its start or later.
DAMAGE = r"DATA_LOSS|Corruption|No such file or directory"


def is_loss(failure, nodes):
    """Whether a failure is a loss: the oracle's, or a node's that found out by itself and ended."""
    if isinstance(failure, Loss):
        return True
    for node in nodes:
        if node.process and not node.alive() and node.process.returncode == 1:
            if re.search(DAMAGE, node.last_word()):
                return True
    return False


def send_signal(node, number):
    if node.alive():
        node.signal(number)


def resume(node):
    send_signal(node, signal.SIGCONT)


def remove(path):
    shutil.rmtree(path, ignore_errors=True)
