"""Nodes that die, stop and come back while a client goes on."""

import os
import random
import threading
import time

from harness import SLOW, Appender, check, check_once, equal, wait


def test_a_killed_follower_catches_up(t):
    c = t.cluster(3)
    first = c.append_lines([f"k{i}\tbefore" for i in range(500)], batch=50)[0]["first_seq"]
    c.wait_equal()
    c.cli("checkpoint").ok()
    follower = c.others(c.leader())[0]
    follower.kill()
    lines = [f"k{i % 3000}\tafter {i}" for i in range(20000)]
    c.append_lines(lines, batch=100)
    wait(lambda: not c.member(follower.id)["online"], 10, "status says that it is away")
    follower.start()
    c.wait_equal()
    equal(c.lines(first, at=follower, local=True)[500:], lines, "its log")
    wait(lambda: c.member(follower.id)["applied_seq"] == c.status()["last_seq"], 10, "replayed")
    got = c.cli("get", "k2999", "--stale", at=follower).ok().json[0]
    equal(got["value"], "after 17999", "its store")


def test_a_restart_replays_from_the_checkpoint(t):
    c = t.cluster(1)
    c.append_lines([f"k{i}\tv{i}" for i in range(1000)], batch=100)
    c.cli("checkpoint").ok()
    c.append_lines([f"k{i}\tw{i}" for i in range(10)], batch=10)
    for _ in range(3):
        c[1].kill()
        c[1].start()
        c.leader()
        for key, value in (("k5", "w5"), ("k500", "v500")):
            equal(c.cli("get", key).ok().json[0]["value"], value, key)


def test_appends_survive_killed_leaders_exactly_once(t):
    c = t.cluster(3)
    a = Appender(c, batch=10, pause_s=0 if SLOW == 1 else 0.005)
    feeder = threading.Thread(target=a.feed_until_told)
    feeder.start()
    try:
        wait(lambda: len(a.acknowledged()) > 50, 10, "it runs")
        for _ in range(6):
            leader = c.leader()
            acked = len(a.acknowledged())
            leader.kill()  # with a window full of appends that are not answered yet
            c.leader(among=[n for n in c.nodes if n.alive()])
            wait(lambda: len(a.acknowledged()) > acked + 300, 20, "more under the new leader")
            leader.start()
            wait(lambda: (c.member(leader.id) or {}).get("online"), 20, "the killed one is back")
    finally:
        a.told = True
        feeder.join()
    acks = a.finish()
    status = c.wait_equal(30)
    check(status["term"] >= 6, f"there were elections: {status['term']}")
    print(f"{len(acks)} batches through {len({x['term'] for x in acks})} leaders")
    check_once(c, a, acks)
    for node in c.nodes:
        check_once(c, a, acks, at=node, local=True)


def test_all_killed_at_once_lose_nothing_acknowledged(t):
    c = t.cluster(3)
    a = Appender(c, batch=10, pause_s=0.001)
    for _ in range(3):
        a.feed(0.5)
        for node in c.nodes:
            node.signal(9)
        for node in c.nodes:
            node.wait_end()
            node.start()
        c.leader()
    acks = a.finish()
    c.wait_equal()
    check_once(c, a, acks)


def test_sigterm_hands_over_and_appends_go_on(t):
    c = t.cluster(3)
    a = Appender(c, batch=5)
    a.feed(0.5)
    slowest = 0
    for _ in range(3):
        leader = c.leader()
        leader.signal(15)
        begin, acked = time.monotonic(), len(a.acknowledged())
        wait(lambda: a.feed_batches(1) or len(a.acknowledged()) > acked + 30, 20, "appends go on")
        slowest = max(slowest, time.monotonic() - begin)
        equal(leader.wait_end(), 0, "exit status after SIGTERM")
        leader.start()
        wait(lambda: (c.member(leader.id) or {}).get("online"), 20, "it is back")
    acks = a.finish()
    c.wait_equal()
    check_once(c, a, acks)
    print(f"slowest handover with 30 appends: {slowest * 1000:.0f} ms")


def test_a_leader_stopped_past_the_election_timeout_comes_back_as_a_follower(t):
    c = t.cluster(3)
    a = Appender(c, batch=10)
    a.feed(0.5)
    old = c.leader()
    old.pause()
    acked = len(a.acknowledged())
    new = c.leader(among=c.others(old))
    wait(lambda: a.feed_batches(1) or len(a.acknowledged()) > acked + 20, 30,
         "appends go on while a leader is stopped and its connections stay open")
    old.resume()
    wait(lambda: (c.member(old.id) or {}).get("state") == "follower", 15, "it follows")
    check(new.alive() and old.alive(), "both run")
    acks = a.finish()
    c.wait_equal()
    check_once(c, a, acks)
    check_once(c, a, acks, at=old, local=True)


def test_a_minority_acknowledges_nothing(t):
    c = t.cluster(3)
    leader = c.leader()
    for node in c.others(leader):
        node.pause()
    result = c.cli("append", "lost", "maybe", at=leader, call_ms=2500)
    result.fails("UNAVAILABLE|DEADLINE_EXCEEDED")
    wait(lambda: (c.status(at=leader) or {}).get("leader") == 0, 15, "it steps down")
    c.cli("get", "lost", at=leader, call_ms=1500).fails("UNAVAILABLE|DEADLINE_EXCEEDED")
    for node in c.others(leader):
        node.resume()
    c.ready()
    c.wait_equal()


def test_a_follower_stopped_and_resumed_catches_up(t):
    c = t.cluster(3)
    said = []
    # A machine that stands still for the election timeout may cost an election, but not each time.
    while len(said) < 3 and (not said or "role=candidate" in said[-1]):
        leader = c.leader()
        follower = c.others(leader)[0]
        follower.pause()
        time.sleep(1.2)  # longer than the election timeout: without pre-vote it would stand
        before = len(follower.log())
        c.append_lines([f"{i:06d} " + "x" * 1000 for i in range(20000)], batch=100)
        check(leader.memory_kib() < 400 * 1024, f"memory of the leader: {leader.memory_kib()} KiB")
        follower.resume()
        c.wait_equal(30)
        said.append(follower.log()[before:])
    check("role=candidate" not in said[-1],
          f"the one that was away disturbs nobody (pre-vote): {said}")


def test_append_after_the_first_leader_is_gone_is_quick(t):
    times = []
    c = t.cluster(3)
    for i in range(5):
        leader = c.leader()
        leader.kill()
        begin = time.monotonic()
        c.append("k", f"{i}", call_ms=10000)
        times.append(time.monotonic() - begin)
        leader.start()
        c.wait_equal()
    times.sort()
    print("first append after the kill, s: " + " ".join(f"{x:.2f}" for x in times))
    check(times[2] < 5, f"median {times[2]:.2f} s")


def test_a_node_that_hangs_does_not_hold_up_a_client_that_knows_others(t):
    c = t.cluster(3)
    leader = c.leader()
    hung = c.others(leader)[0]
    c.append("k", "v")
    hung.pause()
    endpoints = f"{hung.address},{leader.address}"
    for args in (["status"], ["get", "k"], ["append", "k", "w"], ["read"]):
        result = c.cli(*args, at=endpoints, call_ms=4000).ok()
        print(f"{args[0]}: {result.seconds:.1f} s")
    hung.resume()


def test_status_with_a_hung_member_is_quick_from_any_list_of_endpoints(t):
    c = t.cluster(3, calm=True)
    hung = c.others(c.leader())[0]
    c.append("k", "v")
    c.wait_equal()
    hung.pause()
    took_s = []

    def told(endpoints):
        """Whether all is as it should be. A member that takes 400 ms to answer counts as away."""
        result = c.cli("status", at=",".join(n.address for n in endpoints), call_ms=8000).ok()
        took_s.append(result.seconds)
        members = {m["id"]: m for m in result.json[0]["members"]}
        return ((members[hung.id]["online"], members[hung.id]["state"]) == (False, "unreachable")
                and members[hung.id]["match_seq"] > 0  # what was known of it
                and all(members[n.id]["online"] for n in c.others(hung)))

    for endpoints in 4 * [[hung] + c.others(hung), c.others(hung) + [hung]]:  # it begins anywhere
        wait(lambda: told(endpoints), 10, "status tells of the hung one and of the others")
    hung.resume()
    took_s.sort()
    print("status, s: " + " ".join(f"{s:.2f}" for s in took_s))
    check(took_s[len(took_s) // 2] < 2 * SLOW, f"it is quick: {took_s}")


def test_the_log_tells_of_roles_and_lost_connections_once(t):
    c = t.cluster(3, calm=True)
    leader = c.leader()
    c.append("k", "v")
    leader.kill()
    c.leader(among=c.others(leader))
    leader.start()
    c.wait_equal()
    for node in c.nodes:
        lines = [line.split(" ", 2)[2] for line in node.log().splitlines() if " role=" in line]
        check(lines and len(lines) == len(set(lines)), f"each change of role once: {lines}")
        check("refused by" not in node.log(), f"a lost connection refuses nothing: {node.log()}")


def test_random_faults_with_two_clients(t):
    """Kills and stops of any node, alone or two at once, with checkpoints in between."""
    seed = int(os.environ.get("REPLOG_TEST_SEED") or time.time())
    print(f"REPLOG_TEST_SEED={seed}")
    rng = random.Random(seed)
    c = t.cluster(3)
    clients = [Appender(c, batch=rng.choice((1, 7, 20)), prefix=p, pause_s=0.001, call_ms=60000)
               for p in ("a", "b")]
    feeders = [threading.Thread(target=a.feed_until_told) for a in clients]
    for f in feeders:
        f.start()
    try:
        end = time.monotonic() + 15
        while time.monotonic() < end:
            victims = rng.sample(c.nodes, rng.choice((1, 1, 2)))
            how = rng.choice(("kill", "pause", "stop"))
            for node in victims:
                {"kill": node.kill, "pause": node.pause, "stop": lambda: node.signal(15)}[how]()
            time.sleep(rng.uniform(0.05, 1.5))
            for node in victims:
                if how == "pause":
                    node.resume()
                else:  # SIGTERM, before it knows what that means, ends it as SIGKILL does
                    ends = (-9,) if how == "kill" else (0, -15) if not node.said_last() else (0,)
                    check(node.wait_end() in ends, f"its end: {node.log()[-400:]}")
                    node.start()
            time.sleep(rng.uniform(0, 0.7))
            if rng.random() < 0.3:
                c.cli("checkpoint", call_ms=3000)
    finally:
        for a in clients:
            a.told = True
        for f in feeders:
            f.join()
    answers = [a.finish(90) for a in clients]
    c.wait_equal(30)
    for a, acks in zip(clients, answers):
        print(f"{len(acks)} batches of {a.batch} through {len({x['term'] for x in acks})} leaders")
        for node in c.nodes:
            check_once(c, a, acks, at=node, local=True)
