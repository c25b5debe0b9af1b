#!/usr/bin/env python3
"""Shows that the simulator can fail: every deliberate bug of src/base/mutant.h must be found by
replog-sim within the number of seeds that mutants.txt states, and the seed that found it must pass
without the bug. Builds a replog-sim with the switches first, unless --bin names one.

Prints "ok mutant NAME ... by [RULE]" or "FAILED mutant NAME: why" for each, a table at the end, and
how many were found by no rule of the simulator's but by a crash: a CHECK of the program's own, the
alarm of a seed that takes too long, or another end of the process.

usage: tests/sim/mutants.py [--build DIR | --bin FILE] [--jobs N] [--within N] [--update]
                             [--shrink] [NAME...]
--within N: only those whose stated number of seeds is at most N (a shorter run)
--shrink: beside that, replog-sim --shrink must find a smaller run for the seed of each, and the
command that it prints must break the same promise
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIST = HERE / "mutants.txt"
SEED_SECONDS = 60  # real time for one seed: far more than any takes
SHRINK_SECONDS = 300
SLACK = 4  # --update states so many times the seeds that were needed
LEAST = 40  # and not less than this: a new draw, or a default, makes other runs of the same seeds
CRASHES = CHECKED, ENDED, ALARM = "[crash: CHECK]", "[crash: other end]", "[crash: alarm]"


def build(directory, jobs):
    if not (directory / "build.ninja").exists():
        subprocess.run(
            ["cmake", "-S", ROOT, "-B", directory, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
             "-DREPLOG_MUTANT=0"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", directory, "-j", str(jobs), "--target", "replog-sim"],
                   check=True, stdout=subprocess.DEVNULL)
    found = sorted(directory.glob("**/replog-sim"))
    if not found:
        sys.exit(f"mutants.py: no replog-sim in {directory}")
    return found[0]


def read_limits():
    limits = {}
    for line in LIST.read_text().splitlines():
        words = line.split("#")[0].split()
        if words:
            limits[words[0]] = int(words[1])
    return limits


def limit_of(seeds):
    return max(LEAST, SLACK * seeds)


def write_limits(needed):
    """Replaces the numbers in the list, and nothing else of it."""
    lines, known = [], set()
    for line in LIST.read_text().splitlines():
        words = line.split("#")[0].split()
        if words and words[0] in needed:
            line = re.sub(r"^(\S+\s+)\d+", rf"\g<1>{limit_of(needed[words[0]])}", line)
        known.update(words[:1])
        lines.append(line)
    lines += [f"{name:28} {limit_of(n)}" for name, n in needed.items() if name not in known]
    LIST.write_text("\n".join(lines) + "\n")


def manner(what, out):
    """How a seed failed: (the rule in its brackets or the kind of crash, the sentence)."""
    ended = re.search(r"the process ended with (signal|status) (\d+)", what)
    if not ended:
        rule = re.match(r"\[[^]]+\]", what)
        return (rule.group() if rule else "[no name]"), what
    check = re.search(r"^.*broken invariant.*$", out, re.M)  # a CHECK says so on stderr
    if check:
        return CHECKED, check.group().split("/")[-1]
    alarm = ended.group(1) == "signal" and int(ended.group(2)) == signal.SIGALRM
    return (ALARM if alarm else ENDED), what


class Simulator:
    def __init__(self, program):
        self.program = str(program)
        self.sound = {}  # seed -> it passes without a bug
        self.lock = threading.Lock()

    def run(self, *options, seconds):
        return subprocess.run([self.program, *options], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace",
                              timeout=seconds)

    def names(self):
        out = self.run("--list-mutants", seconds=10).stdout
        return [line.split()[0] for line in out.splitlines() if line.strip()]

    def is_sound(self, seed):
        with self.lock:
            known = self.sound.get(seed)
        if known is None:
            known = self.run("--seed", str(seed), seconds=SEED_SECONDS).returncode == 0
            with self.lock:
                self.sound[seed] = known
        return known

    def hunt(self, mutant, limit):
        """(seeds that were needed or None, by which rule or crash, the sentence or why it does not
        count)"""
        try:
            out = self.run("--seeds", f"1..{limit}", "--max-failures", "1", "--mutant", mutant,
                           seconds=limit * SEED_SECONDS).stdout
        except subprocess.TimeoutExpired:
            return None, "", f"{limit} seeds take more than {limit * SEED_SECONDS} s"
        failure = re.search(r"^FAILED seed (\d+) ?(?:at [\d.]+ s)?: (.*)", out, re.M)
        if not failure:
            return None, "", f"not found by {limit} seeds" if " seeds passed" in out else out[-300:]
        seed = int(failure.group(1))
        if not self.is_sound(seed):
            return None, "", f"seed {seed} fails without the bug as well"
        return seed, *manner(failure.group(2), out)

    def shrink(self, mutant, seed, rule):
        """The smaller run in a sentence; raises ValueError when it is none."""
        out = self.run("--seed", str(seed), "--mutant", mutant, "--shrink",
                       seconds=SHRINK_SECONDS).stdout
        figures = re.search(r"^(\d+) of (\d+) faults in (\d+) of (\d+) ms are left", out, re.M)
        command = re.search(r"^\S.* (--seed \d.*) --trace$", out, re.M)
        if not figures or not command:
            raise ValueError("--shrink says " + out[-300:])
        faults, all_faults, ms, all_ms = map(int, figures.groups())
        if faults >= all_faults or ms >= all_ms:
            raise ValueError("--shrink made nothing smaller: " + figures.group(0))
        again = self.run(*shlex.split(command.group(1)), seconds=SEED_SECONDS).stdout
        failure = re.search(r"^FAILED seed \d+ at [\d.]+ s: (.*)", again, re.M)
        if not failure or manner(failure.group(1), again)[0] != rule:
            raise ValueError(f"{command.group(1)} does not fail by {rule}: {again[-300:]}")
        return figures.group(0)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-mutants")
    parser.add_argument("--bin")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=int, help="in place of those in mutants.txt")
    parser.add_argument("--update", action="store_true", help="write new limits to mutants.txt")
    parser.add_argument("--within", type=int)
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    os.environ.pop("REPLOG_MUTANT", None)

    simulator = Simulator(args.bin or build(args.build, args.jobs))
    limits = read_limits()
    names = simulator.names()
    failed = 0
    for name in sorted(set(names) ^ set(limits)):
        if args.update:
            continue
        where = "mutants.txt" if name in names else "src/base/mutant.h"
        print(f"FAILED mutant {name}: it is not in {where}", flush=True)
        failed += 1
    if args.within:
        names = [name for name in names if limits.get(name, 1) <= args.within]
    if args.names:
        names = [name for name in names if name in args.names]

    rows, needed = [], {}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = {name: pool.submit(simulator.hunt, name, args.limit or limits.get(name, 1))
                for name in names}
        for name, run in runs.items():
            seeds, rule, what = run.result()
            rows.append((name, seeds, rule, what))
            if seeds is None:
                failed += 1
                print(f"FAILED mutant {name}: {what}", flush=True)
            else:
                needed[name] = seeds
                print(f"ok mutant {name} ({seeds} of {args.limit or limits.get(name)} seeds) by {rule}",
                      flush=True)
            if seeds is None or not args.shrink:
                continue
            try:
                print(f"ok shrink {name}: {simulator.shrink(name, seeds, rule)}", flush=True)
            except (ValueError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAILED shrink {name}: {error}", flush=True)

    print(f"\n{'deliberate bug':28} {'seeds':>5}  found by")
    for name, seeds, rule, what in rows:
        text = what if what.startswith(rule) else f"{rule} {what}"
        print(f"{name:28} {seeds or '-':>5}  {text[:100]}")
    if args.update:
        write_limits(needed)
    crashes = [rule for _, _, rule, _ in rows if rule in CRASHES]
    kinds = ", ".join(f"{crashes.count(kind)} {kind}" for kind in CRASHES)
    print(f"\n{len(needed)} of {len(names)} found, {len(needed) - len(crashes)} by a rule, "
          f"{len(crashes)} by a crash ({kinds})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
