"""Real file systems that a test mounts, cuts off like a power failure, and mounts again.

Everything lives in a mount namespace of the test's own process, the images on a tmpfs in it: when
the process ends, however it ends, the kernel unmounts them and frees the loop devices.

What this machine cannot do at all shows with the first disk of its kind, and skips the test. Once
there was one, what cannot be done is a failure.
"""

import ctypes
import errno
import fcntl
import functools
import os
import select
import shutil
import signal
import struct
import subprocess
import time

from harness import check, needs

FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, uint32_t), of ext4, xfs and others
NO_LOG_FLUSH = 2              # what was not synced is gone
PAGE = 4096
IMAGES_MIB = 4096             # bound of the tmpfs; the images are sparse

_libc = ctypes.CDLL(None, use_errno=True)
_made = set()  # kinds of file systems that this process has had


def can(kind, done, why):
    (check if kind in _made else needs)(done, why)


@functools.cache
def private_mounts():
    """From here on, mounts are seen by this process and its children only."""
    needs(os.geteuid() == 0, "mounting file systems needs root")
    clone_newns, ms_rec_private = 0x00020000, 0x4000 | (1 << 18)
    needs(_libc.unshare(clone_newns) == 0, "no mount namespaces here")
    needs(_libc.mount(b"none", b"/", None, ms_rec_private, None) == 0, "no private mounts here")


def mount_memory(path, size_mib):
    """A tmpfs, seen as private_mounts says."""
    private_mounts()
    status = _libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={size_mib}m".encode())
    can("tmpfs", status == 0, f"no tmpfs here: {os.strerror(ctypes.get_errno())}")
    _made.add("tmpfs")


def now_us():
    return time.monotonic_ns() // 1000


def command(*argv):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).strip()


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Disk:
    """One file system on a loop device, mounted at `path`."""

    def __init__(self, t, name, fs="ext4", size_mib=512):
        self.name, self.fs = name, fs
        mkfs = find(f"mkfs.{fs}")
        can(fs, mkfs, f"no mkfs.{fs} here")
        images = os.path.join(t.dir, "images")
        if not os.path.isdir(images):
            os.mkdir(images)
            mount_memory(images, IMAGES_MIB)
        self.image = os.path.join(images, name)
        self.path = os.path.join(t.dir, f"disk-{name}")
        os.mkdir(self.path)
        with open(self.image, "wb") as f:
            f.truncate(size_mib << 20)
        status, text = command(mkfs, "-q", self.image)
        can(fs, status == 0, f"mkfs.{fs}: {text[-200:]}")
        self.mounted = False
        self.mount()
        if fs not in _made:
            self.cut()
            self.remount()
            _made.add(fs)
        t.disks.append(self)

    def mount(self):
        status, text = command("mount", "-t", self.fs, "-o", "loop,noatime", self.image, self.path)
        can(self.fs, status == 0, f"no loop mount of {self.fs} here, {self.name}: {text[-300:]}")
        self.mounted = True

    def unmount(self):
        """What uses it must have ended; a killed process's files are let go a little later."""
        deadline = time.monotonic() + 20
        while _libc.umount2(self.path.encode(), 0) != 0:
            number = ctypes.get_errno()
            check(number == errno.EBUSY and time.monotonic() < deadline,
                  f"umount {self.path}: {os.strerror(number)}")
            time.sleep(0.005)
        self.mounted = False

    def cut(self, *processes, before=lambda: None):
        """The power fails, for these processes (Popen) too: they end first, in the middle of what
        they do. Otherwise an fdatasync that is under way may return 0 for bytes that are lost (with
        ext4 and with xfs when they are shut down under it), which no power cut lets anybody see.
        Returns when it began and when it was over, in microseconds of CLOCK_MONOTONIC."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            began = now_us()
            for process in processes:
                if process.returncode is None:
                    os.kill(process.pid, signal.SIGKILL)
            before()
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            return began, now_us()
        except OSError as e:
            can(self.fs, e.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM),
                f"{self.fs} cannot be shut down here: {e}")
            raise
        finally:
            os.close(fd)

    def remount(self):
        """Also without a cut: what the page cache held then comes from the device again."""
        self.unmount()
        self.mount()

    def check(self):
        """The file system's own opinion, at the end: that no cut of ours broke what it promises."""
        self.unmount()
        program = find({"ext4": "e2fsck", "xfs": "xfs_repair"}[self.fs])
        if program:
            force = ["-f"] if self.fs == "ext4" else []
            status, text = command(program, "-n", *force, self.image)
            check(status == 0, f"{self.fs} itself is damaged: {text[-400:]}")


def write_some(rng, directory):
    """Some pages of the last segments reach the disk before the power fails, in any order, and
    perhaps a commit of the file system's journal: nobody asked for it, and nobody may count on it.
    (Without this all of what was not synced is lost, or nothing.)"""
    write, wait = 2, 1 | 4  # SYNC_FILE_RANGE_WRITE, and waiting before and after
    share = rng.choice((0, 0, 0.2, 0.5, 0.9))
    if share == 0 or not os.path.isdir(directory):
        return
    for name in sorted(n for n in os.listdir(directory) if n.endswith(".seg"))[-2:]:
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        except FileNotFoundError:  # whoever dies may be in the middle of removing or recycling it
            continue
        for page in range(os.fstat(fd).st_size // PAGE):
            if rng.random() < share:
                _libc.sync_file_range(fd, ctypes.c_int64(page * PAGE), ctypes.c_int64(PAGE), write)
        _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), wait)
        os.close(fd)
    if rng.random() < 0.5:
        fd = os.open(os.path.join(directory, "..", "committed"), os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, b"x")
        os.fsync(fd)
        os.close(fd)


class Watch:
    """inotify: wakes at the instant when files come, are renamed or go in a directory."""

    CREATE, MOVED_TO, DELETE, MODIFY = 0x100, 0x80, 0x200, 0x2

    def __init__(self, *paths, mask=0x100 | 0x80 | 0x200):
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        check(self.fd >= 0, "inotify_init1")
        for path in paths:
            check(_libc.inotify_add_watch(self.fd, path.encode(), mask) >= 0, f"watch {path}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def wait(self, matches, timeout):
        """The first name for which matches(name) holds, or None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return None
            data = os.read(self.fd, 65536)
            while data:
                size = struct.unpack_from("iIII", data)[3]
                name = data[16:16 + size].rstrip(b"\0").decode(errors="replace")
                if matches(name):
                    return name
                data = data[16 + size:]



