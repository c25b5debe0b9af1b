#!/usr/bin/env python3
"""How long appends stand still when the leader is killed.

    tests/bench/failover.py [--bin build/bin] [--rounds 20]

Starts a three-node cluster, appends one record at a time through the command line, kills the leader
with SIGKILL at a random moment and takes the time until the next append is acknowledged; then starts
the killed node again. Prints each figure, then minimum, median and maximum in milliseconds.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

BASE_PORT = 7460


def node_command(bin_dir, directory, i):
    cluster = ",".join(f"{k}=127.0.0.1:{BASE_PORT + k}" for k in (1, 2, 3))
    return [os.path.join(bin_dir, "replogd"), "--id", str(i), "--listen", f"127.0.0.1:{BASE_PORT + i}",
            "--cluster", cluster, "--dir", os.path.join(directory, str(i))]


def start_node(bin_dir, directory, i):
    with open(os.path.join(directory, f"{i}.log"), "ab") as log:
        return subprocess.Popen(node_command(bin_dir, directory, i), stdout=log, stderr=log)


def status(bin_dir, endpoints):
    out = subprocess.run([os.path.join(bin_dir, "replog"), "-e", endpoints, "--json", "--timeout", "2000",
                          "status"], capture_output=True, text=True, timeout=30)
    return json.loads(out.stdout) if out.returncode == 0 else {"leader": 0, "members": []}


def wait_whole(bin_dir, endpoints):
    """The leader's id, once all three are there and have the whole log."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        s = status(bin_dir, endpoints)
        members = [m for m in s["members"] if m["online"]]
        if s["leader"] and len(members) == 3 and len({m["applied_seq"] for m in members}) == 1:
            return s["leader"]
        time.sleep(0.1)
    sys.exit("the cluster did not become whole")


def one_round(bin_dir, endpoints, nodes, directory):
    leader = wait_whole(bin_dir, endpoints)
    client = subprocess.Popen([os.path.join(bin_dir, "replog"), "-e", endpoints, "--json", "--timeout", "20000",
                               "append", "--file", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def append(n):
        client.stdin.write(b"key%d\tvalue\n" % n)
        client.stdin.flush()
        if not client.stdout.readline():
            sys.exit("the client ended")

    until = time.monotonic() + random.uniform(0.3, 0.9)
    n = 0
    while time.monotonic() < until:
        append(n)
        n += 1
    start = time.monotonic()
    nodes[leader].send_signal(signal.SIGKILL)
    append(n)
    stood_still = time.monotonic() - start
    print(f"{stood_still * 1000:.0f}", flush=True)
    client.stdin.close()
    client.wait(30)
    nodes[leader].wait(30)
    nodes[leader] = start_node(bin_dir, directory, leader)
    return stood_still * 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default="build/bin")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    endpoints = ",".join(f"127.0.0.1:{BASE_PORT + k}" for k in (1, 2, 3))
    with tempfile.TemporaryDirectory() as directory:
        nodes = {i: start_node(options.bin, directory, i) for i in (1, 2, 3)}
        try:
            times = [one_round(options.bin, endpoints, nodes, directory) for _ in range(options.rounds)]
        finally:
            for node in nodes.values():
                node.kill()
                node.wait()
    print(" ".join(f"{t:.0f}" for t in times))
    times.sort()
    print(f"min {times[0]:.0f} ms, median {times[len(times) // 2]:.0f} ms, max {times[-1]:.0f} ms")


if __name__ == "__main__":
    main()
