#!/usr/bin/env python3
"""Runs the torture tests: power cuts, kills, faults of kernel and network, failing memory.

usage: tests/torture/run.py [--bin DIR] [--minutes M] [-j N] [--seed S] [--full] [PATTERN...]
Prints "ok NAME", "FAILED NAME" (with the ends of its logs) or "skipped NAME: why" for each test,
and what it counted; "skipped NAME, a part of it: what: why" beside an "ok" that left something out.
Without --minutes every test is short (continuous integration); with it those that can run for long
share so many minutes, and each allocation fails in rpc. --full: the others leave nothing out, too.
"""

import argparse
import concurrent.futures
import fnmatch
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)

import common  # noqa: E402
from common import PART, SLOW, Failure, Loss, Skip, Torture, harness  # noqa: E402

TALLY = "tally.json"  # in a test's directory: what it counted
BROKEN = "other broken promises"  # see Loss in oracle.py; what is lost or doubled counts there


def discover():
    tests = {}
    for file in sorted(os.listdir(HERE)):
        if file.endswith(".py") and file != "run.py":
            module = importlib.import_module(file[:-3])
            for name, function in getattr(module, "TESTS", {}).items():
                tests[f"{file[:-3]}.{name}"] = function
    return tests


def seconds_for(function, unit_s):
    """How long a test of a length at will runs: short, or its share; others: None."""
    if not hasattr(function, "SHORT_S"):
        return None
    return function.SHARE * unit_s if unit_s else function.SHORT_S * min(SLOW, 2)


def run_one(name, args):
    """In a process of its own: status 0 passed, 1 failed, 77 skipped (why on stdout)."""
    harness.die_with_parent()

    def too_late(*_):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))  # the kernel ends children and mounts
        raise Failure("it was told to end: it took too long")

    signal.signal(signal.SIGTERM, too_late)
    test = Torture(args.bin, args.dir, args.seed, args.seconds)
    status, broken = 0, False
    try:
        discover()[name](test)
    except Skip as e:
        print(e)
        status = 77
    except Failure as e:
        frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename.startswith(HERE)]
        trail = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(frames))
        print(f"{e} ({trail})")
        status, broken = 1, isinstance(e, Loss)
    except Exception:
        traceback.print_exc(file=sys.stdout)
        status = 1
    if status == 1:
        test.keep_evidence()
    counts = test.tally()
    broken = broken and not counts.get("lost") and not counts.get("doubled")
    with open(os.path.join(args.dir, TALLY), "w", encoding="utf-8") as f:
        json.dump({**counts, BROKEN: int(broken)}, f)
    try:
        test.finish()
    except Failure as e:
        print(e)
        status = 1
    return status


class Tallies:
    """What the tests counted, by kind (the module) and in all."""

    FIRST = ("acknowledged", "kills", "cuts", "members cut", "partitions", "lost", "doubled", BROKEN)

    def __init__(self):
        self.tests, self.sums = {}, {}

    def add(self, name, directory):
        path = os.path.join(directory, TALLY)
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8") as f:
            counts = json.load(f)
        kind = name.split(".")[0]
        self.tests[kind] = self.tests.get(kind, 0) + 1
        sums = self.sums.setdefault(kind, {})
        for what, n in counts.items():
            sums[what] = sums.get(what, 0) + n

    def line(self, sums):
        rest = sorted(what for what, n in sums.items() if n and what not in self.FIRST)
        return ", ".join(f"{what.replace('_', ' ')} {sums.get(what, 0)}"
                         for what in [*self.FIRST, *rest])

    def lines(self):
        counted = {k: s for k, s in sorted(self.sums.items()) if s.get("acknowledged")}
        every = {}
        for sums in self.sums.values():
            for what, n in sums.items():
                every[what] = every.get(what, 0) + n
        for kind, sums in counted.items():
            yield f"torture: {kind} ({self.tests[kind]} tests): {self.line(sums)}"
        yield f"torture: in all: {self.line(every)}"


def tails(directory, lines=12):
    for file in sorted(os.listdir(directory)):
        path = os.path.join(directory, file)
        if file.endswith((".log", ".err")) and os.path.getsize(path):
            with open(path, "rb") as f:
                f.seek(max(0, os.path.getsize(path) - 6000))
                end = f.read().decode(errors="replace").splitlines()[-lines:]
            print(f"  -- {file}")
            for line in end:
                print("  " + line[:300])


class Runner:
    def __init__(self, args, base):
        self.args, self.base, self.processes = args, base, set()
        self.counts, self.tallies = {0: 0, 1: 0, 77: 0}, Tallies()

    def in_process(self, name, seconds):
        """Starts this program again for one test; ends its whole group when it takes too long."""
        directory = os.path.join(self.base, name)
        os.mkdir(directory)
        argv = [sys.executable, os.path.abspath(__file__), "--one", name, "--bin", self.args.bin,
                "--dir", directory, "--seed", str(self.args.seed)]
        limit = self.args.timeout * SLOW
        if seconds is not None:
            argv += ["--seconds", str(seconds)]
            limit += 2 * seconds
        begin = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        self.processes.add(process)
        try:
            out, _ = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            out = self.stop_late(process)
            out += f"no end after {limit:.0f} s".encode()
            status = 1
        self.processes.discard(process)
        text = out.decode(errors="replace").strip()
        return name, status, text, time.monotonic() - begin, directory

    @staticmethod
    def stop_late(process):
        """It shall say where it hangs and keep what there is to look at, within a minute."""
        process.send_signal(signal.SIGTERM)
        try:
            return process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()[0]

    def end(self):
        for process in self.processes:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)

    def tell(self, name, status, text, seconds, directory):
        status = status if status in self.counts else 1
        self.counts[status] += 1
        if status == 77:
            print(f"skipped torture {name}: {text}")
        elif status == 0:
            print(f"ok torture {name} ({seconds:.1f} s)")
            lines = text.splitlines()
            for part in (line[len(PART):] for line in lines if line.startswith(PART)):
                self.counts[77] += 1
                print(f"skipped torture {name}, a part of it: {part}")
            for line in lines:  # what it counted
                if not line.startswith(PART):
                    print("    " + line[:300])
        else:
            print(f"FAILED torture {name} ({seconds:.1f} s)")
            print("  " + "\n  ".join(text.splitlines()[-30:]))
            tails(directory)
            print(f"  -- everything is in {directory}; again: --seed {self.args.seed}")
        sys.stdout.flush()
        self.tallies.add(name, directory)
        if status != 1 and not self.args.keep:
            shutil.rmtree(directory, ignore_errors=True)

    def run(self, tests, unit_s):
        with concurrent.futures.ThreadPoolExecutor(self.args.j) as pool:
            runs = [pool.submit(self.in_process, name, seconds_for(function, unit_s))
                    for name, function in tests.items()]
            for run in concurrent.futures.as_completed(runs):
                self.tell(*run.result())


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"),
                        help="where replogd and replog are (build/bin); beside it: tests")
    parser.add_argument("-j", type=int, default=2, help="tests at a time")
    parser.add_argument("--minutes", type=float, default=0, help="for the tests of any length")
    parser.add_argument("--seed", type=int, default=None, help="of all that is drawn")
    parser.add_argument("--full", action="store_true", help="no samples where all can be tried")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--keep", action="store_true", help="keep directories of passed tests too")
    parser.add_argument("--timeout", type=float,
                        help="seconds for one test (400; 1800 with --full), beside its own time")
    parser.add_argument("--dir", help="where tests keep their data (a new directory)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="as in power_cut.*")
    args = parser.parse_args(argv)
    args.bin = os.path.abspath(args.bin)
    args.timeout = args.timeout or (1800 if args.full else 400)
    if args.seed is None:
        args.seed = random.SystemRandom().getrandbits(31)
    return args


def chosen(args):
    tests = {n: f for n, f in discover().items()
             if not args.patterns or any(fnmatch.fnmatch(n, p) for p in args.patterns)}
    if not args.patterns and not args.list:
        long = bool(args.minutes)
        tests = {n: f for n, f in tests.items() if not n.startswith("mutants.")
                 and (long or not getattr(f, "LONG_ONLY", False))}
    return tests


def main(argv=None):
    args = arguments(argv)
    if args.one:
        return run_one(args.one, args)
    tests = chosen(args)
    if args.list:
        print("\n".join(tests))
        return 0
    for program in ("replogd", "replog"):
        if not os.access(os.path.join(args.bin, program), os.X_OK):
            print(f"run.py: no {program} in {args.bin}: build first", file=sys.stderr)
            return 2
    os.environ["REPLOG_TORTURE_SEED"] = str(args.seed)
    if args.full:
        os.environ["REPLOG_TORTURE_FULL"] = "1"
    if args.minutes:
        os.environ["REPLOG_TORTURE_LONG"] = "1"
    shares = sum(getattr(f, "SHARE", 0) for f in tests.values())
    unit_s = args.j * args.minutes * 60 / shares if shares else 0

    base = args.dir or tempfile.mkdtemp(prefix="replog-torture-", dir="/var/tmp")
    os.makedirs(base, exist_ok=True)
    runner = Runner(args, base)

    def stop(number, _):
        runner.end()
        if not args.keep:
            shutil.rmtree(base, ignore_errors=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"torture: --seed {args.seed}", flush=True)
    runner.run(tests, unit_s)
    counts = runner.counts
    if not counts[1] and not args.keep:
        shutil.rmtree(base, ignore_errors=True)
    for line in runner.tallies.lines():
        print(line)
    print(f"torture: {counts[0]} passed, {counts[1]} failed, {counts[77]} skipped")
    return 1 if counts[1] else 0


if __name__ == "__main__":
    sys.exit(main())
