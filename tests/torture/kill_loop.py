#!/usr/bin/env python3
"""A cluster of three under load whose members are killed, stopped and continued, cut off from
their power and remounted at random, for as long as one likes. Then the oracle and the log must
agree exactly.

usage: tests/torture/kill_loop.py [as run.py: --minutes M --seed S]
"""

import os
import signal
import sys
import time

from common import (Loads, Oracle, Skip, agree, check_alive, check_offline, check_said,
                    check_stores, draw_disk, end_of, environment, equal, feed_committed, timed,
                    wait)
from disks import Disk, write_some

EXTRA = ["--segment-bytes", "1M", "--store-write-buffer-bytes", "1M", "--checkpoint-ms", "3000"]
ROUND_S = 40


class KillLoop:
    """What may happen to the nodes, drawn by weight; each event leaves them running again."""

    EVENTS = (("kill_leader", 4), ("kill_follower", 3), ("kill_two", 2), ("kill_all", 1),
              ("pause_leader", 3), ("pause_follower", 2), ("pause_two", 1), ("stop", 1),
              ("remount", 2), ("cut", 3), ("cut_all", 1), ("kill_while_paused", 1),
              ("kill_alone", 2),
              ("checkpoint", 2), ("truncate", 2))

    def __init__(self, t, sync, fs="ext4", env=None):
        self.t, self.rng, self.env = t, t.rng, env or {}
        self.cluster = t.cluster(3, start=False, extra=EXTRA + ["--sync", sync])
        self.disk_of = {}
        self.with_disks = self.make_disks(fs)
        self.oracle = Oracle(3)
        self.loads = Loads(t, self.cluster, self.oracle, acks="qqm")
        self.counts = dict.fromkeys(("kills", "pauses", "stops", "cuts", "members cut", "remounts",
                                     "checkpoints", "truncations"), 0)
        t.tallies.append(lambda: self.counts)
        self.rounds = self.events = self.last_term = 0

    def make_disks(self, fs):
        """With root each node has a file system of its own; without, there are no cuts."""
        try:
            for node in self.cluster.nodes:
                disk = Disk(self.t, f"d{node.id}", fs)
                self.disk_of[node.id] = disk
                node.dir = os.path.join(disk.path, f"n{node.id}")
        except Skip as why:
            self.t.skip_part("cuts and remounts", why)
            return False
        return True

    # -- whom

    def leader(self):
        """Whoever leads as far as anybody says at once; else anyone."""
        status = self.cluster.status(call_ms=500)
        found = [n for n in self.cluster.nodes if status and n.id == status["leader"]]
        return found[0] if found else self.rng.choice(self.cluster.nodes)

    def follower(self):
        return self.rng.choice(self.cluster.others(self.leader()))

    def some(self, how_many):
        return self.rng.sample(self.cluster.nodes, how_many)

    # -- events

    def kill(self, *nodes):
        for node in nodes:
            node.signal(signal.SIGKILL)
        for node in nodes:
            end_of(node)
        self.counts["kills"] += len(nodes)
        time.sleep(self.rng.choice((0, self.rng.uniform(0, 1.5))))
        self.start(nodes)

    def start(self, nodes):
        for node in nodes:
            with environment(**{**draw_disk(self.t), **self.env}):
                node.start()

    def pause(self, *nodes):
        """Longer than an election takes, or shorter: the old leader may think that it still is."""
        for node in nodes:
            node.pause()
        self.counts["pauses"] += len(nodes)
        time.sleep(self.rng.choice((self.rng.uniform(0, 0.6), self.rng.uniform(0.6, 3))))
        for node in nodes:
            node.resume()

    def kill_leader(self):
        self.kill(self.leader())

    def kill_follower(self):
        self.kill(self.follower())

    def kill_two(self):
        self.kill(*self.some(2))

    def kill_all(self):
        self.kill(*self.cluster.nodes)

    def pause_leader(self):
        self.pause(self.leader())

    def pause_follower(self):
        self.pause(self.follower())

    def pause_two(self):
        self.pause(*self.some(2))

    def kill_while_paused(self):
        """One sleeps through another's death, and wakes into the election."""
        sleeper, victim = self.some(2)
        sleeper.pause()
        self.counts["pauses"] += 1
        time.sleep(self.rng.uniform(0, 0.3))
        self.kill(victim)
        sleeper.resume()

    def kill_alone(self):
        """A leader writes on while nobody hears it, dies, and finds when it is back that the others
        went on without it: what it had alone is cut."""
        leader = self.leader()
        others = self.cluster.others(leader)
        for node in others:
            node.pause()
        self.counts["pauses"] += len(others)
        time.sleep(self.rng.uniform(0.05, 0.4))
        leader.kill()
        for node in others:
            node.resume()
        self.counts["kills"] += 1
        time.sleep(self.rng.choice((0, self.rng.uniform(0.3, 2))))
        self.start([leader])

    def stop(self):
        """SIGTERM: it hands over, drains and flushes."""
        node = self.rng.choice(self.cluster.nodes)
        wait(node.said_last, 20, "it has begun")
        equal(node.stop(30), 0, f"exit status after SIGTERM ({node.log()[-300:]})")
        self.counts["stops"] += 1
        self.start([node])

    def remount(self):
        """What the page cache would have given comes from the disk."""
        node = self.rng.choice(self.cluster.nodes)
        node.kill()
        self.disk_of[node.id].remount()
        self.counts["kills"] += 1
        self.counts["remounts"] += 1
        self.start([node])

    def cut(self, nodes=None):
        nodes = nodes or self.some(self.rng.choice((1, 1, 2)))
        for node in nodes:
            node.signal(signal.SIGKILL)
        for node in nodes:
            write_some(self.rng, os.path.join(node.dir, "wal"))
            self.disk_of[node.id].cut()
        for node in nodes:
            end_of(node)
            self.disk_of[node.id].remount()
        self.counts["cuts"] += 1
        self.counts["members cut"] += len(nodes)
        time.sleep(self.rng.choice((0, self.rng.uniform(0, 1))))
        self.start(nodes)

    def cut_all(self):
        self.cut(self.cluster.nodes)

    def replog(self, *args):
        self.t.background(self.t.replog, "-e", self.cluster.endpoints, "--timeout", 3000, *args)

    def checkpoint(self):
        self.replog("checkpoint")
        self.counts["checkpoints"] += 1

    def truncate(self):
        """Of what was read and judged: it may go."""
        upto = self.rng.randint(max(1, self.oracle.next_seq // 2), max(1, self.oracle.next_seq - 1))
        self.replog("truncate", "--upto", upto)
        self.counts["truncations"] += 1

    # -- rounds

    def draw(self):
        names = [n for n, _ in self.EVENTS
                 if self.with_disks or n not in ("remount", "cut", "cut_all")]
        weights = [w for n, w in self.EVENTS if n in names]
        return self.rng.choices(names, weights)[0]

    def faults(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = self.draw()
            with open(os.path.join(self.t.dir, "events"), "a", encoding="utf-8") as f:
                f.write(f"{time.strftime('%H:%M:%S')} {time.monotonic_ns() // 1000} {name}\n")
            getattr(self, name)()
            self.events += 1
            check_alive(self.cluster.nodes)
            # Mostly soon again, while what happened last is still being mended.
            time.sleep(self.rng.choice((0, self.rng.uniform(0, 0.5), self.rng.uniform(0, 2))))
            if self.rng.random() < 0.2:
                feed_committed(self.cluster, self.rng.choice(self.cluster.nodes), self.oracle)

    def round(self, seconds):
        """Load and faults, then peace, then judgement."""
        self.rounds += 1
        self.loads.start()
        self.faults(seconds)
        self.loads.wait_acknowledged(200, timeout=60)  # it works again, without help
        self.loads.stop()
        agree(self.cluster, self.oracle)
        self.oracle.judge(lambda unit: unit.ack == "l")
        check_stores(self.t, self.cluster, self.oracle)

    def run(self):
        self.start(self.cluster.nodes)
        self.cluster.ready()
        agree(self.cluster, self.oracle)
        self.round(min(ROUND_S, max(1.0, self.t.time_left() - 2)))
        while self.t.time_left() > 5:
            self.round(min(ROUND_S, self.t.time_left() - 3))
        status = self.cluster.status()
        self.cluster.stop()
        check_offline(self.t, self.cluster, self.oracle)
        counts = ", ".join(f"{name} {n}" for name, n in self.counts.items())
        print(f"{self.rounds} rounds, {self.events} events: {counts}, elections {status['term']} "
              f"(with {len(self.oracle.terms)} leaders)")
        print(self.oracle.summary())
        check_said(self.cluster.nodes)


def kill_loop(t, sync="sync", fs="ext4", env=None):
    KillLoop(t, sync, fs, env).run()


def restarts_in_peace(t):
    """Members that are told to stop and started again under load: nobody misunderstands another."""
    c = t.cluster(3, extra=EXTRA)
    oracle = Oracle(3)
    loads = Loads(t, c, oracle, acks="qqm").start()
    restarts = 0
    t.tallies.append(lambda: {"stops": restarts})
    while t.time_left() > 0 or restarts < 5:
        node = t.rng.choice(c.nodes)
        equal(node.stop(30), 0, f"exit status after SIGTERM ({node.log()[-300:]})")
        node.start()
        restarts += 1
        c.leader(30)
        wait(node.said_last, 20, "it has begun")
        time.sleep(t.rng.uniform(0.1, 0.8))
        check_alive(c.nodes)
    loads.stop()
    agree(c, oracle)
    oracle.judge(lambda unit: unit.ack == "l")
    print(f"{restarts} restarts: {oracle.summary()}")
    check_said(c.nodes)


TESTS = {
    "restarts_in_peace": timed(restarts_in_peace, short_s=8),
    "three_nodes": timed(kill_loop, short_s=10, share=12),
    "three_nodes_batch_xfs": timed(kill_loop, sync="batch", fs="xfs", short_s=6, share=4,
                                   long_only=True),
}

if __name__ == "__main__":
    import run
    sys.exit(run.main(sys.argv[1:] + ["kill_loop.*"]))
