"""The oracle: what loads sent and were told, and whether a log agrees with it to the last record.

A load (load.c) writes down, outside the nodes' file systems, each append and each answer. From that
follows every byte that may stand in the log:
  acknowledged  there exactly once, at the seq that was told
  unknown       there once or not at all
  refused       not there
  batches whole, under one COMMIT; a session's QUORUM appends in their order; nothing else
"""

import json
import os
import string
from collections import namedtuple

from harness import Failure, check


class Loss(Failure):
    """A promise is broken: what was acknowledged is gone, doubled, changed or another cluster's; a
    log, a store or what is said of them is unsound. No busy machine and no fault of a test's own
    brings it about: a torture of something broken is right only when it ends with one of these."""


def sound(condition, text):
    if not condition:
        raise Loss(text)


Told = namedtuple("Told", "first last term ids at_us")  # an acknowledgement
Placed = namedtuple("Placed", "load number first last term")  # a unit as it stands in the log

KEYS = 997  # as in torture.c
LETTERS = string.ascii_lowercase * 2600


def filler(number, i, count):
    start = (number + i) % 26
    return LETTERS[start:start + count]


class Unit:
    """What one call appended. `state`: S sent, A acknowledged, R refused, U unknown."""

    __slots__ = ("number", "sent_us", "ack", "batch", "shape", "state", "told", "text")

    def __init__(self, number, sent_us, ack, batch, shape):
        self.number, self.sent_us, self.ack, self.batch = number, sent_us, ack, batch
        self.shape, self.state, self.told, self.text = shape, "S", None, ""

    def records(self, name):
        """Its records as (op, key, value), as load.c makes them from the same words."""
        kinds = self.shape.split(",")
        for i, kind in enumerate(kinds):
            who = f"{name} {self.number} {i} {len(kinds)}"
            if kind[0] == "D":
                yield "DELETE", who, None
                continue
            key = f"{name}:{(self.number * 31 + i) % KEYS}" if kind[0] == "K" else ""
            yield "PUT", key, f"{who} {filler(self.number, i, int(kind[1:]))}"

    @property
    def seqs(self):
        """How many places it takes in the log."""
        return self.shape.count(",") + 1 + self.batch


class Told_by:
    """The record of one load, read as it grows."""

    def __init__(self, name, path):
        self.name, self.path, self.offset = name, path, 0
        self.units, self.ended = {}, False

    def refresh(self):
        if not os.path.exists(self.path):
            return self
        with open(self.path, "rb") as f:
            f.seek(self.offset)
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]
        self.offset += len(data)
        for line in data.decode().splitlines():
            self.take(line)
        return self

    def take(self, line):
        words = line.split(" ", 5)
        if words[0] == "E":
            self.ended = True
            return
        number, at_us = int(words[1]), int(words[2])
        if words[0] == "S":
            check(number not in self.units, f"{self.name}: sent {number} twice")
            self.units[number] = Unit(number, at_us, words[3], words[4] == "b", words[5])
            return
        unit = self.units[number]
        sound(unit.state == "S", f"{self.name} {number}: a second answer: {line}")
        unit.state = words[0]
        if words[0] == "A":
            term, ids = words[5].split(" ")
            ids = [] if ids == "-" else [int(i) for i in ids.split(",")]
            unit.told = Told(int(words[3]), int(words[4]), int(term), ids, at_us)
        else:
            unit.text = " ".join(words[3:])

    def acknowledged(self):
        return [u for u in self.units.values() if u.state == "A"]


def parse(raw):
    """The lines of `replog --json read --markers` or `wal dump`."""
    return [json.loads(line) for line in raw.decode().splitlines()]


class Oracle:
    """Judges one log against all loads. `members`: of the cluster."""

    def __init__(self, members, strangers=(("", "ready"),), durable_on=True, sessions_stay=True):
        self.members, self.strangers, self.durable_on = members, set(strangers), durable_on
        self.sessions_stay = sessions_stay  # a cluster that loses nothing forgets no session
        self.loads, self.retired = {}, set()
        self.placed = {}    # (load, number) -> Placed
        self.in_order = {}  # load -> the last number of its QUORUM appends
        self.latest = {}    # key -> its last value in the log
        self.terms = set()  # of TERM records
        self.next_seq = 1   # the log below was judged
        self.totals = dict.fromkeys(("acknowledged", "records", "unknown", "unknown_in_log",
                                     "refused", "lost", "doubled"), 0)

    def add(self, name, path):
        check(name not in self.loads and name not in self.retired, f"two loads named {name}")
        self.loads[name] = Told_by(name, path)

    def refresh(self):
        for load in self.loads.values():
            load.refresh()

    # -- the form of a log

    def sent_by(self, record):
        """Which load's append a record says it is of, as (load, number, i, count) or None."""
        words = (record["key"] if record["op"] == "DELETE" else record.get("value", "")).split(" ")
        if len(words) < 4 or not all(w.isdigit() for w in words[1:4]):
            return None
        name = words[0]
        sound(name not in self.retired,
              f"seq {record['seq']}: appended after its load had ended: {words[:4]}")
        if name not in self.loads or int(words[1]) not in self.loads[name].units:
            return None
        return self.loads[name], int(words[1]), int(words[2]), int(words[3])

    def one_unit(self, records, at):
        """The unit that begins at records[at], compared to the byte: (Placed, how many)."""
        record = records[at]
        seq = record["seq"]
        found = self.sent_by(record)
        if not found:
            stranger = (record["key"], record.get("value"))
            sound(stranger in self.strangers, f"seq {seq}: never sent: {str(record)[:200]}")
            return None, 1
        load, number, i, _ = found
        unit = load.units[number]
        sound(i == 0, f"seq {seq}: {load.name} {number} begins with its record {i}")
        wanted = list(unit.records(load.name))
        whole = records[at:at + unit.seqs]
        sound(len(whole) == unit.seqs, f"seq {seq}: {load.name} {number} is not whole at the end")
        for i, (record, (op, key, value)) in enumerate(zip(whole, wanted)):
            got = record["op"], record.get("key"), record.get("value")
            if got != (op, key, value):
                raise Loss(f"seq {seq + i}: {load.name} {number}, record {i}: got "
                           f"{str(got)[:150]}, sent {str((op, key, value))[:150]}")
        if unit.batch:
            sound(whole[-1]["op"] == "COMMIT", f"seq {seq}: {load.name} {number} has no COMMIT")
        sound(len({r["term"] for r in whole}) == 1, f"seq {seq}: {load.name} {number}: two terms")
        return Placed(load.name, number, seq, whole[-1]["seq"], whole[-1]["term"]), unit.seqs

    def walk(self, records, first):
        """The units of a log from seq `first`, which begins a unit. Form and bytes are checked."""
        at = 0
        for i, record in enumerate(records):
            sound(record["seq"] == first + i, f"seq {first + i} wanted, got {record['seq']}")
        while at < len(records):
            op = records[at]["op"]
            if op in ("PUT", "DELETE"):
                placed, n = self.one_unit(records, at)
                if placed:
                    yield placed
                at += n
                continue
            sound(op in ("TERM", "CONFIG", "SESSION", "CHECKPOINT"),
                  f"seq {records[at]['seq']}: {op} behind no batch")
            at += 1

    # -- what was committed

    def feed(self, records):
        """Takes the committed log from `next_seq` on, once."""
        self.refresh()
        for p in self.walk(records, self.next_seq):
            key = (p.load, p.number)
            unit = self.loads[p.load].units[p.number]
            if key in self.placed:
                self.totals["doubled"] += 1
                raise Loss(f"doubled: {key} at {self.placed[key].first} and at {p.first}")
            sound(unit.state != "R", f"{key} was refused ({unit.text}), and is at seq {p.first}")
            if unit.ack == "q":
                before = self.in_order.get(p.load, 0)
                sound(p.number > before, f"out of order: {key} at {p.first} behind {before}")
                self.in_order[p.load] = p.number
            self.placed[key] = p
        for record in records:
            if record["op"] == "PUT" and record["key"]:
                self.latest[record["key"]] = record["value"]
            elif record["op"] == "TERM":
                self.terms.add(record["term"])
        self.totals["records"] += len(records)
        self.next_seq += len(records)

    def differs(self, unit, placed, name):
        """How a place differs from what was told, or None."""
        told = unit.told
        if (told.first, told.last, told.term) == (placed.first, placed.last, placed.term):
            return None
        return (f"{name} {unit.number} was told {told.first}..{told.last} of term {told.term}, "
                f"is at {placed.first}..{placed.last} of term {placed.term}")

    def check_answer(self, name, unit):
        """An answer by itself: its extent, and whom it says it is durable on."""
        told = unit.told
        sound(told.last - told.first + 1 == unit.seqs, f"{name} {unit.number}: told {told}")
        if not self.durable_on:
            return
        least = {"q": self.members // 2 + 1, "a": self.members, "l": 1}[unit.ack]
        sound(len(told.ids) == len(set(told.ids)) >= least,
              f"{name} {unit.number} ({unit.ack}): durable on {told.ids}")

    def lost(self, may_lose=lambda unit: False):
        """Acknowledged units that the log as fed does not hold."""
        gone = []
        for name, load in self.loads.items():
            for unit in load.acknowledged():
                self.check_answer(name, unit)
                placed = self.placed.get((name, unit.number))
                if placed:
                    wrong = self.differs(unit, placed, name)
                    sound(not wrong, wrong)
                elif not may_lose(unit):
                    gone.append((name, unit.number, unit.ack, unit.told))
        return gone

    def judge(self, may_lose=lambda unit: False):
        """After the loads have ended and the whole log was fed: agreement, or Failure. The loads
        are counted and retired: a record of theirs that comes later is a failure, too."""
        self.refresh()
        for name, load in self.loads.items():
            check(load.ended, f"the load {name} has not ended well")
            open_ones = [u.number for u in load.units.values() if u.state == "S"]
            sound(not open_ones, f"{name}: never answered: {open_ones[:10]}")
            forgot = [u for u in load.units.values()
                      if u.state == "U" and u.ack == "q" and u.text.startswith("FAILED_PRECOND")]
            sound(not forgot or not self.sessions_stay,
                  f"{name}: its session was forgotten: {[(u.number, u.text) for u in forgot[:2]]}")
        gone = self.lost(may_lose)
        if gone:
            self.totals["lost"] += len(gone)
            raise Loss(f"lost {len(gone)} acknowledged, the first: {gone[0]}")
        for name, load in self.loads.items():
            for unit in load.units.values():
                self.totals["acknowledged"] += unit.state == "A"
                self.totals["refused"] += unit.state == "R"
                if unit.state == "U":
                    self.totals["unknown"] += 1
                    self.totals["unknown_in_log"] += (name, unit.number) in self.placed
        self.retired.update(self.loads)
        self.loads.clear()
        self.placed.clear()
        self.in_order.clear()

    # -- one member's log, what is not committed included

    def missing(self, records, first):
        """Units acknowledged until now whose place a dump from `first` does not hold. Everything
        else of the dump's form is checked."""
        self.refresh()
        places, seen = {}, {}
        for p in self.walk(records, first):
            sound((p.load, p.number) not in seen,
                  f"doubled in a dump: {p.load} {p.number} at {seen.get((p.load, p.number))}"
                  f" and {p.first}")
            seen[p.load, p.number] = p.first
            places[p.load, p.number] = p
        gone = {}
        for name, load in self.loads.items():
            for unit in load.acknowledged():
                placed = places.get((name, unit.number))
                if unit.told.last < first:
                    continue
                if not placed or self.differs(unit, placed, name):
                    gone[name, unit.number] = unit
        return gone

    def summary(self):
        return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self.totals.items())
