"""
Where a node's CPU goes: a node process that counts itself.

    python -m p2pchain.bench.chain.meter COUNTS ...   is `p2pchain ...` and counts

The functions in which the work is done are wrapped, each as a stage, before the node
starts.  A stage's time is CPU of its thread without that of stages inside of it, so the
stages can be added up; what is in none of them is network, votes and everything else.
COUNTS is written anew with every final block.
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from chain.mempool import Mempool
from chain.tree.blocktree import BlockTree
from network.gossip import Gossip
from p2pchain.cli.main import main
from p2pchain.node.chain.service import ChainService
from p2pchain.node.chain.transaction_gossip import TransactionGossip
from p2pchain.node.chunks.outbox import ChunkOutbox
from p2pchain.node.chunks.service import ChunkService
from shards.desk import Desk

STAGES: dict[tuple[type, str], str] = {
    (ChainService, "submit"): "mempool, from RPC",
    (TransactionGossip, "_check"): "mempool, from gossip",
    (Gossip, "publish"): "gossip, to all",
    (ChunkService, "_check"): "chunk messages",
    (Desk, "handle"): "desk with signatures",
    (BlockTree, "produce_chunk"): "produce chunks",
    (BlockTree, "judge_chunk"): "endorse chunks",
    (ChunkOutbox, "_write"): "chunks to disk",
    (BlockTree, "build"): "build blocks",
    (BlockTree, "add"): "add blocks",
    (BlockTree, "save_pending"): "save blocks",
    (BlockTree, "finalize"): "finalize and index",
    (Mempool, "revalidate"): "clear the mempool",
}
"""Functions by class; the coroutines among them never wait."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a node has used since its start, in CPU seconds."""

    stages: dict[str, float]
    main_s: float
    """Of its main thread, on which the node runs."""
    all_s: float
    """Of the process with all threads: HTTP, disk and database as well."""

    def subtract(self, other: "Counts") -> "Counts":
        """Return what came since `other`."""
        stages = {
            name: spent - other.stages.get(name, 0.0)
            for name, spent in self.stages.items()
        }
        return Counts(stages, self.main_s - other.main_s, self.all_s - other.all_s)


@dataclass(slots=True)
class Meter:
    """Counters of this process."""

    stages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _local: threading.local = field(default_factory=threading.local)

    def measure(self, stage: str) -> AbstractContextManager[None]:
        """Return a context whose CPU counts as `stage`."""
        return _Span(self, stage)

    def get_inner(self) -> list[float]:
        """Return what stages inside of the open ones took, of this thread."""
        inner: list[float] | None = getattr(self._local, "inner", None)
        if inner is None:
            inner = self._local.inner = [0.0]
        return inner

    def read(self) -> Counts:
        """Return the counts; on the main thread."""
        return Counts(dict(self.stages), time.thread_time(), time.process_time())


class _Span:
    """One call of a stage."""

    __slots__ = ("_began", "_meter", "_stage")

    def __init__(self, meter: Meter, stage: str) -> None:
        self._meter, self._stage = meter, stage

    def __enter__(self) -> None:
        self._meter.get_inner().append(0.0)
        self._began = time.thread_time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent = time.thread_time() - self._began
        inner = self._meter.get_inner()
        self._meter.stages[self._stage] += spent - inner.pop()
        inner[-1] += spent


def load_counts(path: Path) -> Counts:
    """Return what a node has written."""
    return msgspec.json.decode(path.read_bytes(), type=Counts)


def _install(meter: Meter, path: Path) -> None:
    for (owner, name), stage in STAGES.items():
        wrap = _wrap_coroutine if name.startswith("_check") else _wrap
        setattr(owner, name, wrap(getattr(owner, name), meter, stage))
    finalize = ChainService.finalize

    def finalize_and_write(self: ChainService, certificate: Any) -> None:
        finalize(self, certificate)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(meter.read())))
        fresh.replace(path)

    setattr(ChainService, "finalize", finalize_and_write)  # noqa: B010


def _wrap(function: Callable[..., Any], meter: Meter, stage: str) -> Any:
    @wraps(function)
    def measured(*args: Any, **named: Any) -> Any:
        with meter.measure(stage):
            return function(*args, **named)

    return measured


def _wrap_coroutine(
    function: Callable[..., Awaitable[Any]], meter: Meter, stage: str
) -> Any:
    @wraps(function)
    async def measured(*args: Any, **named: Any) -> Any:
        with meter.measure(stage):
            return await function(*args, **named)

    return measured


if __name__ == "__main__":
    counts = Path(sys.argv[1])
    _install(Meter(), counts)
    sys.argv = ["p2pchain", *sys.argv[2:]]
    sys.exit(main())
