"""One branch: a held block, its pending ancestors, and the final chain below them."""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.held import HeldBlock
from chain.store import ChainStore
from primitives.types import Height, ShardId
from shards.chunk import ChunkHeader, get_count
from shards.packet import PacketProof


@dataclass(frozen=True, slots=True)
class Branch:
    """What a block that follows `tip` can refer to."""

    tip: HeldBlock
    pending: Sequence[HeldBlock]
    """The tip and its ancestors above the final block, oldest first."""
    final_height: Height
    store: ChainStore

    def find_chunk(self, shard: ShardId, height: Height) -> ChunkHeader | None:
        """Return the header of a shard's chunk at a height of this branch."""
        if height <= self.final_height:
            return self.store.get_chunk_header(shard, height)
        for held in self.pending:
            if held.height == height:
                return held.heads[shard] if shard in held.results else None
        return None

    def get_inbox(self, shard: ShardId, limit: int) -> list[PacketProof]:
        """Return the packets that wait for a shard, per source in order.

        Args:
            shard: The destination.
            limit: Packets per source at most.
        """
        inbox: list[PacketProof] = []
        for src, head in self.tip.heads.items():
            first = get_count(self.tip.heads[shard].in_cursor, src)
            last = min(get_count(head.out_count, shard), first + limit)
            inbox += self._get_packets(src, shard, first, last)
        return inbox

    def _get_packets(
        self, src: ShardId, dst: ShardId, first: int, last: int
    ) -> list[PacketProof]:
        """Return packets [first, last): those of final blocks, then pending ones."""
        packets = []
        for seq in range(first, last):
            stored = self.store.get_packet(src, dst, seq)
            if stored is None:
                break
            packets.append(stored.proof)
        for held in self.pending:
            packets += [
                proof
                for proof in held.emitted.get((src, dst), ())
                if first <= proof.packet.seq < last
            ]
        return packets
