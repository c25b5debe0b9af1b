"""The oracles must be able to fail: each gets logs that are wrong in one way, and must say so."""

import os

from common import Failure, Loss, Oracle, check, timed
from wal_oracle import Run, WalModel

# ---- The oracle of a cluster: five units of one load, and the log that follows from them

SENT = """S 1 10 q s P3
A 1 20 3 3 1 1,2
S 2 11 q b P0,K5,D0
A 2 21 4 7 1 1,2,3
S 3 12 q s K2
U 3 22 DEADLINE_EXCEEDED no answer
S 4 13 q b P1
R 4 23 RESOURCE_EXHAUSTED full
S 5 14 q s P4
A 5 24 9 9 2 2,3
E 30 5 0
"""


def honest_log(oracle):
    """Units 1, 2, 3 and 5 behind a TERM and a SESSION record, with one more TERM."""
    units = oracle.loads["a"].units
    log = [{"op": "TERM", "term": 1}, {"op": "SESSION", "term": 1}]
    for number in (1, 2, 3, 5):
        term = 1 if number < 5 else 2
        for op, key, value in units[number].records("a"):
            log.append({"op": op, "key": key, "term": term})
            if value is not None:
                log[-1]["value"] = value
        if units[number].batch:
            log.append({"op": "COMMIT", "term": term})
    return log


def number_records(log):
    for i, record in enumerate(log):
        record["seq"] = i + 1
    return log


def judge(t, lie, sent=SENT):
    """Feeds the honest log after lie(log) has changed it, and judges."""
    path = os.path.join(t.dir, "record")
    with open(path, "w", encoding="utf-8") as f:
        f.write(sent)
    oracle = Oracle(3)
    oracle.add("a", path)
    oracle.refresh()
    log = honest_log(oracle)
    log = number_records(lie(log) or log)
    oracle.feed(log)
    oracle.judge()
    return oracle


def change(at, **what):
    return lambda log: log[at].update(what)


def unknown_behind(log):
    """The unknown unit 3 (index 7) twice."""
    return log[:8] + [dict(log[7])] + log[8:]


LIES = {
    "an acknowledged one is missing": (lambda log: log[:-1], "lost 1"),
    "a batch is missing": (lambda log: log[:3] + log[7:], "was told"),
    "two have changed places": (lambda log: log[:7] + [log[8], log[7]], "out of order"),
    "one is there twice": (lambda log: log + [dict(log[2])], "doubled"),
    "an unknown one is there twice": (unknown_behind, "doubled"),
    "a letter has changed": (change(2, value="a 1 0 1 bcf"), "sent"),
    "a key has changed": (change(4, key="a:1"), "sent"),
    "a COMMIT is missing": (lambda log: log[:6] + log[7:], "no COMMIT"),
    "a COMMIT too many": (lambda log: log[:8] + [{"op": "COMMIT", "term": 1}] + log[8:],
                          "behind no batch"),
    "a batch begins late": (lambda log: log[:3] + log[4:], "begins with its record"),
    "a batch ends early": (lambda log: log[:5], "not whole"),
    "a record in between": (lambda log: log[:4] + [{"op": "TERM", "term": 1}] + log[4:], "sent"),
    "another term": (change(8, term=1), "was told"),
    "two terms in a batch": (change(5, term=2), "two terms"),
    "nobody sent it": (lambda log: log + [dict(log[2], value="a 7 0 1 x")], "never sent"),
}

OTHER_ANSWERS = {
    "a refused one is there": (("U 3 22 DEADLINE", "R 3 22 DEADLINE"), "refused"),
    "a session was forgotten": (("DEADLINE_EXCEEDED", "FAILED_PRECONDITION"), "forgotten"),
    "durable on too few": (("1 1,2\n", "1 1\n"), "durable on"),
    "durable on one twice": (("1 1,2\n", "1 1,1\n"), "durable on"),
    "another place was told": (("A 5 24 9 9", "A 5 24 8 8"), "was told"),
    "a second answer": (("E 30 5 0", "A 1 31 3 3 1 1,2\nE 32 5 0"), "second answer"),
    "the load has not ended": (("E 30 5 0\n", ""), "not ended"),
    "one was never answered": (("U 3 22 DEADLINE_EXCEEDED no answer\n", ""), "never answered"),
}


NO_LOSS = ("not ended", "failed before")  # of the test itself, or of who knows what


def must_fail(what, wanted, name):
    try:
        what()
    except Failure as e:
        check(wanted in str(e), f"{name}: found, but as: {e}")
        check(isinstance(e, Loss) == (wanted not in NO_LOSS), f"{name}: the kind {type(e)}: {e}")
        return
    raise Failure(f"not found out: {name}")


def the_oracle_finds_lies(t):
    oracle = judge(t, lambda log: log)
    check(oracle.totals == {"acknowledged": 3, "records": 9, "unknown": 1, "unknown_in_log": 1,
                            "refused": 1, "lost": 0, "doubled": 0}, f"{oracle.totals}")
    without = judge(t, lambda log: log[:7] + log[8:], SENT.replace("A 5 24 9 9", "A 5 24 8 8"))
    check(without.totals["unknown_in_log"] == 0, "the unknown one may be missing")
    for name, (lie, wanted) in LIES.items():
        must_fail(lambda lie=lie: judge(t, lie), wanted, name)
    for name, ((before, after), wanted) in OTHER_ANSWERS.items():
        check(before in SENT, name)
        sent = SENT.replace(before, after)
        must_fail(lambda s=sent: judge(t, lambda log: log, s), wanted, name)

    def after_its_end():
        late = {"op": "PUT", "key": "", "value": "a 3 0 1 xx", "term": 2, "seq": 10}
        judge(t, lambda log: log).feed([late])
    must_fail(after_its_end, "after its load had ended", "an append after its load's end")


# ---- The oracle of the log alone: four singles, a batch, a checkpoint; the power goes at 1 s

CUT = (1000000, 1000100, False)
CALLS = """O 1 1 0 0 0 0
S 1 100 s P1
A 1 110 1 1
S 2 200 b P1,D0
A 2 210 2 4
c 300
C 310 5
S 3 400 s P2
A 3 410 6 6
S 4 999990 s P2
A 4 999995 7 7
S 5 999998 s P2
"""


def dump_of(run, count):
    """What the first calls look like in a dump, as bytes."""
    lines = []
    for call in run.calls[:count]:
        for i, (op, key, held) in enumerate(call.records("w")):
            name = "safe_seq" if op == "CHECKPOINT" else "value"
            text = f'"seq":{call.first + i},"op":"{op}"'
            text += f',"key":"{key}"' if key is not None else ""
            if held is not None:
                text += f',"{name}":{held}' if op == "CHECKPOINT" else f',"{name}":"{held}"'
            lines.append("{" + text + "}")
    return lines


def judge_wal(t, mode, count, calls=CALLS, cut=CUT, lie=lambda lines: lines):
    """The log kept the first `count` calls."""
    path = os.path.join(t.dir, "calls")
    with open(path, "w", encoding="utf-8") as f:
        f.write(calls)
    model = WalModel("w", mode, late_us=100000)
    run = Run(path, model)
    lines = lie(dump_of(run, count))
    last = run.calls[count - 1].last if count else 0
    model.judge(run, cut, ("\n".join(lines) + "\n" if lines else "").encode(),
                {"first_seq": 1, "last_seq": last})
    return model


def the_oracle_of_the_log_alone_finds_lies(t):
    judge_wal(t, "sync", 5)
    judge_wal(t, "sync", 6)  # the call that was not answered may be there
    judge_wal(t, "batch", 4)  # the last single was too recent
    judge_wal(t, "none", 3)
    judge_wal(t, "none", 5, CALLS + "y 999999\n")
    for mode, count, name in (("sync", 4, "a single"), ("batch", 3, "an old single"),
                              ("none", 2, "a checkpoint"), ("none", 1, "a batch")):
        must_fail(lambda m=mode, c=count: judge_wal(t, m, c), "lost", f"{name}, in mode {mode}")
    cases = {
        "a sync was answered": ("none", 4, CALLS + "Y 999999\n", CUT, "lost"),
        "a failure without a cause": ("sync", 6, CALLS + "F 999999 append UNAVAILABLE x\n", CUT,
                                      "failed before"),
        "done after a failure": ("sync", 6, CALLS + "F 999999 append UNAVAILABLE x\nc 1\nC 2 8\n",
                                 CUT, "done after a failure"),
        "another place was told": ("sync", 5, CALLS.replace("A 3 410 6 6", "A 3 410 7 7"), CUT,
                                   "was told"),
        "done without power": ("sync", 5, CALLS, (999000, 999010, True), "power was gone"),
        "opened with less": ("sync", 5, CALLS.replace("O 1 1 0 0 0 0", "O 1 1 3 3 0 0"), CUT,
                             "opened as"),
    }
    for name, (mode, count, calls, cut, wanted) in cases.items():
        must_fail(lambda c=(mode, count, calls, cut): judge_wal(t, *c), wanted, name)
    for name, lie, wanted in (
            ("half a batch", lambda lines: lines[:2], "not whole"),
            ("a record too many", lambda lines: lines + [lines[-1]], "never appended"),
            ("a letter", lambda lines: [x.replace("1 0 1 b", "1 0 1 c") for x in lines], "wanted"),
            ("a hole", lambda lines: lines[1:], "wanted")):
        count = 6 if name == "a record too many" else 2
        must_fail(lambda n=count, x=lie: judge_wal(t, "sync", n, lie=x), wanted, name)


TESTS = {
    "the_oracle_finds_them": the_oracle_finds_lies,
    "the_oracle_of_the_log_alone_finds_them": the_oracle_of_the_log_alone_finds_lies,
}
