"""The systems of the comparison: how each is started, loaded and what it promises."""

import json
import os
import shutil
import socket

from processes import Failed, Group, free_ports

RECORD_BYTES = 1024
WARMUP_S = 1      # of each load
WARM_LOAD_S = 3   # of each system, once it has started
READY_S = 60
NODES = (1, 2, 3)


class Load:
    def __init__(self, name, title, inflight, batch=1, keyed=False):
        self.name, self.title = name, title
        self.inflight, self.batch, self.keyed = inflight, batch, keyed


ONE = Load("one", "one at a time", 1)
WINDOW_64 = Load("64", "64 in flight", 64)
WINDOW_256 = Load("256", "256 in flight", 256)
BATCHES = Load("batches", "batches of 100, 16 in flight", 16, batch=100)
KEYED = Load("keyed", "keyed, 64 in flight", 64, keyed=True)
LOADS = [ONE, WINDOW_64, WINDOW_256, BATCHES, KEYED]
FLOOR_LOADS = [ONE, WINDOW_64, WINDOW_256, BATCHES]  # of peers/floor.c


class System:
    """One cluster of three, in a fresh directory; `tools` has the load generators."""

    name = title = package = ""
    fsynced = True  # on a majority, before the answer
    promise = "yes"
    loads = [ONE, WINDOW_64, WINDOW_256, BATCHES]

    def __init__(self, directory, tools, replog_bin, seconds):
        self.directory, self.tools, self.replog_bin = directory, tools, replog_bin
        self.seconds = seconds
        os.makedirs(directory)
        self.group = Group(directory)

    def start(self):
        raise NotImplementedError

    def target(self):
        """Where the load generator finds it."""
        raise NotImplementedError

    def command(self, load):
        return [os.path.join(self.tools, self.name), self.target(), str(load.inflight),
                str(load.batch), str(RECORD_BYTES), str(self.seconds), str(WARMUP_S)]

    def wait_for_ports(self, ports):
        def all_answer():
            for port in ports:
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)):
                        return False
            return True
        self.group.wait_for("an open port", all_answer, READY_S)

    def run(self, load):
        out = self.group.output("load", self.command(load), self.limit_s())
        self.group.check()
        return check_figures(out, load)

    def warm(self):
        """A load that does not count: a JVM, for one, is slow in its first seconds."""
        seconds, self.seconds = self.seconds, WARM_LOAD_S
        self.run(WINDOW_64)
        self.seconds = seconds

    def limit_s(self):
        return self.seconds + WARMUP_S + 100

    def node_dir(self, i):
        path = os.path.join(self.directory, str(i))
        os.makedirs(path, exist_ok=True)
        return path

    def stop(self):
        self.group.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def check_held(figures):
    if figures["held"] < figures["answered"]:
        raise Failed(f"answered {figures['answered']} records, but holds {figures['held']}")


def check_figures(out, load):
    """The generator's last line, if its own account of the run is sound."""
    try:
        figures = json.loads(out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"no figures from the load: {out[-200:]!r}") from None
    if figures["errors"]:
        raise Failed(f"{figures['errors']} errors under load")
    if figures["records_per_s"] <= 0:
        raise Failed("nothing was answered")
    if "held" in figures:
        check_held(figures)
    if "mean_inflight" in figures:
        figures["window_full"] = round(figures["mean_inflight"] / load.inflight, 3)
    return figures


class Replog(System):
    name, title = "replog", "replog"
    loads = LOADS

    def start(self):
        base = free_ports([i for k in NODES for i in (k, k + 50)])
        self.endpoints = ",".join(f"127.0.0.1:{base + k}" for k in NODES)
        self.group.start("dev", [self.program(), "dev", "--nodes", "3", "--dir",
                                 os.path.join(self.directory, "nodes"), "--base-port", str(base)])
        ready = os.path.join(self.directory, "dev.out")
        self.group.wait_for("a leader", lambda: "ready leader=" in open(ready).read(), READY_S)

    def run(self, load):
        before = self.committed()
        figures = super().run(load)
        figures["answered"] = int(figures["records_per_s"] * self.seconds)  # without the warm-up
        figures["held"] = self.committed() - before
        check_held(figures)
        return figures

    def committed(self):
        status = [self.program(), "-e", self.endpoints, "--json", "status"]
        return json.loads(self.group.output("status", status, READY_S))["commit_seq"]

    def program(self):
        return os.path.join(self.replog_bin, "replog")

    def command(self, load):
        command = [self.program(), "-e", self.endpoints, "--json", "bench", "--inflight",
                   str(load.inflight), "--batch", str(load.batch), "--size", str(RECORD_BYTES),
                   "--seconds", str(self.seconds), "--warmup", str(WARMUP_S),
                   "--dir", self.directory]
        return command + (["--keyed"] if load.keyed else [])


class Etcd(System):
    name, title, package = "etcd", "etcd", "etcd-server"

    def start(self):
        self.base = free_ports(range(6))
        url = [f"http://127.0.0.1:{self.base + i}" for i in range(6)]
        self.urls = url[:3]
        members = ",".join(f"n{k}={url[2 + k]}" for k in NODES)
        for k in NODES:
            self.group.start(f"node{k}", [
                "etcd", "--name", f"n{k}", "--data-dir", self.node_dir(k),
                "--listen-client-urls", url[k - 1], "--advertise-client-urls", url[k - 1],
                "--listen-peer-urls", url[2 + k], "--initial-advertise-peer-urls", url[2 + k],
                "--initial-cluster", members, "--initial-cluster-state", "new",
                "--logger", "zap", "--log-level", "error", "--quota-backend-bytes", str(8 << 30)])

    def target(self):
        return ",".join(self.urls)


class Nats(System):
    name, title, package = "nats", "NATS JetStream (R3, file store)", "nats-server"
    fsynced = False
    promise = "**no**"
    loads = [ONE, WINDOW_64, WINDOW_256]

    def start(self):
        self.base = free_ports(range(6))
        routes = ", ".join(f"nats://127.0.0.1:{self.base + 2 + k}" for k in NODES)
        for k in NODES:
            path = os.path.join(self.directory, f"{k}.conf")
            with open(path, "w") as f:
                f.write(f'listen: "127.0.0.1:{self.base + k - 1}"\nserver_name: n{k}\n'
                        f'jetstream {{ store_dir: "{self.node_dir(k)}", max_file_store: 20G }}\n'
                        f'cluster {{ name: c, listen: "127.0.0.1:{self.base + 2 + k}", '
                        f'routes: [ {routes} ] }}\n')
            self.group.start(f"node{k}", ["nats-server", "-c", path])
        self.wait_for_ports(range(self.base, self.base + 3))

    def target(self):
        return ",".join(f"nats://127.0.0.1:{self.base + i}" for i in range(3))


class Redis(System):
    name, title, package = "redis", "Redis (AOF always, WAIT 2)", "redis-server"
    promise = "yes, but promised for one node only"

    def start(self):
        self.base = free_ports(NODES)
        for k in NODES:
            command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.base + k),
                       "--dir", self.node_dir(k), "--appendonly", "yes", "--appendfsync", "always",
                       "--save", "", "--auto-aof-rewrite-percentage", "0",
                       "--repl-diskless-sync-delay", "0", "--loglevel", "warning"]
            if k > 1:
                command += ["--replicaof", "127.0.0.1", str(self.base + 1)]
            self.group.start(f"node{k}", command)
        self.wait_for_ports([self.base + k for k in NODES])

    def target(self):
        return str(self.base + 1)


class Libraft(System):
    name, title, package = "libraft", "libraft (in the leader's process)", "libraft-dev"

    def start(self):
        pass  # a cluster for each load: its processes are the load generators

    def run(self, load):
        base = free_ports(NODES)
        ports = ",".join(str(base + k) for k in NODES)
        nodes = {}
        for k in NODES:
            shutil.rmtree(self.node_dir(k))  # an earlier load's
            self.here = f"{k},{ports},{self.node_dir(k)}"
            nodes[f"node{k}"] = self.group.start(f"node{k}", self.command(load))
        try:  # the leader is the one that ends, with its figures
            leader = self.group.wait_for("an end of the load", lambda: self.ended(nodes),
                                         self.limit_s(), may_end=True)
        finally:
            self.group.stop()
        with open(os.path.join(self.directory, leader + ".out")) as f:
            return check_figures(f.read(), load)

    @staticmethod
    def ended(nodes):
        return next((name for name, process in nodes.items() if process.poll() == 0), None)

    def target(self):
        return self.here


class Zookeeper(System):
    name, title, package = "zookeeper", "ZooKeeper", "zookeeper"
    classes = "/usr/share/java/zookeeper.jar"
    main_class = "org.apache.zookeeper.server.quorum.QuorumPeerMain"

    def start(self):
        self.base = free_ports(range(9))
        servers = "\n".join(f"server.{k}=127.0.0.1:{self.base + 2 + k}:{self.base + 5 + k}"
                            for k in NODES)
        for k in NODES:
            directory = self.node_dir(k)
            with open(os.path.join(directory, "myid"), "w") as f:
                f.write(f"{k}\n")
            path = os.path.join(self.directory, f"{k}.cfg")
            with open(path, "w") as f:
                f.write(f"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={directory}\n"
                        f"clientPortAddress=127.0.0.1\nclientPort={self.base + k - 1}\n"
                        f"admin.enableServer=false\n{servers}\n")
            self.group.start(f"node{k}", ["java", "-Dzookeeper.globalOutstandingLimit=10000",
                                          "-cp", self.classes, self.main_class, path])
        self.leader = self.group.wait_for("a leader", self.find_leader, READY_S)

    def find_leader(self):
        for port in range(self.base, self.base + 3):
            try:
                with socket.create_connection(("127.0.0.1", port), 2) as s:
                    s.settimeout(2)
                    s.sendall(b"srvr")
                    if b"Mode: leader" in s.makefile("rb").read():
                        return f"127.0.0.1:{port}"
            except OSError:
                continue
        return None

    def target(self):
        return self.leader


SYSTEMS = [Replog, Etcd, Nats, Redis, Libraft, Zookeeper]
