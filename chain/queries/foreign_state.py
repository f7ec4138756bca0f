"""
Values of shards that are not followed, shown by somebody who follows them.

Of every shard a node has the root after each of the last final blocks, whether it
follows the shard or not.  So a value with its bucket and the way up to the root is as
good as one of its own state, whoever gave it.  What nobody can show is that a root is
the newest one; but which block it belongs to is known, and the asker says how old the
answer may be.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from chain.errors import InvalidProof, PrunedState, ShardNotFollowed, UnknownShard
from chain.tree.blocktree import BlockTree
from primitives.buckets import BucketProof, verify_proof
from primitives.codec import Record
from primitives.types import Height, ShardId

MAX_KEY_BYTES = 256
"""Several times the longest key of any rule."""
MAX_BEHIND = 8
"""Blocks that an asker may be behind us: going back costs a little for each."""


class ShownValue(Record):
    """What a key holds in a shard, or that it is absent there."""

    shard: ShardId
    value: bytes | None
    proof: BucketProof


@dataclass(frozen=True, slots=True)
class ForeignValue:
    """What a key holds in a shard that is not followed here, proven."""

    value: bytes | None
    """None: it is absent."""
    height: Height
    """Of the final block after which that is so."""
    proof: BucketProof


class Question(Record):
    """What does `key` hold in these shards?"""

    key: Annotated[bytes, Meta(max_length=MAX_KEY_BYTES)]
    shards: Annotated[tuple[ShardId, ...], Meta(max_length=64)]
    """A layout has fewer than 64."""
    height: Height
    """Of the asker's last final block; it has no roots of later ones."""
    oldest: Height
    """Older states do not answer it."""


def choose_height(tree: BlockTree, question: Question) -> Height:
    """Return after which block a question is best answered here.

    Raises:
        PrunedState: Our last final block is too old for it, or the asker's for us.
    """
    height = min(tree.final_height, question.height)
    oldest = max(question.oldest, tree.final_height - MAX_BEHIND)
    if height < oldest:
        raise PrunedState(height, oldest, tree.final_height)
    return height


def prepare_values(
    tree: BlockTree, question: Question, height: Height
) -> Iterator[None]:
    """Do what makes `show_value` short, a slice at a time.

    Raises:
        PrunedState: Blocks went by faster than we did it.
    """
    if height == tree.final_height:
        return
    for shard in _list_answerable(tree, question):
        with suppress(UnknownShard, ShardNotFollowed):
            yield from tree.history.prepare(height, shard, lambda: tree.final_height)


def show_values(
    tree: BlockTree, question: Question, height: Height
) -> Iterator[ShownValue]:
    """Yield the key's value in those shards that are followed here.

    Raises:
        PrunedState: The state after `height` is not kept.
    """
    last = tree.final_height
    for shard in _list_answerable(tree, question):
        try:
            view = (
                tree.final.view
                if height == last
                else tree.history.get_view(height, shard, last)
            )
            value = view.get(shard, question.key)
            yield ShownValue(shard, value, view.build_proof(shard, question.key))
        except (UnknownShard, ShardNotFollowed):
            continue


def verify_value(
    tree: BlockTree, question: Question, height: Height, shown: ShownValue
) -> None:
    """Check a value against the root that we know.

    Args:
        tree: Ours.
        question: That was asked.
        height: Of the block after which it is shown, as the answer says.
        shown: Untrusted.

    Raises:
        InvalidProof: It is not what was asked, or not what the shard holds.
    """
    if not question.oldest <= height <= question.height:
        raise InvalidProof(f"a state after block {height}, which was not asked for")
    if shown.shard not in question.shards:
        raise InvalidProof(f"a value in shard {shown.shard}, which was not asked for")
    root = tree.history.get_roots(height, tree.final_height).get(shown.shard)
    levels = tree.spec.params.bucket_levels
    if root is None or not verify_proof(
        root, levels, question.key, shown.value, shown.proof
    ):
        raise InvalidProof(
            f"not what shard {shown.shard} holds after block {height}: its root says so"
        )


def _list_answerable(tree: BlockTree, question: Question) -> Sequence[ShardId]:
    return [shard for shard in sorted(set(question.shards)) if shard in tree.followed]
