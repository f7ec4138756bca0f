"""
Which certified chunk a block may hold: everything that headers alone can show.

Theory of operation
-------------------
A chunk is made in a slot, endorsed, and included in this view's block or a later one.
Its place is bound to the shard's own history and not to the block that includes it:

    blocks   A ----------> B ----------> P (parent) ---> new block of view v
             ^ anchor of   ^ holds the   ^
             |   the tip   |   tip       |
                           anchor: the parent or an ancestor of it, never before the
                           tip's own anchor: what "now" is inside of the chunk

    same epoch;  created_view <= v <= created_view + 8;  prev_chunk is the tip

So a certificate that comes a view late is still of use, and a leader that is slow or
hostile delays a chunk without making it worthless.  What a block may hold never depends
on executing a layer shard's chunk: every validator, whatever shards it follows, comes
to the same answer from headers, certificates and the branch's earlier headers.

Slots of a shard's chunks ascend strictly, and an anchor is older than the slot that
stands on it: nobody can make a chunk for a view that has long gone by.

Checks come in the order of their cost; the certificate is checked elsewhere.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from primitives.merkle import EMPTY_ROOT
from primitives.types import Epoch, Hash32, Height, ShardId, View
from shards.chunk import ChunkHeader, Counter, compute_chunk_hash, get_count
from shards.errors import InvalidChunk, MissingAnchor
from shards.layout import ROOT_SHARD

INCLUSION_VIEWS = 8
"""K: views after its own in which a chunk may still be included: with a second per view
longer than any honest committee takes, and few enough to remember them all."""


@dataclass(frozen=True, slots=True)
class ChunkBounds:
    """What one chunk may hold."""

    bytes: int
    work: int
    transactions: int
    packets: int
    """Consumed."""
    backlog: int
    """Packets on their way to one shard from which on no transaction adds one."""
    moves: int
    """Packets to one shard that a chunk may emit by itself, where a layout changes."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A block that chunks may stand on."""

    height: Height
    epoch: Epoch
    view: View


FindAnchor = Callable[[Hash32], Anchor | None]
"""The parent or an ancestor of it by hash; None for every other block."""
FindHead = Callable[[ShardId, Height], ChunkHeader | None]
"""A shard's tip as of the block at a height of this branch; None: no such shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionBase:
    """What a block of `view` on some parent is judged by."""

    epoch: Epoch
    """Of the block."""
    view: View
    """Of the block."""
    root_height: Height
    """Of the epoch's root: nothing of this epoch stands on an older block."""
    heads: Mapping[ShardId, ChunkHeader]
    """Every shard's tip in the parent."""
    halted: frozenset[ShardId]
    """Shards of which no further chunk is valid and no packet is consumed."""
    bounds: ChunkBounds
    find_anchor: FindAnchor
    find_head: FindHead


def validate_inclusion(
    header: ChunkHeader, base: InclusionBase, producers: Sequence[int]
) -> None:
    """Check whether a block may hold a chunk, apart from its certificate.

    Args:
        header: Untrusted.
        base: Of the block.
        producers: Who may fill the chunk's slot, as `rank_producers` has it.

    Raises:
        InvalidChunk: It may not; the first reason.
        MissingAnchor: The anchor is not on this branch: for a block that is no valid
            chunk either, for an endorser a reason to wait.
    """
    tip = base.heads.get(header.shard)
    if tip is None or header.shard == ROOT_SHARD:
        raise InvalidChunk(f"shard {header.shard} has no certified chunks")
    if header.shard in base.halted:
        raise InvalidChunk(f"shard {header.shard} is halted")
    _validate_slot(header, base, producers)
    _validate_link(header, tip)
    _validate_sums(header, tip, base)
    anchor = _validate_anchor(header, tip, base)
    _validate_packets(header, tip, anchor, base)


def is_open(header: ChunkHeader, base: InclusionBase) -> bool:
    """Tell whether a chunk's slot and tip are still those that a block may extend.

    Cheaper than `validate_inclusion`: what is not open on a branch never is again.
    """
    tip = base.heads.get(header.shard)
    return (
        tip is not None
        and header.epoch == base.epoch
        and base.view <= header.created_view + INCLUSION_VIEWS
        and header.prev_chunk == compute_chunk_hash(tip)
    )


def _validate_slot(
    header: ChunkHeader, base: InclusionBase, producers: Sequence[int]
) -> None:
    if header.epoch != base.epoch:
        raise InvalidChunk(f"of epoch {header.epoch}, the block's is {base.epoch}")
    last = header.created_view + INCLUSION_VIEWS
    if not header.created_view <= base.view <= last:
        raise InvalidChunk(f"of view {header.created_view}, in view {base.view}")
    if header.producer not in producers:
        raise InvalidChunk(f"validator {header.producer} does not produce this slot")


def _validate_link(header: ChunkHeader, tip: ChunkHeader) -> None:
    if header.prev_chunk != compute_chunk_hash(tip):
        raise InvalidChunk("prev_chunk is not the shard's tip")
    if header.seq != tip.seq + 1:
        raise InvalidChunk(f"chunk {header.seq} after chunk {tip.seq}")
    if header.pre_root != tip.post_root:
        raise InvalidChunk("pre_root is not the tip's post_root")
    if (header.epoch, header.created_view) <= (tip.epoch, tip.created_view):
        raise InvalidChunk(
            f"view {header.created_view}, the tip is of view {tip.created_view}"
        )


def _validate_sums(header: ChunkHeader, tip: ChunkHeader, base: InclusionBase) -> None:
    """Check what the header says about its body."""
    bounds = base.bounds
    consumed = _subtract(header.in_cursor, tip.in_cursor, "in_cursor", base)
    emitted = _subtract(header.out_count, tip.out_count, "out_count", base)
    # Resharding may change a shard by itself.
    if header.tx_count == 0 and consumed == 0 and header.post_root == header.pre_root:
        raise InvalidChunk("an empty chunk")
    if (header.tx_count == 0) != (header.tx_root == EMPTY_ROOT):
        raise InvalidChunk(f"{header.tx_count} transactions do not fit tx_root")
    if (consumed == 0) != (header.in_root == EMPTY_ROOT):
        raise InvalidChunk(f"{consumed} packets do not fit in_root")
    if (emitted == 0) != (header.out_root == EMPTY_ROOT):
        raise InvalidChunk(f"{emitted} packets do not fit out_root")
    for name, value, bound in (
        ("bytes", header.bytes, bounds.bytes),
        ("work", header.work, bounds.work),
        ("transactions", header.tx_count, bounds.transactions),
        ("packets", consumed, bounds.packets),
    ):
        if value > bound:
            raise InvalidChunk(f"{value} {name}, at most {bound}")


def _subtract(
    counters: tuple[Counter, ...],
    before: tuple[Counter, ...],
    name: str,
    base: InclusionBase,
) -> int:
    """Return by how much counters grew in all; check their form."""
    # Those of a shard that is gone end with it.
    before = tuple(counter for counter in before if counter.shard in base.heads)
    if any(left.shard >= right.shard for left, right in pairwise(counters)):
        raise InvalidChunk(f"{name} does not ascend")
    if any(counter.count == 0 for counter in counters):
        raise InvalidChunk(f"{name} has a zero")
    for counter in before:
        if get_count(counters, counter.shard) < counter.count:
            raise InvalidChunk(f"{name} of shard {counter.shard} goes back")
    return sum(c.count for c in counters) - sum(c.count for c in before)


def _validate_anchor(
    header: ChunkHeader, tip: ChunkHeader, base: InclusionBase
) -> Anchor:
    anchor = base.find_anchor(header.anchor)
    if anchor is None:
        raise MissingAnchor(f"anchor {header.anchor.hex()[:16]} is not on this branch")
    if anchor.height < base.root_height:
        raise InvalidChunk(
            f"anchor at {anchor.height}, before the root at {base.root_height}"
        )
    if anchor.epoch == header.epoch and anchor.view >= header.created_view:
        raise InvalidChunk(
            f"anchor of view {anchor.view} under a chunk of view {header.created_view}"
        )
    previous = base.find_anchor(tip.anchor)
    # The tip before a shard's first chunk has no anchor.
    if previous is not None and anchor.height < previous.height:
        raise InvalidChunk(
            f"anchor at {anchor.height}, the tip's is at {previous.height}"
        )
    return anchor


def _validate_packets(
    header: ChunkHeader, tip: ChunkHeader, anchor: Anchor, base: InclusionBase
) -> None:
    """Check both ends of every stream of packets as of the anchor."""
    shard = header.shard
    for counter in header.in_cursor:
        before = get_count(tip.in_cursor, counter.shard)
        if counter.count == before:
            continue
        if counter.shard in base.halted:
            raise InvalidChunk(f"packets of shard {counter.shard}, which is halted")
        source = base.find_head(counter.shard, anchor.height)
        emitted = 0 if source is None else get_count(source.out_count, shard)
        if counter.count > emitted:
            raise InvalidChunk(
                f"{counter.count} packets of shard {counter.shard} consumed, "
                f"{emitted} emitted"
            )
    consumed_now = _subtract(header.in_cursor, tip.in_cursor, "in_cursor", base)
    # A consumed packet is answered, a transaction sends what the limit does not hold
    # for, each with at most one packet per destination, and resharding moves records.
    exempt = consumed_now + header.tx_count + base.bounds.moves
    for counter in header.out_count:
        before = get_count(tip.out_count, counter.shard)
        if counter.count == before:
            continue
        destination = base.find_head(counter.shard, anchor.height)
        if destination is None:
            raise InvalidChunk(f"packets to shard {counter.shard}, which is none")
        consumed = get_count(destination.in_cursor, shard)
        allowed = max(base.bounds.backlog, before - consumed) + exempt
        if counter.count - consumed > allowed:
            raise InvalidChunk(
                f"{counter.count - consumed} packets wait for shard {counter.shard}, "
                f"at most {allowed}"
            )
