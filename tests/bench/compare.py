"""The comparison itself: see compare.sh and docs/performance.md."""

import argparse
import json
import os
import shutil
import sys
import tempfile

import picture
import report
from processes import Failed, Group
from steps import HERE, ROOT, build_release, end_on_signals, say, settle, step
from systems import FLOOR_LOADS, RECORD_BYTES, SYSTEMS, WARMUP_S, Replog

LIMIT_S = 2  # for each raw limit


def options():
    p = argparse.ArgumentParser(
        prog="compare.sh", description="Compares replog with five other systems on this machine.")
    names = [s.name for s in SYSTEMS]
    p.add_argument("--rounds", type=int, default=3, help="how often each system runs (default 3)")
    p.add_argument("--seconds", type=int, default=5, help="how long each load counts (default 5)")
    p.add_argument("--only", metavar="NAME,NAME", help="of " + ", ".join(names))
    p.add_argument("--dir", default=os.environ.get("TMPDIR") or "/tmp",
                   help="where the data goes, in a new folder that is removed at the end "
                        "(default: TMPDIR or /tmp)")
    p.add_argument("--out", help="where results.json, table.md and performance.svg go "
                                 "(default: build-bench)")
    p.add_argument("--build", default=os.path.join(ROOT, "build-bench"),
                   help="where the load generators are built (default: build-bench)")
    p.add_argument("--bin", help="a built replog (default: builds the release preset)")
    p.add_argument("--skip-install", action="store_true", help="take the machine as it is")
    p.add_argument("--write", action="store_true",
                   help="also into docs/performance.md and docs/performance.svg")
    o = p.parse_args()
    o.systems = o.only.split(",") if o.only else names
    unknown = [n for n in o.systems if n not in names]
    if unknown:
        p.error(f"no system is named {unknown[0]}")
    if o.rounds < 1 or o.seconds < 1:
        p.error("--rounds and --seconds must be at least 1")
    if o.write and o.only:
        p.error("--write wants all systems")
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
        if step(["bash", "deploy/packages.sh"]):
            sys.exit("compare.sh: what replog needs could not be installed")
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
            "runs": [], "limits": [], "failures": [], "busy_before": [],
        }

    def run(self):
        for number in range(1, self.o.rounds + 1):
            self.measure_limits(number)
            for kind in SYSTEMS:
                if kind.name in self.o.systems and kind.name not in self.reasons:
                    self.run_system(number, kind)
        for name, reason in self.reasons.items():
            self.failed(0, name, None, reason)

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
        try:
            figures = system.run(load)
        except Failed as e:
            self.failed(number, system.name, load.title, str(e))
            return False
        self.results["runs"].append(
            {"round": number, "system": system.name, "load": load.name, **figures})
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
                figures = json.loads(group.output(name, command, o.seconds + 60))
                self.results["limits"].append({"round": number, "limit": name, **figures})
                say(f"round {number} limit {name}: {figures}")
        except Failed as e:
            self.failed(number, "limits", None, str(e))
        finally:
            group.stop()
            shutil.rmtree(directory, ignore_errors=True)


def write_out(o, results):
    with open(os.path.join(o.out, "results.json"), "w") as f:
        json.dump(results, f, indent=1)
        f.write("\n")
    text = report.text(results)
    with open(os.path.join(o.out, "table.md"), "w") as f:
        f.write(text + "\n")
    print(text)
    drawn = os.path.join(o.out, "performance.svg")
    try:
        picture.draw(results, drawn)
    except Failed as e:
        sys.exit(f"compare.sh: no picture: {e}")
    if o.write:
        report.write_page(os.path.join(ROOT, "docs", "performance.md"), results, "performance.svg")
        shutil.copyfile(drawn, os.path.join(ROOT, "docs", "performance.svg"))


def main():
    o = options()
    os.environ["PATH"] += ":/usr/sbin"  # nats-server's place, which not every user has
    end_on_signals()
    if report.file_system(o.dir).startswith("tmpfs"):
        sys.exit(f"compare.sh: {o.dir} is in memory, where nothing is durable: use --dir")
    reasons = prepare(o)
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
