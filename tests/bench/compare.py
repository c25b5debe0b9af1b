"""The comparison itself: see compare.sh and docs/performance.md."""

import argparse
import json
import os
import shutil
import sys
import tempfile

import options
import picture
import report
from processes import Failed, Group
from steps import (HERE, ROOT, HostShare, build_release, end_on_signals, install_packages, say,
                   settle, step)
from systems import FLOOR_LOADS, RECORD_BYTES, SYSTEMS, WARMUP_S, Replog

LIMIT_S = 2  # for each raw limit
ROUNDS, SECONDS = 3, 5  # at least, for the page


def parse():
    p = argparse.ArgumentParser(
        prog="compare.sh", description="Compares replog with five other systems on this machine.")
    names = [s.name for s in SYSTEMS]
    p.add_argument("--rounds", type=int, default=ROUNDS,
                   help=f"how often each system runs (default {ROUNDS})")
    p.add_argument("--seconds", type=int, default=SECONDS,
                   help=f"how long each load counts (default {SECONDS})")
    p.add_argument("--only", metavar="NAME,NAME", help="of " + ", ".join(names))
    p.add_argument("--out", help="where results.json, table.md and performance.svg go (default: "
                   "the folder of --build; there a run with --only, or with fewer rounds or "
                   "seconds than by default, has names with -partial in them)")
    p.add_argument("--build", default=os.path.join(ROOT, "build-bench"),
                   help="where the load generators are built (default: build-bench)")
    options.add_shared(p)
    p.add_argument("--write", action="store_true", help="also into docs/performance.md and "
                   "docs/performance.svg, if nothing failed")
    o = p.parse_args()
    o.systems = options.chosen(p, o.only, names, names, "system")
    if o.rounds < 1 or o.seconds < 1:
        p.error("--rounds and --seconds must be at least 1")
    partial = set(o.systems) != set(names) or o.rounds < ROUNDS or o.seconds < SECONDS
    if o.write and partial:
        p.error(f"--write wants all systems, {ROUNDS} rounds and {SECONDS} seconds at least")
    o.suffix = "-partial" if partial and not o.out else ""  # a whole run's files stay
    o.out = os.path.abspath(o.out or o.build)
    o.build, o.dir = os.path.abspath(o.build), os.path.abspath(o.dir)
    return o


# ---- What it needs

def prepare(o):
    """{system: why it cannot run}."""
    os.makedirs(o.build, exist_ok=True)
    os.makedirs(o.out, exist_ok=True)
    peers = [n for n in o.systems if n != Replog.name]
    for name in os.listdir(o.build):
        if name.endswith(".why"):
            os.remove(os.path.join(o.build, name))
    if not o.skip_install:
        install_packages("compare.sh")
        step(["bash", os.path.join(HERE, "peers", "install.sh"), o.build, "picture"] + peers)
    if step(["bash", os.path.join(HERE, "peers", "build.sh"), o.build] + peers):
        sys.exit("compare.sh: the programs for the raw limits do not build")
    if not o.bin:
        o.bin = build_release("compare.sh")
    o.bin = os.path.abspath(o.bin)
    reasons = {}
    for name in peers:
        path = os.path.join(o.build, name + ".why")
        if os.path.exists(path):
            with open(path) as f:
                reasons[name] = f.read().strip()[:300]
    return reasons


# ---- The rounds

class Comparison:
    def __init__(self, o, reasons, data_dir):
        self.o, self.reasons, self.data_dir = o, reasons, data_dir
        self.results = {
            "machine": report.machine(data_dir),
            "versions": report.versions(o.systems, ROOT),
            "options": {"rounds": o.rounds, "seconds": o.seconds, "warmup_s": WARMUP_S,
                        "record_bytes": RECORD_BYTES, "systems": o.systems},
            "rounds_done": 0, "runs": [], "limits": [], "failures": [], "busy_before": [],
        }

    def run(self):
        try:
            self.run_rounds()
        except SystemExit:  # a signal; what whole rounds have given is told
            if self.results["rounds_done"]:
                print(report.text(report.whole_rounds(self.results)))
            raise

    def run_rounds(self):
        for name, reason in self.reasons.items():
            self.failed(0, name, None, reason)
        for number in range(1, self.o.rounds + 1):
            self.measure_limits(number)
            for kind in SYSTEMS:
                if kind.name in self.o.systems and kind.name not in self.reasons:
                    self.run_system(number, kind)
            self.results["rounds_done"] = number
            write_results(self.o, self.results)

    def failed(self, number, system, load, reason):
        say(f"round {number} {system}{' ' + load if load else ''}: FAILED: {reason}")
        self.results["failures"].append(
            {"round": number, "system": system, "load": load, "reason": reason})

    def run_system(self, number, kind):
        settle()
        system = kind(os.path.join(self.data_dir, f"{number}-{kind.name}"), self.o.build,
                      self.o.bin, self.o.seconds)
        try:
            system.start()
            system.warm()
            for load in kind.loads:
                if not self.run_load(number, system, load) and not system.group.lives():
                    break
        except Failed as e:
            self.failed(number, kind.name, None, str(e))
        finally:
            system.stop()

    def run_load(self, number, system, load):
        """Whether it gave figures."""
        host = HostShare()
        try:
            figures = system.run(load)
        except Failed as e:
            self.failed(number, system.name, load.title, str(e))
            return False
        self.results["runs"].append(
            {"round": number, "system": system.name, "load": load.name, **figures,
             "taken_by_host": host.since()})
        say(f"round {number} {system.name} {load.title}: {report.figure(figures)}")
        return True

    def measure_limits(self, number):
        self.results["busy_before"].append(round(settle(), 3))
        o, directory = self.o, os.path.join(self.data_dir, f"{number}-limits")
        tool, s, w = os.path.join(o.build, "limits"), str(LIMIT_S), str(WARMUP_S)
        commands = {
            "disk_1k": [tool, "disk", directory, "1024", "1", s, w],
            "disk_1k_three": [tool, "disk", directory, "1024", "3", s, w],
            "disk_64k": [tool, "disk", directory, "65536", "1", s, w],
            "loopback": [tool, "loopback", s],
            "hash": [tool, "hash", s],
        }
        for load in FLOOR_LOADS:
            commands[f"floor_{load.name}"] = [
                os.path.join(o.build, "floor"), directory, str(load.inflight), str(load.batch),
                str(RECORD_BYTES), s, w]
        if Replog.name in o.systems:
            commands["store"] = [os.path.join(o.build, "store"), directory, str(RECORD_BYTES),
                                 str(o.seconds), w]
        os.makedirs(directory)
        group = Group(directory)
        try:
            for name, command in commands.items():
                host = HostShare()
                figures = json.loads(group.output(name, command, o.seconds + 60))
                self.results["limits"].append({"round": number, "limit": name, **figures,
                                               "taken_by_host": host.since()})
                say(f"round {number} limit {name}: {figures}")
        except Failed as e:
            self.failed(number, "limits", None, str(e))
        finally:
            group.stop()
            shutil.rmtree(directory, ignore_errors=True)


def out_path(o, name, extension):
    return os.path.join(o.out, f"{name}{o.suffix}.{extension}")


def write_results(o, results):
    """Round by round; only with the last one do they take the place of an earlier run's."""
    path, unfinished = (out_path(o, name, "json") for name in ("results", "results-unfinished"))
    with open(unfinished, "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    if results["rounds_done"] == o.rounds:
        os.replace(unfinished, path)


def write_out(o, results):
    text = report.text(results)
    with open(out_path(o, "table", "md"), "w") as f:
        f.write(text + "\n")
    print(text)
    drawn = out_path(o, "performance", "svg")
    try:
        picture.draw(results, drawn)
    except Failed as e:
        sys.exit(f"compare.sh: no picture: {e}")
    thin = report.thin_cells(results)
    if o.write and thin:
        say(f"compare.sh: docs/performance.md stays as it was: {', '.join(thin)} gave figures in "
            "less than two rounds")
    elif o.write:
        report.write_page(os.path.join(ROOT, "docs", "performance.md"), results, "performance.svg")
        shutil.copyfile(drawn, os.path.join(ROOT, "docs", "performance.svg"))


def main():
    o = parse()
    os.environ["PATH"] += ":/usr/sbin"  # nats-server's place, which not every user has
    end_on_signals()
    options.refuse_bad_places("compare.sh", o)
    version = report.tree_version(ROOT)
    if o.write and not report.names_a_commit(version):
        options.refuse("compare.sh", "--write wants figures of a commit, and this tree has "
                       f"changes: {version or 'no version'}")
    reasons = prepare(o)
    if o.write and reasons:
        options.refuse("compare.sh", "--write wants all systems, and these cannot run: " +
                       "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    data_dir = tempfile.mkdtemp(prefix="replog-compare-", dir=o.dir)
    try:
        comparison = Comparison(o, reasons, data_dir)
        comparison.run()
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    write_out(o, comparison.results)
    return 1 if comparison.results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
