"""What makes a chain this chain: everything that genesis fixed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chain.records.block import (
    NO_ATTENDANCE,
    compute_attendance_root,
    compute_certificates_root,
    compute_chunks_root,
    compute_heads_root,
    compute_roots_root,
)
from chain.records.header import HEADER_VERSION, Header
from chain.records.params import ChainParams
from consensus.leader import compute_first_seed
from consensus.randao import compute_first_mix
from consensus.validators import ValidatorSet
from primitives.merkle import EMPTY_ROOT
from primitives.types import EMPTY_HASH, ShardId, TimeMs
from shards.chunk import ChunkHeader
from shards.layout import Layout

GENESIS_EPOCH = 0
"""Its root is the genesis block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSpec:
    """Constants of one chain and its state before the first block."""

    chain_id: bytes
    params: ChainParams
    first_validators: ValidatorSet
    """Of epochs 0 and 1; later ones are in the state."""
    first_layout: Layout
    """Likewise."""
    time_ms: TimeMs
    """Time of the genesis block."""
    state: Mapping[ShardId, Mapping[bytes, bytes]]
    """Initial value bytes by key, by shard."""
    seed: bytes = field(init=False)
    """Draws the leaders of epochs 0 and 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", compute_first_seed(self.chain_id))


def build_genesis_header(spec: ChainSpec, roots: Mapping[ShardId, bytes]) -> Header:
    """Return the header of block 0, for which nobody voted."""
    valset_root = spec.first_validators.compute_root()
    layout_root = spec.first_layout.compute_root()
    return Header(
        version=HEADER_VERSION,
        chain_id=spec.chain_id,
        epoch=GENESIS_EPOCH,
        view=0,
        height=0,
        parent_hash=EMPTY_HASH,
        parent_view=0,
        time_ms=spec.time_ms,
        proposer=0,
        reveal=bytes(96),
        mix=compute_first_mix(spec.chain_id),
        chunks_root=compute_chunks_root(()),
        certificates_root=compute_certificates_root(()),
        heads_root=compute_heads_root(
            {shard: build_genesis_chunk(shard, root) for shard, root in roots.items()}
        ),
        roots_root=compute_roots_root(roots),
        attendance_root=compute_attendance_root(NO_ATTENDANCE),
        evidence_root=EMPTY_ROOT,
        valset_root=valset_root,
        next_valset_root=valset_root,
        layout_root=layout_root,
        next_layout_root=layout_root,
    )


def build_genesis_chunk(shard: ShardId, root: bytes) -> ChunkHeader:
    """Return the chunk header that a shard's first chunk follows; in no block."""
    return ChunkHeader(
        shard=shard,
        epoch=GENESIS_EPOCH,
        created_view=0,
        seq=0,
        prev_chunk=EMPTY_HASH,
        anchor=EMPTY_HASH,
        producer=0,
        pre_root=root,
        post_root=root,
        tx_root=EMPTY_ROOT,
        tx_count=0,
        in_root=EMPTY_ROOT,
        in_cursor=(),
        out_count=(),
        out_root=EMPTY_ROOT,
        fees=0,
        work=0,
        bytes=0,
    )
