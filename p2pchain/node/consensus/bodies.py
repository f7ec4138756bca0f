"""
Bodies of chunks, between nodes: given to who asks, got for blocks that need them.

More than a third of the stake endorsed a chunk and held its body, so somebody honest
has it; it also went by on the topic of chunks, so most of the time nobody has to ask.
A body is compared with the chunk's header before it is kept, and whoever gives another
one is charged for it.  One attempt asks each connected peer once.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import trio

from chain.errors import InvalidBody
from chain.execution.bodies import MAX_BODY_BYTES
from chain.records.block import Block
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.node.consensus.sync_messages import BODY, MAX_SMALL_BYTES, NamedBody
from primitives.errors import DecodeError, MissingError
from primitives.types import ShardId
from shards.chunk import ChunkHeader, compute_chunk_hash

ATTEMPTS = 4
"""Rounds of asking everybody: the body may be on its way to our peers too."""
RETRY_S = 0.25
"""Between them."""
TIMEOUT_S = 2.0
"""For one peer: a round trip and a megabyte; the next peer may be faster."""
FRAME_BYTES = 1024
"""Room around a body in an answer."""

log = logging.getLogger(__name__)


class BodyHolder(Protocol):
    """Keeps bodies; `chain.tree.blocktree.BlockTree` is one."""

    @property
    def followed(self) -> frozenset[ShardId]:
        """The shards of which bodies are needed."""

    def has_body(self, chunk_hash: bytes) -> bool:
        """Tell whether a chunk's body is here."""

    def get_body_bytes(self, chunk_hash: bytes) -> bytes | None:
        """Return it."""

    def add_body(self, header: ChunkHeader, data: bytes) -> None:
        """Keep it; raises InvalidBody if it is not the one of the header."""


class BodyExchange:
    """Serves and fetches bodies.

    Args:
        network: Where peers are.
        holder: Where bodies are kept.
    """

    def __init__(self, network: Network, holder: BodyHolder) -> None:
        self._network = network
        self._holder = holder
        network.handle_request(
            BODY,
            self._on_request,
            priority=Priority.BLOCKS,
            max_message_bytes=MAX_SMALL_BYTES,
        )

    @property
    def followed(self) -> tuple[ShardId, ...]:
        """The shards of which we need bodies, ascending."""
        return tuple(sorted(self._holder.followed))

    def collect(self, block: Block, shards: Sequence[ShardId]) -> list[NamedBody]:
        """Return those bodies of a block's chunks that are here.

        Args:
            block: Final or held.
            shards: Of which shards.
        """
        found = []
        for certified in block.body.chunks:
            if certified.header.shard in shards:
                chunk_hash = compute_chunk_hash(certified.header)
                data = self._holder.get_body_bytes(chunk_hash)
                if data is not None:
                    found.append(NamedBody(chunk_hash, data))
        return found

    def take(self, header: ChunkHeader, data: bytes) -> None:
        """Keep a body that came with something else.

        Raises:
            InvalidBody: It is not the one of the header.
        """
        self._holder.add_body(header, data)

    async def fetch(
        self, headers: Sequence[ChunkHeader], first: bytes | None = None
    ) -> bool:
        """Get bodies from peers; return whether all of them are here now.

        Args:
            headers: Of the chunks, each of which was certified.
            first: Who probably has them.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                await trio.sleep(RETRY_S)
            for header in headers:
                await self._fetch_one(header, first)
            if all(self._holder.has_body(compute_chunk_hash(h)) for h in headers):
                return True
        log.info("nobody has the bodies of %d chunks", len(headers))
        return False

    async def _fetch_one(self, header: ChunkHeader, first: bytes | None) -> None:
        chunk_hash = compute_chunk_hash(header)
        for peer_id in self._order_peers(first):
            if self._holder.has_body(chunk_hash):
                return
            try:
                data = await self._network.request(
                    peer_id,
                    BODY,
                    chunk_hash,
                    timeout_s=TIMEOUT_S,
                    priority=Priority.BLOCKS,
                    max_answer_bytes=MAX_BODY_BYTES + FRAME_BYTES,
                )
                self._holder.add_body(header, data)
            except NetworkError as error:
                log.debug("no body from %s: %s", peer_id.hex()[:8], error)
            except InvalidBody as error:
                log.info("a wrong body from %s: %s", peer_id.hex()[:8], error)
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)

    def _order_peers(self, first: bytes | None) -> Iterator[bytes]:
        """Yield the connected peers: `first`, then the nearest."""
        peers = sorted(
            self._network.peers(),
            key=lambda peer: (peer.peer_id != first, peer.rtt_ms or 0.0),
        )
        for peer in peers:
            yield peer.peer_id

    async def _on_request(self, peer_id: bytes, payload: bytes) -> bytes:
        if len(payload) != 32:
            raise DecodeError("a chunk hash has 32 bytes")
        data = self._holder.get_body_bytes(payload)
        if data is None:
            raise MissingError(f"the body of chunk {payload.hex()} is not here")
        return data
