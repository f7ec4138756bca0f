"""
Values of shards that this node does not follow, from connected peers.

    state/values     Question -> ValuesAnswer

A value comes with its proof under a root of ours (chain/queries/foreign_state.py), so
it does not matter who gives it; whoever gives one that the root contradicts is charged
for it.  Peers are asked one after the other, first the one that helped last, until
nothing is missing or the time is over.  What nobody shows is simply not in the answer:
callers say so, or wait.
"""

import logging
from collections.abc import Collection, Iterator
from typing import Annotated

import trio
from msgspec import Meta

from chain.errors import InvalidProof
from chain.queries.foreign_state import (
    ForeignValue,
    Question,
    ShownValue,
    choose_height,
    prepare_values,
    show_values,
    verify_value,
)
from chain.tree.blocktree import BlockTree
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import Height, ShardId

VALUES = "state/values"

MAX_LAG = 4
"""Blocks that an answer may be behind our last final one: peers differ by a few."""
MAX_QUESTION_BYTES = 1024
ANSWER_BYTES = 512 * 1024
"""An answer ends with the value that goes over it; hundreds of usual buckets."""
MAX_ANSWER_BYTES = 2 * 1024 * 1024
"""The longest answer: a bucket that somebody made large on purpose comes alone."""
MAX_READS = 8
"""At once: whoever asks us without end must not make us ask others without end."""
TIMEOUT_S = 1.5
"""For one peer: a round trip, and a few blocks taken back."""
DEADLINE_S = 5.0
"""For all of them: a person waits."""

log = logging.getLogger(__name__)


class ValuesAnswer(Record):
    """What the answerer has of what was asked, as much as fits."""

    height: Height
    """Of the block after whose state it is."""
    values: Annotated[tuple[ShownValue, ...], Meta(max_length=64)]


class StateExchange:
    """Serves values of followed shards, and gets those of others.

    Args:
        network: Where peers are.
        tree: Final blocks, with the roots of all shards.
    """

    def __init__(self, network: Network, tree: BlockTree) -> None:
        self._network = network
        self._tree = tree
        self._helpful = b""
        """The peer that showed something last."""
        self._turns = trio.Semaphore(MAX_READS)
        network.handle_request(
            VALUES,
            self._on_request,
            priority=Priority.ACTIVATIONS,
            max_message_bytes=MAX_QUESTION_BYTES,
        )

    async def read(
        self, key: bytes, shards: Collection[ShardId], oldest: Height = 0
    ) -> dict[ShardId, ForeignValue]:
        """Return what a key holds in shards, as far as peers show it in time.

        Args:
            key: The same in all of them.
            shards: Of the layout; those that we follow ourselves cost a message too.
            oldest: No older states than the one after this block, if that is less than
                `MAX_LAG` blocks ago.
        """
        found: dict[ShardId, ForeignValue] = {}
        wanted = frozenset(shards)
        with trio.move_on_after(DEADLINE_S):
            async with self._turns:
                for peer_id in self._order_peers():
                    await self._ask_all(peer_id, key, wanted, oldest, found)
                    if len(found) == len(wanted):
                        break
        return found

    async def _ask_all(
        self,
        peer_id: bytes,
        key: bytes,
        wanted: frozenset[ShardId],
        oldest: Height,
        found: dict[ShardId, ForeignValue],
    ) -> None:
        """Ask one peer until it has nothing more that is missing."""
        while missing := tuple(sorted(wanted - found.keys())):
            last = self._tree.final_height
            least = min(max(oldest, last - MAX_LAG, 0), last)
            shown = await self._ask(peer_id, Question(key, missing, last, least))
            if not shown:
                return
            found.update(shown)
            self._helpful = peer_id

    async def _ask(
        self, peer_id: bytes, question: Question
    ) -> dict[ShardId, ForeignValue]:
        """Return what one peer shows; nothing if it is away, behind or lies."""
        try:
            data = await self._network.request(
                peer_id,
                VALUES,
                encode(question),
                timeout_s=TIMEOUT_S,
                priority=Priority.ACTIVATIONS,
                max_answer_bytes=MAX_ANSWER_BYTES,
            )
            answer = decode(ValuesAnswer, data, MAX_ANSWER_BYTES)
            for shown in answer.values:
                verify_value(self._tree, question, answer.height, shown)
        except NetworkError as error:
            log.debug("no values from %s: %s", peer_id.hex()[:8], error)
        except (DecodeError, InvalidProof) as error:
            log.info("wrong values from %s: %s", peer_id.hex()[:8], error)
            self._network.penalize(peer_id, Fault.BAD_MESSAGE)
        else:
            return {
                shown.shard: ForeignValue(shown.value, answer.height, shown.proof)
                for shown in answer.values
            }
        return {}

    def _order_peers(self) -> Iterator[bytes]:
        """Yield the connected peers: who helped last, then the nearest."""
        peers = sorted(
            self._network.peers(),
            key=lambda peer: (peer.peer_id != self._helpful, peer.rtt_ms or 0.0),
        )
        for peer in peers:
            yield peer.peer_id

    async def _on_request(self, peer_id: bytes, payload: bytes) -> bytes:
        question = decode(Question, payload, MAX_QUESTION_BYTES)
        height = choose_height(self._tree, question)
        for _ in prepare_values(self._tree, question, height):
            await trio.lowlevel.checkpoint()
        values: list[ShownValue] = []
        length = 0
        for shown in show_values(self._tree, question, height):
            values.append(shown)
            length += len(encode(shown))
            if length > ANSWER_BYTES:
                break
        return encode(ValuesAnswer(height, tuple(values)))
