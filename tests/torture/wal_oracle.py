"""What a log without a cluster (replog/wal.h) must hold after a power cut, by the record that
torture-wal wrote of its calls: the log is what was appended, up to some point, and that point is
not before what the sync mode promised."""

from harness import Failure
from oracle import Loss, Unit, parse, sound


class Call:
    """An append or a checkpoint: its place, whether it was answered, whether it is promised."""

    def __init__(self, unit, first, last, began_us):
        self.unit, self.first, self.last = unit, first, last  # unit None: a checkpoint
        self.began_us = began_us
        self.answered_us = None

    @property
    def what(self):
        return f"append {self.unit.number}" if self.unit else "checkpoint"

    @property
    def durable_at_once(self):
        return self.unit is None or self.unit.batch

    def records(self, name):
        if self.unit is None:
            return [("CHECKPOINT", None, self.first - 1)]
        wanted = list(self.unit.records(name))
        return wanted + [("COMMIT", None, None)] if self.unit.batch else wanted


class Run:
    """One life of torture-wal, from opening the log to the cut."""

    def __init__(self, path, model):
        self.calls, self.truncated = [], model.first_seq
        self.asked = self.most_asked = 0  # of truncations
        self.synced = 0     # calls covered by a sync that was answered
        self.synced_us = 0  # when
        self.failed_us, self.failures, self.opened = None, [], False
        self.next_seq = model.last_seq + 1
        with open(path, "rb") as f:
            data = f.read()
        for line in data[:data.rfind(b"\n") + 1].decode().splitlines():
            self.take(line.split(" "), model)

    def take(self, words, model):
        kind, numbers = words[0], words[1:]
        done = kind in "ACY" or (kind == "T" and self.asked > self.truncated)
        if self.failed_us is not None and done:
            raise Loss(f"done after a failure: {' '.join(words)} (failed: {self.failures[:1]})")
        if kind == "O":
            self.opened = True
            model.check_opening(*map(int, numbers[1:5]))
        elif kind == "S":
            unit = Unit(int(numbers[0]), int(numbers[1]), "q", numbers[2] == "b", numbers[3])
            self.place(Call(unit, self.next_seq, self.next_seq + unit.seqs - 1,
                            unit.sent_us))
        elif kind == "c":
            self.place(Call(None, self.next_seq, self.next_seq, int(numbers[0])))
        elif kind == "A":
            self.answer(int(numbers[1]), (int(numbers[2]), int(numbers[3])))
        elif kind == "C":
            self.answer(int(numbers[0]), (int(numbers[1]), int(numbers[1])))
        elif kind == "Y":
            self.synced, self.synced_us = len(self.calls), int(numbers[0])
        elif kind == "t":
            self.asked = int(numbers[1])
            self.most_asked = max(self.most_asked, self.asked)
        elif kind == "T":
            self.truncated = max(self.truncated, int(numbers[1]))
        elif kind == "F":
            self.failed_us = self.failed_us or int(numbers[0])
            self.failures.append(" ".join(words))

    def place(self, call):
        if self.failed_us is None:  # what is tried after a failure has no place
            self.calls.append(call)
            self.next_seq = call.last + 1

    def answer(self, at_us, told):
        call = self.calls[-1]
        call.answered_us = at_us
        sound(told == (call.first, call.last),
              f"{call.what} was told {told}, wanted {(call.first, call.last)}")


class WalModel:
    def __init__(self, name, mode, late_us=1000000):
        self.name, self.mode = name, mode
        self.late_us = late_us  # mode "batch": its sync begins so long after the call returned
        self.sync_began_us = float("inf")  # of a sync that was under way at the cut
        self.first_seq, self.last_seq, self.checkpoint_seq = 1, 0, 0
        self.survivors = []
        self.totals = dict.fromkeys(("acknowledged", "promised", "records_read", "lost_as_allowed",
                                     "under_way_at_the_cut", "truncations"), 0)
        self.oldest_loss_us = 0

    def check_opening(self, first, last, durable, checkpoint):
        """What the handle says right after the opening that follows a cut."""
        sound((first, last) == (self.first_seq, self.last_seq),
              f"opened as {first}..{last}, the files had {self.first_seq}..{self.last_seq}")
        sound(durable == last, f"opened, and durable only up to {durable} of {last}")
        wanted = self.checkpoint_seq
        sound(checkpoint == wanted or first > last,
              f"opened with checkpoint {checkpoint}, the last one was {wanted}")

    def check_failures(self, run, cut):
        """Nothing may fail but what was cut off from its disk and lived on."""
        cut_us, _, soft = cut
        if run.failed_us is not None and not (soft and run.failed_us >= cut_us):
            text = f"failed before the cut: {run.failures[:2]}"
            raise (Loss if "DATA_LOSS" in text else Failure)(text)

    def promised(self, run, cut_us, soft):
        """How many of the run's calls must have survived. After a soft cut (the process lived on)
        an fdatasync that was under way may have lied: what was answered later is not counted."""
        end_us = cut_us if soft else float("inf")
        least = run.synced if run.synced_us < end_us else 0
        for i, call in enumerate(run.calls):
            if call.answered_us is None or call.answered_us >= end_us:
                continue
            old = call.answered_us < min(cut_us, self.sync_began_us) - self.late_us
            if self.mode == "sync" or call.durable_at_once or (self.mode == "batch" and old):
                least = max(least, i + 1)
        return least

    def compare(self, calls, records):
        """Walks the dump beside the calls; returns how many of them it holds, whole."""
        at = 0
        for n, call in enumerate(calls):
            if at == len(records):
                return n
            wanted = call.records(self.name)
            got = records[at:at + len(wanted)]
            sound(len(got) == len(wanted), f"{call.what} at {call.first}: not whole")
            for i, (record, (op, key, value)) in enumerate(zip(got, wanted)):
                seq = call.first + i
                held = record.get("safe_seq") if op == "CHECKPOINT" else record.get("value")
                if (record["seq"], record["op"], record.get("key"), held) != (seq, op, key, value):
                    raise Loss(f"{call.what}: at {seq} {op} {key} {str(value)[:80]} wanted, "
                               f"got {str(record)[:200]}")
            at += len(wanted)
        sound(at == len(records), f"never appended: {str(records[at:at + 1])[:200]}")
        return len(calls)

    def judge(self, run, cut, raw, verdict):
        """The dump of the remounted directory after one run. `cut`: when it began and was over, and
        whether the process lived on."""
        cut_us, over_us, soft = cut
        self.check_failures(run, cut)
        late = [c.what for c in run.calls if c.answered_us and c.began_us > over_us]
        sound(not late, f"began after the power was gone, and was done: {late[:3]}")
        records, first = parse(raw), verdict["first_seq"]
        sound(self.first_seq <= first <= max(run.most_asked + 1, self.first_seq),
              f"begins at {first}: was {self.first_seq}, truncation asked up to {run.most_asked}")
        sound(first >= run.truncated, f"begins at {first}: truncated to {run.truncated} before")
        calls = [c for c in self.survivors + run.calls if c.last >= first]
        sound(not calls or first == calls[0].first or not records,
              f"begins at {first}, inside {calls[0].what} at {calls[0].first}" if calls else "")
        dropped = len(self.survivors) + len(run.calls) - len(calls)
        held = self.compare(calls, records)
        least = len(self.survivors) + self.promised(run, cut_us, soft) - dropped
        if held < least:
            gone = calls[held]
            raise Loss(f"lost: {gone.what} at {gone.first}, answered at {gone.answered_us} us; "
                       f"the cut was at {cut_us}, promised up to {calls[least - 1].what} at "
                       f"{calls[least - 1].last}; the log ends at {verdict['last_seq']}")
        self.count(run, calls[held:], cut, len(records))
        self.survivors = calls[:held]
        self.first_seq, self.last_seq = first, verdict["last_seq"]
        checkpoints = [c.first for c in self.survivors if c.unit is None]
        gone = {c.first for c in calls[held:]}
        self.checkpoint_seq = max([self.checkpoint_seq] + checkpoints + [
            c.first for c in run.calls if c.unit is None and c.first not in gone
            and c.last < first])

    def count(self, run, lost, cut, records):
        cut_us, _, soft = cut
        totals = self.totals
        totals["acknowledged"] += sum(c.answered_us is not None for c in run.calls)
        totals["promised"] += self.promised(run, cut_us, soft)
        totals["records_read"] += records
        totals["truncations"] += run.truncated > self.first_seq
        for call in lost:
            if call.answered_us is None:
                continue
            during = soft and call.answered_us >= cut_us
            key = "under_way_at_the_cut" if during else "lost_as_allowed"
            totals[key] += 1
            self.oldest_loss_us = max(self.oldest_loss_us, cut_us - call.answered_us)

    def summary(self):
        text = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in self.totals.items())
        if self.mode != "sync":
            text += f", the oldest of the lost {self.oldest_loss_us / 1000:.0f} ms"
        return text
