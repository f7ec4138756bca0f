"""
The states after the last final blocks, for proofs of what has passed.

Theory of operation
-------------------
With every final block goes what it changed, as that was before: the roots of all shards
and the buckets, whole.  The newest state with the changes of the blocks after `height`
taken back is the state after `height`:

    state(5) <--undo of 6-- state(6) <--undo of 7-- state(7), the final one

So an update costs one more write, in the batch of its block, and the rest is paid by
who asks for the past.  Tree nodes are not kept, as they follow from the buckets.

`STATES` of them can be had, so a proof of a block that was final two minutes ago is
still there, and a slow client is not chasing the tip.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from chain.errors import PrunedState, ShardNotFollowed, StoreError, UnknownShard
from chain.state.bucket_writes import NewBucket
from chain.state.state import StateView
from chain.storage.final_state import FinalState
from chain.storage.gaps import has_gap, read_gaps
from chain.storage.store import ChainReader, build_key
from primitives.buckets import CorruptBucket, compute_bucket_hash, decode_bucket
from primitives.codec import Record, decode, encode
from primitives.errors import DecodeError, P2PChainError
from primitives.types import U32, Hash32, Height, ShardId

STATES = 128
"""Of so many blocks, the final one among them, the state can be had."""

MAX_UNDO_BYTES = 256 * 1024 * 1024
"""More than the buckets that any block could change; a bound for decoding what we wrote
ourselves."""

MAX_VIEWS = 4
"""Views of the past kept for the next question: clients ask for several keys of one
state.  Each one grows by what later blocks change, for `STATES` blocks at most."""

SLICE_BUCKETS = 500
"""Buckets taken back at a time: about ten milliseconds, so that votes need not wait."""

Place = tuple[Height, ShardId]
"""A view's name."""

Changes = dict[bytes, bytes | None]

R = TypeVar("R", bound=Record)


class Roots(Record):
    """The roots of all shards before a block."""

    roots: tuple[tuple[ShardId, Hash32], ...]
    """Ascending by shard."""


class Undo(Record):
    """What a block changed in a shard, as it was before."""

    buckets: tuple[tuple[U32, bytes], ...]
    """Number and canonical bytes."""


class Executed(Protocol):
    """A block with the state after it; `chain.execution.held.HeldBlock` is one."""

    @property
    def height(self) -> Height:
        """Of the block."""

    @property
    def view(self) -> StateView:
        """The state after it, on the one before it."""


def build_roots_key(height: Height) -> bytes:
    """Return the database key of the roots before a block."""
    return build_key(b"u", (height, 8))


def build_undo_key(height: Height, shard: ShardId) -> bytes:
    """Return the database key of a block's undo in a shard."""
    return build_key(b"u", (height, 8), (shard, 2))


def compute_undo_changes(state: FinalState, chain: Sequence[Executed]) -> Changes:
    """Return what keeps the states before blocks, and what drops those too old now.

    Args:
        state: After the last final block.
        chain: Its descendants that become final now, oldest first.
    """
    oldest = chain[-1].height - STATES + 2
    changes: Changes = {}
    for key, _ in state.store.iterate(b"u"):
        if _get_height(key) >= oldest:
            break
        changes[key] = None
    for held in chain:
        if held.height >= oldest:
            changes.update(_compute_undo(state, held.height, held.view))
    return changes


def get_undo(state: FinalState, height: Height, shard: ShardId) -> Undo:
    """Return what a block changed in a shard, as it was before.

    Raises:
        StoreError: Damaged.
    """
    data = state.store.get(build_undo_key(height, shard))
    return Undo(()) if data is None else _decode(Undo, data, height)


def get_roots(state: FinalState, height: Height) -> dict[ShardId, bytes]:
    """Return the roots of all shards before a block.

    Raises:
        StoreError: Damaged, or not kept.
    """
    data = state.store.get(build_roots_key(height))
    if data is None:
        raise StoreError(f"no roots from before block {height}")
    return dict(_decode(Roots, data, height).roots)


def get_oldest(state: FinalState, final_height: Height) -> Height:
    """Return the height of the oldest state that can be had."""
    for key, _ in state.store.iterate(b"u"):
        return _get_height(key) - 1
    return final_height


class History:
    """The states of the past, of one shard each."""

    def __init__(self, state: FinalState) -> None:
        self._state = state
        self._views: OrderedDict[Place, StateView] = OrderedDict()
        self._work: tuple[Place, Iterator[None]] | None = None
        """What is being built: one view at a time, whoever asks, as each is large."""

    def get_roots(self, height: Height, final_height: Height) -> dict[ShardId, bytes]:
        """Return the roots of all shards after a block.

        Raises:
            PrunedState: Older than those that are kept, or not final.
        """
        self._validate(height, final_height)
        if height == final_height:
            return {shard: self._state.get_root(shard) for shard in self._state.shards}
        return get_roots(self._state, height + 1)

    def get_view(
        self, height: Height, shard: ShardId, final_height: Height
    ) -> StateView:
        """Return a shard's state after a block; nothing else may be read in it.

        It stays what it is while more blocks become final.  Whoever must not be kept
        from other work exhausts `prepare` first.

        Raises:
            PrunedState: Older than those that are kept, or not final.
            UnknownShard: There was none of that number.
            ShardNotFollowed: Only its roots are here.
            StoreError: The database is damaged.
        """
        self._validate(height, final_height)
        for _ in self.prepare(height, shard, lambda: final_height):
            pass
        self._views.move_to_end((height, shard))
        return self._views[height, shard]

    def prepare(
        self, height: Height, shard: ShardId, get_final_height: Callable[[], Height]
    ) -> Iterator[None]:
        """Build what `get_view` returns, a slice of some ten milliseconds at a time.

        Blocks may become final between two slices.

        Args:
            height: As for `get_view`.
            shard: Likewise.
            get_final_height: Returns the height of the last final block.

        Raises:
            PrunedState, UnknownShard, ShardNotFollowed, StoreError: As `get_view`.
        """
        wanted = (height, shard)
        while wanted not in self._views:
            if self._work is None:
                self._work = (wanted, self._build(wanted, get_final_height))
            place, slices = self._work
            try:
                for _ in slices:
                    break
                else:
                    self._work = None
            except P2PChainError:
                self._work = None
                if place == wanted:
                    raise
                # Who asked for that one finds out in its own turn.
            yield

    def forget(self, shard: ShardId) -> None:
        """Keep no view of a shard, as it is not followed any more."""
        for place in [place for place in self._views if place[1] == shard]:
            del self._views[place]
        if self._work is not None and self._work[0][1] == shard:
            self._work = None

    def _build(
        self, place: Place, get_final_height: Callable[[], Height]
    ) -> Iterator[None]:
        """Take blocks back; the view is there when this is exhausted."""
        height, shard = place
        last = get_final_height()
        root = self.get_roots(height, last).get(shard)
        if root is None:
            raise UnknownShard(shard, height)
        if shard in self._state.shards and shard not in self._state.followed:
            raise ShardNotFollowed(shard, is_coming=shard == self._state.coming)
        store = ChainReader(self._state.store)
        if shard not in self._state.shards and has_gap(read_gaps(store), shard, height):
            # It is gone, and was not followed when it went, or some time before.
            raise ShardNotFollowed(shard)
        adopted = store.get_adopted(shard)
        if adopted is not None and height < adopted.joined:
            raise PrunedState(height, adopted.joined, last)
        view = self._state.build_past(shard)
        before: dict[int, bytes] = {}
        # The oldest first, as they may be dropped meanwhile; it is what counts, too.
        for coming in range(height + 1, last + 1):
            for index, data in get_undo(self._state, coming, shard).buckets:
                before.setdefault(index, data)
            yield
        # Neighbours together, as they share their way to the root.
        numbers = sorted(before)
        for start in range(0, len(numbers), SLICE_BUCKETS):
            some = numbers[start : start + SLICE_BUCKETS]
            view.put(shard, _decode_buckets(shard, {i: before[i] for i in some}))
            yield
        if view.get_root(shard) != root:
            self._validate(height, get_final_height())
            raise StoreError(
                f"taking back the blocks after {height} gives another root of "
                f"shard {shard}"
            )
        self._views[place] = view
        if len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)

    def _validate(self, height: Height, final_height: Height) -> None:
        oldest = get_oldest(self._state, final_height)
        if not oldest <= height <= final_height:
            raise PrunedState(height, oldest, final_height)


def _decode_buckets(
    shard: ShardId, buckets: Mapping[int, bytes]
) -> dict[int, NewBucket]:
    try:
        return {
            index: NewBucket(decode_bucket(data), data, compute_bucket_hash(data))
            for index, data in buckets.items()
        }
    except CorruptBucket as error:
        raise StoreError(f"damaged undo in shard {shard}: {error}") from error


def _compute_undo(state: FinalState, height: Height, view: StateView) -> Changes:
    parent = view.parent
    undone: dict[ShardId, list[tuple[int, bytes]]] = {}
    for (shard, index), bucket in view.buckets.items():
        before = parent.get_bucket_bytes(shard, index)
        if before != bucket.data:
            undone.setdefault(shard, []).append((index, before))
    roots = tuple((shard, parent.get_root(shard)) for shard in sorted(state.shards))
    changes: Changes = {build_roots_key(height): encode(Roots(roots))}
    for shard, buckets in undone.items():
        changes[build_undo_key(height, shard)] = encode(Undo(tuple(buckets)))
    return changes


def _get_height(key: bytes) -> Height:
    return int.from_bytes(key[1:9], "big")


def _decode(kind: type[R], data: bytes, height: Height) -> R:
    try:
        return decode(kind, data, MAX_UNDO_BYTES)
    except DecodeError as error:
        raise StoreError(f"damaged undo of block {height}: {error}") from error
