"""Allocations that fail: one after the other in the log, the client library and rpc (the program
malloc_fail, which plays their lives in one process), in replogd's handlers and the node beneath them
(malloc_serve: the same without sockets and threads, so that all of them can be tried), and in a real
replogd, at its start and while it serves (fault_preload.so).

Whose allocations fail: replog's own, always. protobuf-c's are among them: rpc_unpack gives it its
allocator. nghttp2's: in malloc_serve's scenario "sessions" all of a server's sessions, and a sample
in a real replogd that serves. nng's: a sample there; in malloc_serve a stand-in says NNG_ENOMEM. Not
tested: nng and nghttp2 at the start of replogd and in the client library; libmicrohttpd and libc; and
RocksDB, where a failure is a C++ exception that its C interface cannot tell, so the process ends.

What must hold: an error or an end that says why; never a crash, a leak, or a word that is not true.
"""

import os
import random
import re
import shutil
import subprocess

import faults
from common import Loads, Oracle, agree
from faults import FULL, LONG
from harness import Failure, check, equal, wait

SMALL = ["--segment-bytes", "64K", "--pool-segments", "1"]


def run_program(t, scenario, *more, program="malloc_fail"):
    """Each of the scenario's allocations fails, unless `more` says --sample."""
    argv = [t.program(program), "--seed", str(t.seed), *more, scenario]
    result = t.run(*argv, timeout=1500 if FULL else 300, env={**os.environ, "TMPDIR": t.dir})
    text = result.out.decode(errors="replace")
    check(result.rc == 0 and "ok malloc_fail" in text, f"{text[-1500:]} {result.text[-500:]}")
    print(text.strip())


def test_the_log(t):
    for scenario in ("wal", "member", "apply"):
        run_program(t, scenario)


def test_the_client(t):
    run_program(t, "client")
    if FULL:
        run_program(t, "client", "--repeat", "3")


def test_rpc(t):
    """The only one that is too slow for all of its allocations in continuous integration."""
    run_program(t, "rpc", *(() if LONG else ("--sample", "40")))


def test_the_services(t):
    """Errors, leaks and lies of replogd's handlers."""
    for scenario in ("services", "sessions"):
        for repeat in (1, 2, 3) if FULL else (1,):
            run_program(t, scenario, "--repeat", str(repeat), program="malloc_serve")


# ---- replogd


def word(text):
    """The status that the command line names: (name, whether the outcome is unknown)."""
    found = re.search(r"replog: ([A-Z_]+): (.*)", text)
    name, sentence = found.groups() if found else ("none", text)
    unknown = name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "CANCELLED",
                       "INTERNAL")
    return name, unknown and "nothing was appended" not in sentence


class Asked:
    """Appends through the command line, what it was told of each, and whether the log agrees."""

    def __init__(self, cluster, excused="(?!)"):
        self.cluster, self.count = cluster, 0
        self.excused = excused  # what a failure may say beside what `fair` allows
        self.acked, self.refused, self.unknown = {}, {}, {}

    def value(self):
        self.count += 1
        return f"value-{self.count}"

    def append(self, ack, call_ms):
        value = self.value()
        result = self.cluster.cli("append", "--ack", ack, f"key{self.count % 5}", value,
                                  call_ms=call_ms)
        if result.rc == 0:
            self.acked[value] = result.json[0]["first_seq"]
            return
        name, unknown = word(result.text)
        (self.unknown if unknown else self.refused)[value] = name
        self.fair(name, result)

    def append_many(self, n, call_ms):
        values = [self.value() for _ in range(n)]
        data = "".join(f"many\t{v}\n" for v in values).encode()
        result = self.cluster.cli("append", "--file", "-", "--batch", "2", stdin=data,
                                  call_ms=call_ms)
        pairs = [values[i:i + 2] for i in range(0, n, 2)]
        for pair, ack in zip(pairs, result.json):
            for i, value in enumerate(pair):
                self.acked[value] = ack["first_seq"] + i
        if result.rc:
            name, _ = word(result.text)
            self.fair(name, result)
            # what stood behind the line that failed has no answer of its own
            for value in (v for pair in pairs[len(result.json):] for v in pair):
                self.unknown[value] = name

    def ask(self, args, call_ms):
        result = self.cluster.cli(*args, call_ms=call_ms)
        if result.rc:
            name, _ = word(result.text)
            if name != "NOT_FOUND" or args[0] != "get":
                self.fair(name, result)
        elif args[0] == "read":
            equal([r["seq"] for r in result.json], [1, 2, 3], "what is read")

    def fair(self, name, result):
        check(name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
              or re.search(self.excused, result.text),
              f"a failure that blames something else: {result}")

    def judge(self, first=1):
        found = {}
        for r in self.cluster.read("--from", str(first)):
            if r["value"].startswith("value-"):
                check(r["value"] not in found, f"{r['value']} is in the log twice")
                found[r["value"]] = r["seq"]
        for value, seq in self.acked.items():
            if seq >= first:
                equal(found.get(value), seq, f"the place of {value}")
        for value, name in self.refused.items():
            check(value not in found, f"{value} was refused ({name}) and is in the log")
        check(not set(found) - set(self.acked) - set(self.unknown), "never appended, and there")


def serve_all(asked, call_ms):
    """One of each kind of request, while the node is there; what fails must be fair."""
    c = asked.cluster
    for step in (lambda: asked.append("quorum", call_ms), lambda: asked.append("leader", call_ms),
                 lambda: asked.append("all", call_ms), lambda: asked.append_many(8, call_ms),
                 lambda: asked.ask(("get", "key1"), call_ms),
                 lambda: asked.ask(("get", "key1", "--stale"), call_ms),
                 lambda: asked.ask(("status",), call_ms),
                 lambda: asked.ask(("read", "--markers", "--from", "1", "--to", "3"), call_ms),
                 lambda: asked.ask(("checkpoint",), call_ms)):
        if c[1].alive():
            step()


def revive(node, fault, what):
    """After a fault: a node that has ended said why, and starts again. True: it had ended."""
    if node.alive():
        return False
    faults.check_named_end(node, what)
    fault.clear()
    node.start()
    return True


def serves_again(c, node, fault, what):
    """Until it serves, also when the failed allocation ends it a little later: a failure that has
    been counted need not have had its effect yet. How often it had ended."""
    ends = revive(node, fault, what)
    while True:
        try:
            c.ready()
            return ends
        except Failure:
            if ends or not revive(node, fault, what):
                raise
            ends = 1


def while_it_serves(t, who, samples, repeats=(1,), excused="(?!)"):
    """The N-th allocation of theirs from now on fails while all kinds of requests are made."""
    c = t.cluster(1, start=False)
    c[1].extra = SMALL
    fault = faults.preload(t, c[1])
    c.start()
    c.ready()
    check(faults.loaded(fault), "fault_preload.so is not loaded into replogd")
    asked = Asked(c, excused)
    fault.memory(who, 0)
    serve_all(asked, 3000)
    total = fault.get("mem_seen")
    rng, hits, ends = random.Random(t.seed), 0, 0
    for at in faults.sample(rng, total, samples):
        for repeat in repeats:
            fault.memory(who, at, repeat)
            try:
                serve_all(asked, 700)
                hits += fault.get("mem_hits") > 0
                fault.clear()
                ends += serves_again(c, c[1], fault, f"allocation {at}")
                asked.append("quorum", 3000)
                if at % 20 == 0:
                    asked.judge()
            except Failure as e:
                raise Failure(f"allocation {at} of {total} ({locate(t, fault)}): {e}") from None
    asked.judge()
    check(hits > 0, "nothing failed")
    print(f"{total} allocations, {hits} failed, {ends} ends that said why; {len(asked.acked)} "
          f"acknowledged, {len(asked.refused)} refused, {len(asked.unknown)} unknown")


def test_replogd_while_it_serves(t):
    while_it_serves(t, faults.PROGRAM, 8, (1, 4) if FULL else (1,))


def test_nng_while_it_serves(t):
    while_it_serves(t, faults.NNG, 3)


def test_nghttp2_while_it_serves(t):
    # what nghttp2 says by itself when it has no memory for a stream
    while_it_serves(t, faults.NGHTTP2, 3, excused="the stream was reset: INTERNAL_ERROR")


def locate(t, fault):
    """Where the last allocation that failed was asked for."""
    offset = fault.get("mem_where")
    done = subprocess.run(["addr2line", "-sfpe", t.replogd, hex(max(0, offset - 1))],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or hex(offset)


def start_under_faults(t, prepare, judge, samples):
    """The N-th allocation of a start fails: it ends and says why, or serves; and the next start, with
    memory, finds all in order."""
    c = t.cluster(1, start=False, name=prepare.__name__)
    node = c[1]
    node.extra = SMALL
    fault = faults.preload(t, node)
    saved = prepare(t, c, node)

    def start(at):
        shutil.rmtree(node.dir, ignore_errors=True)
        if saved:
            shutil.copytree(saved, node.dir)
        fault.memory(faults.PROGRAM, at)
        node.start()
        wait(lambda: not node.alive() or (c.status(call_ms=300) or {}).get("leader"), 10,
             "it serves or ends")

    start(0)
    check(faults.loaded(fault), "fault_preload.so is not loaded into replogd")
    total = fault.get("mem_seen")
    node.kill()
    rng, hits, ends = random.Random(t.seed), 0, 0
    for at in faults.sample(rng, total, samples):
        try:
            start(at)
            hits += fault.get("mem_hits") > 0
            if node.alive():
                fault.clear()
            ends += serves_again(c, node, fault, f"allocation {at}")
            judge(c)
            equal(node.stop(), 0, "status after SIGTERM")
        except Failure as e:
            raise Failure(f"allocation {at} of {total} ({locate(t, fault)}): {e}") from None
    check(hits > 0, "nothing failed")
    print(f"{total} allocations, {hits} failed, {ends} ends that said why")


def test_replogd_while_it_starts(t):
    asked = None

    def recovery(t, c, node):
        nonlocal asked
        c.start()
        c.ready()
        asked = Asked(c)
        asked.append_many(200, 3000)
        c.cli("checkpoint").ok()
        asked.append_many(50, 3000)
        equal(node.stop(), 0, "the end")
        saved = os.path.join(t.dir, "saved")
        shutil.copytree(node.dir, saved)
        return saved

    start_under_faults(t, recovery, lambda c: asked.judge(), 8)


def test_replogd_while_it_is_founded(t):
    """Its first start, on an empty directory, up to the CONFIG record."""
    def founding(t, c, node):
        return None

    def judge(c):
        records = c.read("--markers", "--from", "1")
        configs = [r for r in records if r["op"] == "CONFIG"]
        check(configs, f"no CONFIG in the log: {records[:6]}")
        equal([m["id"] for m in configs[0]["members"]], [1], f"its members: {configs[0]}")

    start_under_faults(t, founding, judge, 8)


def test_a_member_of_three(t):
    """A leader's or follower's allocations fail under load, replication included."""
    c = t.cluster(3, extra=SMALL, start=False)
    fault = {n.id: faults.preload(t, n) for n in c.nodes}
    c.start()
    c.ready()
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qq").start(0.3)
    loads.wait_acknowledged(20)
    rounds, hits, ends = 150 if FULL else 6, 0, 0
    t.tallies.append(lambda: {"failed allocations": hits})
    for i in range(rounds):
        leader = c.leader()
        victim = leader if i % 2 else t.rng.choice(c.others(leader))
        fault[victim.id].memory(faults.PROGRAM, t.rng.randrange(1, 400), t.rng.choice((1, 1, 3, 20)))
        wait(lambda: fault[victim.id].get("mem_hits") or not victim.alive(), 20, "a failure")
        loads.wait_acknowledged(10)
        hits += fault[victim.id].get("mem_hits")
        where = locate(t, fault[victim.id])
        fault[victim.id].clear()

        def takes_part():  # it may end a little later, too
            nonlocal ends
            ends += revive(victim, fault[victim.id], "under load")
            return (c.member(victim.id) or {}).get("online")

        try:
            wait(takes_part, 20, "it takes part")
        except Failure as e:
            raise Failure(f"{where}: {e}") from None
    loads.stop()
    agree(c, oracle)
    oracle.judge()
    print(f"{hits} allocations failed, {ends} ends that said why; {oracle.summary()}")


TESTS = {name[5:]: value for name, value in dict(globals()).items() if name.startswith("test_")}
