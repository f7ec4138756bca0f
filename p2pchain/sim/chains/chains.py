"""
The two chains that a simulated network can agree on, behind one interface.

    list   blocks that say where they stand and nothing else: fast
    tree   the real chain.tree.blocktree over a database in memory: transfers
           between shards, bonds, evidence

`Chains` belongs to the world and knows the genesis; a `Chain` belongs to one life of
one node and is what consensus calls the application.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from chain.queries.foreign_packets import MissingPackets
from p2pchain.node.consensus.application import Application
from p2pchain.sim.chains.list_chain import ListChains
from p2pchain.sim.chains.tree_chain import TreeChains
from p2pchain.sim.machine.evidence_desk import EvidenceDesk
from p2pchain.sim.machine.questions import ShardState
from shards.chunk import ChunkHeader
from shards.packet import PacketProof

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World


class Chain(Application, Protocol):
    """An application that the judge can look into."""

    evidence: EvidenceDesk
    """Where others' evidence comes in."""

    @property
    def durable_height(self) -> int:
        """Height of the last final block that a restart would find."""

    def list_packets(self, height: int) -> dict[int, list[tuple[int, int]]]:
        """Return (source, number) of what a final block consumes, by shard.

        Of each shard of which that is known here, also where it is nothing.
        """

    def find_imbalance(self) -> str:
        """Return what is wrong with the books; empty when nothing is."""

    def find_damage(self) -> str:
        """Return what a search of the database finds; empty when it is sound."""

    def list_convicted(self, height: int) -> list[bytes]:
        """Return the BLS keys that a final block convicted."""

    def is_convicted(self, public_key: bytes) -> bool:
        """Tell whether the node holds a key for guilty: its blocks do, if they can."""

    def follow_lightly(self) -> bytes | None:
        """Return the newest block's hash as a light client finds it; None without."""

    def get_hash(self, height: int) -> bytes:
        """Return the hash of a final block."""

    def get_root(self, height: int) -> bytes:
        """Return the state's root after a final block."""

    def get_body(self, chunk_hash: bytes) -> bytes | None:
        """Return the body of a chunk, if it is here."""

    def offer_body(self, header: ChunkHeader, data: bytes) -> bool:
        """Keep a body that was asked for; False: it is not the chunk's."""

    def collect_bodies(self, block_bytes: bytes) -> dict[bytes, bytes]:
        """Return those bodies of a block's chunks that are here, by chunk hash."""

    def take_bodies(self, block_bytes: bytes, bodies: Mapping[bytes, bytes]) -> None:
        """Keep bodies that came with a block; raises InvalidBlock for others."""

    def find_missing_packets(self) -> tuple[MissingPackets, ...]:
        """Return what has to be fetched for the chunks that we fill."""

    def list_sent(
        self, chunk_hash: bytes, dst: int, first: int
    ) -> tuple[PacketProof, ...]:
        """Return packets of a final chunk, as far as they are here."""

    def take_packets(
        self, missing: MissingPackets, packets: tuple[PacketProof, ...]
    ) -> int:
        """Keep packets that were asked for; raises InvalidPacket for others."""

    def collect_state(self, block_hash: bytes, shard: int) -> ShardState | None:
        """Return the state of a shard after a boundary, if it is kept."""

    def get_proof(self, proof_hash: bytes) -> bytes | None:
        """Return a fraud proof that is held."""

    def offer_proof(self, proof_hash: bytes, data: bytes) -> bool:
        """Hold a fraud proof that was asked for; False: it is another one."""

    @property
    def held_blocks(self) -> int:
        """Blocks in memory that are not final; bounded."""


class Chains(Protocol):
    """What the chains of all nodes have in common."""

    chain_id: bytes
    genesis_hash: bytes

    def open(self, node: "Node") -> Chain:
        """Return the chain that a node's disk holds; a new disk is filled first."""


def open_chains(world: "World") -> Chains:
    """Return what the world's setup asks for."""
    return TreeChains(world) if world.setup.chain == "tree" else ListChains(world)
