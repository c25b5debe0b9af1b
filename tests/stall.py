#!/usr/bin/env python3
"""Runs a command on a machine that stands still now and then, as a virtual machine does whose host
has other things to do: all of its processes are frozen at once, and the clocks go on. For finding
tests that cannot bear it. Needs root and a cgroup with a freezer.

usage: tests/stall.py [--every S] [--longest S] [--limit S] [--seed N] -- COMMAND...
  e.g. tests/stall.py -- /usr/bin/python3 tests/cluster/run.py --bin build/bin -j 2
"""

import argparse
import os
import random
import subprocess
import sys
import time


def mounted(kind, option):
    """Where the first such file system is mounted."""
    with open("/proc/mounts", encoding="utf-8") as f:
        for line in f:
            _, path, type_, options = line.split()[:4]
            if type_ == kind and (not option or option in options.split(",")):
                return path
    return None


class Freezer:
    """A cgroup of its own. Version 2 first: version 1 has a hierarchy for freezing alone."""

    def __init__(self):
        for root, self.switch, self.words in (
                (mounted("cgroup2", None), "cgroup.freeze", ("0", "1")),
                (mounted("cgroup", "freezer"), "freezer.state", ("THAWED", "FROZEN"))):
            self.path = root and os.path.join(root, f"replog-stall-{os.getpid()}")
            try:
                if root:
                    os.mkdir(self.path)
                    self.freeze(False)
                    return
            except OSError:
                if os.path.isdir(self.path):
                    self.remove()
        sys.exit("stall.py: no cgroup that can be frozen here, or not as root")

    def freeze(self, frozen):
        with open(os.path.join(self.path, self.switch), "w", encoding="utf-8") as f:
            f.write(self.words[frozen])

    def enter(self):
        with open(os.path.join(self.path, "cgroup.procs"), "w", encoding="utf-8") as f:
            f.write("0")

    def remove(self):
        try:
            os.rmdir(self.path)
        except OSError as e:
            print(f"stall.py: {self.path} stays: {e}", file=sys.stderr)


def stall(freezer, process, o):
    """Until the process ends or the time is over; (how often, seconds in all)."""
    rng, end = random.Random(o.seed), time.monotonic() + o.limit
    stalls, total_s = 0, 0
    while time.monotonic() < end:
        try:
            process.wait(min(rng.expovariate(1 / o.every), end - time.monotonic()))
            break
        except subprocess.TimeoutExpired:
            pass
        lasts_s = rng.choice((rng.uniform(0, o.longest / 3), rng.uniform(0, o.longest)))
        freezer.freeze(True)
        time.sleep(lasts_s)
        freezer.freeze(False)
        stalls, total_s = stalls + 1, total_s + lasts_s
    return stalls, total_s


def main():
    p = argparse.ArgumentParser(prog="stall.py", description=__doc__.splitlines()[0])
    p.add_argument("--every", type=float, default=5, metavar="S", help="between two stalls, on the "
                   "average (default 5)")
    p.add_argument("--longest", type=float, default=1.3, metavar="S", help="a stall (default 1.3)")
    p.add_argument("--limit", type=float, default=1800, metavar="S", help="then the command is "
                   "ended (default 1800)")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32), metavar="N")
    p.add_argument("command", nargs="+")
    o = p.parse_args()
    if o.every <= 0 or o.longest <= 0 or o.limit <= 0:
        p.error("times must be positive")
    freezer = Freezer()
    process = None
    try:
        process = subprocess.Popen(o.command, preexec_fn=freezer.enter)
        stalls, total_s = stall(freezer, process, o)
    finally:
        freezer.freeze(False)
        if process and process.poll() is None:
            process.terminate()
            process.wait(60)
        time.sleep(1)  # what the command ended may still be ending
        freezer.remove()
    print(f"stall.py: {stalls} stalls, {total_s:.1f} s in all (--seed {o.seed})")
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(main())
