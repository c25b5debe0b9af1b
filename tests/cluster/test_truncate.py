"""Checkpoints, and truncation only after every member has absorbed the log."""

from harness import check, checkpoint_of, equal, paused, wait


def first_seqs(c):
    """The first seq of each member, as a read below it is told."""
    found = {}
    for node in c.nodes:
        result = c.cli("read", "--from", "1", "--to", "1", "--node", at=node)
        found[node.id] = result.rc == 1 and "OUT_OF_RANGE" in result.text
    return found


def held_status(c, node):
    """Status once it says that nobody but this one holds truncation back."""
    def held():
        status = c.status()
        ids = [h["id"] for h in status["truncation"]["held_by"]]
        return status if status["leader"] and ids == [node.id] else None

    return wait(held, 10, f"status names node {node.id}, and no other, for who holds truncation")


def test_checkpoint_then_truncate(t):
    c = t.cluster(3)
    lines = [f"k{i}\tv{i}" for i in range(2000)]
    acks = c.append_lines(lines, batch=100)
    got = checkpoint_of(c, acks[-1]["last_seq"])
    check(got["seq"] > got["safe_seq"], f"checkpoint covers it: {got}")
    upto = acks[9]["last_seq"]
    result = c.cli("truncate", "--upto", str(upto)).ok().json[0]
    equal((result["requested"], result["held_by"]), (upto, []), "truncate")
    wait(lambda: c.status()["first_seq"] == upto + 1, 15, "first_seq rises")
    wait(lambda: all(first_seqs(c).values()), 15, "on every node")
    for node in c.nodes:
        below = c.cli("read", "--from", "1", "--node", at=node)
        below.fails("OUT_OF_RANGE", str(upto + 1))
        equal(c.lines(upto + 1, at=node, local=True), lines[1000:], f"the rest on {node.id}")
    c.cli("read", "--from", str(upto)).fails("OUT_OF_RANGE", str(upto + 1))
    equal(c.cli("get", "k3").ok().json[0]["value"], "v3", "dropped from the log, not from the store")
    c.stop()
    for node in c.nodes:
        verified = t.verify(node).ok().json[0]
        equal(verified["first_seq"], upto + 1, f"first_seq on the disk of {node.id}")
        node.start()
    c.ready()
    equal(c.status()["first_seq"], upto + 1, "after a restart")
    equal(c.cli("get", "k3").ok().json[0]["value"], "v3", "after a restart")


def test_truncation_rounds_down_to_a_batch(t):
    c = t.cluster(1)
    acks = c.append_lines([f"k{i}\tv" for i in range(100)], batch=10)
    checkpoint_of(c, acks[-1]["last_seq"])
    c.cli("truncate", "--upto", str(acks[4]["last_seq"] - 3)).ok()
    wait(lambda: c.status()["first_seq"] == acks[4]["first_seq"], 10, "the start of that batch")


def test_an_absent_member_holds_truncation_and_is_named(t):
    c = t.cluster(3, calm=True)  # a new leader knows nothing of one that is away
    acks = c.append_lines([f"k{i}\tv{i}" for i in range(1000)], batch=100)
    c.wait_equal()
    held = checkpoint_of(c, acks[-1]["last_seq"])["safe_seq"]
    follower = c.others(c.leader())[0]
    follower.kill()
    more = c.append_lines([f"k{i}\tw{i}" for i in range(1000)], batch=100)
    got = c.cli("checkpoint").ok().json[0]
    check(got["safe_seq"] < more[0]["first_seq"], f"safe_seq waits for the absent one: {got}")
    upto = more[-1]["last_seq"]
    result = c.cli("truncate", "--upto", str(upto)).ok().json[0]
    equal([h["id"] for h in result["held_by"]], [follower.id], "held by")
    status = held_status(c, follower)
    seq = status["truncation"]["held_by"][0]["checkpoint_seq"]
    check(acks[-1]["last_seq"] <= seq < more[0]["first_seq"], f"and since which seq: {status}")
    equal(status["truncation"]["drop_upto"], upto, "what was asked for")
    check(status["first_seq"] <= held + 1, f"nothing of it is dropped: {status}")
    # The request outlives a change of leader, and is met when the member is back.
    leader = c.leader()
    follower.start()
    leader.kill()
    c.leader()
    leader.start()
    c.wait_equal()
    checkpoint_of(c, upto)
    status = wait(lambda: (lambda s: s and s["first_seq"] == upto + 1 and s)(c.status()), 20,
                  "dropped when it is back")
    equal(status["truncation"]["held_by"], [], "nobody holds it")
    wait(lambda: all(first_seqs(c).values()), 15, "on every node")
    equal(c.cli("get", "k999").ok().json[0]["value"], "w999", "get")


def test_what_is_not_checkpointed_stays(t):
    c = t.cluster(3, calm=True)
    c.append_lines([f"k{i}\tv{i}" for i in range(100)], batch=100)
    c.wait_equal()
    follower = c.others(c.leader())[0]
    with paused([follower]):
        upto = c.append_lines(["more"])[0]["last_seq"]  # which it cannot have
        c.cli("truncate", "--upto", str(upto)).ok()
        status = held_status(c, follower)
        absorbed = status["truncation"]["held_by"][0]["checkpoint_seq"]
        check(status["first_seq"] <= absorbed + 1 <= upto,
              f"nothing goes that it has not absorbed: {status}")
    c.nodes[0].kill()
    c.nodes[0].start()
    c.wait_equal()
    status = c.status()
    check(status["first_seq"] <= status["truncation"]["safe_seq"] + 1,
          f"never above what all hold: {status}")
    c.cli("truncate", "--upto", str(status["last_seq"] + 1000)).fails("OUT_OF_RANGE|INVALID_ARG")
    equal(c.cli("truncate", "--upto", "0").rc, 2, "there is no seq 0")


def test_segments_are_given_back(t):
    c = t.cluster(1)
    value = "x" * 60000
    for _ in range(4):
        c.append_lines([f"k{i}\t{value}" for i in range(1000)], batch=40)
    before = sum(t.files(c[1]).values())
    got = checkpoint_of(c, c.status()["last_seq"] - 100)
    c.cli("truncate", "--upto", str(got["safe_seq"])).ok()
    wait(lambda: c.status()["first_seq"] > got["safe_seq"] - 100, 15, "dropped")
    for _ in range(3):  # the freed files serve again: the directory does not grow
        for _ in range(2):
            c.append_lines([f"k{i}\t{value}" for i in range(1000)], batch=40)
        got = checkpoint_of(c, c.status()["last_seq"] - 100)
        c.cli("truncate", "--upto", str(got["safe_seq"])).ok()
    wait(lambda: sum(s for f, s in t.files(c[1]).items() if not f.startswith("store")) < before
         + (128 << 20), 20, f"bounded by what is kept; was {before}: {t.files(c[1])}")
