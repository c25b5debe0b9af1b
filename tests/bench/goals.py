"""The goals beside throughput: see goals.sh and docs/performance.md."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time

import goal_feed
import goal_load
import goal_log
import options
import report
from cluster import MIB, Cluster
from processes import Failed
from steps import (HostShare, ROOT, build_release, build_with_lines, end_on_signals, install_packages, say,
                   settle)

BEGIN, END = "<!-- goals.sh: begin -->", "<!-- goals.sh: end -->"
ROWS = {"cost": goal_load.cost, "wait": goal_load.wait, "instructions": goal_load.instructions,
        "catch-up": goal_feed.catch_up, "read": goal_feed.read, "length": goal_log.length,
        "open": goal_log.open_log, "failover": goal_load.fail_over, "memory": goal_load.memory,
        "soak": goal_load.soak}
DEFAULT_ROWS = [name for name in ROWS if name != "soak"]
KEPT = ("length", "open")  # rows that share a cluster
SMALLEST_BYTES = 32 << 20
NEEDED_BYTES = 42 << 30
DISK_CHUNK, DISK_TOTAL = 4 << 20, 512 << 20
LEFT_FREE_BYTES = 512 << 20  # of memory that is touched
FAILED = "failed: "  # begins what a row measured that failed


def parse():
    p = argparse.ArgumentParser(
        prog="goals.sh", description="Measures on a cluster of three nodes what compare.sh does "
        f"not. Needs {NEEDED_BYTES >> 30} GiB of free disk.")
    p.add_argument("--only", metavar="ROW,ROW", help="of " + ", ".join(ROWS) + "; the others keep "
                   "what an earlier run left in --out (default: all but soak)")
    p.add_argument("--scale", type=float, default=1, metavar="F",
                   help="sizes and times, for a quick check (default 1)")
    p.add_argument("--soak", type=int, default=3600, metavar="SECONDS",
                   help="how long the row soak loads the cluster (default 3600)")
    p.add_argument("--out", default=os.path.join(ROOT, "build-bench"),
                   help="where goals.json and goals.md go (default: build-bench); with --scale "
                        "they have -scaled in their names")
    options.add_shared(p)
    p.add_argument("--touch", action="store_true", help="before each row, fills the page cache "
                   "once: see docs/performance.md")
    p.add_argument("--write", action="store_true", help="also into docs/performance.md, once "
                   "there are all rows (but soak), from one kind of machine, and none failed")
    o = p.parse_args()
    o.rows = options.chosen(p, o.only, ROWS, DEFAULT_ROWS, "row")
    if o.scale <= 0 or o.soak < 1:
        p.error("--scale and --soak must be positive")
    if o.write and o.scale != 1:
        p.error("--write wants the whole size")
    o.out, o.dir = os.path.abspath(o.out), os.path.abspath(o.dir)
    o.base = os.path.join(o.out, "goals" if o.scale == 1 else "goals-scaled")
    return o


class Row:
    """What one row has found."""

    def __init__(self):
        self.lines, self.figures, self.notes, self.table = [], {}, [], None

    def line(self, what, goal, measured, met):
        self.lines.append({"what": what, "goal": goal, "measured": measured, "met": bool(met)})

    def as_json(self):
        return {"lines": self.lines, "table": self.table, "notes": self.notes,
                "figures": self.figures}


class Run:
    """What the rows get: clusters, and sizes and times as --scale wants them."""

    def __init__(self, o, data_dir):
        self.o, self.data_dir = o, data_dir
        self.scale, self.soak_s = o.scale, o.soak
        self.disk_mib_per_s = disk_mib_per_s(data_dir)
        self.in_memory = report.file_system(data_dir).startswith("tmpfs")
        self.kept = None

    def size(self, gib):
        return max(int(gib * self.scale * (1 << 30)), SMALLEST_BYTES)

    def seconds(self, seconds):
        return max(1, round(seconds * self.scale))

    @contextlib.contextmanager
    def cluster(self, name, *flags):
        c = Cluster(os.path.join(self.data_dir, name), self.o.bin, *flags)
        try:
            yield c
        finally:
            c.stop()

    def kept_cluster(self):
        if not self.kept:
            self.kept = Cluster(os.path.join(self.data_dir, "kept"), self.o.bin)
            self.kept.start()
        return self.kept

    def bin_with_lines(self):
        """Where replogd is that tells callgrind the files of its functions."""
        return self.o.bin if self.o.bin_given else build_with_lines(
            "goals.sh", os.path.join(self.o.out, "with-lines"))

    def drop_kept(self):
        if self.kept:
            self.kept.stop()
        self.kept = None

    def measure(self, name):
        row, started = Row(), time.monotonic()
        busy, host = settle(), HostShare()
        touch = touched_memory(self.data_dir) if self.o.touch else contextlib.nullcontext()
        try:
            with touch:
                ROWS[name](self, row)
        except Failed as e:
            row.lines.append({"what": name, "goal": "", "measured": f"{FAILED}{e}", "met": False})
            self.drop_kept()
        taken = host.since()
        row.figures.update(busy_before=round(busy, 3), taken_by_host=taken,
                           disk_mib_per_s=self.disk_mib_per_s)
        if taken > report.TAKEN:
            row.notes.append("the host of this virtual machine took "
                             f"{taken:.0%} of the processors' time meanwhile")
        if busy > report.BUSY:
            row.notes.append(f"others used {busy:.0%} of the processors before it began")
        if self.o.touch:
            row.notes.append("with all memory touched beforehand (`--touch`)")
        row.figures["took_s"] = round(time.monotonic() - started)
        return row


def disk_mib_per_s(directory):
    """[into a new file, over what is there], by chunks that are synced, as a log catches up."""
    chunk, rates = os.urandom(DISK_CHUNK), []
    fd, path = tempfile.mkstemp(dir=directory)
    try:
        for _ in range(2):
            start = time.monotonic()
            for at in range(0, DISK_TOTAL, DISK_CHUNK):
                os.pwrite(fd, chunk, at)
                os.fdatasync(fd)
            rates.append(DISK_TOTAL / MIB / (time.monotonic() - start))
    finally:
        os.close(fd)
        os.remove(path)
    return rates


@contextlib.contextmanager
def touched_memory(directory):
    """Reads holes of a file until nearly all memory is in use; their pages are the first to give
    way. Takes no disk."""
    with open("/proc/meminfo") as f:
        free_kib = next(int(line.split()[1]) for line in f if line.startswith("MemFree"))
    fd, path = tempfile.mkstemp(dir=directory)
    try:
        size = max(free_kib * 1024 - LEFT_FREE_BYTES, 0)
        os.ftruncate(fd, size)
        at, buffer = 0, bytearray(DISK_CHUNK)
        while at < size:
            at += os.preadv(fd, [buffer], at)
        yield
    finally:
        os.close(fd)
        os.remove(path)


# ---- What comes out

def text(results):
    rows = [(name, results["rows"][name]) for name in ROWS if name in results["rows"]]
    measured = {}  # on each machine
    for name, row in rows:
        measured.setdefault(report.machine_line(row["machine"]), []).append(
            f"{name}: {row['machine']['date']}, {row['version']}")
    parts = [f"{machine} Measured {'; '.join(of)}." for machine, of in measured.items()]
    if results["scale"] != 1:
        parts.append(f"**Sizes and times were scaled by {results['scale']}: a check of the script, "
                     "not figures.**")
    table = [["what", "goal", "measured", "met"]] + [
        [str(line[key]).replace("|", "/") for key in ("what", "goal", "measured")] +
        ["yes" if line["met"] else "**no**"] for _, row in rows for line in row["lines"]]
    parts.append(report.markdown(table))
    for name, row in rows:
        if row["table"]:
            parts.append(f"Row {name}:\n\n" + report.markdown(row["table"]))
    notes = [f"* {name}: {note}" for name, row in rows for note in row["notes"]]
    return "\n\n".join(parts + (["\n".join(notes)] if notes else []))


def earlier(o):
    """{row: what an earlier run found}, if at the same scale. This one's rows take their places one
    by one, so that a run that is interrupted loses nothing."""
    path = o.base + ".json"
    if not os.path.exists(path):
        return {}
    try:
        with open(path) as f:
            results = json.load(f)
        rows = results["rows"]
        text({"scale": results["scale"], "rows": rows})  # has it all that is shown?
        return rows if results["scale"] == o.scale else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        options.refuse("goals.sh", f"{path} cannot be read, or is of an earlier goals.sh, which "
                       "did not keep the machine of each row: move it away, or use --out")


def kind_of(machine):
    return f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"


def refuse_bad_page(rows):
    """rows: as they will be on the page, by where and from what they are."""
    missing = [name for name in DEFAULT_ROWS if name not in rows]
    if missing:
        options.refuse("goals.sh", f"--write wants all rows, and none is held of "
                       f"{', '.join(missing)}: measure them first, with --only "
                       f"{','.join(missing)}, or all at once, without --only")
    unnamed = [f"{name} ({row['version'] or 'no version'})" for name, row in rows.items()
               if not report.names_a_commit(row["version"])]
    if unnamed:
        options.refuse("goals.sh", "--write wants figures of commits, and these rows are of trees "
                       f"with changes: {', '.join(unnamed)}: measure them again, once all is "
                       "committed")
    failed = [name for name, row in rows.items() if has_failed(row)]
    if failed:
        options.refuse("goals.sh", f"--write wants no failed row, and {', '.join(failed)} failed: "
                       f"measure again, with --only {','.join(failed)}")
    kinds = {}
    for name, row in rows.items():
        kinds.setdefault(kind_of(row["machine"]), []).append(name)
    if len(kinds) > 1:
        options.refuse("goals.sh", "--write wants all rows from one kind of machine, and these "
                       "are: " + "; ".join(f"{', '.join(names)}: {kind}"
                                           for kind, names in kinds.items()))


def has_failed(row):
    return any(line["measured"].startswith(FAILED) for line in row.get("lines", ()))


def write_page(results):
    """False, and the page as it was, if a row failed."""
    failed = [name for name, row in results["rows"].items() if has_failed(row)]
    if failed:
        say(f"goals.sh: docs/performance.md stays as it is, because these rows failed: "
            f"{', '.join(failed)}")
        return False
    report.write_between(os.path.join(ROOT, "docs", "performance.md"), BEGIN, END, text(results))
    return True


def write_out(o, results):
    os.makedirs(o.out, exist_ok=True)
    with open(o.base + ".json.new", "w") as f:  # an earlier run's rows stay until these are there
        json.dump(results, f, indent=1)
        f.write("\n")
    os.replace(o.base + ".json.new", o.base + ".json")
    with open(o.base + ".md", "w") as f:
        f.write(text(results) + "\n")


def refuse_bad_disk(o):
    """In memory nothing is durable; there a scaled check may run all the same."""
    options.refuse_bad_places("goals.sh", o, memory_will_do=o.scale != 1)
    free = shutil.disk_usage(o.dir).free
    if free < NEEDED_BYTES * min(o.scale, 1):
        options.refuse("goals.sh", f"{o.dir} has {free >> 30} GiB free, "
                       f"{NEEDED_BYTES >> 30} are needed")


def measure_all(o, results, origin, data_dir):
    """False when a row failed, or a goal was not met."""
    run, met = Run(o, data_dir), True
    names = [name for name in ROWS if name in o.rows]
    try:
        for n, name in enumerate(names):
            row = run.measure(name)
            if not set(KEPT) & set(names[n + 1:]):
                run.drop_kept()
            results["rows"][name] = {**origin, **row.as_json()}
            write_out(o, results)  # row by row: a long run that is ended has what it has found
            for line in row.lines:
                say(f"{name}: {line['what']}: {line['measured']} (goal {line['goal']})")
            met = met and all(line["met"] for line in row.lines)
    finally:
        run.drop_kept()
    return met


def main():
    o = parse()
    end_on_signals()
    refuse_bad_disk(o)
    origin = {"machine": report.machine(o.dir), "version": report.tree_version(ROOT)}
    results = {"scale": o.scale, "rows": earlier(o)}
    if o.write:
        refuse_bad_page({**results["rows"], **{name: origin for name in o.rows}})
    o.bin_given = o.bin is not None
    if not o.bin_given and not o.skip_install:
        install_packages("goals.sh")
    o.bin = os.path.abspath(o.bin or build_release("goals.sh"))
    data_dir = tempfile.mkdtemp(prefix="replog-goals-", dir=o.dir)
    try:
        met = measure_all(o, results, origin, data_dir)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    print(text(results))
    if o.write:
        met = write_page(results) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
