"""What the scripts of this folder share beside processes.py: building, signals, a quiet start."""

import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def say(line):
    print(line, file=sys.stderr, flush=True)


def step(command):
    """Runs a part of the preparation; its output goes to ours, in its own process group."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr,
                               start_new_session=True)
    try:
        return process.wait(timeout=1800)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def install_packages(who):
    """What building replog needs."""
    if step(["bash", "deploy/packages.sh"]):
        sys.exit(f"{who}: what replog needs could not be installed")


def build_release(who):
    """Where the programs of the release preset are, once they are built."""
    jobs = str(len(os.sched_getaffinity(0)))
    if (step(["cmake", "--preset", "release"])
            or step(["cmake", "--build", "--preset", "release", "-j", jobs])):
        sys.exit(f"{who}: replog does not build")
    return os.path.join(ROOT, "build", "bin")


def build_with_lines(who, directory):
    """The same programs with the lines of their sources, in a directory of their own."""
    jobs = str(len(os.sched_getaffinity(0)))
    if (step(["cmake", "-S", ROOT, "-B", directory, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
              "-DCMAKE_C_FLAGS=-g"])
            or step(["cmake", "--build", directory, "-j", jobs, "--target", "replogd"])):
        sys.exit(f"{who}: replog does not build")
    return os.path.join(directory, "bin")


def ticks_since_start():
    with open("/proc/stat") as f:
        return [int(n) for n in f.readline().split()[1:9]]


def processor_ticks():
    """(all, idle, idle while somebody waits for the disk) of all processors since the start of the
    machine."""
    ticks = ticks_since_start()
    return sum(ticks), ticks[3], ticks[4]


class HostShare:
    """The share of the processors' time that a virtual machine's host gave to others."""

    def __init__(self):
        self.before = ticks_since_start()

    def since(self):
        passed = [now - then for now, then in zip(ticks_since_start(), self.before)]
        return round(passed[7] / max(sum(passed), 1), 3)


def settle():
    """Nobody pays for what the one before left to be written, or for the end of its files.
    Returns the share of the processors that others used meanwhile."""
    os.sync()
    before = processor_ticks()
    time.sleep(1)
    all_ticks, idle, waiting = (now - then for now, then in zip(processor_ticks(), before))
    return 1 - (idle + waiting) / max(all_ticks, 1)


def on_signal(number, frame):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough: the end is under way
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def end_on_signals():
    """SIGINT and SIGTERM end the script by way of its `finally`s, which end what it started."""
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
