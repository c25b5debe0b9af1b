"""What the appends of a load wait for. The kernel's tracer tells which thread runs when and who wakes
it; from the client's last run the way is walked back: through what a thread did while it ran, what
it waited for before (a processor, the disk), who woke it, and what that one did. In a closed load
that way is what bounds the rate. Needs root and tracefs; a traced load is a little slower."""

import bisect
import collections
import math
import os
import re
import time

from processes import Failed

TRACEFS = "/sys/kernel/tracing"
EVENTS = ("sched/sched_switch", "sched/sched_waking", "raw_syscalls/sys_enter",
          "raw_syscalls/sys_exit")
BUFFER_KIB = 128 << 10  # of each processor
EDGE_US = 2000          # of the trace's beginning, where it is not known what ran before
CALLS = {"send": {44, 46, 20, 1}, "receive": {0, 19, 45, 47}, "futex": {202},
         "write": {18, 296, 328}, "sync": {74, 75},
         "epoll_wait": {232, 281}}  # x86-64
HEAD = re.compile(r"^\s*.+-(\d+)\s+\[(\d+)\] (\S+)\s+([\d.]+): (\w+): ?(.*)$")
SWITCH = re.compile(r"prev_pid=(\d+) .*prev_state=(\S+) ==> .*next_pid=(\d+)")
WAKING = re.compile(r"pid=(\d+)")
ENTER = re.compile(r"NR (\d+)")
PARTS = ("the disk", "its own code", "the kernel's", "woken, no processor yet",
         "preempted", "the rest")


def missing():
    """Why it cannot be measured here, or None."""
    if os.uname().machine != "x86_64":
        return "it knows the system calls of x86-64 only"
    if os.geteuid() != 0 or not os.access(f"{TRACEFS}/instances", os.W_OK):
        return f"it needs root and tracefs (mount -t tracefs tracefs {TRACEFS})"
    return None


def traced(seconds):
    """The lines of a trace."""
    folder = f"{TRACEFS}/instances/replog-{os.getpid()}"

    def put(name, value):
        with open(f"{folder}/{name}", "w") as f:
            f.write(value)
    os.mkdir(folder)
    try:
        put("tracing_on", "0")
        put("trace_clock", "mono")
        put("buffer_size_kb", str(BUFFER_KIB))
        for event in EVENTS:
            put(f"events/{event}/enable", "1")
        put("tracing_on", "1")
        time.sleep(seconds)
        put("tracing_on", "0")
        with open(f"{folder}/trace", errors="replace") as f:
            return [line for line in f if line[0] != "#"]
    finally:
        os.rmdir(folder)


Run = collections.namedtuple("Run", "begin end state")  # us; state in which the thread left
Wake = collections.namedtuple("Wake", "at by interrupt")


class Threads:
    """What each thread did: its runs, its wake-ups, its system calls."""

    def __init__(self, lines):
        self.runs, self.wakes = collections.defaultdict(list), collections.defaultdict(list)
        self.calls = collections.defaultdict(list)  # (us, number, or -1: back in its own code)
        self.begin = self.end = None
        self.running = {}
        for line in lines:
            found = HEAD.match(line)
            if found:
                self.take(int(found[1]), found[3], float(found[4]) * 1e6, found[5], found[6])
        self.run_begins = {t: [r.begin for r in runs] for t, runs in self.runs.items()}
        self.wake_times = {t: [w.at for w in wakes] for t, wakes in self.wakes.items()}
        self.call_times = {t: [c[0] for c in calls] for t, calls in self.calls.items()}

    def take(self, thread, flags, at, event, rest):
        self.begin = at if self.begin is None else self.begin
        self.end = at
        if thread and thread not in self.running:
            self.running[thread] = at  # not every switch away from idling is in the trace
        if event == "sched_switch":
            found = SWITCH.search(rest)
            left, state, entered = int(found[1]), found[2], int(found[3])
            if left in self.running:
                self.runs[left].append(Run(self.running.pop(left), at, state))
            if entered:
                self.running[entered] = at
        elif event == "sched_waking":
            by_interrupt = "h" in flags or thread == 0
            self.wakes[int(WAKING.search(rest)[1])].append(Wake(at, thread, by_interrupt))
        elif event == "sys_enter":
            self.calls[thread].append((at, int(ENTER.search(rest)[1])))
        elif event == "sys_exit":
            self.calls[thread].append((at, -1))

    def run_before(self, thread, at):
        """The index of the run that began last before a moment; -1: none."""
        return bisect.bisect_left(self.run_begins.get(thread, []), at) - 1

    def last_run(self, threads, at):
        """(its end, thread) of the run of any of them that ended last by then, or None."""
        found = []
        for t in threads:
            i = self.run_before(t, at)
            if i >= 0 and self.runs[t][i].end > at:
                i -= 1
            if i >= 0:
                found.append((self.runs[t][i].end, t))
        return max(found, default=None)

    def first_wake(self, thread, after, until):
        at = bisect.bisect_left(self.wake_times.get(thread, []), after)
        wakes = self.wakes[thread] if thread in self.wakes else []
        return wakes[at] if at < len(wakes) and wakes[at].at <= until else None

    def ran(self, thread, begin, end):
        """(us in its own code, us in the kernel) of a run."""
        calls, own = self.calls.get(thread, []), 0.0
        i, at = bisect.bisect_right(self.call_times.get(thread, []), begin) - 1, begin
        while at < end:
            until = min(calls[i + 1][0], end) if i + 1 < len(calls) else end
            if i < 0 or calls[i][1] < 0:
                own += until - at
            at, i = until, i + 1
        return own, end - begin - own

    def walk_back(self, thread, at, ours):
        """{part of PARTS: us} of the way that leads to a thread's running at a moment."""
        parts, begin = collections.Counter(), at
        while at > self.begin + EDGE_US:
            i = self.run_before(thread, at)
            if i < 1:
                break
            run, before = self.runs[thread][i], self.runs[thread][i - 1]
            own, kernel = self.ran(thread, run.begin, min(at, run.end))
            parts["its own code"] += own
            parts["the kernel's"] += kernel
            parts["the rest"] += max(at - run.end, 0)
            at = before.end
            if before.state[0] == "R":
                parts["preempted"] += run.begin - at
                continue
            wake = self.first_wake(thread, at, run.begin)
            if not wake:
                parts["the rest"] += run.begin - at
                continue
            parts["woken, no processor yet"] += run.begin - wake.at
            if before.state[0] == "D":
                parts["the disk"] += wake.at - at
            elif wake.interrupt or wake.by not in ours:
                parts["the rest"] += wake.at - at  # a time that was up, or another process
            else:
                thread, at = wake.by, wake.at
        return parts, begin - at


def threads_of(processes):
    """{thread: process's name}."""
    return {int(t): name for name, p in processes.items()
            for t in os.listdir(f"/proc/{p.pid}/task")}


def made(counts, numbers):
    return sum(counts[number] for number in numbers)


def measure(processes, seconds):
    """(shares of PARTS, {kind of CALLS: how many for each sync of the leader}) of a load under way.
    processes: {name: Popen}, of which one is "client" and one "leader"."""
    ours = threads_of(processes)
    threads, client = Threads(traced(seconds)), [t for t, name in ours.items() if name == "client"]
    parts, way_us, last = collections.Counter(), 0, threads.last_run(client, math.inf)
    if not last:
        raise Failed("the trace has no client in it")
    while last:
        more, us = threads.walk_back(last[1], last[0], ours)
        parts.update(more)
        way_us += us
        # A way may come to a thread that did nothing before in this trace: on, from the client.
        last = threads.last_run(client, last[0] - max(us, 1))
    if way_us < (threads.end - threads.begin) / 2:
        raise Failed(f"the way was lost after {way_us:.0f} us")
    counts = {name: collections.Counter() for name in processes}
    for thread, name in ours.items():
        counts[name].update(number for _, number in threads.calls.get(thread, []))
    groups = made(counts["leader"], CALLS["sync"])
    if not groups:
        raise Failed("the leader did not sync")
    return ({part: parts[part] / way_us for part in PARTS},
            {kind: sum(made(of, numbers) for of in counts.values()) / groups
             for kind, numbers in CALLS.items()})
