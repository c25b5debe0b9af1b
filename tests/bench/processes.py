"""Processes of the comparison: each leads a session and process group of its own, has a limit on
its time, and is ended by its id, with all that it started."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import time

STOP_S = 15  # from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """A system could not be installed, started or loaded; the text says why."""


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def last_word(path):
    """Of a log, the last line that tells of an error, or else the last that says something."""
    try:
        with open(path, errors="replace") as f:
            said = [line.strip() for line in f if line.strip()]
    except OSError:
        return ""
    bad = [line for line in said if re.search(r"error|fatal|panic|cannot|invalid", line, re.I)]
    return (bad or said or [""])[-1][:300]


def group_lives(pgid):
    try:
        os.killpg(pgid, 0)
        return True
    except ProcessLookupError:
        return False


class Group:
    """What one system runs. Its processes write to DIR/NAME.out and DIR/NAME.err."""

    def __init__(self, directory):
        self.directory = directory
        self.processes = []  # (name, Popen)

    def start(self, name, command):
        base = os.path.join(self.directory, name)
        try:
            with open(base + ".out", "wb") as out, open(base + ".err", "wb") as err:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out,
                                           stderr=err, cwd=self.directory, start_new_session=True,
                                           preexec_fn=die_with_parent)
        except OSError as e:
            raise Failed(f"does not start: {command[0]}: {e.strerror}") from None
        self.processes.append((name, process))
        return process

    def said(self, name):
        base = os.path.join(self.directory, name)
        return last_word(base + ".err") or last_word(base + ".out")

    def check(self, may_end=False):
        """Fails when a server has ended by itself (may_end: badly)."""
        for name, process in self.processes:
            status = process.poll()
            if status is not None and (status or not may_end):
                raise Failed(f"{name} ended with status {process.returncode}: {self.said(name)}")

    def lives(self):
        return all(process.poll() is None for _, process in self.processes)

    def wait_for(self, what, ready, seconds, may_end=False):
        """Asks until ready() gives something, which is returned."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check(may_end)
            answer = ready()
            if answer:
                return answer
            time.sleep(0.1)
        raise Failed(f"{what}: not within {seconds} s")

    def output(self, name, command, seconds):
        """Runs a program to its end; what it wrote to stdout. A server that ends fails it."""
        process = self.start(name, command)
        try:
            self.wait_for(f"an end of {name}", lambda: process.poll() == 0, seconds, may_end=True)
        finally:
            self.stop(process)
        self.check()
        with open(os.path.join(self.directory, name + ".out")) as f:
            return f.read()

    def stop(self, *some):
        """Ends these processes, or all; waits until nothing of their groups is left."""
        ending = [p for _, p in self.processes if not some or p in some]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in ending:
                if group_lives(process.pid):
                    os.killpg(process.pid, number)
            until = time.monotonic() + STOP_S
            while time.monotonic() < until:
                for process in ending:
                    process.poll()  # buries it
                if not any(group_lives(p.pid) for p in ending):
                    break
                time.sleep(0.05)
            else:
                continue
            break
        self.processes = [(n, p) for n, p in self.processes if p not in ending]


def is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def free_ports(offsets):
    """A base such that base + each offset is free; below the range that the kernel hands out."""
    for _ in range(200):
        base = random.randrange(20000, 31000)
        if all(is_free(base + offset) for offset in offsets):
            return base
    raise Failed("no free ports")
