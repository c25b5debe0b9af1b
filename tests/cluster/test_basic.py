"""The main job without faults, and the command line's contract."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

from harness import (Failure, as_line, check, equal, free_hundred, free_port, needs, paused, spawn,
                     wait)


def test_three_nodes_hold_the_same_log(t):
    c = t.cluster(3)
    lines = [f"k{i % 50}\tvalue {i}" for i in range(1000)]
    acks = c.append_lines(lines, batch=100)
    equal(len(acks), 10, "answers")
    for a in acks:
        equal(a["last_seq"] - a["first_seq"], 100, "a batch of 100 and its COMMIT")
        check(len(a["durable_on"]) >= 2, f"durable on a majority: {a}")
    status = c.wait_equal()
    equal([m["role"] for m in status["members"]], ["voter"] * 3, "roles")
    equal(sorted(m["state"] for m in status["members"]), ["follower", "follower", "leader"], "states")
    for node in c.nodes:
        equal(c.lines(acks[0]["first_seq"], at=node, local=True), lines, f"log of node {node.id}")
        wait(lambda: c.member(node.id)["applied_seq"] >= acks[-1]["last_seq"], 10, "replayed")
        got = c.cli("get", "k7", "--stale", at=node).ok().json[0]
        equal(got["value"], "value 957", f"store of node {node.id}")
    got = c.cli("get", "k7").ok().json[0]
    record = c.read("--from", str(got["seq"]), "--to", str(got["seq"]))[0]
    equal((record["key"], record["value"]), ("k7", "value 957"), "the record that get names")
    c.stop()
    chains = {t.verify(n, "--at", str(acks[-1]["last_seq"])).ok().json[0]["chain"] for n in c.nodes}
    equal(len(chains), 1, "chains after the end")


def sizes(t, size):
    c = t.cluster(size)
    lines = [f"k{i}\tv{i}" for i in range(200)]
    first = c.append_lines(lines, batch=20)[0]["first_seq"]
    if size > 1:
        c.wait_equal()
    for node in c.nodes:
        equal(c.lines(first, at=node, local=True), lines, f"log of node {node.id}")
    status = c.status()
    equal(len(status["members"]), size, "members")
    c.stop()
    for node in c.nodes:
        node.start()
    c.ready()
    equal(c.lines(first)[:200], lines, "after a restart of all")


def test_one_node(t):
    sizes(t, 1)


def test_two_nodes(t):
    sizes(t, 2)


def test_five_nodes(t):
    sizes(t, 5)


def test_acknowledgement_levels(t):
    c = t.cluster(3)
    for ack, least in (("leader", 1), ("quorum", 2), ("all", 3)):
        got = c.append("k", ack, ack=ack)
        check(len(got["durable_on"]) >= least, f"--ack {ack}: {got}")
    follower = c.others(c.leader())[0]
    follower.kill()
    c.append("k", "without one", ack="quorum")
    result = c.cli("append", "--ack", "all", "k", "not on all", call_ms=4000)
    result.fails("DEADLINE_EXCEEDED", f"not on member {follower.id}")
    wait(lambda: "not on all" in c.lines()[-1], 10, "committed all the same")


def test_single_records_and_batches(t):
    c = t.cluster(1, extra=["--stall-ms", "60000"])  # or a slow disk makes it stand for election
    one = c.append("k", "v")
    equal(one["last_seq"], one["first_seq"], "a single record carries no COMMIT")
    last = c.append_lines(["a\t1", "b\t2", "plain", "c\t3", "d\t4"], batch=3)
    equal([b["last_seq"] - b["first_seq"] for b in last], [3, 2], "the last batch is short")
    shown = c.read("--from", str(last[0]["first_seq"]), "--markers")
    equal([r["op"] for r in shown], ["PUT", "PUT", "PUT", "COMMIT", "PUT", "PUT", "COMMIT"], "ops")
    equal([r["seq"] for r in shown], list(range(last[0]["first_seq"], last[1]["last_seq"] + 1)),
          "no gap in the seqs")
    markers = [r for r in c.read("--markers") if r["op"] not in ("PUT", "DELETE", "COMMIT")]
    kinds = {r["op"] for r in markers}
    check({"TERM", "SESSION"} <= kinds, f"markers: {kinds}")
    for r in markers:
        if r["op"] == "SESSION":
            check(r["session"] > 0, f"a session has its number: {r}")
        if r["op"] == "CONFIG":
            equal([m["id"] for m in r["members"]], [1], "members of CONFIG")
    equal([as_line(r) for r in c.read("--from", str(last[0]["first_seq"]))],
          ["a\t1", "b\t2", "plain", "c\t3", "d\t4"], "without markers")


def test_delete_and_get(t):
    c = t.cluster(3)
    put = c.append("gone", "here")
    equal(c.cli("get", "gone").ok().json[0],
          {"key": "gone", "value": "here", "seq": put["first_seq"]}, "get")
    deleted = c.cli("append", "--delete", "gone").ok().json[0]
    c.cli("get", "gone").fails("NOT_FOUND")
    record = c.read("--from", str(deleted["first_seq"]))[0]
    equal((record["op"], record["key"], "value" in record), ("DELETE", "gone", False), "the record")
    c.append("gone", "again")
    equal(c.cli("get", "gone").ok().json[0]["value"], "again", "put after delete")


def test_bytes_that_are_not_text(t):
    c = t.cluster(1)
    value = b"\xff\xfe\x01 \"quote\" \\ \x7f"
    first = c.cli("append", "--file", "-", stdin=b"k\xc3\xa9y\t" + value + b"\n").ok().json[0]
    record = c.read("--from", str(first["first_seq"]))[0]
    equal(record["key"], "kéy", "a key in UTF-8")
    check("value_b64" in record and "value" not in record, f"not UTF-8: {record}")
    import base64
    equal(base64.b64decode(record["value_b64"]), value, "the bytes")
    text = 'tab\tin value, "quotes", back\\slash, \x01 control, üñí'
    first = c.append("text", text)
    equal(c.read("--from", str(first["first_seq"]))[0]["value"], text, "text through JSON")


def test_bounded_reads_and_following(t):
    c = t.cluster(3, calm=True)
    acks = c.append_lines([f"line {i}" for i in range(100)])
    first = acks[0]["first_seq"]
    got = c.read("--from", str(first + 10), "--to", str(first + 19))
    equal([r["value"] for r in got], [f"line {i}" for i in range(10, 20)], "from..to")
    follower = c.others(c.leader())[0]
    path = os.path.join(t.dir, "follow.out")
    with open(path, "wb") as out:
        reader = spawn([t.replog, "-e", follower.address, "--json", "read", "--from",
                        str(first + 90), "--follow"], stdout=out, stderr=subprocess.DEVNULL)

    def seen():
        with open(path, "rb") as f:
            data = f.read()
        return [json.loads(x)["value"] for x in data[:data.rfind(b"\n") + 1].splitlines()]

    wait(lambda: len(seen()) == 10, 10, "what is there already")
    for i in range(100, 105):
        c.append("", f"line {i}")
        wait(lambda: len(seen()) == i - 89, 5, f"the follower shows line {i}")
    equal(seen(), [f"line {i}" for i in range(90, 105)], "followed")
    reader.send_signal(signal.SIGINT)
    reader.wait(60)


def test_who_follows_with_the_command_is_told_that_no_leader_is_known(t):
    c = t.cluster(3)
    c.append("a", "1")
    leader = c.leader()
    out, err = os.path.join(t.dir, "follow.out"), os.path.join(t.dir, "follow.err")
    with open(out, "wb") as o, open(err, "wb") as e:
        reader = spawn([t.replog, "-e", leader.address, "--json", "read", "--follow"], stdout=o,
                       stderr=e)

    def said(path):
        with open(path) as f:
            return f.read()

    wait(lambda: '"a"' in said(out), 10, "what is there")
    for node in c.others(leader):
        node.pause()
    wait(lambda: "waiting: " in said(err) and "knows no leader" in said(err), 30, "a word of why")
    for node in c.others(leader):
        node.resume()
    c.append("b", "2")
    wait(lambda: '"b"' in said(out), 10, "it goes on")
    equal(said(err).count("waiting: "), 1, f"said once: {said(err)}")
    reader.kill()
    reader.wait()


def test_an_empty_log_has_first_1_and_status_answers_without_a_leader(t):
    c = t.cluster(3, start=False)
    c[1].start()
    status = wait(lambda: c.status(at=c[1]), 10, "status of a lone node")
    equal((status["leader"], status["first_seq"], status["last_seq"]), (0, 1, 0), "an empty log")
    equal(c.cli("status", at=c[1], call_ms=3000).rc, 0, "exit status")
    states = {m["id"]: m["state"] for m in status["members"]}
    equal((states[2], states[3]), ("unreachable", "unreachable"), "the members that are away")


def test_wrong_usage_ends_with_2(t):
    for args in (["nonsense"], ["append"], ["append", "k"], ["read", "--from", "x"], ["truncate"],
                 ["get"], ["append", "--ack", "most", "k", "v"], ["--timeout", "-1", "status"],
                 ["read", "--unknown"], ["append", "--batch", "0", "--file", "-"], []):
        result = t.run(t.replog, "-e", "127.0.0.1:9", *args)
        equal(result.rc, 2, f"exit status of replog {args}")
        check(result.err, f"says why: replog {args}")
    for args in ([], ["--id", "0"], ["--id", "1", "--listen", "127.0.0.1:9901"],
                 ["--id", "4", "--listen", "127.0.0.1:9901", "--cluster",
                  "1=127.0.0.1:9901", "--dir", os.path.join(t.dir, "x")],
                 ["--id", "1", "--listen", "127.0.0.1:9901", "--cluster", "1=127.0.0.1:9901",
                  "--dir", os.path.join(t.dir, "x"), "--sync", "sometimes"],
                 ["--id", "1", "--listen", "127.0.0.1:9901", "--cluster",
                  "1=127.0.0.1:9901,1=127.0.0.1:9902", "--dir", os.path.join(t.dir, "x")]):
        result = t.run(t.replogd, *args)
        equal(result.rc, 2, f"exit status of replogd {args}")
        check(result.err, f"says why: replogd {args}")
    for program in (t.replog, t.replogd):
        result = t.run(program, "--help").ok()
        check(b"--" in result.out, f"help of {program} on stdout")


def test_no_server_is_unavailable_within_the_timeout(t):
    result = t.run(t.replog, "-e", f"127.0.0.1:{free_port()}", "--timeout", "1500", "append", "k",
                   "v")  # its own limit is 30 s
    result.fails("UNAVAILABLE|DEADLINE_EXCEEDED")
    check(result.seconds < 20, f"took {result.seconds:.1f} s")


def test_beyond_loopback_only_with_insecure(t):
    port = free_port()
    argv = [t.replogd, "--id", "1", "--listen", f"0.0.0.0:{port}", "--cluster",
            f"1=127.0.0.1:{port}", "--dir", os.path.join(t.dir, "d")]
    result = t.run(*argv, timeout=10)
    check(result.rc in (1, 2) and "--insecure" in result.text, f"refused, and says how: {result}")


def test_every_flag_from_the_configuration_file(t):
    c = t.cluster(1, start=False)
    node, http = c[1], free_port()
    path = os.path.join(t.dir, "replogd.conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"# a comment\n[replogd]\nid = 1\nlisten = {node.address}\ncluster = 1={node.address}\n"
                f"dir = {node.dir}\nhttp = 127.0.0.1:{http}\nsync = batch\n")
    node.argv = lambda: [t.replogd, "--config", path]
    c.start()
    c.ready()
    equal(urllib.request.urlopen(f"http://127.0.0.1:{http}/health", timeout=5).status, 200, "http")
    c.stop()
    with open(path, "a", encoding="utf-8") as f:
        f.write("colour = blue\n")
    result = t.run(t.replogd, "--config", path, timeout=10)
    check(result.rc in (1, 2) and "colour" in result.text, f"an unknown name is refused: {result}")
    check("replogd.conf" in result.text, f"and the file is named: {result}")


def test_the_example_configuration_works_and_flags_win_over_it(t):
    c = t.cluster(1, start=False)
    node = c[1]
    example = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../deploy",
                           "replogd.conf.example")
    node.argv = lambda: [t.replogd, "--config", example, "--dir", node.dir, "--http",
                         f"127.0.0.1:{free_port()}", "--cluster", f"1={node.address}"]
    c.start()
    c.ready()
    c.stop()
    check(os.path.isdir(node.dir), "the flag's directory was used")


def test_http_pages(t):
    c = t.cluster(3, http=True)
    c.append_lines([f"k{i}\tv" for i in range(50)])
    for node in c.nodes:
        base = f"http://127.0.0.1:{node.http_port}"
        wait(lambda: urllib.request.urlopen(base + "/health", timeout=5).status == 200, 10, "/health")
        with urllib.request.urlopen(base + "/metrics", timeout=5) as r:
            check(r.headers["content-type"].startswith("text/plain"), r.headers["content-type"])
            text = r.read().decode()
        names = set()
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                float(value)
                names.add(name.split("{")[0])
        check(any("commit" in n for n in names) and all(n.startswith("replog") for n in names),
              f"metrics: {sorted(names)}")
        with urllib.request.urlopen(base + "/", timeout=5) as r:
            check(b"replog" in r.read(), "the status page")
        try:
            urllib.request.urlopen(base + "/nothing-here", timeout=5)
            raise Failure("/nothing-here should be 404")
        except urllib.error.HTTPError as e:
            equal(e.code, 404, "/nothing-here")
    for node in c.others(c.leader()):
        node.kill()
    lone = next(n for n in c.nodes if n.alive())

    def sick():
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{lone.http_port}/health", timeout=5)
            return False
        except urllib.error.HTTPError as e:
            return e.code == 503

    wait(sick, 15, "/health says 503 without a leader")
    lone.stop()


def sync_mode(t, mode):
    c = t.cluster(3, extra=["--sync", mode])
    lines = [f"k{i}\tv{i}" for i in range(300)]
    acks = c.append_lines(lines, batch=10)
    if mode == "none":
        check(all(a["durable_on"] == [] for a in acks), f"nothing is known durable: {acks[-1]}")
    else:
        check(all(len(a["durable_on"]) >= 2 for a in acks), f"durable on a majority: {acks[-1]}")
    leader = c.leader()
    leader.kill()
    c.leader()
    equal(c.lines(acks[0]["first_seq"])[:300], lines, "the page cache outlives a process")
    leader.start()
    c.wait_equal()


def test_sync_mode_batch(t):
    sync_mode(t, "batch")


def test_sync_mode_none(t):
    sync_mode(t, "none")


def number_in(path):
    """None: not whole yet."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    return int(text) if text.endswith("\n") or text.isdigit() else None


def test_dev_runs_a_cluster_and_stops_it(t):
    base = free_hundred()
    directory = os.path.join(t.dir, "dev with space")
    pids = []
    for run in (1, 2):
        dev = spawn([t.replog, "dev", "--nodes", "3", "--dir", directory, "--base-port", str(base)],
                    stdout=subprocess.PIPE, stderr=open(os.path.join(t.dir, "dev.err"), "ab"))
        line = b""
        while not line.startswith(b"ready leader="):
            line = dev.stdout.readline()
            check(line, "dev ended without saying that it is ready")
        check(b"endpoints=" in line, line)
        endpoints = line.split(b"endpoints=")[1].split()[0].decode()
        equal(endpoints, ",".join(f"127.0.0.1:{base + i}" for i in (1, 2, 3)), "endpoints")
        pids = [wait(lambda: number_in(os.path.join(directory, str(i), "replogd.pid")), 10,
                     f"the number of node {i}'s process") for i in (1, 2, 3)]
        wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{base + 51}/health", timeout=5), 10,
             "/health")
        t.run(t.replog, "-e", endpoints, "append", "run", str(run)).ok()
        out = t.run(t.replog, "-e", endpoints, "--json", "read").ok().json
        equal([r["value"] for r in out if r["key"] == "run"], ["1", "2"][:run], "goes on where it was")
        if run == 2:  # a node that ends is reported and not restarted; by hand it joins again
            argv = open(f"/proc/{pids[1]}/cmdline", "rb").read().decode().split("\0")[:-1]
            os.kill(pids[1], signal.SIGKILL)
            # said once it holds nothing any more
            wait(lambda: "node 2 ended" in open(os.path.join(t.dir, "dev.err")).read(), 10,
                 "2 reported")
            wait(lambda: any(m["id"] == 2 and not m["online"] for m in t.run(
                t.replog, "-e", endpoints, "--json", "status").ok().json[0]["members"]), 10, "2 away")
            again = spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait(lambda: all(m["online"] for m in t.run(
                t.replog, "-e", endpoints, "--json", "status").ok().json[0]["members"]), 15, "2 back")
            again.terminate()
            equal(again.wait(60), 0, "status of the node that was started by hand")
        dev.send_signal(signal.SIGINT if run == 1 else signal.SIGTERM)
        equal(dev.wait(120), 0, "exit status of dev")
        for pid in pids:
            check(not os.path.exists(f"/proc/{pid}/cmdline") or
                  b"replogd" not in open(f"/proc/{pid}/cmdline", "rb").read(), f"{pid} is left")


# What a node that dies slowly looks like from /proc: the first thread is gone, and the command line
# with it, while another thread still holds the files, until some time after the others have ended.
SLOW_TO_DIE = """
import ctypes, fcntl, os, signal, sys, threading, time
held = open(sys.argv[2] + "/wal/LOCK", "w")
fcntl.flock(held, fcntl.LOCK_EX)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def die():
    print("here", flush=True)
    signal.sigwait([signal.SIGTERM])
    gone.set()
    end = time.monotonic() + 60
    while time.monotonic() < end and any(os.path.exists("/proc/" + pid) for pid in sys.argv[3:]):
        time.sleep(0.01)
    time.sleep(1)
    os._exit(0)
gone = threading.Event()
threading.Thread(target=die).start()
gone.wait()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # exit: this thread only
"""


def test_dev_waits_until_a_node_started_by_hand_holds_nothing(t):
    base = free_hundred()
    directory = os.path.join(t.dir, "dev")
    dev = spawn([t.replog, "dev", "--nodes", "3", "--dir", directory, "--base-port", str(base)],
                stdout=subprocess.PIPE, stderr=open(os.path.join(t.dir, "dev.err"), "ab"))
    check(dev.stdout.readline().startswith(b"ready leader="), "dev is not ready")
    member = os.path.join(directory, "2")
    pid_file = os.path.join(member, "replogd.pid")
    os.kill(int(open(pid_file).read()), signal.SIGKILL)
    wait(lambda: "node 2 ended" in open(os.path.join(t.dir, "dev.err")).read(), 10, "2 reported")
    program = os.path.join(t.dir, "replogd")  # dev knows a node by its name and its directory
    shutil.copy(os.path.realpath(sys.executable), program)
    others = [str(number_in(os.path.join(directory, i, "replogd.pid"))) for i in ("1", "3")]
    by_hand = spawn([program, "-c", SLOW_TO_DIE, "--dir", member, *others], stdout=subprocess.PIPE,
                    env=dict(os.environ, PYTHONHOME=sys.base_prefix))
    equal(by_hand.stdout.readline(), b"here\n", "the node that was started by hand")
    with open(pid_file, "w") as f:
        f.write(f"{by_hand.pid}\n")
    dev.terminate()
    equal(dev.wait(120), 0, "exit status of dev")
    with open(os.path.join(member, "wal", "LOCK"), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("dev ended, and a node still holds its directory") from None
    equal(by_hand.wait(60), 0, "status of the node that was started by hand")


def test_dev_says_why_it_cannot_be_ready_and_ends(t):
    base = free_hundred()
    directory = os.path.join(t.dir, "it's a dir")

    def dev(nodes):
        return spawn([t.replog, "dev", "--nodes", nodes, "--dir", directory, "--base-port",
                      str(base)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    alone = dev("1")
    check(alone.stdout.readline().startswith(b"ready leader=1"), "one node is ready")
    alone.terminate()
    equal(alone.wait(120), 0, "exit status of dev")
    three = dev("3")  # its member 1 belongs to a cluster of one
    out, err = three.communicate(timeout=160)
    equal((three.returncode, out), (1, b""), "never ready")
    for said in ("node 1 ended with status 1", "has the members 1", "that are left do not serve"):
        check(said in err.decode(), f"{said!r} is missing: {err.decode()}")
    command = err.decode().split("to start it again:\n")[1].split("\n")[0]
    equal(shlex.split(command)[shlex.split(command).index("--dir") + 1],
          os.path.join(directory, "1"), "the directory in the command, for a shell")


def test_bench_reports_its_figures(t):
    c = t.cluster(3)
    latency = ("p50_us", "p90_us", "p99_us", "p999_us", "max_us")
    for args in (["--inflight", "16"], ["--batch", "10"], ["--keyed"]):
        got = c.cli("bench", "--seconds", "3", "--size", "256", *args, timeout=30).ok().json[-1]
        check(all(got.get(field, 0) > 0 for field in (*latency, "records_per_s", "mib_per_s", "count")),
              f"bench {args}: {got}")
        equal((got["errors"], got["ended_early"], got["seconds"]), (0, False, 3), f"bench {args}")
    got = c.cli("bench", "--seconds", "1", "--read", timeout=30).ok().json[-1]
    check(got["records_per_s"] > 0 and got["count"] == 0, f"reading: {got}")
    check(not any(field in got for field in latency), f"a latency of no append: {got}")
    refused = c.cli("bench", "--keyed", "--read")
    check(refused.rc == 2 and "--keyed is for appends" in refused.text, f"{refused}")


def test_bench_tells_of_appends_that_failed(t):
    c = t.cluster(3)
    others = c.others(c.leader())

    def bench(*args):
        return c.cli("bench", "--timeout", "300", "--seconds", "20", "--warmup", "0", *args,
                     timeout=60)
    with paused(others):
        closed = bench("--inflight", "1000")
        opened = bench("--rate", "20000")
    for r in (closed, opened):
        equal(r.rc, 1, "exit status")
        got = r.json[-1]
        check(got["ended_early"] and got["errors"] >= 1000 and 0.2 < got["seconds"] < 15, f"{got}")
    check("p50_us" not in closed.json[-1], f"nothing was answered: {closed.json[-1]}")
    got = opened.json[-1]  # the window took 1,024; all the others were due as well
    check(abs(got["count"] - 20000 * got["seconds"]) < 500 and got["late"] > got["count"] - 2500,
          f"what was due: {got}")


def test_an_interrupted_bench_can_be_hurried(t):
    c = t.cluster(3)
    for seconds in ("5", "1"):  # the signal comes while it counts; when its time is over
        with paused(c.others(c.leader())):
            bench = spawn([t.replog, "-e", c.endpoints, "--timeout", "30000", "bench", "--warmup",
                           "0", "--seconds", seconds, "--dir", t.dir],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(3.5)  # a second of it is the disk's
            bench.send_signal(signal.SIGINT)
            check(b"again to quit" in bench.stderr.readline(), "it says that it waits")
            bench.send_signal(signal.SIGINT)
            equal(bench.wait(20), -signal.SIGINT, "ended by the second signal")


def test_an_open_load_counts_from_when_appends_were_due(t):
    c = t.cluster(3)

    def bench(*args):
        return c.cli("bench", "--seconds", "2", "--warmup", "0", *args, timeout=40).ok().json[-1]
    even = bench("--rate", "50")
    check(45 <= even["records_per_s"] <= 51 and even["late"] == 0, f"50 a second: {even}")
    held_up = bench("--rate", "1000000", "--inflight", "2")
    check(held_up["late"] > 0 and held_up["p50_us"] > 300000, f"far too many a second: {held_up}")
    equal(held_up["count"], 2000000, "every one that was due")
    equal(c.cli("bench", "--rate", "5", "--read").rc, 2, "wrong usage")


def test_an_open_load_counts_what_failed(t):
    c = t.cluster(3)
    others = c.others(c.leader())
    with paused(others):
        got = c.cli("bench", "--timeout", "300", "--seconds", "1", "--warmup", "0", "--rate", "20",
                    timeout=40).json[-1]
    check(got["errors"] > 0 and got["p99_us"] >= 250000, f"nobody could answer: {got}")


def test_memory_does_not_grow_with_the_log(t):
    # the sanitizer keeps freed memory back for a while, 256 MiB of it unless told
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=16"
    c = t.cluster(3)
    needs(c[1].memory_kib("RssAnon") < 200 << 10, "a sanitizer's build is larger")
    start = {n.id: n.memory_kib("RssAnon") for n in c.nodes}
    line = "x" * 10000
    for _ in range(6):
        c.append_lines([line] * 4000, batch=50)
    size = sum(s for f, s in t.files(c[1]).items() if not f.startswith("store")) >> 20
    for n in c.nodes:
        now = n.memory_kib("RssAnon")
        print(f"node {n.id}: {start[n.id] >> 10} MiB, with a log of {size} MiB {now >> 10} MiB")
        check(now < 96 << 10, f"memory of node {n.id}: {now >> 10} MiB")
    follower = c.others(c.leader())[0]
    follower.kill()
    follower.start()
    c.wait_equal()
    check(follower.memory_kib("RssAnon") < 96 << 10, "after a restart")


def test_wal_verify_and_dump_offline(t):
    c = t.cluster(1)
    lines = [f"k{i}\tv{i}" for i in range(20)]
    ack = c.append_lines(lines, batch=20)[0]
    t.verify(c[1]).fails("FAILED_PRECONDITION")  # the node holds it
    c.stop()
    before = t.files(c[1])
    got = t.verify(c[1]).ok().json[0]
    check(got["ok"] is True and got["first_seq"] == 1 and got["blocks"] > 0, got)
    equal(got["last_seq"] >= ack["last_seq"], True, "last_seq")
    equal(got["torn_bytes"], 0, "torn bytes after a clean end")
    check(not got.get("error"), got)
    dump = t.run(t.replog, "--json", "wal", "dump", c[1].dir, "--from", str(ack["first_seq"])).ok().json
    equal([as_line(r) for r in dump if r["op"] == "PUT"][:20], lines, "dump")
    equal(t.files(c[1]), before, "files are as they were")
    t.run(t.replog, "wal", "verify", os.path.join(t.dir, "nowhere")).fails("NOT_FOUND|FAILED_PREC")
