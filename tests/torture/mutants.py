"""Builds with a deliberate bug (src/base/mutant.h), which the torture must find: what it proves is
worth as much as what it would have found. Needs a build with -DREPLOG_MUTANT=0, where the
environment chooses the bug; skipped with any other. Runs only when named: run.py 'mutants.*'.

The simulator finds all of them, and in less time (tests/sim); here are those that a real disk or a
real kill brings to light.
"""

import re
import time

import harness
from common import Failure, check, is_loss, needs, timed
from kill_loop import kill_loop
from networks import partitions
from power_cut import one_node, three_nodes, wal_alone

PATIENCE_S = 90  # for each

# Which torture looks for it. Only a broken promise counts as found, or a node that ends because it
# finds its own files damaged. A load or a cluster that takes too long proves nothing: see STUCK.
MUTANTS = {
    "PERSISTED_BEFORE_SYNC": (one_node, dict(fs="ext4", sync="sync")),
    "APPLY_UNDURABLE": (three_nodes, dict(fs="ext4")),
    "ROLL_WITHOUT_SYNC": (wal_alone, dict(fs="ext4", mode="batch")),
    "SEGMENT_NAME_NOT_SYNCED": (wal_alone, dict(fs="ext4", mode="sync")),
    "MARK_AHEAD": (wal_alone, dict(fs="ext4", mode="batch")),
    "COUNT_UNDURABLE_LEADER": (three_nodes, dict(fs="ext4", one_disk=True)),
    "COUNT_UNDURABLE_FOLLOWER": (three_nodes, dict(fs="ext4", one_disk=True)),
    "QUORUM_ACK_ON_ONE_DISK": (kill_loop, {}),
    "SESSIONS_LOST_AT_RESTART": (kill_loop, {}),
    "FORGET_UNAPPLIED_APPENDS": (kill_loop, {}),
    "PENDING_SURVIVES_OFFICE": (partitions, {}),
    "PROBE_STAYS": (kill_loop, {}),
    "COMMITTED_AT_RESTART": (kill_loop, {}),
}

# These break no promise but that it goes on: what the failure says then.
STUCK = {
    "PROBE_STAYS": "all members alike|more appends acknowledged",
    "PENDING_SURVIVES_OFFICE": "more appends acknowledged",  # clients wait for it, and it for nobody
}


def mutant(t, name, torture, how):
    with open(t.replogd, "rb") as f:
        needs(name.encode() in f.read(), f"no mutants in {t.replogd}")
    begin = time.monotonic()
    harness.PATIENCE = 1  # where it is stuck, nobody need wait longer (this process is its own)
    t.seconds = PATIENCE_S
    try:
        torture(t, env={"REPLOG_MUTANT": name}, **how)
    except Failure as e:
        stuck = name in STUCK and re.search(STUCK[name], str(e))
        check(stuck or is_loss(e, t.nodes), f"it failed, but not for its fault: {e}")
        t.tallies.clear()  # these losses were wanted
        print(f"found after {time.monotonic() - begin:.0f} s: {str(e)[:250]}")
        return
    check(False, f"{name} was not found within {PATIENCE_S} s")


TESTS = {name: timed(mutant, name=name, torture=torture, how=how, short_s=PATIENCE_S, share=0,
                     long_only=True) for name, (torture, how) in MUTANTS.items()}
