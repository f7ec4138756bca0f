"""What a simulated chain answers about chunks and money when it has none."""

from collections.abc import Callable, Mapping

from chain.queries.foreign_packets import MissingPackets
from shards.chunk import ChunkHeader
from shards.packet import PacketProof


class Chunkless:
    """The part of p2pchain.sim.chains.chains.Chain that is about chunks and money."""

    def list_packets(self, height: int) -> dict[int, list[tuple[int, int]]]:
        """Return nothing: there are no shards."""
        return {}

    def find_damage(self) -> str:
        """Return nothing: there is no database."""
        return ""

    def find_imbalance(self) -> str:
        """Return nothing: there is no money."""
        return ""

    def follow_lightly(self) -> bytes | None:
        """Return None: there are no headers to follow."""
        return None

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return nothing: here no block gives way to others."""
        return ()

    def get_body(self, chunk_hash: bytes) -> None:
        """Return None: there are no chunks."""

    def offer_body(self, header: ChunkHeader, data: bytes) -> bool:
        """Return False: there are no chunks."""
        return False

    def collect_bodies(self, block_bytes: bytes) -> dict[bytes, bytes]:
        """Return nothing: there are no chunks."""
        return {}

    def take_bodies(self, block_bytes: bytes, bodies: Mapping[bytes, bytes]) -> None:
        """Do nothing: there are no chunks."""

    def find_missing_packets(self) -> tuple[MissingPackets, ...]:
        """Return nothing: there are no packets."""
        return ()

    def list_sent(
        self, chunk_hash: bytes, dst: int, first: int
    ) -> tuple[PacketProof, ...]:
        """Return nothing: there are no packets."""
        return ()

    def take_packets(
        self, missing: MissingPackets, packets: tuple[PacketProof, ...]
    ) -> int:
        """Return 0: there are no packets."""
        return 0

    def collect_state(self, block_hash: bytes, shard: int) -> None:
        """Return None: there are no shards."""

    def get_proof(self, proof_hash: bytes) -> None:
        """Return None: nobody executes anything that could be wrong."""

    def offer_proof(self, proof_hash: bytes, data: bytes) -> bool:
        """Return False: no block names a proof."""
        return False

    def fetch_proof(
        self, proof_hash: bytes, first: bytes | None, on_held: Callable[[], None]
    ) -> None:
        """Do nothing: no block names a proof."""
