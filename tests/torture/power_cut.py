#!/usr/bin/env python3
"""Power cuts on real file systems: what was not synced is gone in an instant, the machine comes
back, and nothing that was promised may be missing.

usage: tests/torture/power_cut.py [as run.py]
"""

import errno
import functools
import os
import re
import signal
import struct
import subprocess
import sys
import time

from common import (SLOW, Failure, Loads, Oracle, agree, check, check_alive, check_offline,
                    check_said, check_stores, draw_disk, dump_raw, end_of, environment, equal,
                    feed_committed, is_loss, other_disk, parse, remove, sound, spawn, timed, verify,
                    wait, with_disk)
from disks import Disk, Watch, now_us, write_some
from faults import check_end
from wal_oracle import Run, WalModel

SMALL = ["--segment-bytes", "256K", "--store-write-buffer-bytes", "1M", "--checkpoint-ms", "700"]
# For --sync none: the store is durable soon, the log rarely (a full segment would sync it).
FLUSH_OFTEN = ["--checkpoint-ms", "100", "--segment-bytes", "16M"]
# --sync none: the worker's sync is due 200 ms after a write, and it looks every 100 ms at the latest;
# the rest is for what its threads wait for each other, and for calls that the disk holds up beside a
# sync. How long syncs take, and the machine stands still, is measured.
NONE_SYNCS_US = 200000 + 100000 + 500000
SETTLES_S = 3  # more than that in any case
# --sync none, after a cut of all: what a member says that has kept and committed more than those
# who lead and follow now, and what they say of each other.
WILL_NOT_FOLLOW = r"refused: member .*(is committed here|, and committed)"
KEPT_MORE = WILL_NOT_FOLLOW + r"|refused.*(holds seq \d+ of term|is committed here|, and committed)"


# ---- That the cut is one


def put(path, data, sync):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def cut_loses_what_was_not_synced(t, fs):
    """The self-test of all the others: without it "nothing is missing" would mean nothing."""
    disk = Disk(t, "a", fs)

    def path(name):
        return os.path.join(disk.path, name)

    put(path("synced"), b"s" * 10000, True)
    put(path("renamed"), b"r" * 10000, True)
    put(path("grown"), b"g" * 10000, True)
    sync_dir(disk.path)
    put(path("unsynced"), b"u" * 10000, False)
    put(path("grown"), b"G" * 30000, False)
    os.rename(path("renamed"), path("moved"))
    disk.cut()
    try:
        put(path("after"), b"a", True)
        raise Failure("the file system took a write after the cut")
    except OSError:
        pass
    disk.remount()
    held = {name: os.path.getsize(path(name)) for name in os.listdir(disk.path)
            if name != "lost+found"}
    equal(held, {"synced": 10000, "renamed": 10000, "grown": 10000}, f"files after the cut on {fs}")
    with open(path("grown"), "rb") as f:
        equal(f.read(), b"g" * 10000, "what was synced")


def is_caught(t, what):
    """Runs a torture of something broken, which must fail, and for its fault."""
    try:
        what()
    except Failure as e:
        check(is_loss(e, t.nodes), f"it failed, but not for its fault: {e}")
        print(f"caught: {str(e)[:200]}")
        t.tallies.clear()  # these losses were wanted
        return
    raise Failure("what never syncs was not caught")


# ---- The log alone


def wait_for_a_moment(rng, directory, longest=0.4):
    """Some time, or the instant when a segment or the manifest comes, is renamed or goes."""
    kind = rng.choice(("time", "roll", "manifest"))
    if kind == "time" or not os.path.isdir(directory):
        time.sleep(rng.uniform(0.01, longest))
        return "time"
    end = ".seg" if kind == "roll" else "MANIFEST"
    with Watch(directory) as watch:
        if not watch.wait(lambda name: name.startswith(end) or name.endswith(end), longest):
            return "time"
    time.sleep(rng.choice((0, rng.uniform(0, 0.005))))
    return kind


def slow_us(disk):
    """By how much the disk of such an environment delays a sync at most."""
    return int((disk.get("TORTURE_DISK", "").split("slow:") + ["0"])[1] or 0)


class Syncs:
    """What TORTURE_SYNCS tells of a process that a cut has ended: when the sync began that the cut
    met, if it met one, and how long the machine stood still in its life."""

    def __init__(self, path, cut_us):
        with open(path, "rb") as f:
            began_us, ended_us, awake_us, overslept_us = struct.unpack("QQQQ", f.read(32))
        self.began_us = float("inf")
        if began_us and (began_us >= ended_us or ended_us >= cut_us):
            self.began_us = began_us
        self.stood_still_us = max(overslept_us, cut_us - awake_us, 0)


class WalTorture:
    """A log on a disk of its own, torture-wal on it, and cuts."""

    def __init__(self, t, fs, mode, env=None):
        self.t, self.mode, self.env = t, mode, env or {}
        self.disk = Disk(t, "a", fs)
        self.dir = os.path.join(self.disk.path, "log")
        self.syncs = os.path.join(t.dir, "syncs")
        self.model = WalModel("w", mode)
        self.number, self.runs, self.moments = 1, 0, {}
        totals = self.model.totals
        t.tallies.append(lambda: {"cuts": self.runs, "acknowledged": totals["acknowledged"],
                                  "truncations": totals["truncations"]})

    def start(self, record):
        rng = self.t.rng
        argv = [self.t.program("torture-wal"), "--dir", self.dir, "--record", record, "--sync",
                self.mode, "--seed", str(rng.getrandbits(48)), "--first-number", str(self.number),
                "--batch", str(rng.choice((0, 16))), "--segment-bytes",
                str(rng.choice((64, 64, 256, 1024)) << 10), "--rate",
                str(rng.choice((500, 3000, 20000)))]
        disk = {**draw_disk(self.t), **self.env}
        # Mode "batch" promises when a sync begins; how long it takes is the disk's affair.
        self.model.late_us = int((160000 + 8 * slow_us(disk)) * SLOW)
        if self.mode == "batch":
            disk = {**disk, **with_disk(self.t, TORTURE_SYNCS=self.syncs)}
        with environment(**disk):
            return spawn(argv, stdin=subprocess.PIPE)

    def look_at_syncs(self, cut_us):
        """Mode "batch": tells the model when the sync began that the cut met, whose end is the
        disk's affair, and how long the machine stood still meanwhile, as far as a thread beside
        the log's could see."""
        self.model.sync_began_us = float("inf")
        if self.mode != "batch":
            return
        syncs = Syncs(self.syncs, cut_us)
        self.model.sync_began_us = syncs.began_us
        self.model.late_us += 2 * syncs.stood_still_us

    def once(self):
        """One life and its end."""
        self.runs += 1
        record = os.path.join(self.t.dir, f"run-{self.runs}.record")
        process = self.start(record)
        wait(lambda: os.path.exists(record) or process.poll() is not None, 10, "torture-wal runs")
        kind = wait_for_a_moment(self.t.rng, self.dir, longest=self.t.rng.choice((0.3, 0.3, 0.8)))
        self.moments[kind] = self.moments.get(kind, 0) + 1
        soft = self.t.rng.random() < 0.3  # it lives on for a while: what would it say?
        cut = self.disk.cut(*([] if soft else [process]),
                            before=lambda: write_some(self.t.rng, self.dir))
        time.sleep(0.01 if soft else 0)
        process.kill()
        process.wait(10)
        check(process.returncode in (-9, 1), f"torture-wal ended with {process.returncode}")
        self.disk.remount()
        self.look_at_syncs(cut[0])
        self.judge(record, (*cut, soft))
        os.unlink(record)

    def judge(self, record, cut):
        run = Run(record, self.model)
        self.model.check_failures(run, cut)
        if self.model.last_seq == 0 and not run.opened and not os.path.exists(
                os.path.join(self.dir, "MANIFEST")):
            return  # cut before there was a log; the next one must be able to make it
        self.number += len(run.calls) + 100
        verdict = verify(self.t, self.dir)
        raw = dump_raw(self.t, self.dir, max(verdict["first_seq"], 1))
        self.model.judge(run, cut, raw, verdict)


def wal_alone(t, fs, mode, env=None):
    torture = WalTorture(t, fs, mode, env)
    while t.time_left() > 0 or torture.runs < 3:
        torture.once()
    torture.disk.check()
    print(f"{torture.runs} cuts {torture.moments}: {torture.model.summary()}")


# ---- Nodes


class ClusterTorture:
    """A cluster whose members' directories lie on disks that can be cut, under load."""

    def __init__(self, t, fs, sync, size=3, one_disk=False, acks="qqm", extra=(), env=None):
        self.t, self.sync, self.rng, self.env = t, sync, t.rng, env or {}
        self.cluster = t.cluster(size, start=False, extra=SMALL + ["--sync", sync, *extra])
        self.disk_of = {}
        for node in self.cluster.nodes:
            if not one_disk or not self.disk_of:
                # A log that is not truncated grows for as long as the test runs.
                big = one_disk or sync == "none"
                disk = Disk(t, f"d{node.id}", fs, size_mib=1024 if big else 512)
            self.disk_of[node.id] = disk
            node.dir = os.path.join(disk.path, f"n{node.id}")
        self.oracle = Oracle(size, durable_on=sync != "none", sessions_stay=sync != "none")
        self.loads = Loads(t, self.cluster, self.oracle, acks)
        self.cuts, self.moments = 0, {}
        # --sync none: when a cut began, when all were killed, from when on it may cost what was told
        self.lately = []
        self.left_out = []  # members that take no part any more
        self.cut_members = 0
        self.slow_us, self.oldest_loss = {}, (0, 0)
        t.tallies.append(lambda: {"cuts": self.cuts, "members cut": self.cut_members})
        self.can_truncate = sync != "none"

    def start_nodes(self, nodes):
        for node in nodes:
            disk = {**draw_disk(self.t), **self.env}
            if self.sync == "none":
                self.slow_us[node.id] = slow_us(disk)
                disk = {**disk, **with_disk(self.t, TORTURE_SYNCS=self.syncs(node))}
            with environment(**disk):
                node.start()

    def syncs(self, node):
        return os.path.join(self.t.dir, f"syncs-{node.id}")

    def start(self):
        self.start_nodes(self.cluster.nodes)
        self.cluster.ready()
        agree(self.cluster, self.oracle)
        self.loads.start()

    # -- the moment

    def moment(self, node):
        """Waits for a moment to cut at: any, or one in which `node` rolls, flushes, truncates."""
        kind = self.rng.choice(("any", "roll", "checkpoint", "truncation"))
        if kind == "truncation" and not self.can_truncate:
            kind = "any"
        if not node.alive() or not os.path.isdir(node.dir + "/store"):
            kind = "any"
        self.moments[kind] = self.moments.get(kind, 0) + 1
        if kind == "any":
            time.sleep(self.rng.uniform(0.02, 0.7))
            return
        wal, store = os.path.join(node.dir, "wal"), os.path.join(node.dir, "store")
        watched, ends = wal, (".seg",)
        if kind == "checkpoint":
            watched, ends = store, (".sst", ".log", ".dbtmp", "CURRENT")
        if kind == "truncation":
            ends = ("MANIFEST",)
        with Watch(watched) as watch:
            if kind != "roll":
                self.administer(kind)
            watch.wait(lambda name: name.endswith(ends), 1.0)
        time.sleep(self.rng.choice((0, self.rng.uniform(0, 0.01))))

    def administer(self, kind):
        """A checkpoint, or a truncation of what was read and judged, beside the load."""
        replog = [self.t.replog, "-e", self.cluster.endpoints, "--timeout", "5000"]
        if kind == "checkpoint":
            self.t.background(*replog, "checkpoint")
            return
        self.cluster.cli("checkpoint", call_ms=3000)
        upto = self.rng.randint(1, max(1, self.oracle.next_seq - 1))
        self.t.background(*replog, "truncate", "--upto", upto)

    # -- the cut

    def cut(self, victims):
        """All of them at once, in the middle of what they do; the file systems come back."""
        self.cuts += 1
        self.cut_members += len(victims)
        cut_us, nodes = now_us(), {}
        for node in victims:
            nodes.setdefault(self.disk_of[node.id], []).append(node)
        for node in victims:  # all of them end before the first disk is cut
            if node.alive():
                node.signal(signal.SIGKILL)
        killed_us = now_us()  # on a machine that stood still meanwhile, later than cut_us
        for disk, on_it in nodes.items():
            for node in on_it:
                write_some(self.rng, os.path.join(node.dir, "wal"))
            disk.cut()
        for node in victims:
            end_of(node)
        for disk in nodes:
            disk.remount()
        if self.sync == "none":
            durable_us = min(self.durable_us(node, cut_us) for node in victims)
            self.lately.append((cut_us, killed_us, durable_us))

    def durable_us(self, node, cut_us):
        """--sync none: what a member wrote before this was durable at the cut. How long a sync takes
        that is under way, of log or store (they are not told apart), is the disk's affair, and how
        long the machine stood still is measured beside the member's threads, in its process."""
        took = Syncs(self.syncs(node), cut_us)
        late_us = int((NONE_SYNCS_US + 8 * self.slow_us[node.id]) * SLOW) + 2 * took.stood_still_us
        return min(cut_us, took.began_us) - late_us

    def look(self, victims):
        """What the cut ones' disks hold. An acknowledged append may be missing on a minority, of
        those that its answer does not name."""
        first = self.oracle.next_seq
        gone = {}
        for node in victims:
            verdict = verify(self.t, node.dir)
            records = []
            if verdict["last_seq"] >= first:
                sound(verdict["first_seq"] <= first,
                      f"node {node.id} begins at {verdict['first_seq']}, judged was {first - 1}")
                records = parse(dump_raw(self.t, node.dir, first))
            for key, unit in self.oracle.missing(records, first).items():
                sound(self.sync == "none" or unit.ack == "l" or node.id not in unit.told.ids,
                      f"told to be durable on node {node.id}, and lost there by the cut: {key} "
                      f"({unit.ack}) told {unit.told}; its log ends at {verdict['last_seq']}")
                gone.setdefault(key, []).append((node.id, unit))
        if self.sync == "none":
            return
        for (load, number), where in gone.items():
            unit = where[0][1]
            if self.may_lose(unit):
                continue
            most = (len(self.cluster.nodes) - 1) // 2 if unit.ack == "q" else 0
            sound(len(where) <= most, f"lost by the cut: {load} {number} ({unit.ack}) told "
                  f"{unit.told} is not on {[w[0] for w in where]}")

    def cut_and_return(self, victims, again=True):
        self.cut(victims)
        self.look(victims)
        self.start_nodes(victims)
        if again and self.rng.random() < 0.2:  # once more, while it recovers
            time.sleep(self.rng.uniform(0, 0.3))
            self.cut(victims)
            self.start_nodes(victims)
        leader = self.cluster.leader(30)
        check_alive(self.cluster.nodes)
        if self.can_truncate:
            feed_committed(self.cluster, leader, self.oracle)

    # -- the end of a round

    def round_ends(self, may_lose=lambda unit: False):
        self.loads.stop()
        agree(self.cluster, self.oracle, without=self.left_out)
        self.oracle.judge(may_lose)
        check_stores(self.t, self.cluster, self.oracle, without=self.left_out)

    def end(self):
        self.cluster.stop()
        check_offline(self.t, self.cluster, self.oracle, without=self.left_out)
        for disk in set(self.disk_of.values()):
            disk.check()
        print(f"{self.cuts} cuts {self.moments} of {self.cut_members} members, "
              f"{len(self.oracle.terms)} leaders: {self.oracle.summary()}{self.losses()}")
        check_said(self.cluster.nodes, KEPT_MORE if self.left_out else "(?!)")

    def losses(self):
        age_us, left_us = self.oldest_loss
        return (f", the oldest of the lost {age_us / 1000:.0f} ms before the cut, where "
                f"{(age_us + left_us) / 1000:.0f} are allowed" if age_us else "")

    def one_cut(self, chosen, settle):
        self.loads.wait_acknowledged(100)
        self.moment(self.rng.choice(chosen))
        self.cut_and_return(chosen, again=not settle)
        if settle:
            self.wait_caught_up()

    def next_round(self):
        if self.sync == "none":
            time.sleep(SETTLES_S)  # what was judged is durable now
        self.loads.start()

    def rounds(self, victims, cuts_a_round=6, settle=False, first=()):
        """Until the time is over: cuts of what victims() names, after some of them judgement. Before,
        however short the time is, a round with one cut for each function in `first`."""
        self.start()
        for certain in first:
            self.one_cut(certain(), settle)
            self.round_ends(self.may_lose)
            self.next_round()
        while True:
            for _ in range(cuts_a_round):
                self.one_cut(victims(), settle)
                if self.t.time_left() < 0:
                    break
            self.round_ends(self.may_lose)
            if self.t.time_left() < 0:
                return
            self.next_round()

    def may_lose(self, unit):
        return unit.ack == "l" and len(self.cluster.nodes) > 1

    def was_recent(self, unit):
        """--sync none: a cut of a majority costs what was acknowledged last."""
        # An answer that was on its way when the node died is written down a little after the cut.
        near = [(cut_us - unit.told.at_us, unit.told.at_us - durable_us)
                for cut_us, killed_us, durable_us in self.lately
                if unit.sent_us < killed_us and unit.told.at_us < killed_us + 5000000]
        if not near:
            return False
        self.oldest_loss = max(self.oldest_loss, min(near, key=lambda n: abs(n[0])))
        return any(left_us > 0 for _, left_us in near)

    def all_or_two(self):
        """All members hold the same: (None,); one is left out for what it has committed: (it,)."""
        away = [n for n in self.cluster.nodes if re.search(WILL_NOT_FOLLOW, n.log())]
        rest = [n for n in self.cluster.nodes if n not in away]
        status = self.cluster.status(at=rest[0]) if len(rest) > 1 else None
        if not status or not status["leader"]:
            return None
        alike = all(m["online"] and m["match_seq"] == status["last_seq"]
                    for m in status["members"] if m["id"] in [n.id for n in rest])
        return (away[0] if away else None,) if alike else None

    def wait_caught_up(self):
        """Every member holds on its disk what was acknowledged until now."""
        last = self.cluster.status()["last_seq"]

        def caught_up():
            check_alive(self.cluster.nodes)
            status = self.cluster.status()
            return status and status["leader"] and all(
                m["online"] and m["match_seq"] >= last for m in status["members"])
        wait(caught_up, 30, "the one that was cut has caught up")


def one_node(t, fs, sync, env=None):
    torture = ClusterTorture(t, fs, sync, size=1, acks="qml", env=env)
    torture.rounds(lambda: torture.cluster.nodes)
    torture.end()


def three_nodes(t, fs, sync="sync", one_disk=False, env=None):
    """A follower, the leader, two, all three; for certain one, then all three."""
    torture = ClusterTorture(t, fs, sync, one_disk=one_disk, env=env)
    nodes = torture.cluster.nodes

    def victims():
        if one_disk:
            return nodes
        kind = t.rng.choice(("follower", "leader", "leader", "leader and follower", "all", "all"))
        if kind == "all":
            return nodes
        leader = torture.cluster.leader(30)
        follower = t.rng.choice(torture.cluster.others(leader))
        return {"follower": [follower], "leader": [leader]}.get(kind, [leader, follower])

    torture.rounds(victims, first=() if one_disk else (lambda: [t.rng.choice(nodes)], lambda: nodes))
    torture.end()


def three_nodes_none(t, fs):
    """--sync none: one cut at a time costs nothing; one of all of them only what came last. Who has
    kept, and applied, more than the two that found a leader before it was back cannot follow them
    (its store cannot be undone): it is left out, by name."""
    torture = ClusterTorture(t, fs, "none", acks="qqa", extra=FLUSH_OFTEN)
    nodes = torture.cluster.nodes
    torture.rounds(lambda: [t.rng.choice(nodes)], settle=True)
    time.sleep(SETTLES_S)
    torture.loads.start(timeout_ms=15000)  # of ACK ALL without that one
    torture.loads.wait_acknowledged(300)
    torture.moment(nodes[0])
    torture.lately.clear()
    if t.rng.random() < 0.5:
        torture.cut_and_return(nodes, again=False)
    else:  # the leader lives a little longer, and is the last to come back
        leader = torture.cluster.leader(30)
        others = torture.cluster.others(leader)
        torture.cut(others)
        time.sleep(t.rng.uniform(0, 0.6))
        torture.cut([leader])
        torture.look(nodes)
        torture.start_nodes(others)
        torture.cluster.leader(30)
        torture.loads.wait_acknowledged(20)
        torture.start_nodes([leader])
    torture.loads.wait_acknowledged(100)
    torture.loads.stop()
    (away,) = wait(torture.all_or_two, 60, "all members alike, or two, and one says why not")
    if away:
        print(f"node {away.id} kept more than the others, and is left out")
        torture.left_out.append(away)
    torture.round_ends(torture.was_recent)
    torture.end()


def one_node_none(t, fs):
    torture = ClusterTorture(t, fs, "none", size=1, acks="qql", extra=FLUSH_OFTEN)
    torture.may_lose = torture.was_recent
    torture.rounds(lambda: torture.cluster.nodes)
    torture.end()


def a_node_whose_disk_is_gone(t, fs):
    """The file system fails under a node that lives on: it ends, and acknowledges nothing more."""
    torture = ClusterTorture(t, fs, "sync", size=1, acks="qq")
    node = torture.cluster[1]
    torture.start()
    torture.loads.wait_acknowledged(200)
    _, over_us = torture.disk_of[1].cut()
    node.wait_end(10)  # by whatever meets the disk first: a write, a sync, the replay's read
    check_end(node, "its disk is gone", [os.strerror(errno.EIO)])
    time.sleep(0.1)
    torture.oracle.refresh()
    for load in torture.oracle.loads.values():
        lies = [u.number for u in load.acknowledged() if u.sent_us > over_us]
        sound(not lies, f"acknowledged without a disk: {load.name} {lies[:5]}")


def founding(t, fs):
    """All three at once while a cluster is founded: it is one cluster afterwards, and works."""
    torture = ClusterTorture(t, fs, "sync", one_disk=True)
    c = torture.cluster
    rounds = 0
    while t.time_left() > 0 or rounds < 2:
        rounds += 1
        torture.start_nodes(c.nodes)
        for _ in range(t.rng.choice((1, 1, 2, 3))):
            time.sleep(t.rng.uniform(0, 0.3))
            torture.cut(c.nodes)
            torture.start_nodes(c.nodes)
        c.ready(30)
        agree(c, Oracle(3))
        ids = {line.split("cluster=")[1].split()[0] for node in c.nodes
               for line in node.log().splitlines() if "cluster founded" in line}
        c.stop()
        for node in c.nodes:
            verify(t, node.dir)
            remove(node.dir)
            os.truncate(node.log_path, 0)
        # Cut before the line was written, a member is founded, and says nothing when it starts.
        sound(len(ids) <= 1, f"one cluster was founded: {ids}")
    print(f"{rounds} clusters founded through {torture.cuts} cuts")


def no_syncs_wal(t, fs):
    """A build that forgets to sync: the torture of the log must find it out. Half of the time the
    log itself is there, made by an honest first life, and only what comes later is lost."""
    torture = WalTorture(t, fs, "sync")

    def some_cuts():
        if t.rng.random() < 0.5:
            torture.once()
        torture.env = other_disk(t, "lies")
        for _ in range(10):
            torture.once()
    is_caught(t, some_cuts)


def no_syncs_node(t, fs):
    torture = ClusterTorture(t, fs, "sync", size=1)
    lies, honest_founding = other_disk(t, "lies"), t.rng.random() < 0.5
    t.seconds = 8

    def lying_node():
        torture.env = lies
        return torture.cluster.nodes

    def some_cuts():
        torture.env = {} if honest_founding else lies
        torture.rounds(lying_node, cuts_a_round=5)
    is_caught(t, some_cuts)


TESTS = {}
for _fs in ("ext4", "xfs"):
    _both = functools.partial(timed, fs=_fs)
    _once = functools.partial(timed, fs=_fs, long_only=_fs == "xfs")  # in short runs: one of them
    _long = functools.partial(timed, fs=_fs, long_only=True)
    TESTS.update({
        f"cut_loses_what_was_not_synced_{_fs}":
            _both(cut_loses_what_was_not_synced, short_s=1, share=0),
        f"wal_sync_{_fs}": _both(wal_alone, mode="sync", short_s=1.5),
        f"wal_batch_{_fs}": _once(wal_alone, mode="batch", short_s=1.5),
        f"wal_none_{_fs}": _once(wal_alone, mode="none", short_s=1.5),
        f"one_node_sync_{_fs}": _once(one_node, sync="sync", short_s=3, share=2),
        f"one_node_batch_{_fs}": _long(one_node, sync="batch", short_s=2),
        f"one_node_none_{_fs}": _once(one_node_none, short_s=2),
        f"three_nodes_{_fs}": _both(three_nodes, short_s=5, share=6),
        f"three_nodes_batch_{_fs}": _once(three_nodes, sync="batch", short_s=3, share=2),
        f"three_nodes_none_{_fs}": _once(three_nodes_none, short_s=3),
        f"three_nodes_on_one_disk_{_fs}": _long(three_nodes, one_disk=True, short_s=4, share=2),
        f"founding_{_fs}": _once(founding, short_s=1),
        f"a_node_whose_disk_is_gone_{_fs}": _once(a_node_whose_disk_is_gone, short_s=1, share=0),
        f"what_never_syncs_is_caught_wal_{_fs}": _once(no_syncs_wal, short_s=3, share=0),
        f"what_never_syncs_is_caught_node_{_fs}": _once(no_syncs_node, short_s=3, share=0),
    })

if __name__ == "__main__":
    import run
    sys.exit(run.main(sys.argv[1:] + ["power_cut.*"]))
