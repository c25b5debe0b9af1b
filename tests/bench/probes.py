"""What a process looks like from outside, in /proc: its memory, and which of its threads run."""

import os
import threading

from processes import Failed

SAMPLE_S = 0.05
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KINDS = ("VmRSS", "RssAnon", "RssFile", "VmHWM")


def memory(pid):
    """MiB of each kind; empty when the process is gone."""
    found = {}
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                name, _, value = line.partition(":")
                if name in KINDS:
                    found[name] = int(value.split()[0]) / 1024
    except OSError:
        return {}
    return found if len(found) == len(KINDS) else {}  # a zombie has none


class MemorySampler:
    """The peaks of some processes' memory, phase by phase, until it is closed."""

    def __init__(self, processes, phase):
        self.processes, self.phase = processes, phase  # {name: Popen}
        self.peaks = {}  # (phase, name): {kind: MiB}
        self.samples = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ending.wait(SAMPLE_S):
            self.sample()

    def sample(self):
        phase = self.phase
        for name, process in list(self.processes.items()):
            peak = self.peaks.setdefault((phase, name), {})
            for kind, mib in memory(process.pid).items():
                peak[kind] = max(peak.get(kind, 0), mib)
        self.samples += 1

    def close(self):
        self.ending.set()
        self.thread.join()
        if not self.samples:
            raise Failed("no memory was sampled")

    def peak(self, kind, phase=None):
        """Of all processes, in one phase or in all."""
        return max(peak[kind] for (p, _), peak in self.peaks.items()
                   if kind in peak and phase in (None, p))


def stat_ticks(path):
    """(its name, ticks of processor time) of a process or a thread, by its stat file."""
    with open(path) as f:
        before, _, after = f.read().rpartition(")")
    fields = after.split()
    return before.partition("(")[2], int(fields[11]) + int(fields[12])


def thread_ticks(processes):
    """{(process, thread's id, its name): ticks of processor time}."""
    found = {}
    for name, process in processes.items():
        tasks = f"/proc/{process.pid}/task"
        for tid in os.listdir(tasks):
            try:
                thread, ticks = stat_ticks(f"{tasks}/{tid}/stat")
            except OSError:
                continue  # it has ended
            found[name, tid, thread] = ticks
    return found


def busiest(before, after, seconds, least=0.05):
    """["leader wal 45 %", ...] of one processor, the busiest first."""
    shares = [((after[key] - before.get(key, 0)) / TICKS_PER_S / seconds, key) for key in after]
    return [f"{process} {thread} {share:.0%}"
            for share, (process, _, thread) in sorted(shares, reverse=True) if share >= least]
