#!/usr/bin/env python3
"""Runs the cluster tests: real processes, each test with its own directory, ports and time limit.

usage: tests/cluster/run.py [--bin DIR] [-j N] [--smoke] [--list] [--keep] [PATTERN...]
Prints "ok NAME", "FAILED NAME" (with the ends of its logs) or "skipped NAME: why" for each test.
"""

import argparse
import concurrent.futures
import fnmatch
import importlib
import inspect
import os
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

import harness  # noqa: E402

SMOKE = ["basic.three_nodes_hold_the_same_log", "failover.a_killed_follower_catches_up",
         "failover.appends_survive_killed_leaders_exactly_once", "grpc.health_*",
         "truncate.checkpoint_then_truncate"]


def discover():
    tests = {}
    for file in sorted(os.listdir(HERE)):
        if file.startswith("test_") and file.endswith(".py"):
            module = importlib.import_module(file[:-3])
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if name.startswith("test_") and function.__module__ == module.__name__:
                    tests[f"{file[5:-3]}.{name[5:]}"] = function
    return tests


def run_one(name, bin_dir, directory):
    """In a process of its own: status 0 passed, 1 failed, 77 skipped (why on stdout)."""
    harness.die_with_parent()
    function = discover()[name]
    test = harness.Test(bin_dir, directory)
    status = 0
    try:
        function(test)
    except harness.Skip as e:
        print(e)
        return 77
    except harness.Failure as e:
        frames = [f for f in traceback.extract_tb(e.__traceback__) if "test_" in f.filename]
        where = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
        print(f"{e}{where}")
        status = 1
    except Exception:
        traceback.print_exc(file=sys.stdout)
        status = 1
    try:
        test.finish()
    except harness.Failure as e:
        print(e)
        status = 1
    return status


def tails(directory, lines=12):
    for file in sorted(os.listdir(directory)):
        path = os.path.join(directory, file)
        if file.endswith((".log", ".err")) and os.path.getsize(path):
            with open(path, "rb") as f:
                f.seek(max(0, os.path.getsize(path) - 6000))
                end = f.read().decode(errors="replace").splitlines()[-lines:]
            print(f"  -- {file}")
            for line in end:
                print("  " + line[:400])


def run_in_process(name, args, base, timeout):
    """Starts this program again for one test; ends the whole process group when it takes too long."""
    directory = os.path.join(base, name)
    os.mkdir(directory)
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, os.path.abspath(__file__), "--one", name, "--bin", args.bin,
         "--dir", directory],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        out += f"no end after {timeout:.0f} s".encode()
        status = 1
    return name, status, out.decode(errors="replace").strip(), time.monotonic() - begin, directory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"),
                        help="where replogd and replog are (build/bin)")
    parser.add_argument("-j", type=int, default=2, help="tests at a time")
    parser.add_argument("--smoke", action="store_true", help="a few tests only, for slow builds")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--keep", action="store_true", help="keep the directories of passed tests too")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for one test")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--dir", help="where tests keep their data (a new directory)")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="as in basic.* or *leader*")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    if args.one:
        return run_one(args.one, args.bin, args.dir)

    patterns = args.patterns + (SMOKE if args.smoke else [])
    names = [n for n in discover()
             if not patterns or any(fnmatch.fnmatch(n, p) for p in patterns)]
    if args.list:
        print("\n".join(names))
        return 0
    for program in ("replogd", "replog"):
        if not os.access(os.path.join(args.bin, program), os.X_OK):
            print(f"run.py: no {program} in {args.bin}: build first", file=sys.stderr)
            return 2

    base = args.dir or tempfile.mkdtemp(prefix="replog-cluster-", dir="/var/tmp")
    os.makedirs(base, exist_ok=True)
    counts = {0: 0, 1: 0, 77: 0}
    with concurrent.futures.ThreadPoolExecutor(args.j) as pool:
        runs = [pool.submit(run_in_process, n, args, base, args.timeout * harness.SLOW)
                for n in names]
        for run in concurrent.futures.as_completed(runs):
            name, status, text, seconds, directory = run.result()
            status = status if status in counts else 1
            counts[status] += 1
            if status == 0:
                print(f"ok cluster {name} ({seconds:.1f} s)")
                for line in text.splitlines():  # what it measured
                    print("    " + line[:200])
            elif status == 77:
                print(f"skipped cluster {name}: {text}")
            else:
                print(f"FAILED cluster {name} ({seconds:.1f} s)")
                print("  " + "\n  ".join(text.splitlines()[-30:]))
                tails(directory)
                print(f"  -- everything is in {directory}")
            sys.stdout.flush()
            if status != 1 and not args.keep:
                shutil.rmtree(directory, ignore_errors=True)
    if not counts[1] and not args.keep:
        shutil.rmtree(base, ignore_errors=True)
    print(f"cluster: {counts[0]} passed, {counts[1]} failed, {counts[77]} skipped")
    return 1 if counts[1] else 0


if __name__ == "__main__":
    sys.exit(main())
