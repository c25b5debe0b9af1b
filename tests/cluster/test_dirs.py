"""Data directories: founding, identity, locks, and damage."""

import os
import re
import shutil
import time
import urllib.request

from harness import Cluster, Failure, check, checkpoint_of, equal, wait


def test_two_empty_directories_beside_a_silent_member_never_form_a_cluster(t):
    c = t.cluster(3, start=False)
    c[1].start()
    c[2].start()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for node in (c[1], c[2]):
            status = c.status(at=node)
            check(not status or status["leader"] == 0, f"a leader without the third: {status}")
        time.sleep(0.2)
    result = c.cli("append", "k", "v", call_ms=1500)
    result.fails("UNAVAILABLE|DEADLINE_EXCEEDED")
    c[1].kill()  # and not after a restart either
    c[1].start()
    wait(lambda: c.status(at=c[1]), 10, "a word of the one that was killed")
    time.sleep(2)
    for node in (c[1], c[2]):
        status = c.status(at=node)
        check(status and status["leader"] == 0, f"a leader without the third: {status}")
    c[3].start()
    c.ready()
    c.wait_equal()


def test_a_wiped_directory_under_its_old_id_is_refused_by_name(t):
    c = t.cluster(3, calm=True)  # a new leader would know nothing of it
    lines = [f"k{i}\tv{i}" for i in range(100)]
    first = c.append_lines(lines, batch=10)[0]["first_seq"]
    c.wait_equal()
    wiped = c.others(c.leader())[0]
    wiped.kill()
    shutil.rmtree(wiped.dir)
    wiped.start()
    wait(lambda: "incarnation" in wiped.log(), 10, "it is told why")
    wait(lambda: not c.member(wiped.id, c.status(at=c.others(wiped)[0]))["online"], 10,
         "status does not count it as online")
    said = wiped.log() + "".join(n.log() for n in c.others(wiped))
    check("incarnation" in said.lower(), f"the log names the reason: {said[-800:]}")
    for node in c.others(wiped):  # each try is refused; that is told once
        refusals = wiped.log().count(f"peer={node.id} lost: FAILED_PRECONDITION")
        check(refusals <= 1, f"told {refusals} times that member {node.id} refuses")

    def known(node):
        member = c.member(wiped.id, c.status(at=node))
        return member["state"] == "unreachable" and member["match_seq"] > 0

    for node in c.others(wiped):
        wait(lambda: known(node), 10, f"what node {node.id} knows of it")
    # It counts for nothing: with one more member away there is no majority.
    other = next(n for n in c.others(wiped) if n is not c.leader(among=c.others(wiped)))
    c.append("k", "two of three are enough")
    other.kill()
    leader = next(n for n in c.others(wiped) if n is not other)
    c.cli("append", "k", "no", at=leader, call_ms=2000).fails("UNAVAILABLE|DEADLINE_EXCEEDED")
    other.start()
    c.leader(among=c.others(wiped))
    equal(c.lines(first, at=leader)[:100], lines, "the log")


def two_clusters(t):
    a = t.cluster(3, name="a")
    a.append("from", "a")
    a.wait_equal()
    b = t.cluster(3, name="b")
    b.append("from", "b")
    b.wait_equal()
    return a, b


def test_the_directory_of_another_cluster_is_refused(t):
    a, b = two_clusters(t)
    t.nodes_may_end = True  # the stranger
    a.stop()
    b[2].kill()
    stranger = t.node(2, "a2")
    stranger.port = b[2].port
    mixed = Cluster(t, [b[1], stranger, b[3]])
    stranger.start()  # with a log file of its own
    wait(lambda: re.search("refused by member .* belongs to cluster", stranger.log()), 10,
         "it is told why")
    wait(lambda: not stranger.alive() or not mixed.member(2, mixed.status(at=b[1]))["online"], 10,
         "status does not count it as online")
    b.append("still", "works", at=f"{b[1].address},{b[3].address}")
    stranger.kill()
    check(stranger.process.returncode in (-9, 1), f"the stranger's end: {stranger.log()[-400:]}")
    b[2].start()
    b.wait_equal()


def test_the_directory_of_another_member_is_refused(t):
    c = t.cluster(3)
    c.append("k", "v")
    c.stop()
    argv = c[2].argv()
    argv[argv.index("--dir") + 1] = c[1].dir
    before = t.files(c[1])
    result = t.run(*argv, timeout=15)
    check(result.rc == 1 and "member" in result.text, f"refused, and says why: {result}")
    equal(t.files(c[1]), before, "its files")


def test_a_directory_that_another_process_holds_is_refused(t):
    c = t.cluster(1)
    argv = c[1].argv()
    argv[argv.index("--listen") + 1] = "127.0.0.1:0"
    result = t.run(*c[1].argv(), timeout=15)  # the same port too
    check(result.rc == 1, f"refused: {result}")
    other = t.node(1, "n1")
    argv = c[1].argv()
    argv[argv.index("--listen") + 1] = other.address
    argv[argv.index("--cluster") + 1] = f"1={other.address}"
    result = t.run(*argv, timeout=15)
    check(result.rc == 1 and c[1].dir in result.text, f"refused, and names the directory: {result}")
    c.append("k", "the first one goes on")


def test_cluster_flag_that_does_not_fit_is_refused(t):
    c = t.cluster(3)
    c.append("k", "v")
    c.stop()
    argv = c[1].argv()
    argv[argv.index("--cluster") + 1] = f"1={c[1].address},2={c[2].address}"
    result = t.run(*argv, timeout=15)
    check(result.rc == 1, f"a member is missing in --cluster: {result}")
    # New addresses are an update that --cluster may make.
    for node in c.nodes:
        node.port = t.node(node.id, f"n{node.id}").port
    c.set_members()
    c.start()
    c.ready()
    equal(c.cli("get", "k").ok().json[0]["value"], "v", "with new addresses")


def flip(path, offset, count=8):
    with open(path, "r+b") as f:
        f.seek(offset)
        data = f.read(count)
        f.seek(offset)
        f.write(bytes(b ^ 0xA5 for b in data))


def flip_a_record(node, files, value):
    """In the first of the node's files that holds such a value (one with markers only may come
    before): flips bytes of the one that begins last before the middle of what is used, or of the
    first. Never the zeros behind a group, which nothing checks as nothing reads them. Gives the
    file."""
    for file in files:
        path = os.path.join(node.dir, file)
        with open(path, "rb") as f:
            data = f.read()
        at = data.rfind(value, 0, len(data.rstrip(b"\0")) // 2)
        at = at if at >= 0 else data.find(value)
        if at >= 0:
            flip(path, at)
            return file
    raise Failure(f"no record like {value[:8]}... in {files}")


def stopped_single(t):
    """A stopped one-node cluster with a log, and the acknowledged lines."""
    t.nodes_may_end = True  # when they find damage
    c = t.cluster(1)
    lines = [f"k{i}\t{'v' * 200}{i}" for i in range(500)]
    first = c.append_lines(lines, batch=50)[0]["first_seq"]
    time.sleep(0.3)  # past the idle mark
    c.stop()
    return c, first, lines


def outcome(t, c, first, lines, what):
    """Starts the node on a damaged directory: it refuses, and names the file, or it has everything."""
    node = c[1]
    with open(node.log_path, "wb"):
        pass
    node.start()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not node.alive():
            check(node.process.returncode == 1, f"{what}: status {node.process.returncode}")
            check(os.path.basename(what.split()[0]) in node.log() or "DATA_LOSS" in node.log(),
                  f"{what}: the refusal names it: {node.log()[-500:]}")
            return "refused"
        status = c.status(call_ms=500)
        if status and status["leader"]:
            got = c.cli("read", "--from", str(first))
            if got.rc != 0:
                check("DATA_LOSS" in got.text, f"{what}: {got}")
                node.kill()
                return "data loss told"
            equal([f"{r['key']}\t{r['value']}" for r in got.json][:len(lines)], lines, f"{what}: log")
            node.kill()
            return "everything is there"
        if status and any(m["state"] == "damaged" for m in status["members"]):
            node.kill()
            return "damaged, and says so"
        time.sleep(0.1)
    node.kill()
    check("DATA_LOSS" in node.log() or "damage" in node.log(),
          f"{what}: neither serves nor says why: {node.log()[-500:]}")
    return "says so and waits"


def test_damaged_files_are_refused_or_repaired_never_lost_silently(t):
    c, first, lines = stopped_single(t)
    pristine = t.copy(c[1], "pristine")
    files = [f for f in t.files(c[1]) if not f.startswith("store") and not f.endswith(".pid")]
    print("files:", sorted(files))
    used = {f: used_bytes(os.path.join(pristine, f)) for f in files}
    cases = []
    for file in sorted(files):
        if not used[file]:
            continue
        spots = sorted({0, min(40, used[file] - 1), used[file] // 2, max(0, used[file] - 16)})
        cases += [(file, spot) for spot in spots]
    for file, spot in cases:
        shutil.rmtree(c[1].dir)
        shutil.copytree(pristine, c[1].dir)
        flip(os.path.join(c[1].dir, file), spot)
        print(f"{file} at {spot}: {outcome(t, c, first, lines, f'{file} at {spot}')}")


def used_bytes(path):
    """Up to the last byte that is not zero."""
    with open(path, "rb") as f:
        return len(f.read().rstrip(b"\0"))


def test_missing_files_are_refused(t):
    c, _, _ = stopped_single(t)
    pristine = t.copy(c[1], "pristine")
    for file in sorted(t.files(c[1])):
        if file.startswith("store") or file.endswith(".pid") or "lock" in file.lower():
            continue
        if not used_bytes(os.path.join(pristine, file)):
            continue
        shutil.rmtree(c[1].dir)
        shutil.copytree(pristine, c[1].dir)
        os.unlink(os.path.join(c[1].dir, file))
        result = t.run(*c[1].argv(), timeout=15)
        equal(result.rc, 1, f"without {file}: {result}")


def metric(node, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http_port}/metrics", timeout=5) as r:
        lines = dict(line.rsplit(" ", 1) for line in r.read().decode().splitlines()
                     if not line.startswith("#"))
    return float(lines["replog_" + name])


def test_the_scrub_finds_rot_before_anybody_reads_it(t):
    c = t.cluster(3, http=True, extra=["--segment-bytes", "1M", "--scrub-start-ms", "300"])
    acks = c.append_lines([f"k{i}\t{'v' * 1000}{i}" for i in range(3000)], batch=50)
    c.wait_equal()
    # or the store would read the log again
    checkpoint_of(c, acks[-1]["last_seq"])
    rotten, sound = c.others(c.leader())
    for node in (rotten, sound):
        node.kill()
    first = flip_a_record(rotten, sorted(f for f in t.files(rotten) if f.endswith(".seg")),
                          b"v" * 1000)
    for node in (rotten, sound):
        node.start()
    c.ready()
    wait(lambda: metric(rotten, "scrub_errors_total") == 1, 20, "the rot is found")
    said = [line for line in rotten.log().splitlines() if "scrub:" in line]
    check(said and os.path.basename(first) in said[0] and "offset" in said[0], f"where: {said}")
    wait(lambda: c.member(rotten.id)["state"] == "damaged", 5, "it says so")
    wait(lambda: metric(sound, "scrubbed_bytes_total") > 3000 * 1000, 20, "a whole round")
    equal(metric(sound, "scrub_errors_total"), 0, "errors of a sound log")
    c.append("k", "all go on")
    check(rotten.alive(), "a node that found rot goes on")


def test_a_damaged_follower_is_repaired_or_stays_out_while_the_others_go_on(t):
    c = t.cluster(3)
    lines = [f"k{i}\t{'v' * 500}{i}" for i in range(2000)]
    first = c.append_lines(lines, batch=50)[0]["first_seq"]
    c.wait_equal()
    time.sleep(0.3)
    follower = c.others(c.leader())[0]
    follower.kill()
    logs = [f for f in t.files(follower) if f.endswith(".seg")]
    logs.sort(key=lambda f: used_bytes(os.path.join(follower.dir, f)), reverse=True)
    largest = flip_a_record(follower, logs, b"v" * 500)
    follower.start()
    c.append("k", "the others go on")
    time.sleep(3)
    equal(c.lines(first)[:2000], lines, "the log, from any node")
    if follower.alive():
        got = c.cli("read", "--from", str(first), "--node", at=follower)
        check(got.rc == 1 or [f"{r['key']}\t{r['value']}" for r in got.json][:2000] == lines[:len(got.json)],
              f"what the damaged one serves: {got}")
        member = c.member(follower.id)
        print(f"the damaged follower is {member['state']}, match_seq {member['match_seq']}")
    else:
        check("DATA_LOSS" in follower.log() and str(largest).split("/")[-1] in follower.log(),
              f"it names the file: {follower.log()[-500:]}")
