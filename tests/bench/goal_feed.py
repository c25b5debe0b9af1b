"""Goals of moving much log: a follower that catches up, and a reader."""

import statistics
import time

import account
from cluster import MIB, POLL_S, SEQS_A_RECORD, SLOWEST_MIB_PER_S
from probes import busiest, thread_ticks
from processes import Failed
from systems import NODES, READY_S, RECORD_BYTES

CATCH_UP_GIB, CATCH_UP_MIB_PER_S, LIVE_SHARE = 4, 300, 0.7
ALONE_GIB = 1
BEFORE_S, LIVE_WARM_S = 10, 2
READ_GIB, READ_MIB_PER_S, READ_PASSES = 1, 1024, 3


# ---- Catch-up

class Watch:
    """The leader's figures while a follower catches up beside a live load."""

    def __init__(self, cluster, leader, follower):
        self.cluster, self.leader = cluster, leader
        self.match = f'peer_match_seq{{peer="{follower}"}}'
        self.samples = []  # (time, commit, match)

    def sample(self):
        m = self.cluster.metrics(self.leader)
        if m["leader"] != self.leader:
            raise Failed(f"the leader changed to {m['leader']:.0f}")
        self.samples.append((time.monotonic(), m["commit_seq"], m[self.match]))
        return self.samples[-1]

    def live_rate(self, seconds):
        """Appends committed per second; each takes one seq."""
        at, commit, _ = self.sample()
        time.sleep(seconds)
        until, end, _ = self.sample()
        return (end - commit) / (until - at)

    def wait_caught_up(self, load, seconds):
        """Until it has durably what had been committed one sample earlier. load: a live one."""
        until = time.monotonic() + seconds
        commit = self.samples[-1][1]
        while True:
            at, now, match = self.sample()
            if match >= commit:
                return
            if load:
                load.check()
            self.cluster.group.check()
            if at > until:
                raise Failed(f"the follower stood at {match:.0f} of {now:.0f} "
                             f"after {seconds:.0f} s")
            commit = now
            time.sleep(POLL_S)


def taken_mib(first_seq, last_seq):
    """How much of the fill's records these are."""
    return (last_seq - first_seq) / SEQS_A_RECORD * RECORD_BYTES / MIB


def catch_up_alone(run, c, leader, follower):
    """(MiB/s, what it cost) of a follower that catches up while nobody appends, from its first
    records on: its start would count for much in so little."""
    c.kill(follower)
    have = c.metrics(leader)["commit_seq"]
    c.fill(have / SEQS_A_RECORD * RECORD_BYTES + run.size(ALONE_GIB))
    watch = Watch(c, leader, follower)
    _, _, before = watch.sample()
    c.start_node(follower)

    def begun():
        at, _, match = watch.sample()
        return (at, match) if match > before else None
    start, had = c.group.wait_for("a first record", begun, READY_S)
    spends = account.Account(c, leader, {"leader": c.nodes[leader], "follower": c.nodes[follower]})
    watch.wait_caught_up(None, READY_S + run.size(ALONE_GIB) / MIB / SLOWEST_MIB_PER_S)
    spent = spends.spent()
    end, _, has = watch.samples[-1]
    c.wait_whole()
    c.check_chains()
    return taken_mib(had, has) / (end - start), spent


def catch_up(run, row):
    size = run.size(CATCH_UP_GIB)
    with run.cluster("catch-up") as c:
        leader = c.start()
        follower = next(i for i in NODES if i != leader)
        c.kill(follower)
        c.fill(size)
        filled = c.metrics(leader)["commit_seq"]
        load = c.begin("live", "--inflight", "64", "--warmup", "0", "--seconds", "3600")
        try:
            time.sleep(LIVE_WARM_S)
            watch = Watch(c, leader, follower)
            nodes = {("leader" if i == leader else "third"): p for i, p in c.nodes.items()}
            nodes["client"] = load.process
            spends = account.Account(c, leader, nodes)
            before = watch.live_rate(run.seconds(BEFORE_S))
            live_alone = spends.spent()
            start, first, had = watch.sample()
            nodes["follower"] = c.start_node(follower)
            spends, ticks = account.Account(c, leader, nodes), thread_ticks(nodes)
            watch.wait_caught_up(load, READY_S + size / MIB / SLOWEST_MIB_PER_S)
            end, last, has = watch.samples[-1]
            took = end - start
            both = spends.spent()
            row.figures["busiest"] = busiest(ticks, thread_ticks(nodes), took)
            row.figures["follower"] = c.group_commits(follower)
            row.figures["store_read_mib"] = (
                c.metrics(follower)["store_read_bytes_total"] / MIB)
            after = watch.live_rate(run.seconds(BEFORE_S))
            load.stop()
        finally:
            c.group.stop(load.process)
        c.wait_whole()
        match = {m["id"]: m["match_seq"] for m in c.status()["members"]}[follower]
        if match < has:
            raise Failed(f"status tells match_seq {match}, the leader's metrics told {has:.0f}")
        c.check_chains()
        records = c.check_count(follower)
        alone_rate, alone = catch_up_alone(run, c, leader, follower)
    new, over = run.disk_mib_per_s
    rate = (taken_mib(had, filled) + (has - filled) * RECORD_BYTES / MIB) / took
    during = (last - first) / took
    row.figures.update(backlog_mib=size / MIB, seconds=took, mib_per_s=rate, live_before=before,
                       live_during=during, live_after=after, records_checked=records,
                       alone_mib_per_s=alone_rate, spent=[live_alone, both, alone],
                       samples=[(round(t - start, 3), int(m)) for t, _, m in watch.samples])
    row.line(f"a follower catches up {size / MIB:,.0f} MiB beside 64 appends in flight",
             f"{CATCH_UP_MIB_PER_S} MiB/s", f"{rate:,.0f} MiB/s ({took:.1f} s); one writer of 4 "
             f"MiB and fdatasync at a time, before all rows: {new:,.0f} MiB/s into a new file, "
             f"{over:,.0f} over what is there", rate >= CATCH_UP_MIB_PER_S)
    row.line("the live load meanwhile, of what it was beforehand with the same two nodes",
             f"{LIVE_SHARE:.0%}", f"{during / before:.0%} ({during:,.0f} of {before:,.0f} "
             f"appends/s; {after:,.0f} afterwards)", during >= LIVE_SHARE * before)
    row.table = [["what", "caught up", *account.HEAD],
                 ["the load alone", "-", *account.cells(live_alone)],
                 ["both", f"{rate:,.0f} MiB/s", *account.cells(both)],
                 ["the catch-up alone, once begun", f"{alone_rate:,.0f} MiB/s", *account.cells(alone)]]


# ---- Reading

def one_pass(run, c, number):
    sent = sum(c.metrics(i)["read_bytes_total"] for i in NODES)
    nodes = {f"node {i}": p for i, p in c.nodes.items()}
    limit_s = int(READY_S + run.size(READ_GIB) / MIB / SLOWEST_MIB_PER_S)
    load = c.begin(f"read{number}", "--read", "--seconds", str(limit_s))
    ticks, start = thread_ticks({**nodes, "reader": load.process}), time.monotonic()
    busy = []
    while load.process.poll() is None and time.monotonic() - start < limit_s:
        try:
            busy = busiest(ticks, thread_ticks({**nodes, "reader": load.process}),
                           time.monotonic() - start)
        except OSError:
            break  # the reader has just ended
        time.sleep(POLL_S)
    figures = load.finish(READY_S)
    if time.monotonic() - start >= limit_s:
        raise Failed(f"the log was not read to its end within {limit_s} s")
    figures["sent_bytes"] = sum(c.metrics(i)["read_bytes_total"] for i in NODES) - sent
    figures["busiest"] = busy
    return figures


def read(run, row):
    size = run.size(READ_GIB)
    with run.cluster("read") as c:
        c.start()
        c.fill(size)
        records = c.count_puts()  # brings the files into the page cache, too, if they were not
        for i in NODES:
            c.check_count(i)
        c.check_chains()
        passes = [one_pass(run, c, n) for n in range(READ_PASSES)]
    for figures in passes:
        # seq, term, kind and lengths: more than the value, and less than 32 bytes
        if not records * RECORD_BYTES < figures["sent_bytes"] < records * (RECORD_BYTES + 32):
            raise Failed(f"{records} records, but {figures['sent_bytes']:.0f} bytes were sent")
    rate = statistics.median(f["mib_per_s"] for f in passes)
    row.figures.update(records=records, mib_per_s=rate, passes=passes)
    row.line(f"one reader, {records * RECORD_BYTES / MIB:,.0f} MiB of log in the page cache",
             f"{READ_MIB_PER_S:,} MiB/s", f"{rate:,.0f} MiB/s (of {READ_PASSES} passes: "
             f"{min(f['mib_per_s'] for f in passes):,.0f} to "
             f"{max(f['mib_per_s'] for f in passes):,.0f})", rate >= READ_MIB_PER_S)
