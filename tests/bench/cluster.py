"""A cluster of three replogd processes whose nodes can be killed, paused, started again and looked
at one by one; what is appended to it is counted record by record."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time

from processes import Failed, Group, free_ports
from systems import NODES, READY_S, RECORD_BYTES, check_figures

MIB = 1 << 20
HTTP_OFFSET = 50
SLOWEST_MIB_PER_S = 5  # below this a load or a catch-up is given up
POLL_S = 0.05
SEQS_A_RECORD = 1.01  # of fill(): each batch of a hundred has a COMMIT behind it


class Load:
    """A load under way, which finish() or stop() ends."""

    def __init__(self, cluster, name, process):
        self.cluster, self.name, self.process = cluster, name, process

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended early: {self.cluster.group.said(self.name)}")

    def finish(self, seconds):
        """Its figures, once it has ended by itself."""
        group = self.cluster.group
        try:
            group.wait_for(f"an end of {self.name}", lambda: self.process.poll() == 0, seconds,
                           may_end=True)
        finally:
            group.stop(self.process)
        group.check()
        with open(os.path.join(group.directory, self.name + ".out")) as f:
            return check_figures(f.read(), None)

    def stop(self):
        """Its figures up to now: on an interrupt `replog bench` says what it has measured."""
        self.check()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.finish(READY_S)


class Cluster:
    def __init__(self, directory, bin_dir, *flags):
        self.directory, self.bin_dir, self.flags = directory, bin_dir, flags
        os.makedirs(directory)
        self.group = Group(directory)
        self.base = free_ports([i for k in NODES for i in (k, k + HTTP_OFFSET)])
        self.endpoints = ",".join(self.address(k) for k in NODES)
        self.nodes = {}   # id: Popen
        self.starts = {}  # id: how often it was started
        self.nodes_bin, self.under = bin_dir, lambda i: []  # what a node's program is run by

    def address(self, i):
        return f"127.0.0.1:{self.base + i}"

    def data(self, i):
        return os.path.join(self.directory, str(i))

    # ---- Nodes

    def start_node(self, i):
        self.starts[i] = self.starts.get(i, 0) + 1
        members = ",".join(f"{k}={self.address(k)}" for k in NODES)
        self.nodes[i] = self.group.start(f"node{i}-{self.starts[i]}", [
            *self.under(i), os.path.join(self.nodes_bin, "replogd"), "--id", str(i),
            "--listen", self.address(i), "--cluster", members, "--dir", self.data(i),
            "--http", f"127.0.0.1:{self.base + HTTP_OFFSET + i}", *self.flags])
        return self.nodes[i]

    def said_by(self, i):
        """What the node has logged since it was started last."""
        path = os.path.join(self.directory, f"node{i}-{self.starts[i]}.err")
        with open(path, errors="replace") as f:
            return f.read()

    def start(self):
        for i in NODES:
            self.start_node(i)
        return self.wait_whole()

    def kill(self, *ids):
        """SIGKILL at once; returns when the processes are gone."""
        for i in ids:
            self.nodes[i].send_signal(signal.SIGKILL)
        for i in ids:
            self.group.stop(self.nodes.pop(i))

    def stop(self):
        for process in self.nodes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.group.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- What they say

    def program(self, *args):
        return [os.path.join(self.bin_dir, "replog"), "-e", self.endpoints, "--json", *args]

    def status(self):
        """None while nobody answers."""
        out = subprocess.run(self.program("--timeout", "2000", "status"), capture_output=True,
                             text=True, timeout=READY_S)
        return json.loads(out.stdout) if out.returncode == 0 else None

    def http_get(self, i, path):
        """(code, text), or None when nobody answers there."""
        try:
            link = http.client.HTTPConnection("127.0.0.1", self.base + HTTP_OFFSET + i, timeout=5)
            try:
                link.request("GET", path)
                answer = link.getresponse()
                return answer.status, answer.read().decode()
            finally:
                link.close()
        except (OSError, http.client.HTTPException):
            return None

    def metrics(self, i):
        """{name without replog_, labels and all: value}."""
        answer = self.http_get(i, "/metrics")
        if not answer or answer[0] != 200:
            self.group.check()
            raise Failed(f"node {i} does not answer /metrics")
        lines = [line.rsplit(" ", 1) for line in answer[1].splitlines() if line[0] != "#"]
        return {name.removeprefix("replog_"): float(value) for name, value in lines}

    def group_commits(self, i):
        """How node i wrote its log since it started."""
        m = self.metrics(i)
        n = max(m["groups_total"], 1)
        return {"groups": n, "bytes_a_group": m["group_bytes_total"] / n,
                "sync_ms_a_group": 1000 * m["sync_seconds_sum"] / n}

    def wait_leader(self):
        """The leader's id; also under load, while no member stands still."""
        def led():
            status = self.status()
            return status["leader"] if status else 0
        return self.group.wait_for("a leader", led, READY_S)

    def wait_whole(self, seconds=READY_S):
        """The leader's id, once all that run are there and have the whole log."""
        def whole():
            status = self.status()
            if not status or not status["leader"]:
                return None
            members = [m for m in status["members"] if m["id"] in self.nodes]
            same = {(m["match_seq"], m["commit_seq"], m["applied_seq"]) for m in members}
            return status["leader"] if all(m["online"] for m in members) and len(same) == 1 else 0
        return self.group.wait_for("a whole cluster", whole, seconds)

    def check_chains(self):
        """Every member that runs has the same value in its chain of hashes at the same seq."""
        status = self.status()
        members = [m for m in status["members"] if m["id"] in self.nodes] if status else []
        if len({(m["chain_seq"], m["chain"]) for m in members}) != 1:
            raise Failed(f"the members' chains differ, or one does not answer: {members}")

    # ---- Loads

    def begin(self, name, *args):
        appends = ["--size", str(RECORD_BYTES), "--dir", self.directory]
        command = self.program("bench", *([] if "--read" in args else appends), *args)
        return Load(self, name, self.group.start(name, command))

    def bench(self, name, seconds, *args):
        """A closed load of that many seconds; its figures."""
        load = self.begin(name, "--seconds", str(seconds), *args)
        return load.finish(seconds + 100)

    def fill(self, total_bytes):
        """Appends batches of 100 until the log's records have so many bytes in all; the log's last
        seq is what ends it."""
        leader = self.wait_whole()
        target = int(total_bytes / RECORD_BYTES * SEQS_A_RECORD)
        missing = (target - self.metrics(leader)["commit_seq"]) * RECORD_BYTES / MIB
        if missing <= 0:
            return
        load = self.begin("fill", "--batch", "100", "--inflight", "16", "--warmup", "0",
                          "--seconds", "3600")
        try:
            until = time.monotonic() + READY_S + missing / SLOWEST_MIB_PER_S
            while self.metrics(leader)["commit_seq"] < target:
                load.check()
                if time.monotonic() > until:
                    raise Failed(f"{missing:.0f} MiB could not be appended at "
                                 f"{SLOWEST_MIB_PER_S} MiB/s")
                time.sleep(POLL_S)
            load.stop()
        finally:
            self.group.stop(load.process)
        self.wait_whole()

    # ---- What is in it

    def read_lines(self, endpoints, *args):
        """How many records `replog read` prints; a value has no newline in it."""
        command = [os.path.join(self.bin_dir, "replog"), "-e", endpoints, "read", *args]
        reader = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            lines = 0
            while chunk := reader.stdout.read(MIB):
                lines += chunk.count(b"\n")
            code = reader.wait(READY_S)
        finally:
            reader.kill()
            reader.wait()
            reader.stdout.close()
        if code:
            raise Failed(f"replog read {' '.join(args)} ended with status {code}")
        return lines

    def count_puts(self):
        return self.read_lines(self.endpoints)

    def check_count(self, i):
        """Reads the whole log from node i alone, markers too: it must have a record for every seq
        up to the committed one. Returns how many."""
        status = self.status()
        if not status:
            raise Failed("no status")
        due = status["commit_seq"] - status["first_seq"] + 1
        lines = self.read_lines(self.address(i), "--node", "--markers")
        if lines != due:
            raise Failed(f"node {i} gives {lines} records, {due} are committed")
        return lines
