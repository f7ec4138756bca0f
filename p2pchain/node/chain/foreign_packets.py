"""
Packets between nodes: given to who asks, got for the chunks that we fill.

See chain/queries/foreign_packets.py.  After every final block what is missing is looked
up anew, so nothing has to be remembered, and a peer that does not answer costs a block.
"""

import logging
from collections.abc import Mapping

import trio

from chain.execution.held import HeldBlock
from chain.queries.foreign_packets import (
    MissingPackets,
    find_missing_packets,
    list_sent,
    take_packets,
)
from chain.tree.blocktree import BlockTree
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.sync_messages import (
    MAX_PACKETS,
    MAX_PACKETS_BYTES,
    MAX_SMALL_BYTES,
    PACKETS,
    PacketsAnswer,
    PacketsRequest,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from primitives.types import ShardId
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidPacket

TIMEOUT_S = 2.0
"""For one peer."""

log = logging.getLogger(__name__)


class PacketExchange:
    """Serves packets, and fetches those of shards that are not followed.

    Args:
        network: Where peers are.
        chain: Final blocks.
    """

    def __init__(self, network: Network, chain: ChainService) -> None:
        self._network = network
        self._tree: BlockTree = chain.tree
        self._wake = trio.Event()
        self._boundary: Mapping[ShardId, ChunkHeader] | None = None
        """The newest chunk headers as of the last boundary, while not all packets that
        were under way then are here."""
        chain.listen(self._on_final)
        network.handle_request(
            PACKETS,
            self._on_request,
            priority=Priority.BLOCKS,
            max_message_bytes=MAX_SMALL_BYTES,
        )

    async def run(self) -> None:
        """Fetch for ever."""
        while True:
            missing = tuple(find_missing_packets(self._tree, self._boundary))
            if not missing:
                self._boundary = None
            for each in missing:
                await self._fetch(each)
            await self._wake.wait()
            self._wake = trio.Event()

    def look(self) -> None:
        """Look now whether something is missing."""
        self._wake.set()

    def _on_final(self, held: HeldBlock) -> None:
        if len(self._tree.followed) < len(held.heads):
            if held.is_epoch_root:
                self._boundary = held.heads
            self.look()

    async def _fetch(self, missing: MissingPackets) -> None:
        chunk_hash = compute_chunk_hash(missing.header)
        request = encode(PacketsRequest(chunk_hash, missing.dst, missing.first))
        for peer in sorted(self._network.peers(), key=lambda peer: peer.rtt_ms or 0.0):
            try:
                answer = await self._network.request(
                    peer.peer_id,
                    PACKETS,
                    request,
                    timeout_s=TIMEOUT_S,
                    priority=Priority.BLOCKS,
                    max_answer_bytes=MAX_PACKETS_BYTES,
                )
                packets = decode(PacketsAnswer, answer, MAX_PACKETS_BYTES).packets
                if take_packets(self._tree, missing, packets):
                    return
            except NetworkError as error:
                log.debug("no packets from %s: %s", peer.peer_id.hex()[:8], error)
            except (DecodeError, InvalidPacket) as error:
                log.info("wrong packets from %s: %s", peer.peer_id.hex()[:8], error)
                self._network.penalize(peer.peer_id, Fault.BAD_MESSAGE)

    async def _on_request(self, peer_id: bytes, payload: bytes) -> bytes:
        request = decode(PacketsRequest, payload, MAX_SMALL_BYTES)
        packets = list_sent(
            self._tree, request.chunk_hash, request.dst, request.first, MAX_PACKETS
        )
        return encode(PacketsAnswer(packets))
