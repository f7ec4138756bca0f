"""
The authenticated state with a million keys in one shard.

A round is what a block does to the state: read the keys, compute the new buckets and
roots, make undo and books, and write all of it to LevelDB in one synchronous batch.
Rates are of CPU time, that of LevelDB's own thread included: per core, whatever else
runs.  Memory is that of a process that has opened the database and nothing else.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from chain.execution.chunk_run import ChunkResult
from chain.records.account import Account
from chain.records.keys import build_account_key
from chain.state.state import StateView
from chain.storage.books import compute_books_changes
from chain.storage.final_state import FinalState
from chain.storage.history import History, compute_undo_changes, get_oldest
from chain.storage.leveldb import LevelStore
from p2pchain.bench.lab.lab import Lab
from p2pchain.bench.lab.procfs import PROC, parse_rollup
from p2pchain.bench.report import Figure, summarise
from primitives.buckets import MAX_LEVELS, compute_bucket_index
from primitives.codec import encode
from primitives.hashing import compute_hash
from primitives.types import Height, ShardId

SHARD = 1
SIZES = (10_000, 1_000_000)
"""Keys: a devnet's state and a large one, in one run."""
FILL = 16_384
"""Keys per block while the state is made."""
UPDATES = 8_192
"""Keys that a round changes: those of a block full of transfers."""
ROUNDS = 20
PROOFS = 500
MIB = 1024**2

Keys = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Step:
    """A block, as far as the state knows of it."""

    height: Height
    view: StateView
    results: Mapping[ShardId, ChunkResult] = field(default_factory=dict)


def run_state(lab: Lab) -> list[Figure]:
    """Change, prove and load states of two sizes."""
    figures: list[Figure] = []
    for size in SIZES:
        lab.report(f"a state of {size:,} keys")
        figures += _run_size(lab.folder / f"state-{size}", size)
    return figures


def _run_size(folder: Path, size: int) -> list[Figure]:
    with LevelStore(folder) as store:
        state = FinalState(store, (SHARD,), MAX_LEVELS)
        keys = [_build_key(number) for number in range(size)]
        height = 0
        for start in range(0, size, FILL):
            height += 1
            _write(state, height, _compute(state, keys[start : start + FILL], height))
        rounds = _Rounds(state, keys, height)
        for _ in range(ROUNDS):
            rounds.run()
        figures = rounds.summarise(f"{size:,} keys")
        figures += _prove(state, keys, rounds.height, f"{size:,} keys")
    loaded = json.loads(
        subprocess.run(
            [sys.executable, "-m", __name__, str(folder)],
            check=True,
            capture_output=True,
        ).stdout
    )
    disk = sum(file.stat().st_size for file in folder.iterdir())
    note = f"{size:,} keys; {disk / MIB:.0f} MiB on disk, undo included"
    return [
        *figures,
        Figure("open: read and hash all", loaded["cpu_s"], "s CPU", note),
        Figure(
            "memory of a process with the state open",
            loaded["rss"] / MIB,
            "MiB RSS",
            f"{loaded['before'] / MIB:.0f} before it was opened",
        ),
    ]


class _Rounds:
    """Blocks of updates of random keys, timed by stage."""

    def __init__(self, state: FinalState, keys: Keys, height: Height) -> None:
        self.height = height
        self._state = state
        self._keys = keys
        self._luck = Random(len(keys))
        self._samples: dict[str, list[float]] = {}

    def run(self) -> None:
        """Do one block."""
        self.height += 1
        state = self._state
        view = StateView.from_final(state)
        keys = self._luck.sample(self._keys, min(UPDATES, len(self._keys)))
        started, wall = time.process_time(), time.monotonic()

        def note(name: str) -> None:
            cpu_us = (time.process_time() - started) * 1e6
            self._samples.setdefault(name, []).append(cpu_us / len(keys))

        for key in keys:
            view.get(SHARD, key)
        note("read")
        child = _compute(state, keys, self.height)
        note("compute")
        _write(state, self.height, child)
        note("write")
        wall_us = (time.monotonic() - wall) * 1e6 / len(keys)
        self._samples.setdefault("wall", []).append(wall_us)

    def summarise(self, note: str) -> list[Figure]:
        """Return the rates, and the stages of the median round."""
        read, compute, write, wall = (
            self._samples[name] for name in ("read", "compute", "write", "wall")
        )
        computing = [b - a for a, b in zip(read, compute, strict=True)]
        writing = [b - a for a, b in zip(compute, write, strict=True)]
        unit = "us CPU/update"
        return [
            summarise("updates", [1e6 / us for us in write], "/s per core", note),
            summarise("updates by the clock", [1e6 / us for us in wall], "/s", note),
            summarise("  read", read, unit),
            summarise("  buckets and roots", computing, unit),
            summarise("  undo, books, LevelDB", writing, unit),
        ]


def _compute(state: FinalState, keys: Keys, height: Height) -> StateView:
    account = encode(Account(10**12 + height, height, ()))
    return StateView.from_final(state).compute_child(
        {SHARD: dict.fromkeys(keys, account)}
    )


def _write(state: FinalState, height: Height, view: StateView) -> None:
    """Make a block final, as chain/tree/finality.py does."""
    chain = [Step(height, view)]
    changes = compute_undo_changes(state, chain)
    changes.update(compute_books_changes(state, chain))
    changes.update(state.compute_changes(view))
    state.store.write(changes, sync=True)
    state.fold(view)


def _prove(state: FinalState, keys: Keys, height: Height, note: str) -> list[Figure]:
    asked = Random(0).sample(keys, PROOFS)
    view = StateView.from_final(state)
    beside, buckets = [], []
    for key in asked:
        index = compute_bucket_index(key, MAX_LEVELS)
        bucket = len(view.get_bucket_bytes(SHARD, index))
        buckets.append(float(bucket))
        beside.append(float(len(encode(view.build_proof(SHARD, key))) - bucket))
    oldest = get_oldest(state, height)
    past = History(state)

    def ask(key: bytes) -> None:
        past.get_view(oldest, SHARD, height).build_proof(SHARD, key)

    first_ms = _time_ms(lambda: ask(asked[0]))
    later = [_time_ms(lambda key=key: ask(key)) for key in asked[1:]]  # type: ignore[misc]
    return [
        summarise("proof beside its bucket", beside, "bytes", note),
        summarise("bucket", buckets, "bytes"),
        Figure(
            "first proof of the oldest state",
            first_ms,
            "ms",
            f"{height - oldest} blocks back",
        ),
        summarise("next proof of the oldest state", later, "ms"),
    ]


def _time_ms(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return (time.process_time() - started) * 1000


def _build_key(number: int) -> bytes:
    return build_account_key(compute_hash("bench", number.to_bytes(4, "big")))


def _load(folder: Path) -> dict[str, float]:
    """Open a state as a node does; run in a process of its own."""
    before = _read_rss()
    with closing(LevelStore(folder)) as store:
        state = FinalState(store, (SHARD,), MAX_LEVELS)
        started = time.process_time()
        state.load()
        cpu_s = time.process_time() - started
        luck = Random(0)
        for _ in range(200_000):
            # So that the cache is full.
            state.get_bucket_bytes(SHARD, luck.randrange(4**MAX_LEVELS))
        return {"cpu_s": cpu_s, "before": before, "rss": _read_rss()}


def _read_rss() -> int:
    return parse_rollup((PROC / "self" / "smaps_rollup").read_text()).rss


if __name__ == "__main__":
    print(json.dumps(_load(Path(sys.argv[1]))))
