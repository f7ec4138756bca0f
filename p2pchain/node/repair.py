"""
A new database for a node whose old one is damaged.

What only this node has is copied: vouchers, receipts, evidence that waits.  The chain
is not: peers have it, and the next start takes a state from them or replays.  The old
folder stays beside the new one until its owner deletes it.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from chain.errors import StoreError
from chain.snapshots.installing import CHAIN_LETTERS
from chain.storage.leveldb import LevelStore, rebuild_level_store
from chain.storage.store import INSTALL_KEY
from primitives.kv import KeyValueStore

BATCH = 1024
"""Keys copied at once."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of a damaged database."""

    kept: int
    """Keys that were copied."""
    lost: tuple[str, ...]
    """Where reading ended too early, and why."""
    old: Path
    """Where the damaged one is now."""


def replace_database(data: Path) -> Repaired:
    """Put a database without a chain in the place of a damaged one.

    Args:
        data: Its folder; nobody has it open.

    Raises:
        StoreError: The disk failed, or an earlier damaged one is still there.
    """
    old, new = _get_old(data), _get_new(data)
    if old.exists():
        raise StoreError(f"{old} is from an earlier repair; move it away first")
    shutil.rmtree(new, ignore_errors=True)
    with closing(_open_damaged(data)) as source, LevelStore(new) as target:
        kept, lost = _copy(source, target)
    try:
        data.rename(old)
        new.rename(data)
    except OSError as error:
        raise StoreError(f"cannot move {data}: {error}") from error
    return Repaired(kept, lost, old)


def finish_repair(data: Path) -> None:
    """Do what a repair had still to do when the power went: give it its name."""
    new = _get_new(data)
    if not data.exists() and new.exists():
        new.rename(data)


def _get_old(data: Path) -> Path:
    return data.with_name(f"{data.name}.damaged")


def _get_new(data: Path) -> Path:
    return data.with_name(f"{data.name}.new")


def _open_damaged(data: Path) -> LevelStore:
    try:
        return LevelStore(data)
    except StoreError:
        rebuild_level_store(data)
        return LevelStore(data)


def _copy(source: KeyValueStore, target: KeyValueStore) -> tuple[int, tuple[str, ...]]:
    """Copy what is not the chain's; return how many keys, and what was unreadable."""
    kept, lost = 0, []
    for first in sorted(set(range(256)) - set(CHAIN_LETTERS + INSTALL_KEY[:1])):
        pairs = source.iterate(bytes([first]))
        try:
            while batch := dict(_take(pairs)):
                target.write(batch, sync=True)
                kept += len(batch)
        except StoreError as error:
            lost.append(f"keys of {bytes([first])!r}: {error}")
    return kept, tuple(lost)


def _take(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for _, pair in zip(range(BATCH), pairs, strict=False):
        yield pair
