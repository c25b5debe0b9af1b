"""A stock gRPC client that nobody here wrote: grpcio, over the public protocol."""

import importlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from harness import SLOW, check, equal, needs, wait

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

try:
    import grpc
except ImportError:
    grpc = None


def messages_of(t, name):
    """The classes of proto/NAME.proto's messages, made by protoc."""
    needs(grpc, "no python3-grpcio")
    needs(shutil.which("protoc"), "no protoc")
    out = os.path.join(t.dir, "pb")
    if not os.path.isdir(out):
        os.mkdir(out)
        sys.path.insert(0, out)
    if not os.path.exists(os.path.join(out, f"{name}_pb2.py")):
        subprocess.run(["protoc", "-I", os.path.join(ROOT, "proto"), f"--python_out={out}",
                        f"{name}.proto"], check=True)
    return importlib.import_module(f"{name}_pb2")


class Stub:
    """The methods of replog.v1.Log and grpc.health.v1.Health on one node."""

    def __init__(self, t, node):
        replog_pb2, health_pb2 = messages_of(t, "replog"), messages_of(t, "health")
        self.pb, self.health_pb = replog_pb2, health_pb2
        self.channel = grpc.insecure_channel(node.address)
        log, health = "/replog.v1.Log/", "/grpc.health.v1.Health/"
        unary = self.channel.unary_unary
        for name in ("OpenSession", "Append", "Get", "Checkpoint", "Truncate", "Status"):
            setattr(self, name, unary(log + name, *self.codec(replog_pb2, name)))
        self.AppendStream = self.channel.stream_stream(
            log + "AppendStream", replog_pb2.AppendRequest.SerializeToString,
            replog_pb2.AppendReply.FromString)
        self.Read = self.channel.unary_stream(log + "Read", *self.codec(replog_pb2, "Read"))
        check_codec = (health_pb2.HealthCheckRequest.SerializeToString,
                       health_pb2.HealthCheckResponse.FromString)
        self.Check = unary(health + "Check", *check_codec)
        self.Watch = self.channel.unary_stream(health + "Watch", *check_codec)

    @staticmethod
    def codec(pb, name):
        return (getattr(pb, name + "Request").SerializeToString,
                getattr(pb, name + "Reply").FromString)

    def batch(self, pairs, **kwargs):
        records = [self.pb.WriteRecord(op=self.pb.PUT, key=k, value=v) for k, v in pairs]
        return self.pb.AppendRequest(records=records, **kwargs)


def fails(call, code, *words):
    """The call ends with the code, and its sentence says the words."""
    try:
        result = call()
        if hasattr(result, "__iter__") and not hasattr(result, "DESCRIPTOR"):
            for _ in result:
                pass
    except grpc.RpcError as e:
        check(e.code().name in code.split("|"), f"{code} wanted, got {e.code().name}: {e.details()}")
        for word in words:
            check(word in e.details(), f"the sentence should say {word!r}: {e.details()}")
        return e
    check(False, f"{code} wanted, but it succeeded: {result}")


T = 10 * SLOW


def test_append_and_read(t):
    c = t.cluster(3, calm=True)
    s = Stub(t, c.leader())
    reply = s.Append(s.batch([(b"k1", b"v1"), (b"", b"plain"), (b"k2", b"v2")], batch=True), timeout=T)
    equal(reply.last_seq - reply.first_seq, 3, "three records and their COMMIT")
    check(len(reply.durable_on) >= 2 and reply.term > 0, reply)
    records = [r for m in s.Read(s.pb.ReadRequest(from_seq=reply.first_seq), timeout=T)
               for r in m.records]
    equal([(r.key, r.value) for r in records], [(b"k1", b"v1"), (b"", b"plain"), (b"k2", b"v2")],
          "read")
    got = s.Get(s.pb.GetRequest(key=b"k2"), timeout=T)
    equal((got.value, got.seq), (b"v2", reply.first_seq + 2), "get")
    follower = Stub(t, c.others(c.leader())[0])
    got = follower.Get(follower.pb.GetRequest(key=b"k1"), timeout=T)
    equal(got.value, b"v1", "linearizable get through a follower")
    error = fails(lambda: follower.Append(follower.batch([(b"k", b"v")]), timeout=T), "UNAVAILABLE")
    trailer = dict(error.trailing_metadata()).get("replog-leader", "")
    equal(trailer, f"{c.leader().id} {c.leader().address}", "who leads")
    status = s.Status(s.pb.StatusRequest(), timeout=T)
    equal((status.leader, len(status.members)), (c.leader().id, 3), "status")
    seqs = s.Checkpoint(s.pb.CheckpointRequest(), timeout=T)
    check(seqs.seq > seqs.safe_seq >= reply.last_seq, seqs)
    cut = s.Truncate(s.pb.TruncateRequest(upto=reply.last_seq), timeout=T)
    equal((cut.requested, len(cut.held_by)), (reply.last_seq, 0), "truncate")
    wait(lambda: s.Status(s.pb.StatusRequest(), timeout=T).first_seq > reply.last_seq, 10, "dropped")
    fails(lambda: s.Read(s.pb.ReadRequest(from_seq=1), timeout=T), "OUT_OF_RANGE",
          str(reply.last_seq + 1))


def test_append_stream_with_a_session(t):
    c = t.cluster(3, calm=True)
    s = Stub(t, c.leader())
    session = s.OpenSession(s.pb.OpenSessionRequest(), timeout=T).session
    check(session > 0, "a session")
    requests = [s.batch([(b"k%d" % i, b"v%d" % i)], session=session, sequence=i + 1)
                for i in range(500)]
    replies = list(s.AppendStream(iter(requests), timeout=3 * T))
    equal([r.sequence for r in replies], list(range(1, 501)), "answers in order")
    # The same again: the first answers, and nothing new in the log.
    again = list(s.AppendStream(iter(requests[490:]), timeout=3 * T))
    equal([(r.first_seq, r.last_seq) for r in again],
          [(r.first_seq, r.last_seq) for r in replies[490:]], "the first answers")
    one = s.Append(requests[499], timeout=T)
    equal(one.first_seq, replies[499].first_seq, "through Append too")
    records = [r for m in s.Read(s.pb.ReadRequest(), timeout=T) for r in m.records]
    equal(len([r for r in records if r.key.startswith(b"k")]), 500, "records")
    # Only last + 1 is admitted; what stands behind a failure has failed too.
    fails(lambda: s.Append(s.batch([(b"x", b"")], session=session, sequence=502), timeout=T),
          "FAILED_PRECONDITION|OUT_OF_RANGE|INVALID_ARGUMENT|ABORTED")
    bad = [s.batch([(b"x", b"")], session=session, sequence=n) for n in (501, 503, 502)]
    got = []
    fails(lambda: [got.append(r.sequence) for r in s.AppendStream(iter(bad), timeout=T)],
          "FAILED_PRECONDITION|OUT_OF_RANGE|INVALID_ARGUMENT|ABORTED")
    equal(got, [501], "answers before the failure")
    ok = s.Append(s.batch([(b"x", b"")], session=session, sequence=502), timeout=T)
    check(ok.last_seq > 0, "a rejected number is not consumed")
    fails(lambda: s.Append(s.batch([(b"x", b"")], session=999999, sequence=1), timeout=T),
          "FAILED_PRECONDITION", "session")


def test_following_the_log(t):
    c = t.cluster(3, calm=True)
    leader = c.leader()
    s, r = Stub(t, leader), Stub(t, c.others(leader)[0])
    start = s.Append(s.batch([(b"", b"0")]), timeout=T).first_seq
    seen = queue.Queue()
    call = r.Read(r.pb.ReadRequest(from_seq=start, follow=True))

    def pump():
        try:
            for message in call:
                for record in message.records:
                    seen.put(record.value)
        except grpc.RpcError as e:
            seen.put(e.code())

    thread = threading.Thread(target=pump)
    thread.start()
    equal(seen.get(timeout=T), b"0", "what is there")
    for i in range(1, 50):
        s.Append(s.batch([(b"", b"%d" % i)]), timeout=T)
        equal(seen.get(timeout=T), b"%d" % i, "what is new")
    call.cancel()
    equal(seen.get(timeout=T), grpc.StatusCode.CANCELLED, "cancelled")
    thread.join()
    fails(lambda: list(r.Read(r.pb.ReadRequest(from_seq=start, follow=True), timeout=0.5)),
          "DEADLINE_EXCEEDED")
    s.Append(s.batch([(b"", b"the node is well")]), timeout=T)


def test_bad_input_gets_the_right_code_and_a_sentence(t):
    c = t.cluster(1)
    s = Stub(t, c[1])
    a = lambda pairs, **kw: lambda: s.Append(s.batch(pairs, **kw), timeout=T)
    bad = "INVALID_ARGUMENT"
    fails(a([(b"k" * 65537, b"v")]), bad, "65536")
    fails(a([(b"k", b"v" * (1048576 + 1))]), bad, "1048576")
    fails(a([]), bad, "empty")
    fails(a([(b"", b"")] * 65536), bad, "65535")
    fails(a([(b"k", b"v" * 1000000)] * 4, batch=True), bad + "|RESOURCE_EXHAUSTED", "3145728")
    fails(a([(b"k", b"v" * 1000000)] * 5, batch=True), bad + "|RESOURCE_EXHAUSTED")
    op = lambda n: lambda: s.Append(s.pb.AppendRequest(
        records=[s.pb.WriteRecord(op=n, key=b"k")]), timeout=T)
    for n in (16, 17, 18, 19, 20, 7, -1):
        fails(op(n), bad)
    fails(lambda: s.Append(s.pb.AppendRequest(records=[s.pb.WriteRecord(op=2)]), timeout=T), bad)
    fails(lambda: s.Append(s.batch([(b"k", b"v")], ack=9), timeout=T), bad)
    # The limits themselves are fine.
    a([(b"k" * 65536, b"v" * 1048576)])()
    a([(b"", b"")] * 65535, batch=True)()
    a([(b"k", b"v" * 1000000)] * 3, batch=True)()
    a([(b"", b"")])()
    last = s.Status(s.pb.StatusRequest(), timeout=T).last_seq
    read = lambda **kw: lambda: list(s.Read(s.pb.ReadRequest(**kw), timeout=T))
    fails(read(from_seq=10, to_seq=5), bad)
    # which seq it names may have grown: nodes write checkpoints by themselves
    fails(read(from_seq=last + 1000), "OUT_OF_RANGE", str(last + 1000), "committed, up to")
    fails(read(to_seq=last + 1000), "OUT_OF_RANGE", str(last + 1000), "committed, up to")
    fails(lambda: s.Truncate(s.pb.TruncateRequest(upto=last + 1000), timeout=T), "OUT_OF_RANGE")
    fails(lambda: s.Truncate(s.pb.TruncateRequest(upto=0), timeout=T), bad + "|OUT_OF_RANGE")
    fails(lambda: s.Get(s.pb.GetRequest(key=b""), timeout=T), bad)
    fails(lambda: s.Get(s.pb.GetRequest(key=b"k" * 65537), timeout=T), bad, "65536")
    fails(lambda: s.Get(s.pb.GetRequest(key=b"absent"), timeout=T), "NOT_FOUND")
    raw = s.channel.unary_unary("/replog.v1.Log/Append", lambda x: x, lambda x: x)
    fails(lambda: raw(b"\xff\xff\xff not protobuf", timeout=T), bad + "|INTERNAL")
    fails(lambda: raw(b"\x00" * (5 << 20), timeout=T), "RESOURCE_EXHAUSTED")
    for path in ("/replog.v1.Log/Nothing", "/replog.v1.Nothing/Append", "/x"):
        fails(lambda: s.channel.unary_unary(path, lambda x: x, lambda x: x)(b"", timeout=T),
              "UNIMPLEMENTED")
    s.Append(s.batch([(b"the", b"end")]), timeout=T)


def test_bad_input_on_the_command_line(t):
    c = t.cluster(1)
    path = os.path.join(t.dir, "line")

    def append(line, batch="1"):
        with open(path, "wb") as f:
            f.write(line)
        return c.cli("append", "--file", path, "--batch", batch)

    append(b"k" * 65537 + b"\tv\n").fails("INVALID_ARGUMENT", "65536")
    append(b"k\t" + b"v" * 1048577 + b"\n").fails("INVALID_ARGUMENT", "1048576")
    append((b"k\t" + b"v" * 1000000 + b"\n") * 4, "4").fails("INVALID_ARGUMENT", "3145728")
    equal(append(b"").ok().json, [], "an empty file appends nothing")
    c.cli("append", "--file", path + ".absent").fails("NOT_FOUND|absent")
    c.cli("read", "--from", "9", "--to", "3").fails("INVALID_ARGUMENT")
    c.cli("read", "--from", "99999").fails("OUT_OF_RANGE")
    c.cli("get", "k" * 65537).fails("INVALID_ARGUMENT", "65536")
    c.cli("get", "absent").fails("NOT_FOUND")
    append(b"k\tv\n").ok()


def test_deadlines_and_cancellation(t):
    c = t.cluster(3)
    leader = c.leader()
    s = Stub(t, leader)
    for node in c.others(leader):
        node.pause()
    begin = time.monotonic()
    fails(lambda: s.Append(s.batch([(b"k", b"v")]), timeout=0.3), "DEADLINE_EXCEEDED|UNAVAILABLE")
    check(time.monotonic() - begin < 10 * SLOW, "the deadline is kept")
    future = s.Append.future(s.batch([(b"k", b"v")]), timeout=30)
    time.sleep(0.05)
    future.cancel()
    check(future.cancelled() or future.exception() is not None, "cancelled")
    for node in c.others(leader):
        node.resume()
    c.ready()
    s = Stub(t, c.leader())
    calls = [s.Append.future(s.batch([(b"c%d" % i, b"v")]), timeout=T) for i in range(200)]
    for call in calls[::2]:
        call.cancel()
    # grpcio may reset a stream whose headers it has not sent yet: nobody else is disturbed
    for call in calls[1::2]:
        check(call.result().last_seq > 0, "the others are answered")


def test_many_clients_at_once(t):
    c = t.cluster(3, calm=True)
    s = Stub(t, c.leader())
    stubs = [Stub(t, c.leader()) for _ in range(4)]
    calls = [stub.Append.future(stub.batch([(b"m%d" % i, b"%d" % n)]), timeout=3 * T)
             for i in range(250) for n, stub in enumerate(stubs)]
    seqs = [call.result().first_seq for call in calls]
    equal(len(set(seqs)), 1000, "each has its own seq")
    records = [r for m in s.Read(s.pb.ReadRequest(), timeout=T) for r in m.records]
    equal(len([r for r in records if r.key.startswith(b"m")]), 1000, "records")


def test_health_check_and_watch(t):
    c = t.cluster(3)
    leader = c.leader()
    s = Stub(t, leader)
    request = s.health_pb.HealthCheckRequest
    for service in ("", "replog.v1.Log"):
        got = s.Check(request(service=service), timeout=T).status
        equal(got, 1, f"health of {service!r} is SERVING")
    fails(lambda: s.Check(request(service="nobody"), timeout=T), "NOT_FOUND")
    seen = queue.Queue()
    watch = s.Watch(request(service=""))

    def pump():
        try:
            for message in watch:
                seen.put(message.status)
        except grpc.RpcError:
            seen.put(None)

    thread = threading.Thread(target=pump)
    thread.start()
    equal(seen.get(timeout=T), 1, "SERVING")
    for node in c.others(leader):
        node.pause()
    equal(seen.get(timeout=2 * T), 2, "NOT_SERVING without a leader")
    for node in c.others(leader):
        node.resume()
    equal(seen.get(timeout=2 * T), 1, "SERVING again")
    watch.cancel()
    thread.join()
    unknown = s.Watch(request(service="nobody"), timeout=2)
    equal(next(iter(unknown)).status, 3, "SERVICE_UNKNOWN")
    unknown.cancel()


def test_who_follows_the_log_is_told_when_a_member_is_cut_off(t):
    c = t.cluster(3)
    c.append("a", "1")
    leader = c.leader()
    s = Stub(t, leader)
    follows = s.Read(s.pb.ReadRequest(follow=True), timeout=8 * T)
    stays = s.Read(s.pb.ReadRequest(follow=True, local=True), timeout=8 * T)
    for call in (follows, stays):
        check(len(next(call).records) > 0, "what is there")
    for node in c.others(leader):
        node.pause()
    error = fails(lambda: list(follows), "UNAVAILABLE")
    check("knows no leader" in error.details(), error.details())
    check(stays.is_active(), "who wants to know what this member has stays")
    fails(lambda: list(s.Read(s.pb.ReadRequest(follow=True), timeout=8 * T)), "UNAVAILABLE")
    for node in c.others(leader):
        node.resume()
    stays.cancel()


def test_reflection_lists_the_services(t):
    c = t.cluster(1)
    s = Stub(t, c[1])

    def ask(version, request):
        call = s.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            lambda x: x, lambda x: x)
        return next(iter(call(iter([request]), timeout=T)))

    for version in ("v1alpha", "v1"):
        listed = ask(version, b"\x3a\x01*")  # list_services = 7
        for name in (b"replog.v1.Log", b"grpc.health.v1.Health"):
            check(name in listed, f"{name} in {listed}")
        symbol = b"replog.v1.Log"
        described = ask(version, b"\x22" + bytes([len(symbol)]) + symbol)  # file_containing_symbol
        check(b"AppendRequest" in described, "the file that declares it")
        unknown = ask(version, b"\x22\x03x.y")
        check(b"AppendRequest" not in unknown, "an unknown symbol gets an error answer")


def test_a_stream_survives_nothing_but_is_told_when_the_leader_goes(t):
    c = t.cluster(3)
    leader = c.leader()
    s = Stub(t, leader)
    feed = queue.Queue()
    call = s.AppendStream(iter(feed.get, None))
    feed.put(s.batch([(b"a", b"1")]))
    check(next(call).last_seq > 0, "an answer")
    leader.signal(15)
    fails(lambda: (feed.put(s.batch([(b"a", b"2")])), [next(call) for _ in range(1000)]),
          "UNAVAILABLE|CANCELLED")
    feed.put(None)
    leader.wait_end()
    c.append("after", "it")
