#!/usr/bin/env python3
"""Makes the seed corpora of the fuzz targets anew, from a real run: a cluster of three replogd processes, the
command line and a stock gRPC client, whose bytes are recorded on the way, and the files that the nodes
leave. Inputs that are programs (what a log lives through, where it is damaged, ...) are written here.

usage: tests/fuzz/corpus.py [--bin build/bin] [--fuzz build-fuzz] [--out tests/fuzz/corpus] [TARGET...]

Regression inputs (names that do not begin with "seed-") are left alone. Fails when a target turns a seed away
(accepted.sh, with the targets that run.sh has built in build-fuzz).
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "cluster"))
import harness  # noqa: E402

MAX_FILE = 3000   # bytes of one seed
MAX_TARGET = 24000


# ---- Recording

class Recorder:
    """A proxy in front of one address; keeps what each connection said in both directions."""

    def __init__(self, target):
        self.target = target
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 2)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            said = {"client": bytearray(), "server": bytearray()}
            self.connections.append(said)
            for one, other, name in ((client, server, "client"), (server, client, "server")):
                threading.Thread(target=self.pump, args=(one, other, said[name]), daemon=True).start()

    @staticmethod
    def pump(one, other, said):
        try:
            while data := one.recv(65536):
                said += data
                other.sendall(data)
        except OSError:
            pass
        for end in one, other:  # neither side goes on alone here
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def messages(said):
    """The gRPC messages in one direction of a connection, by stream: (stream, message)."""
    data = bytes(said)
    if data.startswith(b"PRI * HTTP/2.0"):
        data = data[24:]
    streams, found = {}, []
    while len(data) >= 9:
        size, kind, flags, stream = int.from_bytes(data[:3], "big"), data[3], data[4], int.from_bytes(data[5:9], "big")
        payload, data = data[9:9 + size], data[9 + size:]
        if kind != 0:
            continue
        rest = streams.get(stream, b"") + payload
        while len(rest) >= 5 and len(rest) >= 5 + int.from_bytes(rest[1:5], "big"):
            n = int.from_bytes(rest[1:5], "big")
            found.append((stream, rest[5:5 + n]))
            rest = rest[5 + n:]
        streams[stream] = rest
    return found


# ---- Writing

class Corpus:
    def __init__(self, out, only):
        self.out, self.only, self.used, self.seen = out, only, {}, set()

    def wants(self, target):
        return not self.only or target in self.only

    def clear(self):
        for target in os.listdir(self.out) if os.path.isdir(self.out) else []:
            for name in os.listdir(os.path.join(self.out, target)):
                if name.startswith("seed-") and self.wants(target):
                    os.unlink(os.path.join(self.out, target, name))

    def add(self, target, name, data, most=MAX_FILE):
        data = bytes(data)[:most]
        used = self.used.setdefault(target, 0)
        if not self.wants(target) or (target, data) in self.seen or used + len(data) > MAX_TARGET:
            return
        self.seen.add((target, data))
        self.used[target] = used + len(data)
        directory = os.path.join(self.out, target)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"seed-{name}"), "wb") as f:
            f.write(data)


# ---- The run

LINES = (b"key\tvalue\nplain entry\n\tempty key\nk\t\n\n" + b"tab\tin\tvalue\n" +
         "grün\t\u2028 and ünicode\n".encode() + b"\xff\xfe\tno utf-8\nlast line without its end")


def stock_client(address):
    """Health and reflection, as standard tools ask for them."""
    import grpc
    with grpc.insecure_channel(address) as channel:
        def call(path, request, stream=False):
            kind = channel.stream_stream if stream else channel.unary_unary
            fn = kind(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)
            return list(fn(iter([request]), timeout=5)) if stream else fn(request, timeout=5)

        call("/grpc.health.v1.Health/Check", b"")
        call("/grpc.health.v1.Health/Check", b"\x0a\x0dreplog.v1.Log")
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            call(path, b"\x3a\x00", stream=True)
            call(path, b"\x22\x0dreplog.v1.Log", stream=True)
            call(path, b"\x1a\x0creplog.proto", stream=True)


def run_cluster(bin_dir, directory):
    """Runs it all; gives {command: connections}, the peers' connections, and the nodes' directories."""
    test = harness.Test(bin_dir, directory)
    try:
        nodes = [test.node(i + 1) for i in range(3)]
        cluster = harness.Cluster(test, nodes)
        peers = {node.id: Recorder(node.port) for node in nodes}
        members = ",".join(f"{node.id}={peers[node.id].address}" for node in nodes)
        for node in nodes:
            node.members = members
            node.extra = ["--segment-bytes", "64K", "--checkpoint-ms", "300"]
        cluster.start()
        leader = cluster.ready()
        talks = {}

        def command(name, *args, stdin=None, at=leader):
            recorder = Recorder(at.port)
            result = test.run(test.replog, "-e", recorder.address, "--json", "--timeout", "5000", *args, stdin=stdin)
            talks[name] = recorder.connections
            return result

        command("append", "append", "key", "value").ok()
        command("append-all", "append", "--ack", "all", "", "plain").ok()
        command("delete", "append", "--delete", "key").ok()
        command("batches", "append", "--file", "-", "--batch", "3", stdin=LINES).ok()
        command("lines", "append", "--file", "-", stdin=LINES).ok()
        command("get", "get", "key").ok()  # the one key that fuzz_service's store has
        command("get-nothing", "get", "nothing")
        command("read", "read").ok()
        command("markers", "read", "--markers", "--from", "1", "--to", "8").ok()
        command("local", "read", "--node", "--from", "2").ok()
        command("beyond", "read", "--from", "100000")
        command("status", "status").ok()
        command("checkpoint", "checkpoint").ok()
        command("follower", "append", "k2", "v2", at=cluster.others(leader)[0])
        recorder = Recorder(leader.port)
        stock_client(recorder.address)
        talks["stock"] = recorder.connections
        cluster.append_lines([f"key{i}\t{'v' * 700}" for i in range(220)], batch=5)
        command("truncate", "truncate", "--upto", "150").ok()
        cluster.append_lines(["a\tb", "c\td", "k\t", "\tno key", "plain"], batch=3)
        # another term, and a follower that was away
        leader.kill()
        rest = cluster.others(leader)
        cluster.leader(among=rest)
        cluster.append_lines(["e\tf"] * 5, batch=1, at=",".join(n.address for n in rest))
        leader.start()
        cluster.wait_equal()
        cluster.stop()
        return talks, [c for r in peers.values() for c in r.connections], [n.dir for n in nodes]
    finally:
        test.finish()


# ---- Seeds from what was said

PATHS = ["OpenSession", "Append", "AppendStream", "Read", "Get", "Checkpoint", "Truncate", "Status", "Exchange",
         "Inspect", "Check", "Watch", "v1", "v1alpha"]


def program(path, requests):
    """fuzz_service: begin a call, its messages, its end, exchange."""
    out = bytearray([2, 0, PATHS.index(path) + (15 if PATHS.index(path) % 2 else 0)])
    for request in requests:
        out += bytes([1]) + struct.pack("<H", len(request)) + request
    return out + bytes([6, 4, 6, 7, 6])


def steps(said):
    """fuzz_h2_client: flags, then steps that only bring bytes."""
    out = bytearray([64])
    for at in range(0, len(said), 255):
        piece = bytes(said[at:at + 255])
        out += bytes([3, len(piece)]) + piece
    return out


def last_call(said):
    """The messages of a connection's last call: the first one may have opened a session for it."""
    found = messages(said)
    return [m for stream, m in found if stream == found[-1][0]]


def from_talks(corpus, talks):
    methods = {"append": "Append", "delete": "Append", "append-all": "Append", "batches": "AppendStream",
               "lines": "AppendStream", "get": "Get", "read": "Read", "markers": "Read", "status": "Status",
               "checkpoint": "Checkpoint", "truncate": "Truncate"}
    for name, connections in talks.items():
        for i, said in enumerate(connections):
            label = f"{name}-{i}"
            corpus.add("h2_server", label, bytes(3) + said["client"])
            corpus.add("h2_client", label, steps(said["server"]))
            asked = [m for _, m in messages(said["client"])]
            told = [m for _, m in messages(said["server"])]
            if name in methods and asked:
                corpus.add("service", label, program(methods[name], last_call(said["client"])[:4]))
            if name in ("append", "delete", "append-all", "batches", "lines"):
                for k, m in enumerate(asked[:8]):
                    corpus.add("request", f"{label}-{k}", b"\0" + m)
                    corpus.add("unpack", f"{label}-{k}", bytes([2, 15]) + m)
                answers = b"".join(bytes([len(m)]) + m for m in told if len(m) < 256)
                corpus.add("reply", label, b"\1\1" + answers)
                corpus.add("reply", label + "-unnumbered", b"\1\0" + answers)
            if name in ("read", "markers", "local"):
                for m in asked:
                    corpus.add("request", label, b"\1" + m)
                for k, m in enumerate(told[:4]):
                    corpus.add("reply", f"{label}-{k}", bytes([0, 1 if name == "markers" else 0])
                               + struct.pack("<H", min(len(m), 1000)) + m, 1100)
                    corpus.add("unpack", f"{label}-{k}", bytes([4, 15]) + m)
            for k, m in enumerate(told if name in ("status", "checkpoint", "truncate", "get") else []):
                index = {"status": 0, "get": 5, "truncate": 6, "checkpoint": 7}[name]
                corpus.add("unpack", f"{label}-{k}", bytes([index, 15]) + m)
            if name == "stock":
                corpus.add("service", label, program("v1", asked[-4:]))
                for k, m in enumerate(asked):
                    corpus.add("service", f"reflection-{k}", program("v1alpha", [m]))
                    corpus.add("service", f"health-{k}", program("Check", [m]))
                for k, m in enumerate(told[:6]):
                    corpus.add("unpack", f"{label}-{k}", bytes([14, 15]) + m)


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def peer_kind(message):
    """The type of a PeerMessage (0: a hello) and whether it has blocks."""
    at = kind = 0
    blocks = False
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            value, at = varint(message, at)
            kind = value if key >> 3 == 2 else kind
        elif key & 7 == 1:
            at += 8
        else:
            size, at = varint(message, at)
            at += size
            blocks |= key >> 3 == 20
    return kind, blocks


def from_peers(corpus, connections):
    count = {}
    for i, said in enumerate(connections):
        corpus.add("h2_server", f"peer-{i}", bytes(3) + said["client"], 2000)
        spoken = messages(said["client"])
        for stream, m in spoken:
            hello = next(first for of, first in spoken if of == stream)
            # clients come here too, sent on by another member: what a member says begins with a hello, its field 1
            if len(m) > 1500 or not hello.startswith(b"\x0a"):
                continue
            kind = peer_kind(m)
            k = count[kind] = count.get(kind, 0) + 1
            if k > 3:
                continue
            name = f"type-{kind[0]}{'-blocks' if kind[1] else ''}-{k}"
            corpus.add("peer_message", name, m)
            corpus.add("unpack", name, bytes([9, 15]) + m)
            corpus.add("service", f"peer-{name}", program("Exchange", [m] if m == hello else [hello, m]))
            for choices in (0, 0x68)[:1 + k % 2]:
                corpus.add("node_lies", f"{name}-{choices}", bytes([choices, 5]) + struct.pack("<H", len(m)) + m
                           + bytes([0, 3, 7, 9]), 1600)


# ---- Seeds from files

def trimmed(data):
    return data.rstrip(b"\0")


def pieces(index, data):
    """fuzz_wal_image: what is not zero, in pieces at multiples of 16, and the end, which says how long the file is."""
    def needed(at):
        return any(data[at:at + 16]) or at + 16 >= len(data)

    out, at = bytearray(), 0
    while at < len(data):
        if not needed(at):
            at += 16
            continue
        end = at
        while end < len(data) and end - at < 240 and needed(end):
            end += 16
        piece = data[at:end]
        out += bytes([index]) + struct.pack("<H", at // 16) + bytes([len(piece)]) + piece
        at = end
    return out


def segments(directory):
    return sorted(name for name in os.listdir(directory) if name.endswith(".seg"))


def image(directory, flags):
    def read(name):
        with open(os.path.join(directory, name), "rb") as f:
            return f.read()

    out = bytearray([flags]) + pieces(0, read("MANIFEST")) + pieces(1, read("VOTE"))
    for name in segments(directory):
        number, data = int(name[:16], 16), read(name)
        harness.check(number <= 6 and len(data) <= 128 << 10, f"fuzz_wal_image has no room for {name}")
        out += pieces(1 + number, data)
    return out


def from_directories(corpus, directories):
    for i, directory in enumerate(directories):
        wal = os.path.join(directory, "wal")
        with open(os.path.join(wal, "MANIFEST"), "rb") as f:
            manifest = f.read()
        with open(os.path.join(wal, "VOTE"), "rb") as f:
            vote = f.read()
        # without its segments, which fuzz_identity has not: the log begins anew behind the base
        corpus.add("identity", f"manifest-{i}", b"\0\1" + manifest[:80] + bytes(8) + manifest[88:])
        corpus.add("identity", f"config-{i}", b"\2\0" + manifest[140:])
        corpus.add("identity", f"vote-{i}", b"\1\1" + trimmed(vote[:4096]))
        for name in segments(wal):
            with open(os.path.join(wal, name), "rb") as f:
                data = f.read()
            label = f"{i}-{int(name[:16], 16)}"
            corpus.add("segment", f"header-{label}", b"\3" + trimmed(data[:4096]))
            corpus.add("segment", f"seal-{label}", b"\5" + trimmed(data[4096:32768]))
            corpus.add("segment", f"long-seal-{label}", b"\x0d" + trimmed(data[4096:4096 + 88]))
            at, k = 32768, 0
            while at + 88 < len(data) and data[at + 8:at + 12] == b"RLG1":
                length, n_blocks = struct.unpack_from("<II", data, at + 16)
                corpus.add("segment", f"group-{label}-{k}", b"\1" + data[at:at + 88]) if k < 3 else None
                block = at + 88
                for _ in range(min(n_blocks, 2)):
                    size, = struct.unpack_from("<I", data, block + 16)
                    if size < 1200:  # a part of a block is none
                        corpus.add("block", f"{label}-{k}-{block}", b"\3" + data[block:block + size])
                    block += size
                at += (88 + length + 4095) // 4096 * 4096
                k += 1


def small_logs(corpus, bin_dir, directory):
    """wal_image wants little files with low numbers (so there is one spare: spares use numbers up): a single node
    that wrote a little, and was opened again and again, and one whose log was truncated."""
    extra = ["--segment-bytes", "64K", "--pool-segments", "1"]
    test = harness.Test(bin_dir, directory)
    try:
        cluster = test.cluster(1, extra=extra, name="small")
        wal = os.path.join(cluster.nodes[0].dir, "wal")
        for round_number, some_flags in enumerate(((0, 63), (0, 127), (191,))):
            cluster.append_lines(["k\tv", "w\tx", "plain"], batch=1 + round_number)
            cluster.stop()
            for flags in some_flags:
                corpus.add("wal_image", f"{round_number}-{flags}", image(wal, flags), 6000)
            cluster.start()
            cluster.ready()
        cluster.stop()
        cluster = test.cluster(1, extra=extra, name="truncated")
        wal = os.path.join(cluster.nodes[0].dir, "wal")
        while len(segments(wal)) < 3:
            cluster.append("k", "v")
        cluster.cli("checkpoint").ok()
        cluster.cli("truncate", "--upto", str(cluster.status()["last_seq"] - 4)).ok()
        cluster.stop()
        for flags in (0, 255):
            corpus.add("wal_image", f"truncated-{flags}", image(wal, flags), 6000)
    finally:
        test.finish()


# ---- Seeds that are programs

def programs(corpus):
    draw = random.Random(1)
    corpus.add("append_file", "lines", b"\2" + LINES)
    corpus.add("append_file", "single", b"\0a\tb\nc\td\n")
    corpus.add("append_file", "nul", b"\5a\0b\t\0\n\n\n\t\t\n\r\n")
    with open(os.path.join(ROOT, "deploy", "replogd.conf.example"), "rb") as f:
        example = f.read()
    # everything that the example shows, said
    spoken = re.sub(rb"(?m)^[#;] ?(\w+ *=)", rb"\1", example)
    for name, text in (("example", example), ("spoken", spoken)):
        corpus.add("options", name, b"\0" + text, 6000)
    for i, line in enumerate(line for line in spoken.splitlines() if b"=" in line and not line.startswith(b"#")):
        corpus.add("options", f"line-{i}", b"\0[replogd]\nid = 1\n" + line + b"\n")
    flags = ["--id", "1", "--cluster", "1=127.0.0.1:7401,2=[::1]:7402", "--dir", "d", "--http", "localhost:80",
             "--segment-bytes", "1M", "--sync", "batch", "--scrub", "off", "--log-level", "warn", "--insecure"]
    corpus.add("options", "flags", bytes([len(flags)]) + b"".join(f.encode() + b"\0" for f in flags))
    for size in (254, 255, 256, 257, 3071, 3072):  # texts as long as their room
        long = flags[:6] + (["--dir", "d" * size] if size > 300 else ["--insecure", "--http", "h" * (size - 3) + ":80"])
        corpus.add("options", f"long-{size}", bytes([len(long)]) + b"".join(f.encode() + b"\0" for f in long), 4000)
    short = flags[:6] + ["--config"]
    corpus.add("options", "both", bytes([len(short)]) + b"".join(f.encode() + b"\0" for f in short)
               + b"[replogd]\nheartbeat_ms = 20\nelection_ms = 100\n")
    for i, text in enumerate(["127.0.0.1:7401,127.0.0.1:7402", "[::1]:1,[fe80::1%eth0]:65535", "a:1,a:1,b:2,",
                              "1=127.0.0.1:7401,2=h:7402, 3=[::1]:3,", "64M", "18446744073709551615", "1G", "100m",
                              "99999999H", "5u", "w%C3%A4hr %25 %0A", "2 127.0.0.1:7402", "localhost:0", ":1", "::1"]):
        corpus.add("text", str(i), text.encode())
    for i in range(24):
        life = bytes(draw.choice([5, 6, 7, 13, 37, 69, 133, 4, 4, 0, 2, 10, 1, 9, 3, 29, 61]) if k % 2 == 0
                     else draw.randrange(256) for k in range(draw.randrange(8, 60)))
        hurt = bytes(draw.randrange(256) for _ in range(24))
        corpus.add("wal_damage", f"life-{i}", bytes([39, draw.randrange(6)]) + life + hurt)
    for i in range(24):
        corpus.add("node_lies", f"lies-{i}", bytes([i * 11 % 256]) + bytes(draw.randrange(256) for _ in range(100)))
    for i in range(16):
        corpus.add("client", str(i), bytes([draw.randrange(256)]) + bytes(
            draw.choice([0, 1, 9, 2, 1, 4, 6, 7, 3, 5]) if k % 3 == 0 else draw.randrange(256) for k in range(90)))
    # fields given twice: the last one counts, also when it is empty
    record = b"\x12\x01k\x12\x02kk\x1a\x01v\x1a\x00"
    corpus.add("request", "twice", b"\0" + b"\x32" + bytes([len(record)]) + record)
    # a session of four answers, then what happens to it
    entry = b"".join(struct.pack("<Q", v) for v in (4, 40, 1, 10, 10, 1, 11, 14, 1, 20, 20, 2, 40, 40, 2))
    corpus.add("identity", "session", b"\3\0\1\5" + entry + bytes(16) + b"\7\x30\2\1" + entry[:24])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"))
    parser.add_argument("--fuzz", default=os.path.join(ROOT, "build-fuzz"))
    parser.add_argument("--out", default=os.path.join(HERE, "corpus"))
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    args = parser.parse_args()
    corpus = Corpus(args.out, args.targets)
    directory = tempfile.mkdtemp(prefix="replog-corpus.")
    try:
        talks, peers, directories = run_cluster(os.path.abspath(args.bin), directory)
        corpus.clear()
        programs(corpus)
        from_talks(corpus, talks)
        from_peers(corpus, peers)
        from_directories(corpus, directories)
        small_logs(corpus, os.path.abspath(args.bin), directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for target, size in sorted(corpus.used.items()):
        print(f"{target}: {len(os.listdir(os.path.join(args.out, target)))} files, {size} bytes of seeds")
    accepted = os.path.join(HERE, "accepted.sh")
    sys.exit(subprocess.run([accepted, "--build", os.path.abspath(args.fuzz), "--corpus", os.path.abspath(args.out),
                             *filter(corpus.wants, sorted(corpus.used))]).returncode)


if __name__ == "__main__":
    main()
