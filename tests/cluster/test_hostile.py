"""Strangers on the port: garbage, silence, slowness and floods, while a client goes on."""

import contextlib
import os
import re
import socket
import struct
import threading
import time

from harness import PATIENCE, Appender, check, check_once, equal, wait

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        ">I", stream) + payload


HELLO = PREFACE + frame(SETTINGS, 0, 0)


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request_headers(path=b"/replog.v1.Log/AppendStream"):
    return b"".join(literal(n, v) for n, v in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers")))


def connect(node, timeout=10):
    s = socket.create_connection(("127.0.0.1", node.port), timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def closed_within(sock, seconds):
    """Reads until the other side closes; False when it does not in time."""
    end = time.monotonic() + seconds * PATIENCE
    sock.settimeout(0.5)
    while time.monotonic() < end:
        try:
            if not sock.recv(65536):
                return True
        except socket.timeout:
            continue
        except OSError:
            return True
    return False


class Traffic:
    """Honest appends during an attack; at the end all of them are there once, and none took long."""

    def __init__(self, c):
        self.c, self.appender, self.stop = c, Appender(c, batch=5, prefix="h", pause_s=0.01), False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        self.memory = c.leader().memory_kib()

    def run(self):
        while not self.stop:
            self.appender.feed(0.1)

    def moves(self, within=5):
        before = len(self.appender.acknowledged())
        wait(lambda: len(self.appender.acknowledged()) > before + 10, within, "appends go on")

    def finish(self, node, grown_mib=96):
        self.moves()
        self.stop = True
        self.thread.join()
        acks = self.appender.finish()
        check_once(self.c, self.appender, acks)
        check(node.alive(), "the node runs")
        grown = (node.memory_kib("VmHWM") - self.memory) // 1024
        print(f"memory grew by at most {grown} MiB")
        check(grown < grown_mib, f"memory grew by {grown} MiB")


def test_garbage(t):
    c = t.cluster(3)
    leader = c.leader()
    traffic = Traffic(c)
    http1 = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = [b"\0" * 100, os.urandom(4096), http1, PREFACE + os.urandom(4096), PREFACE[:10],
             HELLO + os.urandom(2000), HELLO + frame(HEADERS, 4, 1, os.urandom(500)),
             HELLO + frame(DATA, 0, 0, b"x"), HELLO + frame(HEADERS, 4, 2, request_headers()),
             HELLO + frame(SETTINGS, 0, 0, b"odd"), HELLO + b"\xff\xff\xff" + b"\0" * 6,
             HELLO + frame(CONTINUATION, 0, 1, b"x"), HELLO + frame(WINDOW_UPDATE, 0, 0, b"\0" * 4)]
    for round_number in range(3):
        for case in cases:
            for node in c.nodes:
                with contextlib.closing(connect(node)) as s, contextlib.suppress(OSError):
                    s.sendall(case)
                    if round_number == 0 and node is leader and case != PREFACE[:10]:
                        check(closed_within(s, 8), f"closed after {case[:60]!r}")
        traffic.moves()
    traffic.finish(leader)


def test_garbage_in_messages(t):
    c = t.cluster(1)
    traffic = Traffic(c)
    for body in (b"\x00\xff\xff\xff\xffabc", b"\x01\x00\x00\x00\x03abc", b"\x00\x00\x00\x00\x05abc",
                 b"\x00\x00\x00\x00\x03\xff\xff\xff", b"\x07" * 50, os.urandom(3000)):
        for path in (b"/replog.v1.Log/Append", b"/replog.v1.Log/AppendStream",
                     b"/replog.v1.Log/Read", b"/replog.v1.Peer/Exchange", b"/replog.v1.Peer/Inspect",
                     b"/grpc.health.v1.Health/Check",
                     b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"):
            with contextlib.closing(connect(c[1])) as s, contextlib.suppress(OSError):
                s.sendall(HELLO + frame(HEADERS, 4, 1, request_headers(path)) +
                          frame(DATA, 1, 1, body))
                s.settimeout(0.15)
                while s.recv(4096):
                    pass
    traffic.finish(c[1])


def test_half_open_and_silent_connections_are_closed(t):
    c = t.cluster(3)
    leader = c.leader()
    traffic = Traffic(c)
    silent = [connect(leader) for _ in range(50)]
    half = [connect(leader) for _ in range(50)]
    for s in half:
        s.sendall(PREFACE[:12])
    quiet = [connect(leader) for _ in range(20)]  # greets, and never answers a PING
    for s in quiet:
        s.sendall(HELLO)
    for _ in range(50):  # a stranger that goes at once, with a reset
        s = connect(leader)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    traffic.moves()
    for s in silent + half:
        check(closed_within(s, 10), "a connection that never greets is closed")
    for s in quiet:
        check(closed_within(s, 40), "a connection that never answers is closed")
    traffic.finish(leader)


def test_slow_connections_do_not_hold_up_others(t):
    c = t.cluster(1)
    traffic = Traffic(c)
    slow = [connect(c[1]) for _ in range(20)]
    data = HELLO + frame(HEADERS, 4, 1, request_headers()) + frame(DATA, 0, 1, b"\0\0\0\0\x10" + b"x")
    for i in range(len(data)):
        for s in slow:
            with contextlib.suppress(OSError):
                s.sendall(data[i:i + 1])
        if i % 40 == 0:
            time.sleep(0.05)
    traffic.moves()
    for s in slow:
        s.close()
    traffic.finish(c[1])


def flood(c, node, make, limit_mib=64):
    """Sends what make() yields, reading nothing, until the connection is closed or stalls; gives the
    MiB that were taken and whether it was closed."""
    s = connect(node, timeout=3)
    sent = 0
    try:
        s.sendall(HELLO)
        for chunk in make():
            s.sendall(chunk)
            sent += len(chunk)
            if sent > limit_mib << 20:
                break
        return sent, closed_within(s, 5)
    except socket.timeout:
        return sent, closed_within(s, 15)  # held back by flow control: fine, it is bounded
    except OSError:
        return sent, True
    finally:
        s.close()


def floods(t, make, closed=True):
    c = t.cluster(3)
    leader = c.leader()
    traffic = Traffic(c)
    for _ in range(2):
        sent, was_closed = flood(c, leader, make)
        print(f"{sent >> 10} KiB were taken, closed: {was_closed}")
        if closed:
            check(was_closed, f"the connection is closed after {sent >> 10} KiB")
        traffic.moves()
    traffic.finish(leader)


def forever(data):
    def make():
        while True:
            yield data
    return make


def test_flood_of_settings(t):
    floods(t, forever(frame(SETTINGS, 0, 0) * 1000))


def test_flood_of_ping(t):
    floods(t, forever(frame(PING, 0, 0, b"12345678") * 1000))


def test_flood_of_rst_stream(t):
    def make():
        stream = 1
        while stream < 1 << 24:
            chunk = []
            for _ in range(200):
                chunk.append(frame(HEADERS, 4, stream, request_headers()) +
                             frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
                stream += 2
            yield b"".join(chunk)
    floods(t, make)


def test_flood_that_provokes_resets_by_the_server(t):
    def make():
        stream = 1
        while stream < 1 << 24:
            chunk = []
            for _ in range(200):  # a request, then a window update of 0: the server must reset it
                chunk.append(frame(HEADERS, 4, stream, request_headers()) +
                             frame(WINDOW_UPDATE, 0, stream, b"\0\0\0\0"))
                stream += 2
            yield b"".join(chunk)
    floods(t, make)


def test_flood_of_empty_messages(t):
    def make():
        yield frame(HEADERS, 4, 1, request_headers())
        while True:
            yield frame(DATA, 0, 1, b"\0\0\0\0\0" * 3000)
    floods(t, make, closed=False)


def test_flood_of_half_sent_messages(t):
    c = t.cluster(1)
    traffic = Traffic(c)
    held = []
    for i in range(100):
        with contextlib.suppress(OSError):
            s = connect(c[1], timeout=1)
            s.sendall(HELLO + frame(HEADERS, 4, 1, request_headers(b"/replog.v1.Log/Append")))
            body = b"\0" + struct.pack(">I", 4 << 20) + b"x" * ((4 << 20) - 10)
            held.append(s)
            for at in range(0, 60000, 16000):
                s.sendall(frame(DATA, 0, 1, body[at:at + 16000]))
            s.sendall(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
            for at in range(64000, len(body), 16000):
                s.sendall(frame(DATA, 0, 1, body[at:at + 16000]))
    traffic.moves(20)
    for s in held:
        s.close()
    traffic.finish(c[1], grown_mib=160)


def test_too_many_connections(t):
    c = t.cluster(1)
    traffic = Traffic(c)
    held = []
    for _ in range(600):
        with contextlib.suppress(OSError):
            s = connect(c[1], timeout=2)
            s.sendall(HELLO)
            held.append(s)
    traffic.moves(10)
    for s in held:
        s.close()
    time.sleep(0.5)
    c.append("after", "them", call_ms=10000)
    traffic.finish(c[1])


def test_endless_headers(t):
    def make():
        yield frame(HEADERS, 0, 1, request_headers())
        while True:
            yield frame(CONTINUATION, 0, 1, literal(b"x-pad", b"y" * 100) * 100)
    floods(t, make)


def ended_within(sock, stream, seconds):
    """Reads frames (and answers PINGs) until the other side ends the stream, or closes; False when it
    does not in time."""
    end = time.monotonic() + seconds * PATIENCE
    sock.settimeout(0.5)
    data = b""
    while time.monotonic() < end:
        try:
            more = sock.recv(65536)
        except socket.timeout:
            continue
        except OSError:
            return True
        if not more:
            return True
        data += more
        while len(data) >= 9 + int.from_bytes(data[:3], "big"):
            kind, flags, of = data[3], data[4], int.from_bytes(data[5:9], "big")
            payload = data[9:9 + int.from_bytes(data[:3], "big")]
            if of == stream and (kind == RST_STREAM or kind == HEADERS and flags & 1):
                return True
            if kind == PING and not flags & 1:  # or the silence would end it
                with contextlib.suppress(OSError):
                    sock.sendall(frame(PING, 1, 0, payload))
            data = data[9 + len(payload):]
    return False


def test_a_stranger_on_the_stream_of_members_is_turned_away(t):
    """One that opens Exchange and says nothing, or what no member says, is told so or cut off, and
    changes nothing. What a member may say and no honest one does: see test_peers.py."""
    c = t.cluster(3, calm=True, extra=["--stall-ms", "60000"])
    term = c.wait_equal()["term"]
    log = c.read("--markers")
    silent = []
    for body, why in (
            (b"", None),
            (b"\0\0\0\0\0", "a peer message of type 0"),
            (b"\0\0\0\0\x04\x18\xff\xff\x03", "a peer message of type 0"),
            (b"\0\0\0\0\x03\xff\xff\xff", "malformed peer message"),
            (b"\0\0\0\0\x02\x10\x05", "the first message must be a hello"),
            (b"\0\0\0\0\x06\x0a\x04\x08\x02\x10\x01", "member 2 speaks peer protocol 0"),
            (b"\x01\0\0\0\x03abc", ""), (b"\0\xff\xff\xff\xffabc", "")):
        for node in c.nodes:
            s = connect(node)
            s.sendall(HELLO + frame(HEADERS, 4, 1, request_headers(b"/replog.v1.Peer/Exchange")) +
                      frame(DATA, 0, 1, body))
            if why is None:
                silent.append(s)
                continue
            with contextlib.closing(s):
                check(ended_within(s, 1, 5), f"node {node.id} ends a stream that begins with {body!r}")
                of = re.escape(f"127.0.0.1:{s.getsockname()[1]}")
                wait(lambda: not why or re.search(f"(stream of {of} ended|refused {of}): {why}",
                                                  node.log()), 10, f"node {node.id} says {why!r}")
    for s in silent:
        check(closed_within(s, 40), "who says nothing, not even to a PING, is closed")
        s.close()
    equal(c.wait_equal()["term"], term, "the term")
    equal(c.read("--markers"), log, "the log")
    c.append("after", "them", ack="all", call_ms=20000)
