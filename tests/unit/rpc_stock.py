"""A gRPC client that nobody here wrote (grpcio) against rpc_server_main. Messages are made from the
project's proto files with protoc. Usage: rpc_stock.py SERVER PROTO_DIR"""
import importlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc

LOG = "/replog.v1.Log/"
server = address = pb = hb = rb = None


def raw(x):
    return x


class Stock(unittest.TestCase):
    def setUp(self):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 64 << 20)])

    def tearDown(self):
        self.channel.close()

    def unary(self, name, request=raw, reply=raw):
        return self.channel.unary_unary(LOG + name, request, reply)

    def counters(self):
        server.stdin.write("counters\n")
        server.stdin.flush()
        return [int(x) for x in server.stdout.readline().split()]

    def test_unary(self):
        append = self.unary("Append", pb.AppendRequest.SerializeToString, pb.AppendRequest.FromString)
        for size in (0, 1, 1000, 20000, 1 << 20, 3 << 20, 4 << 20):
            q = pb.AppendRequest(records=[pb.WriteRecord(key=b"k", value=b"v" * size)])
            self.assertEqual(append(q, timeout=20), q)

    def test_many_at_once(self):
        append = self.unary("Append")
        futures = [append.future(b"%d" % i, timeout=20) for i in range(2000)]
        self.assertEqual([f.result() for f in futures], [b"%d" % i for i in range(2000)])

    def test_stub(self):
        status = self.unary("Status", pb.StatusRequest.SerializeToString, pb.StatusReply.FromString)
        self.assertEqual(status(pb.StatusRequest(), timeout=5).answered_by, 7)

    def failure(self, call, *args, **kw):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*args, **kw)
        return caught.exception

    def test_failures(self):
        e = self.failure(self.unary("Truncate"), b"", timeout=5)
        self.assertEqual(e.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(e.details(), '100 % "so" w\u00e4hr\nline')
        self.assertIn(("replog-leader", "2 127.0.0.1:7402"), [(m.key, m.value) for m in e.trailing_metadata()])
        for name in ("Nothing", "OpenSession", "Checkpoint"):
            e = self.failure(self.unary(name), b"", timeout=5)
            self.assertEqual(e.code(), grpc.StatusCode.UNIMPLEMENTED)
        e = self.failure(self.unary("Status"), b"\xff\xff", timeout=5)
        self.assertEqual(e.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_too_large(self):
        e = self.failure(self.unary("Append"), b"x" * (5 << 20), timeout=10)
        self.assertEqual(e.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertIn("limit", e.details())

    def test_two_requests_for_one(self):
        two = self.channel.stream_unary(LOG + "Append", raw, raw)
        for messages in ([b"a", b"b"], []):
            e = self.failure(two, iter(messages), timeout=5)
            self.assertEqual(e.code(), grpc.StatusCode.INTERNAL)

    def test_compressed(self):
        e = self.failure(self.unary("Append"), b"x" * 1000, timeout=5,
                         compression=grpc.Compression.Gzip)
        self.assertEqual(e.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_bidirectional(self):
        stream = self.channel.stream_stream(LOG + "AppendStream", raw, raw)
        sent = [b"m%d" % i * (1 + i % 50) for i in range(5000)]
        self.assertEqual(list(stream(iter(sent), timeout=30)), sent)

    def test_bidirectional_large(self):
        stream = self.channel.stream_stream(LOG + "AppendStream", raw, raw)
        sent = [bytes([i]) * (1 << 20) for i in range(24)]
        self.assertEqual(list(stream(iter(sent), timeout=30)), sent)

    def test_server_stream(self):
        read = self.channel.unary_stream(LOG + "Read", pb.ReadRequest.SerializeToString, raw)
        sizes = [len(m) for m in read(pb.ReadRequest(from_seq=300, to_seq=100000), timeout=20)]
        self.assertEqual(sizes, [100000] * 300)

    def test_slow_reader_and_cancel(self):
        before = self.counters()[0]
        read = self.channel.unary_stream(LOG + "Read", pb.ReadRequest.SerializeToString, raw)
        call = read(pb.ReadRequest(from_seq=1 << 30, to_seq=100000))
        for _ in range(5):
            next(call)
        call.cancel()
        self.wait_counter(0, before + 1)

    def wait_counter(self, index, value):
        end = time.monotonic() + 5
        while self.counters()[index] < value:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_deadline(self):
        begun = time.monotonic()
        e = self.failure(self.unary("Get"), b"", timeout=0.3)
        self.assertEqual(e.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - begun, 3)

    def test_health(self):
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check",
                                         hb.HealthCheckRequest.SerializeToString,
                                         hb.HealthCheckResponse.FromString)
        for name in ("", "replog.v1.Log"):
            self.assertEqual(check(hb.HealthCheckRequest(service=name), timeout=5).status, 1)
        e = self.failure(check, hb.HealthCheckRequest(service="no.such"), timeout=5)
        self.assertEqual(e.code(), grpc.StatusCode.NOT_FOUND)

    def test_health_watch(self):
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch",
                                          hb.HealthCheckRequest.SerializeToString,
                                          hb.HealthCheckResponse.FromString)
        unknown = watch(hb.HealthCheckRequest(service="no.such"), timeout=10)
        self.assertEqual(next(unknown).status, 3)
        unknown.cancel()
        known = watch(hb.HealthCheckRequest(service="replog.v1.Log"), timeout=10)
        seen = [next(known).status]
        for line in ("down\n", "up\n"):
            server.stdin.write(line)
            server.stdin.flush()
            seen.append(next(known).status)
        known.cancel()
        self.assertEqual(seen, [1, 2, 1])

    def reflect(self, version, *requests):
        info = self.channel.stream_stream(
            "/grpc.reflection.%s.ServerReflection/ServerReflectionInfo" % version,
            rb.ServerReflectionRequest.SerializeToString, rb.ServerReflectionResponse.FromString)
        return list(info(iter(requests), timeout=5))

    def test_reflection(self):
        from google.protobuf import descriptor_pb2
        q = rb.ServerReflectionRequest
        for version in ("v1", "v1alpha"):
            names = [s.name for s in self.reflect(version, q(list_services="*"))[0]
                     .list_services_response.service]
            self.assertEqual(names, ["replog.v1.Log", "grpc.health.v1.Health",
                                     "grpc.reflection.v1.ServerReflection",
                                     "grpc.reflection.v1alpha.ServerReflection"])
            symbols = names + ["replog.v1.AppendRequest", "replog.v1.Log.Append", "replog.v1.Op",
                               "grpc.health.v1.HealthCheckResponse.ServingStatus"]
            answers = self.reflect(version, *[q(file_containing_symbol=s) for s in symbols])
            self.assertEqual(len(answers), len(symbols))
            for symbol, a in zip(symbols, answers):
                self.assertEqual(a.original_request.file_containing_symbol, symbol)
                (data,) = a.file_descriptor_response.file_descriptor_proto
                proto = descriptor_pb2.FileDescriptorProto.FromString(data)
                self.assertTrue(symbol.startswith(proto.package + "."))
                again = self.reflect(version, q(file_by_filename=proto.name))[0]
                self.assertEqual(again.file_descriptor_response.file_descriptor_proto[0], data)
        for bad in (q(file_by_filename="no.proto"), q(file_containing_symbol="replog.v1.Lo"),
                    q(file_containing_symbol="replog.v1"), q(all_extension_numbers_of_type="x")):
            self.assertEqual(self.reflect("v1", bad)[0].error_response.error_code, 5)

    def test_threads(self):
        append, errors = self.unary("Append"), []

        def work(k):
            for i in range(200):
                m = b"%d-%d" % (k, i)
                if append(m, timeout=10) != m:
                    errors.append(m)
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])


def main():
    global server, address, pb, hb, rb
    program, protos = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.check_call(["protoc", "-I", protos, "--python_out", folder] +
                              [protos + "/" + n for n in ("replog.proto", "health.proto", "reflection.proto")])
        sys.path.insert(0, folder)
        pb, hb, rb = [importlib.import_module(n + "_pb2") for n in ("replog", "health", "reflection")]
        server = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().strip()
            result = unittest.main(argv=[sys.argv[0]] + sys.argv[3:], exit=False).result
            server.stdin.write("drain\n")
            server.stdin.close()
            status = server.wait(10)
        finally:
            server.kill()
    sys.exit(0 if result.wasSuccessful() and status == 0 else 1)


if __name__ == "__main__":
    main()
