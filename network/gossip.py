"""
Flood with memory: every message is checked once, then passed on to those without it.

Theory of operation
-------------------
A message is named by the hash of topic and payload.  The first copy waits for its
check; copies that come meanwhile only tell who has it.  What the check accepts goes to
every peer that is not known to have it.  So a message crosses each connection about
once, nothing unchecked is ever forwarded, and a rejected message costs exactly the
peer that was first to send it.

Direct messages go through the same checks, but are neither remembered nor forwarded.

Checks of one topic run one after another, so their order is that of arrival per peer;
a check that waits long delays its topic only, and what does not fit is dropped.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable

import trio

from network.budget import RECEIVER_SLACK, TopicBudget
from network.endpoint import PeerId
from network.errors import MessageTooBig
from network.faults import Fault
from network.inbox import FairInbox, Incoming
from network.link import Link
from network.params import NetworkParams
from network.seen import SeenCache
from network.topics import Topic, Verdict
from primitives.errors import RemoteError
from primitives.hashing import compute_hash

Check = Callable[[PeerId, bytes], Awaitable[Verdict]]
Charge = Callable[[PeerId, Fault, str], None]

log = logging.getLogger(__name__)


class Gossip:
    """The gossip of one node.

    Args:
        params: Budgets and bounds.
        get_links: Connections that are up.
        charge: Makes a peer pay for a fault.
    """

    def __init__(
        self,
        params: NetworkParams,
        get_links: Callable[[], Iterable[Link]],
        charge: Charge,
    ) -> None:
        self._params = params
        self._get_links = get_links
        self._charge = charge
        self._checks: dict[Topic, Check] = {}
        self._inboxes = {t: FairInbox(bounds) for t, bounds in params.topics.items()}
        self._arrivals = {topic: trio.Event() for topic in params.topics}
        self._seen = SeenCache(params.seen_count, params.seen_s)
        self._holders: dict[bytes, set[PeerId]] = {}
        self._budgets: dict[tuple[PeerId, Topic], TopicBudget] = {}
        self.dropped = 0
        """Messages that came faster than they were checked."""

    def subscribe(self, topic: Topic, check: Check) -> None:
        """Set the check of a topic; without one its messages are ignored."""
        if topic in self._checks:
            raise ValueError(f"{topic.name} has a check already")
        self._checks[topic] = check

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Send a message of ours to every peer."""
        self.validate_size(topic, payload)
        self._seen.add(_compute_digest(topic, payload), trio.current_time())
        for link in self._get_links():
            link.publish(topic, payload, direct=False)

    def validate_size(self, topic: Topic, payload: bytes) -> None:
        """Raise MessageTooBig when peers would take `payload` for a fault."""
        bound = self._params.topics[topic].max_bytes
        if len(payload) > bound:
            raise MessageTooBig(f"{len(payload)} > {bound} bytes on {topic.name}")

    def on_message(
        self, sender: PeerId, topic: Topic, direct: bool, payload: bytes
    ) -> None:
        """Take a message from a peer; never waits."""
        now = trio.current_time()
        if not self._get_budget(sender, topic).take(len(payload), now):
            return self._charge(sender, Fault.FLOOD, f"flood on {topic.name}")
        if topic not in self._checks:
            return None
        if direct:
            return self._enqueue(topic, Incoming(sender, payload, None))
        digest = _compute_digest(topic, payload)
        holders = self._holders.get(digest)
        if holders is not None:
            holders.add(sender)
        elif not self._seen.has(digest, now):
            self._seen.add(digest, now)
            self._holders[digest] = {sender}
            self._enqueue(topic, Incoming(sender, payload, digest))
        return None

    def forget_peer(self, peer_id: PeerId) -> None:
        """Drop the budgets of a peer that has gone."""
        for topic in self._params.topics:
            self._budgets.pop((peer_id, topic), None)

    async def run(self, topic: Topic) -> None:
        """Check the messages of one topic for ever."""
        inbox = self._inboxes[topic]
        while True:
            message = inbox.take()
            if message is None:
                self._arrivals[topic] = trio.Event()
                await self._arrivals[topic].wait()
                continue
            verdict = await self._check(topic, message)
            self._conclude(topic, message, verdict)
            await trio.lowlevel.checkpoint()

    def _enqueue(self, topic: Topic, message: Incoming) -> None:
        if self._inboxes[topic].put(message):
            self._arrivals[topic].set()
            return
        # Our check is too slow: forget the message, so another copy has a chance.
        self.dropped += 1
        if message.digest is not None:
            self._seen.discard(message.digest)
            self._holders.pop(message.digest, None)

    async def _check(self, topic: Topic, message: Incoming) -> Verdict:
        try:
            return await self._checks[topic](message.sender, message.payload)
        except RemoteError as error:
            log.debug("%s from %s: %s", topic.name, message.sender.hex()[:8], error)
            return Verdict.REJECT
        except Exception:
            log.exception("the check of %s failed", topic.name)
            return Verdict.IGNORE

    def _conclude(self, topic: Topic, message: Incoming, verdict: Verdict) -> None:
        holders: set[PeerId] = set()
        if message.digest is not None:
            holders = self._holders.pop(message.digest, holders)
        if verdict is Verdict.REJECT:
            text = f"invalid message on {topic.name}"
            self._charge(message.sender, Fault.BAD_MESSAGE, text)
        elif verdict is Verdict.ACCEPT and message.digest is not None:
            for link in self._get_links():
                if link.peer_id not in holders:
                    link.publish(topic, message.payload, direct=False)

    def _get_budget(self, sender: PeerId, topic: Topic) -> TopicBudget:
        budget = self._budgets.get((sender, topic))
        if budget is None:
            budget = TopicBudget(self._params.topics[topic], RECEIVER_SLACK)
            self._budgets[sender, topic] = budget
        return budget


def _compute_digest(topic: Topic, payload: bytes) -> bytes:
    return compute_hash("gossip", bytes([topic]), payload)
