"""Three nodes in network namespaces of their own, joined by a bridge in a fourth, clients in a fifth:
links that lose packets, in one direction or both, partitions, links taken down, slow links.

What must hold: a leader that is cut off steps down and does not acknowledge; no term has two leaders;
the cluster goes on wherever a majority can talk, and heals by itself within a bounded time; clients
finish; the oracle agrees.

Every namespace lives as long as a process that this test started and that the kernel kills with it:
nothing is left, however the test ends. Needs root.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "cluster"))

from common import (FULL, SLOW, Failure, Loads, Oracle, agree, check_stores,  # noqa: E402
                    environment, timed)
from harness import Cluster, Node, check, die_with_parent, equal, needs, wait  # noqa: E402
from test_grpc import Stub, grpc  # noqa: E402



def long_only(function):
    """Not in the short run."""
    function.LONG_ONLY = True
    return function


PORT = 7400
CLIENTS = 9  # as if it were a node's number
CLONE_NEWNET = 0x40000000

STEP_DOWN_S = 2.5  # a leader without a majority: twice the election timeout; times PATIENCE
HEAL_S = 15
CLIENTS_WAIT_MS = 150000  # longer than any fault here lasts, PATIENCE included: each is told "done"

_libc = ctypes.CDLL(None, use_errno=True)


def address(number):
    return f"10.77.0.{number}"


def new_network():
    die_with_parent()
    if _libc.unshare(CLONE_NEWNET) != 0:
        os._exit(1)


class Holder:
    """A network namespace: that of a process which does nothing else."""

    def __init__(self):
        self.process = subprocess.Popen(["sleep", "infinity"], preexec_fn=new_network,
                                        stdin=subprocess.DEVNULL)
        self.inside = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]

    def run(self, *argv, text=None):
        done = subprocess.run([*self.inside, *argv], input=text, capture_output=True, text=True,
                              timeout=30, check=False)
        check(done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()} {text or ''}")
        return done.stdout


class Net:
    """The bridge, and what is wrong with it. Ports are named p1, p2, p3 and p9 (the clients')."""

    def __init__(self, t, members=3):
        needs(os.geteuid() == 0, "network namespaces need root")
        for tool in ("ip", "tc", "nft", "nsenter"):
            needs(shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin"), f"{tool} is not there")
        needs(os.path.exists("/proc/self/ns/net") and self.possible(), "no network namespaces here")
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        self.t, self.members = t, members
        self.counts = {"partitions": 0, "other network faults": 0}
        t.tallies.append(lambda: self.counts)
        self.bridge = Holder()
        self.hosts = {i: Holder() for i in [*range(1, members + 1), CLIENTS]}
        self.bridge.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0",
                        "mcast_snooping", "0")
        self.bridge.run("ip", "link", "set", "br0", "up")
        for number in self.hosts:
            self.attach(number)
        self.bridge.run("nft", "-f", "-", text="""
            table bridge replog {
                chain faults { }
                chain forward { type filter hook forward priority 0; policy accept; jump faults; }
            }""")
        self.enter(self.hosts[CLIENTS])

    @staticmethod
    def possible():
        probe = subprocess.run(["true"], preexec_fn=new_network, check=False,
                               stderr=subprocess.DEVNULL)
        return probe.returncode == 0

    @staticmethod
    def enter(host):
        """This thread, and so all that it starts from now on, is where the clients are."""
        fd = os.open(f"/proc/{host.process.pid}/ns/net", os.O_RDONLY)
        check(_libc.setns(fd, CLONE_NEWNET) == 0, "setns")
        os.close(fd)

    def attach(self, number):
        host, port = self.hosts[number], f"p{number}"
        self.bridge.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns",
                        str(host.process.pid))
        self.bridge.run("ip", "link", "set", port, "master", "br0", "up")
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "address", "add", f"{address(number)}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")

    # -- faults: each call replaces what was there before

    def rules(self, *rules):
        lines = ["flush chain bridge replog faults"]
        lines += [f"add rule bridge replog faults {rule}" for rule in rules]
        self.bridge.run("nft", "-f", "-", text="\n".join(lines) + "\n")

    @staticmethod
    def drop(sender, receiver, percent=100):
        some = f" numgen random mod 100 < {percent}" if percent < 100 else ""
        return f'iifname "p{sender}" oifname "p{receiver}"{some} counter drop'

    def cut(self, *pairs):
        """Nothing passes from the first to the second of each pair."""
        self.counts["partitions"] += 1
        self.rules(*(self.drop(a, b) for a, b in pairs))

    def cut_both(self, *pairs):
        self.cut(*pairs, *((b, a) for a, b in pairs))

    def lose(self, percent, *pairs):
        """Of what passes from the first to the second of each pair; without: between all members,
        and the clients."""
        self.counts["other network faults"] += 1
        numbers = list(self.hosts)
        pairs = pairs or [(a, b) for a in numbers for b in numbers if a != b]
        self.rules(*(self.drop(a, b, percent) for a, b in pairs))

    def heal(self):
        self.rules()

    def dropped(self):
        text = self.bridge.run("nft", "list", "chain", "bridge", "replog", "faults")
        return sum(int(n) for n in re.findall(r"counter packets (\d+)", text))

    def link(self, number, state):
        self.counts["partitions"] += state == "down"
        self.bridge.run("ip", "link", "set", f"p{number}", state)

    def shape(self, number, *qdisc):
        """How what goes to a member is queued: `tbf rate ...`, `netem delay ...`; nothing: as ever."""
        port = f"p{number}"
        subprocess.run([*self.bridge.inside, "tc", "qdisc", "del", "dev", port, "root"],
                       capture_output=True, check=False, timeout=30)
        if qdisc:
            self.counts["other network faults"] += 1
            self.bridge.run("tc", "qdisc", "add", "dev", port, "root", *qdisc)

    def knows(self, *qdisc):
        done = subprocess.run([*self.bridge.inside, "tc", "qdisc", "add", "dev", "br0", "root",
                               *qdisc], capture_output=True, check=False, timeout=30)
        subprocess.run([*self.bridge.inside, "tc", "qdisc", "del", "dev", "br0", "root"],
                       capture_output=True, check=False, timeout=30)
        return done.returncode == 0


class NetNode(Node):
    host = None

    @property
    def address(self):
        return f"{address(self.id)}:{self.port}"

    def argv(self):
        return [*self.host.inside, *super().argv(), "--insecure"]


class Probe:
    """Appends to one node and no other, by a stock client, and notes what that node itself said."""

    def __init__(self, t, node):
        self.node, self.stub = node, Stub(t, node)
        self.stub.channel.close()
        self.stub.channel = grpc.insecure_channel(node.address, options=[
            ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 300),
            ("grpc.min_reconnect_backoff_ms", 200)])
        pb = self.stub.pb
        self.append = self.stub.channel.unary_unary("/replog.v1.Log/Append",
                                                    *Stub.codec(pb, "Append"))
        self.acks, self.refusals, self.values, self.told = [], [], set(), False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        n = 0
        while not self.told:
            n += 1
            value = f"probe-{self.node.id}-{n}"
            self.values.add(("", value))
            begin = time.monotonic()
            try:
                reply = self.append(self.stub.batch([(b"", value.encode())]), timeout=1.0 * SLOW)
                self.acks.append((reply.term, reply.first_seq, value, time.monotonic()))
            except grpc.RpcError as e:
                self.refusals.append((e.code().name, e.details(), time.monotonic()))
            time.sleep(max(0, 0.02 - (time.monotonic() - begin)))

    def stop(self):
        self.told = True
        self.thread.join(10 * SLOW)
        self.stub.channel.close()
        check(not self.thread.is_alive(), "a probe hangs")


class World:
    """A cluster on a Net, under load, watched."""

    def __init__(self, t, acks="qq", probes=True):
        needs(grpc, "no python3-grpcio")
        self.t, self.net = t, Net(t)
        nodes = []
        for number in range(1, 4):
            node = NetNode(t, number, os.path.join(t.dir, f"n{number}"), PORT)
            node.log_path = os.path.join(t.dir, f"n{number}.log")
            node.host = self.net.hosts[number]
            nodes.append(node)
            t.nodes.append(node)
        self.cluster = Cluster(t, nodes)
        self.cluster.start()
        self.cluster.ready()
        self.oracle = Oracle(3)
        self.probes = {n.id: Probe(t, n) for n in nodes} if probes else {}
        self.loads = Loads(t, self.cluster, self.oracle, acks=acks).start(0.2, CLIENTS_WAIT_MS)
        self.loads.wait_acknowledged(20)

    def others(self, node):
        return [n.id for n in self.cluster.others(node)]

    def go_on(self, within_s=HEAL_S, more=20):
        """More appends are acknowledged; how long it took."""
        begin = time.monotonic()
        self.loads.wait_acknowledged(more, within_s)
        return time.monotonic() - begin

    def role(self, node):
        """What a node says last of its role: (role, term)."""
        found = re.findall(r"term=(\d+) role=(\S+)", node.log())
        return (found[-1][1], int(found[-1][0])) if found else ("none", 0)

    def wait_step_down(self, node, within_s=STEP_DOWN_S):
        begin = time.monotonic()
        wait(lambda: self.role(node)[0] != "leader", within_s,
             f"node {node.id}, cut off, steps down")
        return time.monotonic() - begin

    def heal(self, within_s=HEAL_S):
        """Everything works again; until all members are in agreement with a leader, online."""
        self.net.heal()
        begin = time.monotonic()
        self.go_on(within_s)

        def whole():
            status = self.cluster.status(call_ms=1000)
            return status and status["leader"] and all(m["online"] for m in status["members"])

        wait(whole, within_s, "every member is online again")
        return time.monotonic() - begin

    def finish(self):
        for probe in self.probes.values():
            probe.stop()
            self.oracle.strangers |= probe.values
        self.loads.stop()
        agree(self.cluster, self.oracle)
        self.oracle.judge()
        bad = {what: self.oracle.totals[what] for what in ("refused", "unknown")}
        check(not any(bad.values()), f"the faults were over in time, and answers were {bad}")
        check_stores(self.t, self.cluster, self.oracle)
        self.check_terms()

    def check_terms(self):
        """One leader a term: by the nodes' own words, and by who acknowledged what."""
        leaders = {}
        for node in self.cluster.nodes:
            for term in re.findall(r"term=(\d+) role=leader", node.log()):
                leaders.setdefault(int(term), set()).add(node.id)
        for term, ids in leaders.items():
            check(len(ids) == 1, f"term {term} had the leaders {ids}")
        log = {r["seq"]: (r["term"], r.get("value")) for r in self.cluster.read("--from", "1")}
        for node_id, probe in self.probes.items():
            for term, seq, value, _ in probe.acks:
                equal(leaders.get(term), {node_id},
                      f"{value} was acknowledged by node {node_id} in term {term}; its leader")
                equal(log.get(seq), (term, value), f"what is at the place of {value}")
        self.terms = max(leaders)

    def summary(self):
        acks = sum(len(p.acks) for p in self.probes.values())
        return f"{self.terms} terms; probes: {acks} acknowledged; {self.oracle.summary()}"


# ---- A leader without its followers


def cut_off_leader(w, pairs, within_s=STEP_DOWN_S):
    """Cuts the pairs while node `old` leads; what came of it."""
    for _ in range(5):
        old = w.cluster.leader()
        others = w.others(old)
        w.net.cut(*pairs(old.id, others))
        begin = time.monotonic()
        if w.role(old)[0] == "leader":
            break
        w.heal()  # another led by then: nothing would be shown
    else:
        raise Failure("the leader changes all the time")
    took = w.wait_step_down(old, within_s)
    went_on = w.go_on()
    time.sleep(1)
    acks = [a for a in w.probes[old.id].acks if a[3] > begin + took + 0.7]
    check(not acks, f"node {old.id} was cut off, stepped down, and acknowledged {acks[:3]}")
    refused = [r for r in w.probes[old.id].refusals if r[2] > begin]
    check(refused, f"node {old.id} was cut off, and refused nothing")
    for code, text, _ in refused:
        check(code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"), f"{code}: {text}")
    return old, took, went_on


def test_a_leader_cut_off_from_its_followers(t):
    """Clients still reach it: it must refuse them, honestly, and take part again later."""
    w = World(t)
    old, took, went_on = cut_off_leader(
        w, lambda leader, others: [p for o in others for p in ((leader, o), (o, leader))])
    w.cluster.leader(among=w.cluster.others(old))
    healed = w.heal()
    w.finish()
    print(f"stepped down after {took:.2f} s, appends went on {went_on:.2f} s later, healed within "
          f"{healed:.2f} s; {w.summary()}")


def test_a_leader_that_hears_nobody(t):
    """One direction only: its heartbeats still arrive, what the others say does not."""
    w = World(t)
    old, took, went_on = cut_off_leader(w, lambda leader, others: [(o, leader) for o in others])
    healed = w.heal()
    w.finish()
    print(f"stepped down after {took:.2f} s, appends went on {went_on:.2f} s later, healed within "
          f"{healed:.2f} s; {w.summary()}")


@long_only
def test_a_leader_that_nobody_hears(t):
    w = World(t)
    old, took, went_on = cut_off_leader(w, lambda leader, others: [(leader, o) for o in others])
    healed = w.heal()
    w.finish()
    print(f"stepped down after {took:.2f} s, appends went on {went_on:.2f} s later, healed within "
          f"{healed:.2f} s; {w.summary()}")


# ---- A follower with half a line


@long_only
def test_a_follower_with_one_direction(t):
    """It hears the leader and cannot answer, then the other way round: nobody else is disturbed."""
    w = World(t)
    grown = []
    for both in (False, True):
        leader = w.cluster.leader()
        follower = w.t.rng.choice(w.others(leader))
        others = [n.id for n in w.cluster.nodes if n.id != follower]
        before = w.role(leader)[1]
        w.net.cut(*((o, follower) if both else (follower, o) for o in others))
        for _ in range(3):
            w.go_on()
            time.sleep(0.5)
        grown.append(max(w.role(n)[1] for n in w.cluster.nodes) - before)
        w.heal()
    check(max(grown) <= 3, f"terms grew by {grown} while one follower had half a line")
    w.finish()
    print(f"terms grew by {grown}; {w.summary()}")


# ---- A bridge: A-B and B-C, not A-C


def test_a_bridge_partition(t):
    """Each of the two that cannot talk may believe it should lead; the one between keeps peace."""
    w = World(t)
    leader = w.cluster.leader()

    def terms_while_cut(a, b):
        w.net.cut_both((a, b))
        w.go_on()
        before = max(w.role(n)[1] for n in w.cluster.nodes)
        until = time.monotonic() + (6 if FULL else 2)
        while time.monotonic() < until:
            w.go_on()
        grown = max(w.role(n)[1] for n in w.cluster.nodes) - before
        w.heal()
        return grown

    grown = []
    for middle in ([leader.id] + w.others(leader))[:3 if FULL else 2]:
        a, b = [i for i in (1, 2, 3) if i != middle]
        # A machine that stands still now and then costs a term each time, but not in every try.
        tries = []
        while len(tries) < 3 and (not tries or tries[-1] > 2):
            tries.append(terms_while_cut(a, b))
        check(tries[-1] <= 2, f"no peace: terms grew by {tries} in a bridge partition")
        grown.append(tries[-1])
    w.finish()
    print(f"terms grew by {grown}; {w.summary()}")


# ---- Links


def test_links_taken_down_and_up(t):
    """The leader's, a follower's, then all of them."""
    w = World(t)
    leader = w.cluster.leader()
    w.net.link(leader.id, "down")
    down = w.wait_step_down(leader)
    w.go_on()
    w.net.link(leader.id, "up")
    w.heal()
    follower = t.rng.choice(w.others(w.cluster.leader()))
    w.net.link(follower, "down")
    w.go_on()
    w.net.link(follower, "up")
    w.heal()
    for number in (1, 2, 3):
        w.net.link(number, "down")
    time.sleep(1.5)
    for number in (1, 2, 3):
        w.net.link(number, "up")
    healed = w.heal()
    w.finish()
    print(f"stepped down after {down:.2f} s; all links back: healed within {healed:.2f} s; "
          f"{w.summary()}")


def test_links_that_lose_packets(t):
    """Between all, then in one direction only: what the leader says, what it is told, what a client
    says or is told."""
    w = World(t)
    seen = []

    def lossy(kind, percent, *pairs):
        w.net.lose(percent, *pairs)
        went_on = w.go_on(30)
        time.sleep(4 if FULL else 1)
        wait(lambda: w.net.dropped() > 10, 20, f"packets are dropped, {percent} % of {kind}")
        seen.append((kind, percent, w.net.dropped(), round(went_on, 2)))
        w.heal()

    for percent in (2, 10, 25) if FULL else (10,):
        lossy("all", percent)
    for percent in (10, 30) if FULL else (20,):
        leader = w.cluster.leader()
        lossy("said by the leader", percent, *((leader.id, o) for o in w.others(leader)))
        leader = w.cluster.leader()
        lossy("told to the leader", percent, *((o, leader.id) for o in w.others(leader)))
        lossy("said by clients", percent, *((CLIENTS, n.id) for n in w.cluster.nodes))
        lossy("told to clients", percent, *((n.id, CLIENTS) for n in w.cluster.nodes))
    w.finish()
    print(f"what, percent, packets dropped, seconds for 20 appends: {seen}; {w.summary()}")


@long_only
def test_slow_links(t):
    """Little bandwidth and long queues to one member, then to all."""
    w = World(t)
    for numbers in ((t.rng.choice((1, 2, 3)),), (1, 2, 3)):
        for number in numbers:
            w.net.shape(number, "tbf", "rate", "3mbit", "burst", "16k", "latency", "400ms")
        w.go_on(30)
        for number in numbers:
            w.net.shape(number)
        w.heal()
    w.finish()
    print(w.summary())


@long_only
def test_delayed_links(t):
    w = World(t)
    needs(w.net.knows("netem", "delay", "1ms"), "this kernel has no netem")
    for delay in (("20ms", "10ms"), ("120ms", "60ms")):
        for number in (1, 2, 3):
            w.net.shape(number, "netem", "delay", *delay)
        w.go_on(30)
        time.sleep(1)
        for number in (1, 2, 3):
            w.net.shape(number)
        w.heal()
    w.finish()
    print(w.summary())


# ---- Anything, for a while


def draw_fault(rng, net):
    """Something that is wrong with the network for a moment; how to undo it beside heal()."""
    pairs = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    kind = rng.choice(("one", "some", "isolate", "half", "bridge", "loss", "one-way loss", "flap",
                       "clients"))
    one = rng.choice((1, 2, 3))
    if kind == "one":
        net.cut(rng.choice(pairs))
    elif kind == "some":
        net.cut(*rng.sample(pairs, rng.randrange(1, 6)))
    elif kind == "isolate":
        net.cut_both(*((one, o) for o in (1, 2, 3) if o != one))
    elif kind == "half":
        net.cut(*((one, o) if rng.random() < 0.5 else (o, one) for o in (1, 2, 3) if o != one))
    elif kind == "bridge":
        net.cut_both(rng.choice(((1, 2), (2, 3), (1, 3))))
    elif kind == "loss":
        net.lose(rng.choice((1, 5, 15, 30)))
    elif kind == "one-way loss":
        net.lose(rng.choice((5, 15, 30, 60)), *rng.sample(pairs, rng.randrange(1, 4)))
    elif kind == "flap":
        net.link(one, "down")
        time.sleep(rng.uniform(0.05, 1.2))
        net.link(one, "up")
    else:
        net.cut_both((one, CLIENTS))
    return kind


def partitions(t, env=None):
    """Drawn faults one after another, each healed before the clients' patience ends."""
    with environment(**(env or {})):
        w = World(t)
    kinds, slowest = {}, 0
    while t.time_left() > 0:
        for _ in range(t.rng.randrange(1, 4)):
            kind = draw_fault(t.rng, w.net)
            kinds[kind] = kinds.get(kind, 0) + 1
            time.sleep(t.rng.uniform(0.1, 2.5))
        slowest = max(slowest, w.heal())
    w.finish()
    print(f"{sum(kinds.values())} faults ({', '.join(f'{k} {n}' for k, n in sorted(kinds.items()))}); "
          f"healed within {slowest:.2f} s; {w.summary()}")


TESTS = {name[5:]: value for name, value in dict(globals()).items() if name.startswith("test_")}
TESTS["partitions"] = timed(partitions, short_s=4, share=4)
