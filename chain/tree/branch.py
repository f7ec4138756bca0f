"""One branch: a held block, its pending ancestors, and the final chain below them."""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.execution.context import Moment
from chain.execution.held import HeldBlock
from chain.ledger.halts import find_halted, read_halts
from chain.records.header import Header
from chain.storage.store import ChainStore
from primitives.types import Height, ShardId, TimeMs
from shards.chunk import ChunkHeader, get_count
from shards.fraud import Halt
from shards.inclusion import Anchor
from shards.layout import ROOT_SHARD
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
        held = self._find_pending(height)
        return None if held is None else held.block.body.find_header(shard)

    def find_head(self, shard: ShardId, height: Height) -> ChunkHeader | None:
        """Return a shard's newest chunk header as of the block at a height."""
        if height <= self.final_height:
            return self.store.find_last_chunk(shard, height)
        held = self._find_pending(height)
        return None if held is None else held.heads.get(shard)

    def find_anchor(self, block_hash: bytes) -> Anchor | None:
        """Return the tip or an ancestor of it, which chunks may stand on."""
        header = self._find_header(block_hash)
        if header is None:
            return None
        return Anchor(header.height, header.epoch, header.view)

    def get_moment(self, anchor: bytes) -> Moment:
        """Return what "now" is in a chunk that stands on an anchor of this branch."""
        header = self._find_header(anchor)
        assert header is not None, "an anchor is found before it is used"
        heads = {
            shard: head
            for shard in self.tip.heads
            if (head := self.find_head(shard, header.height)) is not None
        }
        halted = find_halted(self._get_halts(), header.height)
        return Moment(header.height, header.time_ms, heads, halted)

    def get_time_ms(self, block_hash: bytes) -> TimeMs:
        """Return the time of a block of this branch."""
        header = self._find_header(block_hash)
        assert header is not None, "a block is found before it is asked about"
        return header.time_ms

    @property
    def halted(self) -> frozenset[ShardId]:
        """Shards that stand still for the children of the tip."""
        return find_halted(self._get_halts(), self.tip.height)

    def get_inbox(self, shard: ShardId, limit: int) -> list[PacketProof]:
        """Return the packets that wait for a shard, per source in order.

        Those of a halted shard wait for ever.

        Args:
            shard: The destination.
            limit: Packets per source at most.
        """
        inbox: list[PacketProof] = []
        halted = self.halted
        for src, head in self.tip.heads.items():
            if src in halted:
                continue
            first = get_count(self.tip.heads[shard].in_cursor, src)
            last = min(get_count(head.out_count, shard), first + limit)
            inbox += self._get_packets(src, shard, first, last)
        return inbox

    def has_inbox(self, shard: ShardId) -> bool:
        """Tell whether packets wait for a shard."""
        cursors = self.tip.heads[shard].in_cursor
        return any(
            get_count(head.out_count, shard) > get_count(cursors, src)
            for src, head in self.tip.heads.items()
        )

    def _get_halts(self) -> tuple[Halt, ...]:
        return read_halts(lambda key: self.tip.view.get(ROOT_SHARD, key))

    def _find_pending(self, height: Height) -> HeldBlock | None:
        for held in self.pending:
            if held.height == height:
                return held
        return None

    def _find_header(self, block_hash: bytes) -> Header | None:
        for held in (self.tip, *self.pending):
            if held.block_hash == block_hash:
                return held.header
        height = self.store.get_height(block_hash)
        return None if height is None else self.store.get_header(height)

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
            for proof in held.emitted.get((src, dst), ()):
                # Of a shard that is not followed they come late, or not at all.
                if first + len(packets) == proof.packet.seq < last:
                    packets.append(proof)
        return packets
