"""Real replogd processes for tests: clusters on loopback, the command line, waiting with deadlines.

Every test runs in a process of its own (see run.py). Nodes are killed by the kernel when that process
ends, so nothing outlives a test.
"""

import contextlib
import ctypes
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

SLOW = float(os.environ.get("REPLOG_TEST_SLOW", "1"))  # sanitizers need more time
# Every limit on waiting is so many times what it says: the machine may be busy with other things. It
# only costs time where something is broken.
PATIENCE = 4


class Failure(Exception):
    """A check that did not hold."""


class Skip(Exception):
    """The machine cannot run this test; the text says why."""


def check(condition, text):
    if not condition:
        raise Failure(text)


def equal(got, wanted, what):
    if got != wanted:
        raise Failure(f"{what}: got {shorten(got)}, wanted {shorten(wanted)}")


def shorten(value):
    text = repr(value)
    return text if len(text) < 400 else f"{text[:200]} ... {text[-150:]}"


def wait(condition, timeout, what, interval=0.03):
    """Calls condition until it gives something true and returns that; fails after `timeout` seconds.
    No answer yet (a status that is None, a port that is closed) is as good as false."""
    limit = timeout * SLOW * PATIENCE
    deadline = time.monotonic() + limit
    while True:
        try:
            value, why = condition(), ""
        except (TypeError, OSError) as e:
            value, why = None, f" ({type(e).__name__}: {e})"
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"not within {limit:.0f} s: {what}{why}")
        time.sleep(interval)


_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spawn(argv, **kwargs):
    """A child that the kernel kills when this process ends."""
    return subprocess.Popen(argv, preexec_fn=die_with_parent, **kwargs)


@contextlib.contextmanager
def paused(nodes):
    for node in nodes:
        node.pause()
    try:
        yield
    finally:
        for node in nodes:
            node.resume()


_ports_held = []


def hold_ports(name, ports):
    """Whether nothing listens on any of them and no other test holds `name`; from then on this
    test does, by an abstract socket, until its process ends."""
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0replog-test-{name}")
        for port in ports:
            with contextlib.closing(socket.socket()) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        return False
    _ports_held.append(held)
    return True


def free_port():
    """A port of 127.0.0.1 in 9000..9999 on which nothing listens. It stays this test's until its
    process ends, also while its node is down."""
    for _ in range(4000):
        port = random.randrange(9000, 10000)
        if hold_ports(f"port-{port}", [port]):
            return port
    raise Failure("no free port in 9000..9999")


def free_hundred():
    """The first of a hundred ports of 127.0.0.1 in 8000..8999 for a `replog dev` of three nodes:
    they and their pages lie together there. Held as free_port's are."""
    for base in random.sample(range(8000, 9000, 100), 10):
        if hold_ports(f"hundred-{base}", [base + i for i in (1, 2, 3, 51, 52, 53)]):
            return base
    raise Failure("no free hundred of ports in 8000..8999")


class Result:
    """What a command did: status, output, and its JSON lines."""

    def __init__(self, argv, rc, out, err, seconds):
        self.argv, self.rc, self.out, self.err, self.seconds = argv, rc, out, err, seconds

    @property
    def json(self):
        return [json.loads(line) for line in self.out.decode().splitlines()]

    @property
    def text(self):
        return self.err.decode(errors="replace")

    def __str__(self):
        return (f"{' '.join(map(str, self.argv))[:300]} -> {self.rc}\n"
                f"stdout: {self.out[-400:]!r}\nstderr: {self.err[-600:]!r}")

    def ok(self):
        check(self.rc == 0, f"status 0 wanted: {self}")
        return self

    def fails(self, *words):
        """Ended with status 1, and stderr says all the words."""
        check(self.rc == 1, f"status 1 wanted: {self}")
        for word in words:
            check(re.search(word, self.text), f"stderr should say {word!r}: {self}")
        return self


CRASHES = [-s for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL,
                        signal.SIGFPE)]


class Node:
    """One replogd."""

    def __init__(self, test, node_id, directory, port):
        self.test, self.id, self.dir, self.port = test, node_id, directory, port
        self.http_port = None
        self.extra = []
        self.members = None
        self.process = None
        self.began_at = 0  # in its log
        self.log_path = os.path.join(test.dir, f"{os.path.basename(directory)}-{port}.log")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def argv(self):
        argv = [self.test.replogd, "--id", str(self.id), "--listen", self.address,
                "--cluster", self.members, "--dir", self.dir]
        if self.http_port:
            argv += ["--http", f"127.0.0.1:{self.http_port}"]
        return argv + self.extra

    def start(self):
        check(not self.alive(), f"node {self.id} is running already")
        self.check_not_crashed()
        self.began_at = os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0
        with open(self.log_path, "ab") as log:
            self.process = spawn(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        if self.alive():
            self.signal(signal.SIGKILL)
        status = self.wait_end()
        check(status == -signal.SIGKILL or self.test.nodes_may_end,
              f"node {self.id} had ended by itself, with {status}: {self.log()[-400:]}")

    def check_not_crashed(self):
        """Whatever it has ended with, it was no signal of its own making."""
        status = self.process.returncode if self.process else None
        check(status not in CRASHES, f"node {self.id} was ended by signal {-(status or 0)}: "
              f"{self.log()[-400:] if status in CRASHES else ''}")

    def stop(self, timeout=20):
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_end(timeout)

    def wait_end(self, timeout=20):
        try:
            return self.process.wait(timeout * SLOW * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"node {self.id} did not end in time: {self.log()[-300:]}") from None

    def pause(self):
        """Until every thread stands still: the signal alone only asks for it."""
        self.signal(signal.SIGSTOP)
        end = time.monotonic() + 2
        while time.monotonic() < end and not self.stands_still():
            time.sleep(0.001)

    def stands_still(self):
        for stat in glob.glob(f"/proc/{self.process.pid}/task/*/stat"):
            with contextlib.suppress(OSError):
                with open(stat) as f:
                    if f.read().rpartition(")")[2].split()[0] not in "TtZX":
                        return False
        return True

    def resume(self):
        self.signal(signal.SIGCONT)

    def log(self):
        with open(self.log_path, "rb") as f:
            return f.read().decode(errors="replace")

    def said_last(self):
        """The newest lines of its log, of those since its last start; []: it has not begun, and does
        not know of SIGTERM's meaning yet."""
        with open(self.log_path, "rb") as f:
            data = f.read()
        since = data[self.began_at:] if self.began_at <= len(data) else data  # a test may empty it
        return [line for line in since.decode(errors="replace").splitlines() if line.strip()][-6:]

    def last_word(self):
        """Its last error; else its last line. Other threads may say something between a node's last
        word and its end."""
        lines = self.said_last() or [""]
        return next((line for line in reversed(lines) if " ERROR " in line), lines[-1])

    def memory_kib(self, what="VmRSS"):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(rf"{what}:\s+(\d+) kB", f.read()).group(1))


class Cluster:
    def __init__(self, test, nodes):
        self.test, self.nodes = test, nodes
        self.set_members()

    def set_members(self):
        members = ",".join(f"{n.id}={n.address}" for n in self.nodes)
        for node in self.nodes:
            node.members = members

    def __getitem__(self, node_id):
        return next(n for n in self.nodes if n.id == node_id)

    @property
    def endpoints(self):
        return ",".join(n.address for n in self.nodes)

    def others(self, node):
        return [n for n in self.nodes if n is not node]

    def start(self):
        for node in self.nodes:
            node.start()
        return self

    def stop(self):
        for node in self.nodes:
            if node.alive():
                node.signal(signal.SIGTERM)
        for node in self.nodes:
            if node.process:
                equal(node.wait_end(), 0, f"exit status of node {node.id} after SIGTERM")

    def cli(self, *args, timeout=30, at=None, stdin=None, call_ms=None):
        """replog --json -e ENDPOINTS ARGS; `at`: one node (or endpoints) instead of all."""
        endpoints = at.address if isinstance(at, Node) else at or self.endpoints
        head = ["-e", endpoints, "--json"]
        if call_ms:
            head += ["--timeout", str(int(call_ms * SLOW))]
        return self.test.run(self.test.replog, *head, *args, timeout=timeout, stdin=stdin)

    # -- state

    def status(self, at=None, call_ms=5000):
        result = self.cli("status", at=at, call_ms=call_ms)
        if result.rc != 0 or not result.out.strip():
            return None
        return result.json[0]

    def leader(self, timeout=15, among=None):
        """The node that leads, as a running node tells it, once it serves appends."""
        among = among or [n for n in self.nodes if n.alive()] or self.nodes
        endpoints = ",".join(n.address for n in among)

        def find():
            check(any(n.alive() for n in among),
                  f"every node has ended; node {among[0].id}: {among[0].log()[-500:]}")
            ids = [n.id for n in among]
            for at in (endpoints, *among):  # one by one, because one may not know
                status = self.status(at=at)
                if status and status["leader"] in ids:
                    return self[status["leader"]]
            return None

        return wait(find, timeout, "a leader among " + endpoints)

    def ready(self, timeout=20):
        """Waits until an append is acknowledged; returns the leader."""
        self.leader(timeout)
        self.append("", "ready", call_ms=timeout * 1000)
        return self.leader(timeout)

    def member(self, node_id, status=None):
        status = status or self.status()
        if not status:
            return None
        return next((m for m in status["members"] if m["id"] == node_id), None)

    def wait_equal(self, timeout=20, without=()):
        """Until all members are online, hold the whole log and agree on its chain; gives the status.
        `without`: nodes that are not asked."""
        asked = [n for n in self.nodes if n not in without]
        endpoints, ids = ",".join(n.address for n in asked), {n.id for n in asked}

        def same():
            status = self.status(at=endpoints)
            if not status or not status["leader"]:
                return None
            members = [m for m in status["members"] if m["id"] in ids]
            last = status["last_seq"]
            good = (len(members) == len(ids) and all(m["online"] for m in members)
                    # one that is left out holds back the seq at which chains are compared
                    and all(m["match_seq"] == last == m["commit_seq"]
                            and (without or m["chain_seq"] == last) for m in members)
                    and len({m["chain"] for m in members}) == 1)
            return status if good else None

        try:
            return wait(same, timeout, "all members alike")
        except Failure as e:
            raise Failure(f"{e}: {json.dumps(self.status())}") from None

    # -- the log

    def append(self, key, value, ack=None, at=None, call_ms=None):
        args = ["append"] + (["--ack", ack] if ack else []) + [key, value]
        return self.cli(*args, at=at, call_ms=call_ms).ok().json[0]

    def append_lines(self, lines, batch=1, timeout=60, **kwargs):
        data = "".join(line + "\n" for line in lines).encode()
        result = self.cli("append", "--file", "-", "--batch", str(batch), stdin=data,
                          timeout=timeout, **kwargs)
        return result.ok().json

    def read(self, *args, at=None, local=False, timeout=60):
        args = ["read", *args] + (["--node"] if local else [])
        return self.cli(*args, at=at, timeout=timeout).ok().json

    def lines(self, first=1, **kwargs):
        """The records as lines, as append_lines takes them."""
        return [as_line(r) for r in self.read("--from", str(first), **kwargs)]


def as_line(record):
    return f"{record['key']}\t{record['value']}" if record["key"] else record["value"]


class Appender:
    """A `replog append --file -` that is fed lines until stopped; counts what was acknowledged."""

    def __init__(self, cluster, batch=10, prefix="a", pause_s=0.002, call_ms=30000, keyed=True):
        self.cluster, self.batch, self.prefix, self.pause_s = cluster, batch, prefix, pause_s
        self.keyed = keyed
        self.sent, self.told = [], False
        self.out_path = os.path.join(cluster.test.dir, f"append-{prefix}.out")
        self.err_path = os.path.join(cluster.test.dir, f"append-{prefix}.err")
        argv = [cluster.test.replog, "-e", cluster.endpoints, "--json", "--timeout",
                str(int(call_ms * SLOW)), "append", "--file", "-", "--batch", str(batch)]
        self.process = spawn(argv, stdin=subprocess.PIPE, stdout=open(self.out_path, "wb"),
                             stderr=open(self.err_path, "wb"))

    def feed(self, seconds):
        """Feeds whole batches for so long (or until the command ends); it blocks on flow control."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.feed_batches(1)
            time.sleep(self.pause_s)

    def feed_until_told(self):
        """For a thread: as fast as the command takes it, until `told` is set."""
        while not self.told:
            self.feed_batches(1)
            time.sleep(self.pause_s)

    def feed_batches(self, count):
        for _ in range(count):
            n = len(self.sent)
            lines = [f"{self.prefix}{n + i}\tv{n + i}" if self.keyed else f"{self.prefix}{n + i}"
                     for i in range(self.batch)]
            try:
                self.process.stdin.write("".join(line + "\n" for line in lines).encode())
                self.process.stdin.flush()
            except BrokenPipeError:
                raise Failure(f"append ended early: {self.errors()}") from None
            self.sent += lines

    def acknowledged(self):
        with open(self.out_path, "rb") as f:
            data = f.read()
        return [json.loads(line) for line in data[:data.rfind(b"\n") + 1].splitlines()]

    def errors(self):
        with open(self.err_path, "rb") as f:
            return f.read().decode(errors="replace")[-600:]

    def finish(self, timeout=60):
        """Ends the input and waits; every batch must have been acknowledged."""
        self.process.stdin.close()
        try:
            rc = self.process.wait(timeout * SLOW * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"append did not end: {len(self.acknowledged())} acknowledged") from None
        equal(rc, 0, f"exit status of append ({self.errors()})")
        acks = self.acknowledged()
        equal(len(acks), len(self.sent) // self.batch, "acknowledged batches")
        return acks


def checkpoint_of(cluster, seq):
    """Until all have absorbed it: a checkpoint waits for nobody that is away, as one seems to be that
    stood still for a second."""
    def covers():
        got = cluster.cli("checkpoint", call_ms=60000, timeout=70).ok().json[0]
        return got if got["safe_seq"] >= seq else None

    return wait(covers, 20, f"a checkpoint that covers seq {seq}")


def check_once(cluster, appender, acks, first=1, **kwargs):
    """What the appender sent is in the log once, whole, in order, where the answers say."""
    records = [r for r in cluster.read("--from", str(first), **kwargs)
               if (r["key"] or r["value"]).startswith(appender.prefix)]
    equal(len(records), len(appender.sent), "records in the log")
    equal([as_line(r) for r in records], appender.sent, "records in order")
    seqs = [r["seq"] for r in records]
    for i, ack in enumerate(acks):
        batch = seqs[i * appender.batch:(i + 1) * appender.batch]
        last = batch[-1] + (appender.batch > 1)  # its COMMIT, where there is one
        equal((batch[0], last), (ack["first_seq"], ack["last_seq"]), f"place of batch {i}")


class Test:
    """What a test function gets."""

    nodes_may_end = False  # by themselves: then the test looks at how

    def __init__(self, bin_dir, directory):
        self.dir = directory
        self.replogd = os.path.join(bin_dir, "replogd")
        self.replog = os.path.join(bin_dir, "replog")
        self.nodes = []

    def run(self, *argv, timeout=30, stdin=None, env=None, cwd=None):
        begin = time.monotonic()
        process = spawn([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE, env=env, cwd=cwd)
        try:
            out, err = process.communicate(stdin or b"", timeout * SLOW * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Failure(f"no end after {timeout * SLOW * PATIENCE:.0f} s: "
                          f"{Result(argv, None, out, err, 0)}") from None
        return Result(argv, process.returncode, out, err, time.monotonic() - begin)

    def node(self, node_id, name=None):
        directory = os.path.join(self.dir, name or f"n{node_id}")
        node = Node(self, node_id, directory, free_port())
        self.nodes.append(node)
        return node

    def cluster(self, size=3, extra=(), http=False, start=True, name="n", calm=False):
        """`calm`: no election just because the machine stood still for a second. For tests that talk
        to one leader, and do not try again as the client library would."""
        extra = [*extra, *(["--election-ms", "2500"] if calm else [])]
        nodes = [self.node(i + 1, f"{name}{i + 1}") for i in range(size)]
        for node in nodes:
            node.extra = list(extra)
            node.http_port = free_port() if http else None
        cluster = Cluster(self, nodes)
        if start:
            cluster.start()
            cluster.ready()
        return cluster

    def verify(self, node, *args):
        return self.run(self.replog, "--json", "wal", "verify", node.dir, *args)

    def files(self, node):
        """Regular files of a node's directory, as relative path -> size."""
        found = {}
        for root, _, names in os.walk(node.dir):
            for name in names:
                path = os.path.join(root, name)
                with contextlib.suppress(FileNotFoundError):  # its node drops files meanwhile
                    found[os.path.relpath(path, node.dir)] = os.path.getsize(path)
        return found

    def copy(self, node, name):
        """A copy of a stopped node's directory."""
        target = os.path.join(self.dir, name)
        shutil.copytree(node.dir, target)
        return target

    def finish(self):
        """Ends what runs, and looks for processes that were ended by a signal of their own making."""
        crashed = []
        for node in self.nodes:
            if node.process is None:
                continue
            if node.alive():
                node.resume()
                node.process.kill()
                node.wait_end()
            try:
                node.check_not_crashed()
            except Failure as e:
                crashed.append(str(e))
            for mark in ("ERROR: AddressSanitizer", "ThreadSanitizer: data race",
                         "runtime error:"):
                if mark in node.log():
                    crashed.append(f"node {node.id} reports: {mark}")
        check(not crashed, "; ".join(crashed))


def needs(condition, why):
    if not condition:
        raise Skip(why)
