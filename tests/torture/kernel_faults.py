"""System calls that fail: under a real replogd each call on its files fails once, by a library that
is loaded into it (fault_preload.so), and the kernel's own means: strace's injection, rlimits, a disk
that is really full.

What must hold: a node that cannot keep its promise ends and says why, what it acknowledged is there
when it starts again, and clients finish, through it or through the others.
"""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time

import faults
from faults import ERRNO, KILL_AFTER, KILL_BEFORE, LIE, LOSE, SHORT, THEN_ERRNO
from common import Loads, Oracle, agree, feed_committed, timed
from disks import Disk, mount_memory
from harness import Appender, Failure, as_line, check, equal, needs, wait

SMALL = ["--segment-bytes", "64K", "--pool-segments", "1"]
SPARE_FAILED = "no spare segment could be filled"  # not part of the log yet: made again, and said so
VALUE = "v" * 3000


def batches(prefix, n, batch):
    return [[f"{prefix}{i * batch + k}\t{prefix}{i * batch + k} {VALUE}" for k in range(batch)]
            for i in range(n)]


class Script:
    """A short life of one node: start and recovery, appends over several segments, a checkpoint, a
    truncation, single appends, the end. Whatever fails on the way, it is carried to its end: a node
    that gave up is started again, without faults, and the client, which never stopped, finishes."""

    def __init__(self, test, name, fault_of=faults.preload):
        self.test = test
        self.cluster = test.cluster(1, start=False, name=name)
        self.node = self.cluster[1]
        self.node.extra = SMALL
        self.fault = fault_of(test, self.node)
        self.ends = []  # last words of a node that gave up
        self.kills = 0  # of the run: ends by SIGKILL
        self.rocksdb_aborts = 0

    def template(self):
        """The directory that every run begins with; about half of its log is truncated."""
        self.node.start()
        self.cluster.ready()
        check(faults.loaded(self.fault), "fault_preload.so is not loaded into replogd")
        last = self.cluster.append_lines([line for b in batches("t", 40, 4) for line in b],
                                         batch=4)[-1]["last_seq"]
        self.cluster.cli("checkpoint").ok()
        self.cluster.cli("truncate", "--upto", str(last // 2)).ok()
        self.last = last
        equal(self.node.stop(), 0, "the template's end")
        self.saved = os.path.join(self.test.dir, "template")
        os.rename(self.node.dir, self.saved)
        return self

    def revive(self, arm):
        """Starts the node again if it has ended. True: it had."""
        if self.node.alive():
            return False
        self.note_end("under a fault")
        if arm:
            self.fault.clear()
        self.node.start()
        return True

    def note_end(self, what):
        """The node has ended by itself: with a word of why, or as it was killed."""
        if self.node.process.returncode == -signal.SIGKILL:
            self.kills += 1
            return
        if faults.ended_by_rocksdb(self.node):
            self.rocksdb_aborts += 1
            return
        self.ends.append(faults.check_named_end(self.node, what))
        check(len(self.ends) < 4, f"{what}: it ends again and again: {self.ends[-1]}")

    def admin(self, *command):
        """A command that is asked for until it is done."""
        deadline = time.monotonic() + 90
        while self.cluster.cli(*command, call_ms=400).rc != 0:
            check(time.monotonic() < deadline, f"{command} is never done: {self.node.log()[-500:]}")
            self.revive(True)

    def run(self, what, path, ops, action, at, number=errno.EIO):
        """One run; gives how many calls were counted."""
        shutil.rmtree(self.node.dir, ignore_errors=True)
        shutil.copytree(self.saved, self.node.dir)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.node.log_path)
        self.ends, self.kills = [], 0
        self.fault.disk(path, ops, action, at, number)
        self.node.start()
        sent = batches("a", 12, 5) + batches("b", 4, 5)
        try:
            acks = self.append(sent)
            self.revive(True)
            self.admin("checkpoint")
            self.admin("truncate", "--upto", str(acks[5]["last_seq"]))
            self.revive(True)
            singles = [[f"s{i}"] for i in range(5)]
            acks += self.append(singles, 1)
            # The end: with a fault still to come it may fail, but not in silence.
            asked = self.node.alive()
            if asked:
                self.node.signal(signal.SIGTERM)
            if self.node.wait_end() != 0 or not asked:
                self.note_end("at the end")
            hits, seen, last = (self.fault.get(n) for n in ("hits", "seen", "last"))
            self.judge_end(action, number, hits, last)
            self.fault.clear()
            self.node.start()
            self.cluster.ready()
            self.compare(sent + singles, acks)
            equal(self.node.stop(), 0, "the last end")
            result = self.test.verify(self.node)
            check(result.rc == 0, f"wal verify: {result}")
        except Failure as e:
            raise Failure(f"{what}, call {at} ({self.fault.get('last')}): {e}") from None
        return seen

    def append(self, sent, batch=5):
        """Appends through one client, reviving the node when it ends; the answers."""
        client = Appender(self.cluster, batch=batch, prefix="x", call_ms=60000)
        data = "".join(line + "\n" for b in sent for line in b).encode()
        feeder = threading.Thread(target=self.feed, args=(client, data), daemon=True)
        feeder.start()
        deadline = time.monotonic() + 90
        while client.process.poll() is None:
            check(time.monotonic() < deadline,
                  f"the client does not finish: {len(client.acknowledged())} of {len(sent)}; "
                  f"{self.node.log()[-500:]}")
            self.revive(True)
            time.sleep(0.005)
        equal(client.process.returncode, 0, f"the client's status ({client.errors()})")
        acks = client.acknowledged()
        equal(len(acks), len(sent), "answers")
        return acks

    @staticmethod
    def feed(client, data):
        with contextlib.suppress(BrokenPipeError):
            client.process.stdin.write(data)
            client.process.stdin.close()

    def judge_end(self, action, number, hits, last):
        """A sync or write that failed for good must have ended the node, and a kill of ours, once; an
        interrupted call, or a short one, must not."""
        equal(self.kills, hits if action in (KILL_BEFORE, KILL_AFTER) else 0, "ends by SIGKILL")
        call = last.split(" ")[0]
        final = (action in (ERRNO, LOSE, THEN_ERRNO) and number == errno.EIO and hits
                 and call in ("fdatasync", "fsync", "pwritev"))
        spare = "/spare-" in last and SPARE_FAILED in self.node.log()
        if final and "/wal" in last and not spare:
            check(self.ends, f"{last} failed, and the node went on: {self.node.log()[-300:]}")
        if "/wal" in last and (number == errno.EINTR or action == SHORT):
            check(not self.ends, f"{last} was to be asked for again, and the node ended: {self.ends}")

    def compare(self, sent, acks):
        """The log holds exactly what was sent, at the places that the answers name."""
        first = self.cluster.status()["first_seq"]
        got = {r["seq"]: as_line(r) for r in self.cluster.read("--from", str(first))
               if r["seq"] > self.last}
        wanted = {ack["first_seq"] + k: line for b, ack in zip(sent, acks)
                  for k, line in enumerate(b) if ack["first_seq"] + k >= first}
        ready = {seq for seq, line in got.items() if line == "ready"}
        missing = [seq for seq in wanted if got.get(seq) != wanted[seq]]
        extra = [seq for seq in got if seq not in wanted and seq not in ready]
        check(not missing, f"acknowledged and not in the log: {missing[:5]} of {len(missing)}")
        check(not extra, f"in the log and never appended, or twice: {extra[:5]}")


def sweep(t, path, plans, n):
    """Each plan (what, ops, action, errno) at each call number, or at n of them in CI mode; then, as
    long as there is time, at any."""
    rng = random.Random(faults.seed())
    script = Script(t, "n").template()
    done, hit, ends = 0, 0, 0
    counts = {}

    def once(what, ops, action, number, at):
        """A life may have fewer calls than the one that was counted (RocksDB compacts in some only):
        then one that it had fails in the next."""
        nonlocal done, hit, ends
        done += 1
        for _ in range(3):
            seen = script.run(what, path, ops, action, at, number)
            ends += len(script.ends)
            if script.fault.get("hits"):
                hit += 1
                break
            at = rng.randint(1, max(1, min(counts[ops], seen)))  # this life was shorter

    for plan in plans:
        ops = plan[1]
        if ops not in counts:
            counts[ops] = script.run("without a fault", path, ops, 0, 0)
            check(counts[ops] > 4, f"only {counts[ops]} calls are counted on {path}")
        for at in faults.sample(rng, counts[ops], n):
            once(*plan, at)
    while t.time_left() > 0:
        plan = rng.choice(plans)
        once(*plan, rng.randint(1, counts[plan[1]]))
    print(f"{done} calls to fail, {hit} did, {ends} ends with a word of why; calls on {path}: "
          f"{max(counts.values())}; RocksDB's own assertions failed {script.rocksdb_aborts} times")
    check(hit >= done * 3 // 4, f"only {hit} of {done} runs met a fault")


def each_call_on_the_log(t):
    sweep(t, "/wal", [
        ("EIO", faults.ALL, ERRNO, errno.EIO),
        ("ENOSPC", faults.WRITE | faults.ALLOCATE | faults.OPEN | faults.RENAME, ERRNO,
         errno.ENOSPC),
        ("EINTR", faults.ALL & ~faults.RENAME & ~faults.UNLINK, ERRNO, errno.EINTR),
        ("a short write or read", faults.WRITE | faults.READ, SHORT, 0),
        ("a lost write", faults.FDATASYNC, LOSE, errno.EIO),
        ("done, and reported as failed", faults.CHANGES, THEN_ERRNO, errno.EIO),
        ("killed before", faults.CHANGES, KILL_BEFORE, 0),
        ("killed after", faults.CHANGES, KILL_AFTER, 0),
    ], 1)


def each_call_on_the_store(t):
    sweep(t, "/store", [
        ("EIO", faults.CHANGES | faults.OPEN, ERRNO, errno.EIO),
        ("EIO at a read", faults.READ, ERRNO, errno.EIO),  # tables; the rest goes by read, unwrapped
        ("ENOSPC", faults.WRITE | faults.ALLOCATE | faults.OPEN, ERRNO, errno.ENOSPC),
        ("a short write", faults.WRITE, SHORT, 0),
        ("killed before", faults.CHANGES, KILL_BEFORE, 0),
    ], 1)



# ---- A member of three


def fail_a_disk(t, c, fault, victim, loads):
    """What makes it end; how long the others took to go on."""
    ops, action = t.rng.choice([(faults.FDATASYNC, LOSE), (faults.FDATASYNC, LOSE),
                                (faults.FDATASYNC | faults.WRITE, ERRNO),
                                (faults.FDATASYNC, THEN_ERRNO)])
    spares = victim.log().count(SPARE_FAILED)
    for _ in range(20):  # until the call is not one on a spare
        fault.disk("/wal", ops, action, t.rng.randrange(1, 30))
        wait(lambda: not victim.alive() or victim.log().count(SPARE_FAILED) > spares, 20,
             f"the end of node {victim.id} at a failed call")
        if not victim.alive():
            break
        spares += 1
    check(not victim.alive(), f"node {victim.id} lives: {spares} spares failed, and nothing else")
    ended_s = time.monotonic()
    loads.wait_acknowledged(50)
    took_s = time.monotonic() - ended_s
    faults.check_named_end(victim, "a failed disk", ["/wal/", os.strerror(errno.EIO)])
    fault.clear()
    victim.start()
    wait(lambda: (c.member(victim.id) or {}).get("online"), 20, "it is back")
    return took_s


def fail_a_spare(c, fault, victim, loads):
    """The sync of a spare segment fails: the member says so and makes another, or, if the log waits
    for this one, it ends."""
    said = victim.log().count(SPARE_FAILED)
    fault.disk("/wal/spare-", faults.FDATASYNC, LOSE, 1)
    wait(lambda: victim.log().count(SPARE_FAILED) > said or not victim.alive(), 20,
         "a word about the spare")
    loads.wait_acknowledged(50)
    fault.clear()
    if not victim.alive():
        faults.check_named_end(victim, "a failed spare", ["/wal/spare-", os.strerror(errno.EIO)])
        victim.start()
    wait(lambda: (c.member(victim.id) or {}).get("online"), 20, "it takes part")


def write_shortly(t, c, fault, victim, loads):
    """Its writes to the log are short for a while: it writes the rest, and nobody sees anything."""
    fault.disk("/wal", faults.WRITE, SHORT, t.rng.randrange(1, 10), repeat=20)
    wait(lambda: fault.get("hits") >= 20 or not victim.alive(), 20, "short writes")
    loads.wait_acknowledged(50)
    check(victim.alive(), f"it ended at a short write: {victim.log()[-400:]}")
    wait(lambda: (c.member(victim.id) or {}).get("online"), 20, "it takes part")
    fault.clear()


def members_disks_fail(t):
    """A member whose disk fails ends, and the others go on; one whose writes are short goes on."""
    c = t.cluster(3, extra=SMALL, start=False)
    fault = {n.id: faults.preload(t, n) for n in c.nodes}
    c.start()
    c.ready()
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qq").start()
    loads.wait_acknowledged(50)
    rounds, slowest, short = 0, 0, 0
    t.tallies.append(lambda: {"failed disks": rounds, "short writes": 20 * short})
    while rounds < (40 if faults.FULL else 3) or t.time_left() > 0:
        leader = c.leader()
        victim = leader if rounds % 2 == 0 else t.rng.choice(c.others(leader))
        if rounds < 1 or t.rng.random() < 0.2:
            write_shortly(t, c, fault[victim.id], victim, loads)
            short += 1
            fail_a_spare(c, fault[victim.id], victim, loads)
        slowest = max(slowest, fail_a_disk(t, c, fault[victim.id], victim, loads))
        rounds += 1
    loads.stop()
    agree(c, oracle)
    oracle.judge()
    print(f"{rounds} failed disks, {20 * short} short writes; 50 more appends within {slowest:.2f} s; "
          f"{oracle.summary()}")


# ---- strace: the kernel's own answer is replaced


def straced(test, node, *expressions):
    """The node's next start is under strace, which injects what the expressions say."""
    needs(shutil.which("strace"), "strace is not installed")
    plain = type(node).argv
    calls = ",".join(sorted({e.split(":")[0] for e in expressions}))
    log = os.path.join(test.dir, f"strace-{node.id}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)  # what was injected before is not to be found in it
    # --seccomp-bpf stops only where it matters; signals are not injected with it
    fast = [] if any(":signal=" in e for e in expressions) else ["--seccomp-bpf"]
    node.argv = lambda: ["strace", "-D", "-f", *fast, "-qq", "-o", log, "-e", f"trace={calls}",
                         *[w for e in expressions for w in ("-e", f"inject={e}")], *plain(node)]
    return log


def injected(log):
    if not os.path.exists(log):  # strace has not begun
        return 0
    with open(log, "rb") as f:
        return f.read().count(b"(INJECTED)")


# What is injected into a member that starts and takes part, by kind, and whether that is its end.
# {n}: at a call drawn for each run.
INJECTIONS = {
    "EIO at fdatasync": [("fdatasync:error=EIO:when={n}", "ends")],
    "EIO elsewhere": [("pwritev:error=EIO:when={n}", "ends"), ("fsync:error=EIO:when=1", "ends")],
    "ENOSPC": [
        ("pwritev:error=ENOSPC:when=9..14", "may end"),  # when what it wrote half cannot be erased
        ("fdatasync:error=ENOSPC:when={n}", "ends"),  # blocks that were promised and are not there
        ("fallocate:error=ENOSPC:when=1..3", "goes on")],
    "EINTR": [
        ("pwritev:error=EINTR:when=2+3", "goes on"),
        ("epoll_wait:error=EINTR:when=3+3", "goes on"),
        ("sendmsg:error=EINTR:when=3+7", "goes on"),
        ("readv:error=EINTR:when=3+7", "goes on")],
    "no descriptors": [
        ("accept:error=EMFILE:when=1..12", "goes on"),
        ("accept:error=ENFILE:when=2+2", "goes on"),
        ("socket:error=EMFILE:when=2..9", "goes on")],
    "killed at a call": [
        ("fdatasync:signal=KILL:when={n}", "killed"),
        ("pwritev:signal=KILL:when={n}", "killed"),
        ("rename:signal=KILL:when=1", "killed"),
        ("fsync:signal=KILL:when=1", "killed"),
        ("unlink:signal=KILL:when=1", "killed")],
}


def inject(t, c, loads, expression, outcome):
    node = t.rng.choice(c.nodes)
    log = straced(t, node, expression)
    what = f"node {node.id} under {expression}"
    node.kill()
    node.start()

    def ended():
        return outcome == "may end" and not node.alive()

    def takes_part():
        return ended() or (c.member(node.id, c.status(at=node)) or {}).get("online")

    if outcome in ("goes on", "may end"):
        wait(lambda: injected(log) and (ended() or c.status(at=node, call_ms=1000)), 30,
             f"{what}: injected")
        loads.wait_acknowledged(60)
        check(node.alive() or ended(), f"{what}: it ended: {node.log()[-400:]}")
        wait(takes_part, 30, f"{what}: it takes part")
        had_ended = faults.kill(node, what)
        check(not had_ended or outcome == "may end", f"{what}: it ended: {node.last_word()}")
    else:
        wait(lambda: not node.alive(), 30, f"{what}: its end")
        loads.wait_acknowledged(60)
        if outcome == "killed":
            equal(node.process.returncode, -signal.SIGKILL, f"{what}: status")
        else:
            check(injected(log), f"{what}: it ended, and nothing was injected: {node.last_word()}")
            faults.check_end(node, what)
    del node.argv
    node.start()
    wait(lambda: (c.member(node.id) or {}).get("online"), 20, f"{what}: it is back without")


def the_kernel_refuses(t):
    """All of the injections, or one of each kind in CI mode; then, as long as there is time, any."""
    c = t.cluster(3, extra=SMALL)
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qq").start()
    done = 0
    t.tallies.append(lambda: {"injections": done})

    def one(expression, outcome):
        nonlocal done
        inject(t, c, loads, expression.format(n=t.rng.randrange(3, 25)), outcome)
        done += 1

    for cases in INJECTIONS.values():
        for case in cases if faults.FULL else [t.rng.choice(cases)]:
            one(*case)
    while t.time_left() > 0:
        one(*t.rng.choice(t.rng.choice(list(INJECTIONS.values()))))
    loads.stop()
    agree(c, oracle)
    oracle.judge()
    print(f"{done} injections; {oracle.summary()}")


# ---- No descriptors


def set_descriptors(node, n):
    hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (n, hard))


def test_a_member_without_descriptors(t):
    """The real EMFILE: none left for connections and files. It refuses, or ends and says why; the
    others go on; with descriptors it takes part again."""
    c = t.cluster(3, extra=SMALL)
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qq").start()
    ends, refusals = 0, 0
    for node in [c.leader()] + ([n for n in c.nodes] if faults.FULL else []):
        set_descriptors(node, 3)  # what is open stays so
        until = time.monotonic() + 2
        while time.monotonic() < until and node.alive():
            refusals += c.cli("get", "none", "--stale", at=node, call_ms=200).rc != 0
        loads.wait_acknowledged(100)
        if node.alive():
            with contextlib.suppress(ProcessLookupError):
                set_descriptors(node, 1024)

        def takes_part():
            nonlocal ends
            if not node.alive():
                ends += 1
                faults.check_named_end(node, "without descriptors", [os.strerror(errno.EMFILE)])
                node.start()
            status = c.status(at=node, call_ms=1000)
            return status and (c.member(node.id, status) or {}).get("online")

        wait(takes_part, 40, f"node {node.id} takes part again")
    loads.stop()
    agree(c, oracle)
    oracle.judge()
    check(ends or refusals, "nobody noticed")
    print(f"{refusals} refusals, {ends} ends; {oracle.summary()}")


# ---- Full disks


class MemoryDisk:
    """A small file system in memory, mounted at `path`: one that knows no delay."""

    def __init__(self, t, name, size_mib):
        self.name = name
        self.path = os.path.join(t.dir, f"disk-{name}")
        os.makedirs(self.path)
        mount_memory(self.path, size_mib)
        self.mounted = True
        t.disks.append(self)

    def check(self):
        """There is no tool that would."""


def fill(path):
    """Takes the last byte, and what a node that still runs gives back meanwhile; gives the file to
    remove. Nothing is left then, neither for root (a write said so) nor for anybody else."""
    ballast = os.path.join(path, "ballast")
    for _ in range(50):
        for size in (65536, 512):
            with open(ballast, "ab", buffering=0) as f:
                write_until_full(f, b"\0" * size)
        if os.statvfs(path).f_bavail == 0:
            return ballast
        time.sleep(0.01)
    raise Failure(f"{path} does not fill: {os.statvfs(path)}")


def write_until_full(f, data):
    try:
        while f.write(data):
            continue
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise


def make_room(ballast):
    """ext4 gives blocks to others once the removal is in its journal."""
    for path in ballast:
        os.unlink(path)
        fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)


def disks_without_a_byte_left(t, fs):
    """Every disk of a cluster is really full, below what replogd keeps in reserve: nothing is
    acknowledged that is not there, a start on a full disk says why, and with room all goes on.
    ext4: with a journal and delayed allocation, on a loop device."""
    c = t.cluster(3, start=False)
    disks = []
    for node in c.nodes:
        disks.append(Disk(t, f"d{node.id}", fs, size_mib=48) if fs else
                     MemoryDisk(t, f"d{node.id}", size_mib=48))
        node.dir = os.path.join(disks[-1].path, "n")
        node.extra = SMALL + ["--reserve-bytes", "64K", "--store-write-buffer-bytes", "1M"]
    c.start()
    c.ready()
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qq").start()
    loads.wait_acknowledged(50)
    turns, ends = 0, 0
    why = ["on a full disk", [os.strerror(errno.ENOSPC)]]
    t.tallies.append(lambda: {"full disks": 3 * turns})

    def revive():
        """One may still meet the full disk after the others have room; RocksDB may not stand it even
        later that there was none."""
        nonlocal ends
        for node in c.nodes:
            if not node.alive():
                ends += 1
                faults.check_end(node, *why)
                node.start()

    def all_serve():
        revive()
        status = c.status(call_ms=1000)
        return status and status["leader"] and all(m["online"] for m in status["members"])

    def truncated():
        """What is committed and judged may go: the disks are small. Asked for until it is done."""
        if not all_serve() or c.cli("checkpoint", call_ms=5000).rc != 0:
            return False
        feed_committed(c, t.rng.choice(c.nodes), oracle)
        last = oracle.next_seq - 1
        return c.cli("truncate", "--upto", str(last), call_ms=5000).rc == 0

    while turns < (6 if faults.FULL else 2) or t.time_left() > 0:
        ballast = [fill(os.path.dirname(n.dir)) for n in c.nodes]
        time.sleep(0.7)
        full_at_start = t.rng.choice(c.nodes)
        ends += faults.kill(full_at_start, *why)
        fill(os.path.dirname(full_at_start.dir))  # what its end gave back
        full_at_start.start()
        time.sleep(0.5)
        make_room(ballast)
        wait(all_serve, 40, "all serve again")
        loads.wait_acknowledged(50, 40, meanwhile=revive)
        wait(truncated, 40, "the log is truncated")
        turns += 1
    loads.stop(meanwhile=revive)
    wait(truncated, 40, "all serve at the end")
    agree(c, oracle)
    oracle.judge()
    first = c.status()["first_seq"]
    for node in c.nodes:
        if node.alive():
            node.signal(signal.SIGTERM)
    for node in c.nodes:
        if node.wait_end() != 0:
            ends += 1
            faults.check_end(node, *why)
    for disk in disks:
        disk.check()
    print(f"{3 * turns} full disks, {ends} ends that said why (or RocksDB's own), truncated to "
          f"{first}; {oracle.summary()}")


TESTS = {name[5:]: value for name, value in dict(globals()).items() if name.startswith("test_")}
TESTS.update({
    "each_call_on_the_log_fails_once": timed(each_call_on_the_log, short_s=0),
    "each_call_on_the_store_fails_once": timed(each_call_on_the_store, short_s=0),
    "a_member_whose_disk_fails_ends_and_the_others_go_on": timed(members_disks_fail, short_s=0),
    "the_kernel_refuses_a_member_calls": timed(the_kernel_refuses, short_s=0),
    "disks_without_a_byte_left": timed(disks_without_a_byte_left, fs=None, short_s=0),
    "disks_without_a_byte_left_ext4": timed(disks_without_a_byte_left, fs="ext4", short_s=0),
})
