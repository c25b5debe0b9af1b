"""Goals of a long log: opening it after a crash, and what its length costs. Both use one cluster,
which stays between them."""

import datetime
import os
import re
import statistics
import subprocess
import time

from goal_load import bench_args
from probes import MemorySampler, memory
from processes import Failed
from systems import BATCHES, NODES, ONE, READY_S, WINDOW_64

SHORT_GIB, LONG_GIB = 1, 10
OPEN_S, OPEN_MIB = 1, 64
STARTS = 3
ROUNDS, LOAD_S = 3, 2
STATUS_CALLS = 20
SLACK = 1.3  # a figure at the long log is worse when it is so much worse than at the short one
SLACK_MIB = 16


# ---- Starting a node, step by step

def logged_at(said, text):
    """When the node logged the first line with this text; None: not yet."""
    for line in said.splitlines():
        if text in line:
            at = line.split()[0].replace("Z", "+00:00")
            return datetime.datetime.fromisoformat(at).timestamp()
    return None


def await_line(c, i, text):
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        at = logged_at(c.said_by(i), text)
        if at:
            return at
        c.group.check()
        time.sleep(0.001)
    raise Failed(f"node {i} did not log '{text}' within {READY_S} s")


def await_health(c, i):
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        answer = c.http_get(i, "/health")
        if answer and answer[0] == 200:
            return time.time()
        time.sleep(0.005)
    raise Failed(f"node {i} was not healthy within {READY_S} s")


def start_timed(c, *ids):
    """Starts these nodes at once; of each, seconds from before its exec to every step."""
    steps = {}
    for i in ids:
        steps[i] = {"node": i, "begin": time.time()}
        c.start_node(i)
    for i in ids:
        opened = await_line(c, i, "log opened")
        steps[i]["mib_at_open"] = memory(c.nodes[i].pid).get("VmHWM", 0)
        steps[i]["log_s"] = opened - steps[i]["begin"]
    for i in ids:
        steps[i]["store_s"] = await_line(c, i, "store opened") - steps[i]["begin"]
        steps[i]["serving_s"] = await_line(c, i, "serving listen") - steps[i]["begin"]
        steps[i]["healthy_s"] = await_health(c, i) - steps[i].pop("begin")
        said = c.said_by(i)
        steps[i]["torn_bytes"] = int(re.search(r"torn_bytes=(\d+)", said)[1])
        steps[i]["log_open_ms"] = int(re.search(r"torn_bytes=\d+ ms=(\d+)", said)[1])
    time.sleep(1)
    for i in ids:
        steps[i]["mib_a_second_later"] = memory(c.nodes[i].pid).get("VmHWM", 0)
    return [steps[i] for i in ids]


def forget_pages(directory):
    """None of the files stays in the page cache (that of a host below may still have them)."""
    paths = [os.path.join(d, name) for d, _, names in os.walk(directory) for name in names]
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    out = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", *paths],
                         capture_output=True, text=True, timeout=60)
    left, size = sum(int(n) for n in out.stdout.split()), sum(os.path.getsize(p) for p in paths)
    if out.returncode or left > size / 100:
        raise Failed(f"{left} of {size} bytes stayed in the page cache: {out.stderr.strip()}")


# ---- The rows

def log_gib(c, i):
    return c.metrics(i)["log_bytes"] / (1 << 30)


def kill_and_start(c, kinds):
    """[figures of one start]: a follower each time; last, all three at once."""
    starts = []
    for n, kind in enumerate(kinds):
        leader = c.wait_leader()
        ids = NODES if kind == "all" else [i for i in NODES if i != leader][n % 2:][:1]
        time.sleep(0.5)
        c.kill(*ids)
        if kind == "cold":
            forget_pages(c.data(ids[0]))
        starts += [{"kind": kind, **figures} for figures in start_timed(c, *ids)]
    return starts


def open_log(run, row):
    c = run.kept_cluster()
    c.fill(run.size(LONG_GIB))
    load = c.begin("paced", "--rate", "2000", "--warmup", "0", "--seconds", "3600")
    try:
        cold = [] if run.in_memory else ["cold"] * STARTS
        starts = kill_and_start(c, ["warm"] * STARTS + cold + ["all"])
        load.stop()
    finally:
        c.group.stop(load.process)
    c.wait_whole()
    c.check_chains()
    row.figures.update(gib=log_gib(c, 1), starts=starts)
    size = f"{row.figures['gib']:.1f} GiB of log"
    for kind, title in (("warm", "a killed node"), ("cold", "a killed node, none of its files in "
                        "the page cache"), ("all", "all three killed, started at once")):
        some = [s for s in starts if s["kind"] == kind]
        if not some:
            continue
        worst = {key: max(s[key] for s in some) for key in some[0] if key != "kind"}
        row.line(f"{size}, {title}: from exec to the log open", f"{OPEN_S} s",
                 f"{worst['log_s']:.2f} s, of that the log itself {worst['log_open_ms']} ms; the "
                 f"store open after {worst['store_s']:.2f} s, serving {worst['serving_s']:.2f} s, "
                 f"knows a leader {worst['healthy_s']:.2f} s", worst["log_s"] < OPEN_S)
        row.line(f"{size}, {title}: memory (VmHWM) then", f"{OPEN_MIB} MiB",
                 f"{worst['mib_at_open']:.0f} MiB; a second after it knows a leader "
                 f"{worst['mib_a_second_later']:.0f} MiB", worst["mib_at_open"] < OPEN_MIB)


def start_after_roll(c):
    """Median of starts of a follower, killed when its log had just begun a new segment: what the
    last segment holds is read at a start (at most 64 MiB), and would be all that is seen."""
    leader = c.wait_leader()
    i = next(i for i in NODES if i != leader)
    before = c.metrics(i)["log_segments"]
    load = c.begin("roll", "--seconds", "60", "--warmup", "0", *bench_args(BATCHES))
    try:
        while c.metrics(i)["log_segments"] == before:
            load.check()
            time.sleep(0.005)
        load.stop()
    finally:
        c.group.stop(load.process)
    c.wait_whole()
    starts = []
    for _ in range(STARTS):
        c.kill(i)
        starts += start_timed(c, i)
        c.wait_whole()
    return statistics.median(1000 * s["serving_s"] for s in starts)


def status_ms(c):
    times = []
    for _ in range(STATUS_CALLS):
        start = time.monotonic()
        if not c.status():
            raise Failed("no status")
        times.append(1000 * (time.monotonic() - start))
    return statistics.median(times)


def figures_at(run, c, gib):
    c.fill(run.size(gib))
    found = {"GiB of log": log_gib(c, 1)}
    seconds = run.seconds(LOAD_S)
    sampler = MemorySampler({f"node {i}": p for i, p in c.nodes.items()}, "loads")
    runs = {load.name: [] for load in (WINDOW_64, BATCHES, ONE)}
    try:
        for n in range(ROUNDS):
            for load in (WINDOW_64, BATCHES, ONE):
                runs[load.name].append(c.bench(f"at{gib}-{load.name}-{n}", seconds, "--warmup",
                                               "1", *bench_args(load)))
        c.wait_whole()
    finally:
        sampler.close()

    def median(load, figure):
        return statistics.median(r[figure] for r in runs[load.name])
    found["appends/s, 64 in flight"] = median(WINDOW_64, "records_per_s")
    found["MiB/s, batches of 100"] = median(BATCHES, "mib_per_s")
    found["p50 us, one at a time"] = median(ONE, "p50_us")
    found["ms of `replog status`"] = status_ms(c)
    found["ms from exec to serving, killed"] = start_after_roll(c)
    found["MiB of memory under these loads"] = sampler.peak("RssAnon")
    return found


def is_worse(name, short, long):
    if name == "GiB of log":
        return False
    if name.startswith("MiB of memory"):
        return long > short + SLACK_MIB
    higher_is_better = name.startswith(("appends/s", "MiB/s"))
    return long < short / SLACK if higher_is_better else long > short * SLACK


def length(run, row):
    c = run.kept_cluster()
    short, long = figures_at(run, c, SHORT_GIB), figures_at(run, c, LONG_GIB)
    c.check_chains()
    row.figures.update(short=short, long=long, records_checked=c.check_count(1))
    worse = [name for name in short if is_worse(name, short[name], long[name])]
    row.line(f"a log of {long['GiB of log']:.1f} GiB beside one of {short['GiB of log']:.1f} GiB "
             "(the table below)", f"nothing {SLACK - 1:.0%} worse, memory within {SLACK_MIB} MiB",
             f"worse: {', '.join(worse)}" if worse else "nothing is", not worse)
    row.table = [["figure", "short", "long"]] + [
        [name, f"{short[name]:,.1f}", f"{long[name]:,.1f}"] for name in short]
