"""What a cluster and its machine spend: processor time, and the disk's."""

import os
import time

from cluster import MIB
from probes import TICKS_PER_S, stat_ticks
from steps import processor_ticks

SECTOR_BYTES = 512
HEAD = ["records/s", f"of {os.cpu_count()} processors: client, leader, followers", "idle",
        "idle, waiting", "the leader's groups", "a sync there", "the disk"]


def process_seconds(pid):
    return stat_ticks(f"/proc/{pid}/stat")[1] / TICKS_PER_S


def disk_bytes(directory):
    """(read, written) of the disk below a directory; zeros where that is not told."""
    device = os.stat(directory).st_dev
    with open("/proc/diskstats") as f:
        for line in f:
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
                return int(fields[5]) * SECTOR_BYTES, int(fields[9]) * SECTOR_BYTES
    return 0, 0


class Account:
    """Begins when it is made. `processes`: {name: Popen}, which must all outlive it. Of the log's
    seqs each record takes seqs_a_record."""

    def __init__(self, cluster, leader, processes, seqs_a_record=1):
        self.cluster, self.leader, self.processes = cluster, leader, processes
        self.seqs_a_record = seqs_a_record
        self.begun = self.look()

    def look(self):
        m = self.cluster.metrics(self.leader)
        return {"at": time.monotonic(), "machine": processor_ticks(),
                "processes": {n: process_seconds(p.pid) for n, p in self.processes.items()},
                "disk": disk_bytes(self.cluster.directory),
                "log": [m["groups_total"], m["group_bytes_total"], m["sync_seconds_sum"]],
                "commit_seq": m["commit_seq"]}

    def spent(self):
        """Since it began: processors (1: one of them, all the time), shares of all processors for
        what was idle, and figures a second."""
        then, now = self.begun, self.look()
        seconds = now["at"] - then["at"]
        every, idle, waiting = (b - a for a, b in zip(then["machine"], now["machine"]))
        groups, group_bytes, sync_s = (b - a for a, b in zip(then["log"], now["log"]))
        read, written = ((b - a) / MIB / seconds for a, b in zip(then["disk"], now["disk"]))
        grown = (now["commit_seq"] - then["commit_seq"]) / self.seqs_a_record
        return {"seconds": seconds, "records_per_s": grown / seconds,
                "processors": {n: (s - then["processes"][n]) / seconds
                               for n, s in now["processes"].items()},
                "idle": idle / every, "idle_waiting": waiting / every,
                "groups_per_s": groups / seconds, "bytes_a_group": group_bytes / max(groups, 1),
                "sync_ms": 1000 * sync_s / max(groups, 1),
                "read_mib_per_s": read, "written_mib_per_s": written}


def cells(s):
    """A row of a table whose head is HEAD."""
    used = s["processors"]
    shares = [used.get("client", 0), used["leader"],
              sum(v for n, v in used.items() if n not in ("client", "leader"))]
    return [f"{s['records_per_s']:,.0f}",
            f"{sum(shares):.2f}: " + ", ".join(f"{v:.2f}" for v in shares),
            f"{s['idle']:.0%}", f"{s['idle_waiting']:.0%}",
            f"{s['groups_per_s']:,.0f}/s of {s['bytes_a_group'] / 1024:,.0f} KiB",
            f"{s['sync_ms']:.2f} ms",
            f"{s['written_mib_per_s']:,.0f} MiB/s written, {s['read_mib_per_s']:,.0f} read"]
