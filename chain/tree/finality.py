"""
What becomes of pending blocks when one of them is final: on disk, then in memory.

Pure but for the state that is folded; the caller writes the changes, in one batch and
synced, before it folds.
"""

from collections.abc import Sequence
from dataclasses import replace

from chain.execution.held import HeldBlock
from chain.state.state import StateView
from chain.storage.books import compute_books_changes
from chain.storage.final_state import FinalState
from chain.storage.gaps import compute_gap_changes
from chain.storage.history import compute_undo_changes
from chain.storage.index import Changes, compute_index_changes
from chain.storage.store import (
    FOLLOW_KEY,
    LAYOUT_KEY,
    SEEN_KEY,
    TIP_KEY,
    ChainReader,
    build_key,
    encode_tip,
)
from consensus.messages import Certificate
from primitives.codec import encode


def compute_final_changes(
    state: FinalState, chain: Sequence[HeldBlock], certificate: Certificate
) -> Changes:
    """Return what makes a chain of blocks final.

    Args:
        state: After the last final block.
        chain: Its descendants up to the certified block, oldest first.
        certificate: Of the last of them.
    """
    target = chain[-1]
    changes: Changes = compute_undo_changes(state, chain)
    changes.update(compute_books_changes(state, chain))
    changes.update(compute_gap_changes(ChainReader(state.store), chain))
    for held in chain:
        changes.update(compute_index_changes(held))
        changes.update(state.compute_changes(held.view))
    changes[build_key(b"F", (target.height, 8))] = encode(certificate)
    changes[TIP_KEY] = encode_tip(target.height, target.block_hash)
    changes[SEEN_KEY] = encode(target.seen)
    changes[FOLLOW_KEY] = encode(tuple(sorted(target.followed)))
    if target.is_epoch_root:
        changes[LAYOUT_KEY] = encode(target.child_epoch.layout)
        for shard, head in target.heads.items():
            if head.seq == 0:
                changes[build_key(b"K", (shard, 2), (0, 8))] = encode(head)
    return changes


def fold_final(
    state: FinalState, chain: Sequence[HeldBlock], kept: dict[bytes, HeldBlock]
) -> HeldBlock:
    """Take a chain of blocks over into the final state; return the last one.

    Args:
        state: Becomes the state after it.
        chain: As for `compute_final_changes`.
        kept: Pending blocks above the last one; their states rest on it from now on.
    """
    for held in chain:
        state.fold(held.view)
    target = chain[-1]
    for held in kept.values():
        if held.parent_hash == target.block_hash:
            held.view.parent = state
    # What histories needed of it is on disk.
    view = StateView.from_final(state)
    return replace(target, view=view, results={}, bodies={}, emitted={}, events=())
