"""Goals of a cluster under load: losing the leader, false elections, memory."""

import itertools
import os
import shutil
import signal
import statistics
import time

import account
import count
import failover
import way
from cluster import MIB, SEQS_A_RECORD
from probes import MemorySampler
from processes import Failed
from systems import BATCHES, KEYED, LOADS, NODES, ONE, WINDOW_64, WINDOW_256, Load

KILLS, MEDIAN_MS, P99_MS = 60, 700, 1500
MEMORY_MIB = 96
MEMORY_S, STOPPED_S = 5, 5
COST_S, COST_WARM_S = 5, 2
WAIT_S, WAIT_LOADS = 0.5, [load for load in LOADS if not load.keyed]
COUNT_S, COUNT_WARM_S, COUNT_LOADS = 8, 3, [ONE, WINDOW_64, BATCHES]
SOAK_LOADS = [WINDOW_256, Load("keyed256", "keyed, 256 in flight", 256, keyed=True), BATCHES,
              Load("keyed-batches", "keyed batches of 100, 16 in flight", 16, 100, True)]
SOAK_LOAD_S = 20


def bench_args(load):
    args = ["--inflight", str(load.inflight), "--batch", str(load.batch)]
    return args + (["--keyed"] if load.keyed else [])


# ---- Failover

def fail_over(run, row):
    kills = max(3, int(KILLS * min(run.scale, 1)))
    with run.cluster("failover") as c:
        c.start()
        times = failover.measure(c, kills)
    median, p99 = statistics.median(times), failover.percentile(times, 0.99)
    row.figures.update(kills=kills, ms=[round(t) for t in times])
    what = f"first append acknowledged after SIGKILL of the leader, {kills} times"
    row.line(f"{what}: median", f"{MEDIAN_MS} ms", f"{median:.0f} ms", median < MEDIAN_MS)
    row.line(f"{what}: p99", f"{P99_MS:,} ms", f"{p99:,.0f} ms (worst {max(times):,.0f})",
             p99 < P99_MS)


# ---- What an append costs

def cost(run, row):
    """Where the processors' time goes under the loads of the first table; no goal by itself."""
    seconds, rows, figures = run.seconds(COST_S), [], {}
    with run.cluster("cost") as c:
        leader = c.start()
        c.bench("cost-first", seconds, *bench_args(WINDOW_64))  # a new log fills spare files first
        for load in LOADS:
            client = c.begin(f"cost-{load.name}", "--seconds", "3600", *bench_args(load))
            try:
                time.sleep(COST_WARM_S)
                nodes = {"leader" if i == leader else f"node {i}": p for i, p in c.nodes.items()}
                spends = account.Account(c, leader, {"client": client.process, **nodes},
                                         SEQS_A_RECORD if load.batch > 1 else 1)
                time.sleep(seconds)
                s = spends.spent()
                client.stop()
            finally:
                c.group.stop(client.process)
            if c.wait_whole() != leader:
                raise Failed("the leader changed")
            us = 1e6 * sum(s["processors"].values()) / max(s["records_per_s"], 1)
            figures[load.name] = {**s, "us_a_record": us}
            rows.append([load.title, f"{us:.1f} us", *account.cells(s)])
        c.check_chains()
    row.figures.update(figures)
    row.table = [["load", "of a processor, a record", *account.HEAD], *rows]


# ---- What an append waits for

def wait(run, row):
    """The shares of an append's way, and system calls, under each load without keys; no goal."""
    why_not = way.missing()
    if why_not:
        row.notes.append(f"not measured: {why_not}")
        return
    rows = []
    with run.cluster("wait") as c:
        leader = c.start()
        c.bench("wait-first", run.seconds(COST_S), *bench_args(WINDOW_64))
        nodes = {"leader" if i == leader else f"node {i}": p for i, p in c.nodes.items()}
        for load in WAIT_LOADS:
            client = c.begin(f"wait-{load.name}", "--seconds", "3600", *bench_args(load))
            try:
                time.sleep(COST_WARM_S)
                shares, calls = way.measure({"client": client.process, **nodes}, WAIT_S)
                client.stop()
            finally:
                c.group.stop(client.process)
            row.figures[load.name] = {"shares": shares, "calls_a_group": calls}
            rows.append([load.title, *(f"{shares[part]:.0%}" for part in way.PARTS),
                         ", ".join(f"{kind} {n:.1f}" for kind, n in calls.items())])
            c.wait_whole()
        c.check_chains()
    row.table = [["load", *way.PARTS, "system calls of all for each group of the leader"], *rows]


# ---- How many instructions a record takes

def instructions(run, row):
    """Of the leader and of a follower, outside of the kernel, by part of the program; no goal."""
    why_not = count.missing()
    if why_not:
        row.notes.append(f"not measured: {why_not}")
        return
    columns, head = [], ["part"]
    with run.cluster("instructions", *count.FLAGS) as c:
        c.nodes_bin = run.bin_with_lines()
        counted = count.Counted(c)
        leader = c.start()
        for load in COUNT_LOADS:
            c.bench(f"count-warm-{load.name}", run.seconds(COUNT_WARM_S), *bench_args(load))
            before = c.metrics(leader)["commit_seq"]
            counted.begin()
            c.bench(f"count-{load.name}", run.seconds(COUNT_S), "--warmup", "0", *bench_args(load))
            if c.wait_whole() != leader:
                raise Failed("the leader changed")
            counts = counted.end()
            records = c.metrics(leader)["commit_seq"] - before
            records /= SEQS_A_RECORD if load.batch > 1 else 1
            of_leader = {part: n / records for part, n in counts.pop(leader).items()}
            of_follower = {part: sum(f[part] for f in counts.values()) / len(counts) / records
                           for part in count.PARTS}
            row.figures[load.name] = {"records": records, "leader": of_leader,
                                      "follower": of_follower}
            columns += [of_leader, of_follower]
            head += [f"{load.title}: leader", "a follower"]
        c.check_chains()
    row.table = [head, ["all", *(f"{sum(one.values()):,.0f}" for one in columns)]] + [
        [part, *(f"{one.get(part, 0):,.0f}" for one in columns)] for part in count.PARTS]


# ---- False elections

def terms(c):
    """({terms}, elections that members stood for)."""
    all_metrics = [c.metrics(i) for i in NODES]
    return {m["term"] for m in all_metrics}, sum(m["elections_total"] for m in all_metrics)


def soak(run, row):
    """Retention keeps the disk's use down; keys repeat from load to load, and so do the stores'."""
    seconds, load_s = run.soak_s, max(1, min(SOAK_LOAD_S, run.soak_s // len(SOAK_LOADS)))
    with run.cluster("soak", "--retain-bytes", "2G") as c:
        c.start()
        first, stood = terms(c)
        until, answered, worst_p99 = time.monotonic() + seconds, 0, 0
        before = c.status()["commit_seq"]
        for n, load in enumerate(itertools.cycle(SOAK_LOADS)):
            if time.monotonic() >= until:
                break
            figures = c.bench(f"soak{n}", load_s, "--warmup", "0", *bench_args(load))
            os.remove(os.path.join(c.directory, f"soak{n}.out"))
            answered += figures["records_per_s"] * load_s
            worst_p99 = max(worst_p99, figures["p99_us"])
            now, stand = terms(c)
            if now != first:
                row.notes.append(f"terms {sorted(now)} after {n + 1} loads, {sorted(first)} before")
            if shutil.disk_usage(c.directory).free < MIB << 10:
                raise Failed("the disk is nearly full")
        now, stand = terms(c)
        c.wait_whole()
        c.check_chains()
        grown = c.status()["commit_seq"] - before
    if grown < answered:
        raise Failed(f"{answered:.0f} records were answered, the log grew by {grown}")
    false = int(stand - stood)
    row.figures.update(seconds=seconds, records=answered, elections=false, worst_p99_us=worst_p99,
                       terms=[sorted(first), sorted(now)])
    row.line(f"elections in {seconds:,} s of full load, {answered / 1e6:,.1f} million records",
             "0", f"{false}", false == 0 and now == first)


# ---- Memory

def slow_follower(c, sampler, seconds):
    """One stops for a while under batches; what it lacks must not be kept in memory."""
    leader = c.status()["leader"]
    slow = next(i for i in NODES if i != leader)
    load = c.begin("slow", "--seconds", "3600", "--warmup", "0", *bench_args(BATCHES))
    try:
        time.sleep(seconds / 2)
        c.nodes[slow].send_signal(signal.SIGSTOP)
        try:
            sampler.phase = "a follower stopped, batches"
            time.sleep(seconds)
        finally:
            c.nodes[slow].send_signal(signal.SIGCONT)
        sampler.phase = "it catches up, batches"
        time.sleep(seconds)
        load.stop()
    finally:
        c.group.stop(load.process)
    c.wait_whole()


def memory(run, row):
    seconds = run.seconds(MEMORY_S)
    with run.cluster("memory") as c:
        c.start()
        caches = c.metrics(1)["store_memory_bytes"] / MIB
        sampler = MemorySampler({f"node {i}": p for i, p in c.nodes.items()}, "idle, new")
        try:
            time.sleep(1)
            for load in [one for one in LOADS if not one.keyed]:
                sampler.phase = load.title
                c.bench(f"memory-{load.name}", seconds, "--warmup", "0", *bench_args(load))
            sampler.phase = "64 in flight and a reader"
            load = c.begin("beside", "--seconds", "3600", "--warmup", "0", *bench_args(WINDOW_64))
            try:
                c.bench("reader", seconds, "--read")
                load.stop()
            finally:
                c.group.stop(load.process)
            slow_follower(c, sampler, run.seconds(STOPPED_S))
            for load in (KEYED, SOAK_LOADS[-1]):  # last: they fill the store's caches
                sampler.phase = load.title
                c.bench(f"memory-{load.name}", seconds, "--warmup", "0", *bench_args(load))
            sampler.phase = "idle, after the loads"
            c.wait_whole()
            time.sleep(2)
            c.check_chains()
            for i in NODES:
                c.check_count(i)
        finally:
            sampler.close()
    keyed = {KEYED.title, SOAK_LOADS[-1].title, "idle, after the loads"}
    phases = list(dict.fromkeys(phase for phase, _ in sampler.peaks))
    beside = {p: sampler.peak("RssAnon", p) - (caches if p in keyed else 0) for p in phases}
    worst = max(beside, key=beside.get)
    row.figures.update(
        store_caches_mib=caches, samples=sampler.samples,
        peaks=[{"phase": p, "process": name, **{k: round(v, 1) for k, v in peak.items()}}
               for (p, name), peak in sampler.peaks.items()])
    row.line("memory of a node beside its store's caches, at its peak under all loads",
             f"{MEMORY_MIB} MiB",
             f"{beside[worst]:.0f} MiB ({worst}); with the store's {caches:.0f} MiB of caches at "
             f"most {sampler.peak('RssAnon'):.0f} MiB, and {sampler.peak('RssFile'):.0f} MiB of "
             "program and libraries, which processes share", beside[worst] < MEMORY_MIB)
    row.table = [["load", "RssAnon", "RssFile", "VmHWM"]] + [
        [p] + [f"{sampler.peak(kind, p):.0f}" for kind in ("RssAnon", "RssFile", "VmHWM")]
        for p in phases]
