#!/usr/bin/env python3
"""How long appends stand still when the leader is killed.

    tests/bench/failover.py [--bin build/bin] [--rounds 20]

Starts a three-node cluster, appends one record at a time through the command line, kills the leader
with SIGKILL at a random moment and takes the time until the next append is acknowledged; then
starts the killed node again. Prints each figure, then minimum, median, 99th percentile and maximum
in milliseconds. At the end the log must hold every record that was acknowledged, once.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from cluster import Cluster
from processes import Failed
from steps import ROOT, end_on_signals

STILL_S = 20  # an append that takes longer is a failure


class Appender:
    """`replog append`, fed line by line; each record is acknowledged before the next is sent."""

    def __init__(self, cluster):
        self.client = subprocess.Popen(
            cluster.program("--timeout", str(1000 * STILL_S), "append", "--file", "-"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.acknowledged = 0

    def append(self):
        self.client.stdin.write(b"key%d\tvalue\n" % self.acknowledged)
        self.client.stdin.flush()
        overdue = threading.Timer(STILL_S + 5, self.client.kill)
        overdue.start()
        answer = self.client.stdout.readline()
        overdue.cancel()
        if not answer:
            raise Failed(f"an append was not acknowledged within {STILL_S} s")
        self.acknowledged += 1

    def close(self):
        self.client.stdin.close()
        try:
            self.client.wait(STILL_S)
        except subprocess.TimeoutExpired:
            self.client.kill()
            self.client.wait()
        self.client.stdout.close()


def one_round(cluster):
    """(milliseconds of standstill, records acknowledged)."""
    leader = cluster.wait_whole()
    client = Appender(cluster)
    try:
        until = time.monotonic() + random.uniform(0.3, 0.9)
        while time.monotonic() < until:
            client.append()
        start = time.monotonic()
        cluster.nodes[leader].send_signal(signal.SIGKILL)
        client.append()
        stood_still = time.monotonic() - start
        cluster.kill(leader)  # buries it
    finally:
        client.close()
    cluster.start_node(leader)
    return stood_still * 1000, client.acknowledged


def measure(cluster, rounds, tell=None):
    """Each kill's standstill in milliseconds."""
    times, acknowledged = [], 0
    for _ in range(rounds):
        ms, n = one_round(cluster)
        times.append(ms)
        acknowledged += n
        if tell:
            tell(f"{ms:.0f}")
    cluster.wait_whole()
    records = cluster.count_puts()
    if records != acknowledged:
        raise Failed(f"{acknowledged} records were acknowledged, the log has {records}")
    cluster.check_chains()
    return times


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"))
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(os.path.join(directory, "nodes"), os.path.abspath(options.bin))
        try:
            cluster.start()
            times = measure(cluster, options.rounds, lambda text: print(text, flush=True))
        except Failed as e:
            sys.exit(f"failover.py: {e}")
        finally:
            cluster.stop()
    print(" ".join(f"{t:.0f}" for t in times))
    print(f"min {min(times):.0f} ms, median {statistics.median(times):.0f} ms, "
          f"p99 {percentile(times, 0.99):.0f} ms, max {max(times):.0f} ms")


if __name__ == "__main__":
    main()
