"""
Witnesses: the part of a shard's state that one chunk reads or writes.

Theory of operation
-------------------
A witness is the whole buckets, as they were before the chunk, that the chunk touches,
and the one multiproof that leads them to the shard's root.  Whoever has it executes
the chunk without holding the shard, and computes the root after it too:

    root before --proves--> buckets --execute_chunk--> new buckets --same hashes--> root

Buckets are whole, so a key that is absent is provably absent.  What is touched follows
from the execution alone, so there is exactly one witness of a chunk: a bucket less and
the execution stops, a bucket more and it is refused, since nobody pays for its bytes.

`WitnessMeter` counts the bytes of a witness while a chunk is being filled, so that a
producer stops before nobody takes it any more.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from chain.errors import InvalidWitness
from chain.execution.chunk import (
    ChunkBody,
    ExecutedChunk,
    execute_chunk,
    fill_header,
    validate_filled,
)
from chain.execution.chunk_run import ChunkFull, ChunkLimits
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.state.bucket_writes import NewBucket
from chain.state.chunk_state import BucketReader, ShardState
from primitives.buckets import (
    ARITY,
    Bucket,
    CorruptBucket,
    InvalidMultiproof,
    PartialTree,
    Sibling,
    build_multiproof,
    compute_bucket_hash,
    compute_leaf_node,
    decode_bucket,
)
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError
from primitives.types import U32
from shards.chunk import ChunkHeader
from shards.messages import MAX_WITNESS_BYTES

SIBLING_BYTES = 34
"""A hash in canonical bytes."""
BUCKET_BYTES = 11
"""What number and framing add to a bucket of up to 4 GiB."""
FRAMING_BYTES = 16
"""What the encoding of a witness adds to its buckets and siblings."""


class WitnessBucket(Record):
    """One bucket before the chunk."""

    index: U32
    data: bytes
    """Its canonical bytes: what its leaf hash is of."""


class Witness(Record):
    """What a chunk touches, and its way to the root."""

    buckets: tuple[WitnessBucket, ...]
    """Ascending by number."""
    siblings: tuple[Sibling, ...]
    """The multiproof of these buckets."""


class WitnessState(BucketReader):
    """A shard's state as far as a witness shows it; a `ChunkState`.

    Reading what it does not show raises `InvalidWitness`.  A bucket under a root that
    is known to be good is canonical, because nothing else hashes to its leaf.
    """

    def __init__(self, root: bytes, levels: int, witness: Witness) -> None:
        """
        Args:
            root: Of the shard before the chunk; known to be good.
            levels: Of the shard's tree.
            witness: Untrusted.

        Raises:
            InvalidWitness: Not of this root, or not in the one form it may have.
        """
        leaves: dict[int, bytes] = {}
        last = -1
        for bucket in witness.buckets:
            if bucket.index <= last:
                raise InvalidWitness(f"bucket {bucket.index} after bucket {last}")
            last = bucket.index
            leaves[last] = compute_bucket_hash(bucket.data)
        try:
            self._tree = PartialTree(leaves, witness.siblings, levels)
        except InvalidMultiproof as error:
            raise InvalidWitness(str(error)) from error
        if self._tree.root != root:
            raise InvalidWitness(
                f"a witness of the root {self._tree.root.hex()}, not {root.hex()}"
            )
        self._data = {bucket.index: bucket.data for bucket in witness.buckets}
        super().__init__(levels, self._decode)

    def validate_touched(self, touched: AbstractSet[int]) -> None:
        """Check that there is nothing that the chunk does not touch.

        Args:
            touched: Numbers of all buckets that it read or wrote.

        Raises:
            InvalidWitness: There is.
        """
        if extra := self._data.keys() - touched:
            raise InvalidWitness(
                f"bucket {min(extra)} is not touched, one of {len(extra)}"
            )

    def compute_root(self, changed: Mapping[int, NewBucket]) -> bytes:
        """Return the root after buckets became others.

        Args:
            changed: Of buckets that the witness has.
        """
        return self._tree.update(
            {index: bucket.digest for index, bucket in changed.items()}
        )

    def _decode(self, index: int) -> Bucket:
        data = self._data.get(index)
        if data is None:
            raise InvalidWitness(f"bucket {index} is missing")
        try:
            return decode_bucket(data)
        except CorruptBucket as error:
            raise InvalidWitness(f"bucket {index}: {error}") from error


class WitnessFull(ChunkFull):
    """The witness would become too long; with another transaction it may not."""


class WitnessMeter:
    """Counts the bytes of a witness key by key; see the top of the file.

    What it counts is exact but for empty subtrees, which a real multiproof says in
    fewer bytes.
    """

    def __init__(self, state: ShardState, max_bytes: int = MAX_WITNESS_BYTES) -> None:
        """
        Args:
            state: Before the chunk.
            max_bytes: What the encoded witness may have.
        """
        self._state = state
        self._max_bytes = max_bytes
        self._first_leaf = compute_leaf_node(0, state.levels)
        self._known: set[int] = set()
        """Tree nodes that the witness shows or computes."""
        self.bytes = FRAMING_BYTES

    def add(self, keys: Iterable[bytes]) -> None:
        """Count keys in that were not counted before.

        Raises:
            WitnessFull: It would be too long; none of them was counted.
        """
        self.add_buckets(self._state.get_index(key) for key in keys)

    def add_buckets(self, indices: Iterable[int]) -> None:
        """Count buckets in that were not counted before.

        Raises:
            WitnessFull: It would be too long; none of them was counted.
        """
        added: list[int] = []
        length = self.bytes
        for index in indices:
            node = self._first_leaf + index
            if node in self._known:
                continue
            length += BUCKET_BYTES + len(self._state.get_bucket_bytes(index))
            length += SIBLING_BYTES * self._climb(node, added)
        if length > self._max_bytes:
            self._known.difference_update(added)
            raise WitnessFull("witness bytes")
        self.bytes = length

    def _climb(self, node: int, added: list[int]) -> int:
        """Mark a leaf and its way up as known; return how many hashes that adds."""
        hashes = 0
        while node not in self._known:
            self._known.add(node)
            added.append(node)
            if node == 0:
                break
            parent = (node - 1) // ARITY
            # What is beside a known node under the same parent was counted before.
            hashes += -1 if parent in self._known else ARITY - 1
            node = parent
        return hashes


def build_witness(state: ShardState, touched: Iterable[int]) -> Witness:
    """Return the witness of a chunk.

    Args:
        state: Before it.
        touched: Numbers of all buckets that it reads or writes.
    """
    indices = sorted(touched)
    buckets = tuple(
        WitnessBucket(index, state.get_bucket_bytes(index)) for index in indices
    )
    return Witness(buckets, build_multiproof(state.get_node, indices, state.levels))


def encode_witness(witness: Witness) -> bytes:
    """Return the canonical bytes of a witness."""
    return encode(witness)


def decode_witness(data: bytes) -> Witness:
    """Return the witness that the bytes encode.

    Raises:
        InvalidWitness: Too long, or not the canonical encoding of one.
    """
    try:
        return decode(Witness, data, MAX_WITNESS_BYTES)
    except DecodeError as error:
        raise InvalidWitness(f"not a witness: {error}") from error


def execute_witnessed(
    context: Context,
    header: ChunkHeader,
    body: ChunkBody,
    witness_bytes: bytes,
    limits: ChunkLimits,
    verified: VerifiedCache,
) -> ExecutedChunk:
    """Execute a chunk from its witness and compare with what its header says.

    That is what an endorser does, and a judge of an endorsed chunk that is not so.

    Args:
        context: Of the chunk's shard, at its anchor.
        header: Its place and its `pre_root` are known to be good; the packets' ways to
            their sources have been checked too.
        body: What the chunk holds.
        witness_bytes: Untrusted.
        limits: What the chunk may hold.
        verified: Transactions whose signature was checked before.

    Raises:
        InvalidWitness: It is not the one of this chunk; says nothing of the chunk.
        InvalidChunk: Executing it does not give its header.
    """
    levels = context.params.bucket_levels
    state = WitnessState(header.pre_root, levels, decode_witness(witness_bytes))
    executed = execute_chunk(context, state, body, limits, verified)
    result = executed.result
    state.validate_touched(executed.touched)
    post_root = state.compute_root(executed.buckets)
    validate_filled(header, fill_header(header, result, header.pre_root, post_root))
    return executed
