"""A full disk: appends are refused, reads go on, and appends resume when there is space."""

import contextlib
import ctypes
import os
import time

from harness import check, equal, needs, wait

MIB = 1 << 20
SETTLED_S = 1.5


def small_disk(path, size_mib):
    """A tmpfs that only this process and its children see; the kernel removes it with them."""
    needs(os.geteuid() == 0, "mounting a small file system needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec_private = 0x00020000, 0x4000 | (1 << 18)
    needs(libc.unshare(clone_newns) == 0, "no mount namespaces here")
    needs(libc.mount(b"none", b"/", None, ms_rec_private, None) == 0, "no private mounts here")
    os.makedirs(path, exist_ok=True)
    options = f"size={size_mib}m".encode()
    needs(libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, options) == 0, "tmpfs cannot be mounted")


def free_mib(path):
    s = os.statvfs(path)
    return s.f_bavail * s.f_frsize // MIB


def fill(path, leave_mib):
    ballast = os.path.join(path, "ballast")
    with open(ballast, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while free_mib(path) > leave_mib:  # the node takes space for itself at the same time
            f.write(b"\0" * MIB)
    return ballast


def fill_to_the_last_byte(path):
    """Fills it, and again: a node gives back the spare segment that it could not finish."""
    ballast = fill(path, 0)
    full_since = time.monotonic()
    while time.monotonic() - full_since < SETTLED_S:
        with open(ballast, "ab", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"\0" * 4096)
                full_since = time.monotonic()
        time.sleep(0.02)
    return ballast


def fill_until_refused(t, c, node, disk):
    """Takes the disk's space away and appends until RESOURCE_EXHAUSTED, for some time: see above.
    Gives what was acknowledged."""
    value = "x" * 50000
    ballast = fill(disk, 24)
    acked = 0
    refused_since = None
    for i in range(3000):
        result = c.cli("append", f"full{i}", value, at=node, call_ms=1500)
        if result.rc == 0:
            acked += 1
            refused_since = None
            continue
        result.fails("RESOURCE_EXHAUSTED")
        refused_since = refused_since or time.monotonic()
        if time.monotonic() - refused_since > SETTLED_S:
            return ballast, acked
    check(False, f"{acked} appends on a full disk: {free_mib(disk)} MiB free")


def resume(c):
    wait(lambda: c.cli("append", "again", "works", call_ms=3000).rc == 0, 20, "appends resume")


def test_a_store_on_a_full_disk_waits(t):
    """Something else takes the last byte: a flush of the store fails, and must not stop the node."""
    disk = os.path.join(t.dir, "disk")
    small_disk(disk, 600)
    c = t.cluster(1, start=False)
    c[1].dir = os.path.join(disk, "n1")
    c.start()
    c.ready()
    c.append_lines([f"key{i}\t{'v' * 2000}" for i in range(3000)], batch=100)
    ballast = fill_to_the_last_byte(disk)
    result = c.cli("checkpoint", call_ms=7000)
    check(result.rc == 1, f"a checkpoint cannot succeed here: {result}")
    check(c[1].alive(), "the node ended: " + c[1].log()[-300:])
    equal(c.cli("get", "key7").ok().json[0]["value"], "v" * 2000, "reads go on")
    os.unlink(ballast)
    wait(lambda: c.cli("checkpoint", call_ms=10000).rc == 0, 40, "a checkpoint after there is space")
    c.append("after", "x")


def test_a_full_disk_refuses_appends_and_recovers(t):
    disk = os.path.join(t.dir, "disk")
    small_disk(disk, 1024)
    c = t.cluster(1, start=False)
    c[1].dir = os.path.join(disk, "n1")
    c.start()
    c.ready()
    first = c.append_lines([f"k{i}\tv{i}" for i in range(100)])[0]["first_seq"]
    ballast, acked = fill_until_refused(t, c, c[1], disk)
    equal(c.cli("get", "k7").ok().json[0]["value"], "v7", "get goes on")
    equal(len(c.lines(first)), 100 + acked, "reads go on; nothing acknowledged is lost")
    check(c[1].alive(), "the node runs")
    c.cli("append", "k", "v", call_ms=1500).fails("RESOURCE_EXHAUSTED")
    os.unlink(ballast)
    resume(c)
    check(c.lines(first)[-1].startswith("again\t"), "the log goes on")
    before = c.lines(first)
    c[1].kill()
    c[1].start()
    c.leader()
    equal(c.lines(first), before, "after a kill")


def test_a_full_node_can_still_free_itself(t):
    disk = os.path.join(t.dir, "disk")
    small_disk(disk, 1024)
    c = t.cluster(1, start=False)
    c[1].dir = os.path.join(disk, "n1")
    c.start()
    c.ready()
    value = "x" * 60000
    for _ in range(4):
        c.append_lines([f"k{i % 10}\t{value}" for i in range(1000)], batch=40)
    ballast, _ = fill_until_refused(t, c, c[1], disk)
    got = c.cli("checkpoint", call_ms=60000, timeout=70).ok().json[0]
    c.cli("truncate", "--upto", str(got["safe_seq"]), call_ms=60000, timeout=70).ok()
    wait(lambda: c.status()["first_seq"] > 4000, 20, "truncated on a full disk")
    os.unlink(ballast)
    resume(c)


def test_a_cluster_goes_on_when_a_follower_is_full(t):
    disk = os.path.join(t.dir, "disk")
    small_disk(disk, 768)
    c = t.cluster(3, start=False)
    c[3].dir = os.path.join(disk, "n3")
    c.start()
    leader = c.ready()
    if leader is c[3]:
        c[3].stop()
        c.leader()
        c[3].start()
        c.wait_equal()
    ballast = fill(disk, 8)
    value = "x" * 50000
    acks = c.append_lines([f"k{i % 10}\t{value}" for i in range(4000)], batch=40, timeout=80)
    equal(len(acks), 100, "two of three are enough")
    wait(lambda: "the disk is full" in c[3].log(), 10, "the full one says so")
    os.unlink(ballast)
    time.sleep(0.1)
    check(c[3].alive(), f"the full one runs: {c[3].log()[-500:]}")
    c.wait_equal(40)
