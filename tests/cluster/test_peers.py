"""The streams between members, spoken by a stock gRPC client in a member's place."""

import queue
import time

from harness import check, equal, wait
from test_grpc import grpc, messages_of


class Member:
    """One stream to `node`, in the name of a member that is down: its hello, and nothing more."""

    def __init__(self, t, node, hello):
        self.channel = grpc.insecure_channel(node.address)
        self.messages = queue.Queue()
        self.messages.put(pb(t).PeerMessage(hello=hello))
        exchange = self.channel.stream_stream("/replog.v1.Peer/Exchange",
                                              pb(t).PeerMessage.SerializeToString,
                                              pb(t).PeerAck.FromString)
        self.call = exchange(iter(self.messages.get, None))

    def ended(self):
        return self.call.code().name if not self.call.is_active() else None

    def close(self):
        self.messages.put(None)
        self.call.cancel()
        self.channel.close()


def pb(t):
    return messages_of(t, "peer")


def identity_of(t, node):
    m = pb(t)
    with grpc.insecure_channel(node.address) as channel:
        inspect = channel.unary_unary("/replog.v1.Peer/Inspect", m.InspectRequest.SerializeToString,
                                      m.InspectReply.FromString)
        return inspect(m.InspectRequest(), timeout=10)


def test_only_the_last_stream_of_a_member_counts_and_the_others_are_told(t):
    """One that was given up may say hello late. Were the stream in use not told that nobody listens
    to it any more, its member would be away for ever."""
    c = t.cluster(3)
    c.append("k", "v")
    of = identity_of(t, c[3])
    c[3].kill()
    hello = pb(t).Hello(to=1, incarnation=of.incarnation, cluster_id=of.cluster_id, founding=3,
                        version=1)
    setattr(hello, "from", 3)
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
