"""
Serving snapshots: what a node does for others that do not want to replay the chain.

Theory of operation
-------------------
When the last block of an epoch becomes final, the database is frozen: a handle through
which it stays what it was, while LevelDB keeps what is replaced.  That costs nothing
until something is replaced.  The newest two are kept, and older ones while somebody
still takes parts of them, so that nobody who began in one epoch has to start again in
the next.

A manifest is made when the first peer asks for it, and kept; so is the frontier of one
shard, which a node also has that does not follow all of them.  A part is read when it
is asked for.  Both happen in slices of a few milliseconds in the thread that also
votes, and between slices everybody else has a turn.  What peers get is bounded by
serving_limits.py.

Spec: docs/protocol/14-state-sync.md
"""

import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from chain.errors import SnapshotUnavailable
from chain.execution.held import HeldBlock
from chain.queries.light import LightQueries
from chain.records.spec import ChainSpec
from chain.snapshots.building import build_frontier, build_manifest
from chain.snapshots.part import read_part
from chain.storage.store import ChainReader
from network.network import Network
from network.stream import Stream
from p2pchain.node.chain.service import ChainService
from p2pchain.node.state_sync.messages import (
    BLOCK,
    EPOCHS,
    FRONTIER,
    MANIFEST,
    MAX_OFFERS,
    MAX_REQUEST_BYTES,
    OFFERS,
    PART,
    FrontierRequest,
    LightRequest,
    Offers,
    PartRequest,
    ProofsAnswer,
    ProofsRequest,
    SnapshotName,
)
from p2pchain.node.state_sync.serving_limits import (
    ServingBudget,
    ServingTurns,
    serve_bulk,
)
from primitives.buckets import compute_bucket_count
from primitives.codec import decode, encode
from primitives.errors import DecodeError, MissingError
from primitives.kv import FrozenStore, KeyValueStore
from primitives.types import ShardId

KEPT = 2
"""Newest snapshots that are kept: one to serve, one to finish."""
IN_USE_S = 60.0
"""A snapshot of which a part was taken so lately is kept longer, up to `MAX_OFFERS`."""
SLICE_S = 0.002
"""Of work before others have a turn: a vote waits no longer than that."""
REST = 2.0
"""Turns that others have, in units of our own, while a manifest is made."""

R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """A frozen database and the manifest of its snapshot."""

    name: SnapshotName
    store: FrozenStore
    followed: frozenset[ShardId]
    """The shards of which the state is in it."""
    manifest: bytes | None = None
    frontiers: dict[ShardId, bytes] = field(default_factory=dict)
    """Of the shards that somebody asked for."""
    used_at: float = field(default=float("-inf"))


class StateSyncServer:
    """Keeps snapshots of a chain and serves them.

    Args:
        network: Where peers ask.
        chain: Whose snapshots these are.
        kv: Its database.
    """

    def __init__(
        self, network: Network, chain: ChainService, kv: KeyValueStore
    ) -> None:
        self._spec: ChainSpec = chain.spec
        self._chain = chain
        self._kv = kv
        self._light: LightQueries = chain.queries.light
        self._kept: list[_Kept] = []
        self._making = trio.Lock()
        self._turns = ServingTurns()
        self._budget = ServingBudget()
        self._keep()
        chain.listen(self._on_final)
        serve_bulk(
            network,
            {
                OFFERS: self._on_offers,
                MANIFEST: self._on_manifest,
                FRONTIER: self._on_frontier,
                BLOCK: self._on_block,
                EPOCHS: self._on_epochs,
            },
            {PART: self._serve_part},
            MAX_REQUEST_BYTES,
        )

    @property
    def offers(self) -> tuple[SnapshotName, ...]:
        """What is served now, the newest first."""
        return tuple(kept.name for kept in reversed(self._kept))

    def close(self) -> None:
        """Let the database forget what it replaced."""
        for kept in self._kept:
            kept.store.close()
        self._kept.clear()

    # Keeping

    def _on_final(self, block: HeldBlock) -> None:
        if block.is_epoch_root and block.height == self._chain.height:
            self._keep()

    def _keep(self) -> None:
        """Freeze the database if its last block ends an epoch."""
        final = self._chain.tree.final
        if not final.height or not final.is_epoch_root:
            return
        name = SnapshotName(final.height, final.block_hash)
        followed = self._chain.tree.followed
        self._kept.append(_Kept(name, self._kv.freeze(), followed))
        now = trio.current_time() if _is_in_trio() else float("-inf")
        for kept in self._kept[: -KEPT or None]:
            is_used = kept.used_at > now - IN_USE_S
            if not is_used or len(self._kept) > MAX_OFFERS:
                self._kept.remove(kept)
                kept.store.close()

    def _find(self, name: SnapshotName) -> _Kept:
        for kept in self._kept:
            if kept.name == name:
                kept.used_at = trio.current_time()
                return kept
        raise SnapshotUnavailable(f"no snapshot at height {name.height}")

    # Answering

    async def _on_offers(self, peer_id: bytes, payload: bytes) -> bytes:
        if payload:
            raise DecodeError("a question for offers is empty")
        return encode(Offers(self.offers))

    async def _on_manifest(self, peer_id: bytes, payload: bytes) -> bytes:
        name = decode(SnapshotName, payload, MAX_REQUEST_BYTES)
        kept = self._find(name)
        async with self._making:
            if kept.manifest is None:
                started = time.perf_counter()
                newest = ChainReader(self._kv)
                making = build_manifest(self._spec, ChainReader(kept.store), newest)
                kept.manifest = encode(await self._make(kept, making))
                log.info(
                    "manifest of block %d: %d bytes in %.1f s",
                    name.height,
                    len(kept.manifest),
                    time.perf_counter() - started,
                )
        await self._budget.spend(len(kept.manifest))
        return kept.manifest

    async def _on_frontier(self, peer_id: bytes, payload: bytes) -> bytes:
        question = decode(FrontierRequest, payload, MAX_REQUEST_BYTES)
        kept, shard = self._find(question.snapshot), question.shard
        async with self._making:
            if shard not in kept.frontiers:
                making = build_frontier(self._spec, ChainReader(kept.store), shard)
                kept.frontiers[shard] = encode(await self._make(kept, making))
        await self._budget.spend(len(kept.frontiers[shard]))
        return kept.frontiers[shard]

    async def _make(self, kept: _Kept, making: Generator[None, None, R]) -> R:
        """Run a generator a slice at a time, for as long as its snapshot is kept."""
        while True:
            end = time.perf_counter() + SLICE_S
            while time.perf_counter() < end:
                try:
                    next(making)
                except StopIteration as stop:
                    made: R = stop.value
                    return made
            await trio.sleep(REST * SLICE_S)
            if kept not in self._kept:
                raise SnapshotUnavailable(f"block {kept.name.height} is too old now")

    async def _serve_part(self, peer_id: bytes, stream: Stream) -> None:
        request = decode(PartRequest, await stream.receive(), MAX_REQUEST_BYTES)
        count = self._count_buckets(request)
        async with self._turns.take(peer_id):
            data = await self._read(request, count)
            await self._budget.spend(len(data))
            await stream.send(data)

    def _count_buckets(self, request: PartRequest) -> int:
        """Return how many buckets a part spans.

        Raises:
            DecodeError: There is no such part in any tree.
        """
        if request.depth > request.levels:
            raise DecodeError(f"depth {request.depth} of {request.levels}")
        count = compute_bucket_count(request.levels - request.depth)
        last = compute_bucket_count(request.levels) - count
        if request.first % count or request.first > last:
            raise DecodeError(f"no part begins at bucket {request.first}")
        return count

    async def _read(self, request: PartRequest, count: int) -> bytes:
        kept = self._find(request.snapshot)
        if request.shard not in kept.followed:
            # What is there of it may be half of a state, on its way here.
            raise SnapshotUnavailable(f"shard {request.shard} is not followed here")
        reading = read_part(kept.store, request.shard, request.first, count)
        end = time.perf_counter() + SLICE_S
        for data in reading:
            if data is not None:
                return data
            if time.perf_counter() > end:
                await trio.sleep(0)
                end = time.perf_counter() + SLICE_S
                if kept not in self._kept:
                    break
        raise SnapshotUnavailable("the snapshot is too old now")

    async def _on_block(self, peer_id: bytes, payload: bytes) -> bytes:
        request = decode(LightRequest, payload, MAX_REQUEST_BYTES)
        block = self._light.build_block(request.height)
        if block is None:
            raise MissingError(f"block {request.height} cannot be shown")
        return encode(block)

    async def _on_epochs(self, peer_id: bytes, payload: bytes) -> bytes:
        request = decode(ProofsRequest, payload, MAX_REQUEST_BYTES)
        proofs = self._light.list_proofs(request.epoch, request.count)
        if not proofs:
            raise MissingError(f"no proof of epoch {request.epoch}")
        return encode(ProofsAnswer(proofs))


def _is_in_trio() -> bool:
    return trio.lowlevel.in_trio_run()
