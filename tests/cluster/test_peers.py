"""The streams between members, spoken by a stock gRPC client in a member's place."""

import contextlib
import ctypes
import queue
import struct
import time

from harness import PATIENCE, SLOW, check, equal, needs, wait
from test_grpc import grpc, messages_of

# PeerMessage.type
PREVOTE, VOTE, APPEND, APPEND_REPLY = 1, 3, 5, 6
LIE = "a lie"


channels = {}  # of this process, which runs one test


def channel_to(node):
    """One for the whole test. grpcio 1.51 aborts or hangs in fork() while its threads end, as they do
    with its last channel; and each command that a test starts is a fork()."""
    if node.address not in channels:
        channels[node.address] = grpc.insecure_channel(node.address)
    return channels[node.address]


class Member:
    """One stream to `node`, in the name of a member that is down: its hello, and then what say() is
    given."""

    def __init__(self, t, node, hello):
        self.pb = pb(t)
        self.messages = queue.Queue()
        self.say(hello=hello)
        exchange = channel_to(node).stream_stream(
            "/replog.v1.Peer/Exchange", self.pb.PeerMessage.SerializeToString,
            self.pb.PeerAck.FromString)
        self.call = exchange(iter(self.messages.get, None))

    def say(self, **fields):
        self.messages.put(self.pb.PeerMessage(**fields))

    def ended(self):
        return self.call.code().name if not self.call.is_active() else None

    def close(self):
        self.messages.put(None)
        self.call.cancel()


def pb(t):
    return messages_of(t, "peer")


def inspect(t, node, chain_seq=0):
    """What the node knows of itself, and its chain at that seq."""
    m = pb(t)
    call = channel_to(node).unary_unary("/replog.v1.Peer/Inspect",
                                        m.InspectRequest.SerializeToString, m.InspectReply.FromString)
    return call(m.InspectRequest(chain_seq=chain_seq), timeout=10 * SLOW * PATIENCE)


def hello_of(t, member, to, of):
    """What `member` would say to `to` first; `of`: what inspect() gave while it ran."""
    hello = pb(t).Hello(to=to.id, incarnation=of.incarnation, cluster_id=of.cluster_id, founding=3,
                        version=1)
    setattr(hello, "from", member.id)
    return hello


def test_only_the_last_stream_of_a_member_counts_and_the_others_are_told(t):
    """One that was given up may say hello late. Were the stream in use not told that nobody listens
    to it any more, its member would be away for ever."""
    c = t.cluster(3)
    c.append("k", "v")
    of = inspect(t, c[3])
    c[3].kill()
    hello = hello_of(t, c[3], c[1], of)
    first = Member(t, c[1], hello)
    time.sleep(1)
    check(not first.ended(), "the first stream is taken")
    second = Member(t, c[1], hello)
    wait(first.ended, 10, "the first stream ends")
    equal(first.ended(), "ABORTED", "the end of the first stream")
    check(not second.ended(), "the second goes on")
    c[3].start()
    wait(second.ended, 20, "the second stream ends when the member itself is back")
    equal(second.ended(), "ABORTED", "the end of the second stream")
    first.close()
    second.close()
    c.append("k", "w", ack="all")
    c.wait_equal()


def block(seq, term, chain):
    """The bytes of src/wal/block.h: one plain record with LIE behind the block of that chain value."""
    try:
        hash64 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits
    except OSError:
        hash64 = None
    needs(hash64, "no libxxhash.so.0")
    hash64.restype, hash64.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]
    value = LIE.encode()
    record = b"\1\0\0\0" + struct.pack("<I", len(value)) + value
    rest = struct.pack("<4sHHIIQQQQQQQ", b"RLB1", 1, 0, 80 + len(record), 1, seq, term, 0, 0, 0, 0,
                       chain) + record
    return struct.pack("<Q", hash64(rest, len(rest))) + rest


def place_of(t, node):
    """Where its log ends, and who leads; None while it has not yet all of that."""
    seq = inspect(t, node).last_seq
    i = inspect(t, node, seq)
    whole = seq and i.last_seq == i.durable_seq == i.commit_seq == i.chain_seq == seq
    return (i.term, i.leader, seq, i.chain) if whole else None


def lies_of(liar, leader, place):
    """What the liar says: to the leader or not, the message, and how that is refused."""
    term, _, seq, chain = place
    other = chain ^ 1
    here = dict(seq=seq, seq_term=term, commit_seq=seq, round=1)
    claim = dict(type=APPEND, term=term + 1, **here)  # of one that has just been elected
    far, much = term + (1 << 32) + 1, seq + (1 << 48) + 1
    led = f"says that it leads term {term}, whose leader is member {leader.id}"
    gap = f"sent a block of seq {seq + 6} that does not continue that of seq {seq}"
    return [
        # who leads, and which term
        (False, dict(type=APPEND, term=term, **here), led),
        (True, dict(type=APPEND, term=term, **here, blocks=block(seq + 1, term, chain)), led),
        (False, dict(claim, term=far), f"speaks of term {far}; the term here is {term}"),
        (True, dict(type=VOTE, term=term + 1, seq=seq + 100, seq_term=term + 1),
         f"stands for term {term + 1} with a record of term {term + 1}"),
        (False, dict(claim, blocks=block(seq + 1, term + 2, chain)),
         f"the block of seq {seq + 1} is of term {term + 2}, behind term {term} in a message of "
         f"term {term + 1}"),
        # the chain
        (False, dict(claim, blocks=block(seq + 1, term + 1, other)),
         f"the block of seq {seq + 1} does not continue the chain ({chain:016x} here, "
         f"{other:016x} there)"),
        (False, dict(claim, blocks=block(seq + 1, term + 1, chain)[:-1] + b"L"),
         "sent what is no block"),
        (False, dict(claim, blocks=2 * block(seq + 1, term + 1, chain)),
         f"sent a block of seq {seq + 1} that does not continue the chain of seq {seq + 1}"),
        # seqs from the future
        (False, dict(claim, blocks=block(seq + 6, term + 1, chain)), gap),
        (True, dict(claim, blocks=block(seq + 6, term + 1, chain)), gap),
        (False, dict(claim, seq=much), f"speaks of seq {much}; the last one here is {seq}"),
        (True, dict(type=APPEND_REPLY, term=term, **dict(here, seq=seq + 1), ok=True),
         f"holds seq {seq + 1} of term {term}, whose leader has written {seq}"),
    ]


def test_a_member_that_lies_is_refused_by_name_and_nothing_of_it_is_in_the_log(t):
    """Well-formed lies, each on a stream of its own and behind something that is true: the stream
    ends with the liar's name and the reason, the log is as before, and the cluster goes on."""
    c = t.cluster(3, calm=True, extra=["--stall-ms", "60000"])
    c.append_lines([f"k{i}\tv{i}" for i in range(20)], batch=4, call_ms=20000)
    c.wait_equal()
    leader = c.leader()
    liar, follower = c.others(leader)
    of = inspect(t, liar)
    liar.kill()

    def settled():
        place = place_of(t, leader)
        return place if place and place == place_of(t, follower) else None

    def whole_log(node):
        return c.read("--markers", at=node, local=True)

    n_lies = len(lies_of(liar, leader, wait(settled, 20, "the two alike")))
    for i in range(n_lies):
        place = wait(settled, 20, "the two alike")
        equal(place[1], leader.id, "who leads")
        to_leader, lie, why = lies_of(liar, leader, place)[i]
        node = leader if to_leader else follower
        before = whole_log(node)
        equal(before[-1]["seq"], place[2], "the last record")
        told = node.log().count(f"refused: member {liar.id} {why}")
        equal(told, 0, f"refusals for {why!r} before it was said")

        term, _, seq, _ = place
        with contextlib.closing(Member(t, node, hello_of(t, liar, node, of))) as member:
            member.say(type=PREVOTE, term=term + 1, seq=seq, seq_term=term)
            member.say(**lie)
            wait(member.ended, 10, f"the end of the stream of one that {why}")
            equal(member.ended(), "FAILED_PRECONDITION", f"the end of the stream of one that {why}")
            check(member.call.details().startswith(f"member {liar.id} {why}"),
                  f"{why!r} wanted: {member.call.details()}")
        wait(lambda: f"refused: member {liar.id} {why}" in node.log(), 10, f"its log says {why!r}")

        equal(whole_log(node), before, f"the log after {why!r}")
        equal(place_of(t, node), place, f"term, leader and end of the log after {why!r}")
        # two of three: the one that was lied to is needed for it
        c.append(f"after{i}", why, call_ms=20000)
        wait(settled, 20, "the two alike")
        after = whole_log(node)
        equal(after[:len(before)], before, f"the log below an append after {why!r}")
        equal([(r["key"], r["value"]) for r in after[len(before):] if r["op"] == "PUT"],
              [(f"after{i}", why)], f"what was appended after {why!r}")

    liar.start()  # the member itself, which does not lie
    c.append("last", "of all", ack="all", call_ms=60000)
    c.wait_equal()
    log = whole_log(leader)
    for node in c.nodes:
        equal(whole_log(node), log, f"the log of node {node.id}")
    check(not any(LIE in str(r) for r in log), "no record of the liar's in the log")
