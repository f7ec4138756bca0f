"""
Strays: certified chunks that execute differently here, ready to be shown to others.

Whoever follows a shard has what a proof of fraud needs: the body, and the state before
the chunk, of which the witness is a part.  The chunk is executed once more, and what it
reads is written down; that also makes a witness of a chunk that cannot be executed to
its end, for whoever executes it from there comes as far as we did.

A stray is a suspicion.  The court judges it from the witness alone, as everybody will,
before anything is said: if our own memory failed us, that is where it ends.

Spec: docs/protocol/06-shards.md
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from chain.execution.chunk import ChunkBody, execute_chunk
from chain.execution.verified import VerifiedCache
from chain.execution.witness import build_witness, encode_witness
from chain.records.spec import ChainSpec
from chain.state.chunk_state import ShardState
from chain.tree.processing import (
    BlockBase,
    FindBody,
    Processed,
    build_chunk_context,
    build_claim,
    get_state,
)
from primitives.buckets import Bucket
from shards.certificate import CertifiedChunk, ChunkCertificate
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk
from shards.messages import MAX_WITNESS_BYTES, ProducedChunk

NO_SIGNATURE = bytes(96)
"""Stands in a chunk that its producer has not signed yet, or where who executes a
block's chunk has not seen it."""

MAX_STRAYS = 4
"""Kept until somebody takes them, each below 4 MiB; a shard strays once."""
MAX_SEEN = 64
"""Chunks that are not noted again: blocks of several branches may hold them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stray:
    """A certified chunk that does not do here what it says."""

    produced: ProducedChunk
    certificate: ChunkCertificate
    reason: str
    """For people."""


class Strays:
    """Those that were found and not taken yet."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, Stray] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def note(
        self,
        spec: ChainSpec,
        processed: Processed,
        bodies: FindBody,
        verified: VerifiedCache,
    ) -> None:
        """Keep the strays of a block, be it valid or not; their certificates are.

        Args:
            spec: The chain.
            processed: The block's chunks.
            bodies: Finds their bodies.
            verified: Signatures checked before.
        """
        for certified in processed.chunks:
            reason = processed.strayed.get(certified.header.shard)
            name = compute_chunk_hash(certified.header)
            body = bodies(name)
            if reason is None or body is None or name in self._seen:
                continue
            self._seen[name] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            log.error("chunk %s executes differently: %s", name.hex()[:16], reason)
            stray = build_stray(spec, processed.base, certified, body, reason, verified)
            if stray is not None:
                self._waiting[name] = stray
            if len(self._waiting) > MAX_STRAYS:
                self._waiting.popitem(last=False)

    def take(self) -> Iterator[Stray]:
        """Yield what was found, once, oldest first."""
        while self._waiting:
            yield self._waiting.popitem(last=False)[1]


def build_stray(
    spec: ChainSpec,
    base: BlockBase,
    certified: CertifiedChunk,
    body: ChunkBody,
    reason: str,
    verified: VerifiedCache,
) -> Stray | None:
    """Return a chunk with the witness that shows what is wrong with it.

    Args:
        spec: The chain.
        base: Of a block that holds the chunk; with the state of the shard.
        certified: The chunk.
        body: The one of its header.
        reason: Why it is a stray.
        verified: Signatures checked before.

    Returns:
        None where the witness is longer than any proof may be.
    """
    header = certified.header
    witness = _record_witness(spec, base, header, body, verified)
    if len(witness) > MAX_WITNESS_BYTES:
        log.error("it touches %d bytes of the state, too many to show", len(witness))
        return None
    produced = ProducedChunk(
        header, NO_SIGNATURE, body.transactions, body.packets, witness
    )
    return Stray(produced, certified.certificate, reason)


def _record_witness(
    spec: ChainSpec,
    base: BlockBase,
    header: ChunkHeader,
    body: ChunkBody,
    verified: VerifiedCache,
) -> bytes:
    """Execute a chunk and return the witness of what that touches."""
    state = _RecordingState(get_state(base, header.shard))
    context = build_chunk_context(spec, base.branch, header)
    limits = build_claim(spec.params, header)
    try:
        touched = execute_chunk(context, state, body, limits, verified).touched
    except InvalidChunk:
        touched = frozenset(state.read)
    return encode_witness(build_witness(state, touched))


class _RecordingState(ShardState):
    """Remembers which buckets were read."""

    def __init__(self, state: ShardState) -> None:
        super().__init__(state.view, state.shard)
        self.read: set[int] = set()

    def get_bucket(self, index: int) -> Bucket:
        self.read.add(index)
        return super().get_bucket(index)
