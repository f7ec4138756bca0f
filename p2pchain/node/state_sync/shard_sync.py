"""
Following other shards than before, while the node runs.

Theory of operation
-------------------
    wanted, not followed --> base: a boundary of ours --frontier--> parts --> files
        --Adoption (chain/tree/adoption.py)--> buckets --chunks, with bodies--> last
        block --> followed, in one write
    taken on for others, not wanted any more --> dropped, in one write; then its
                                                 buckets go

A shard that a node works with is kept even where a split has moved its layers to
another one: channels stay where they were opened.  What was taken on for others'
sake alone, as a custodian does, is let go.

One shard at a time.  The base is the newest boundary of our own final chain that peers
still serve, and of which the chunks since then can be executed: the last one or the
one before.  When nobody serves either, the next boundary comes.  An empty state, and
that of genesis, need no peer.

Reading, hashing, executing and writing happen in a thread, step after step, and after
each the thread rests: consensus has the loop to itself, and half of the core at least.
The chain goes on meanwhile, and so do we; we are faster than it is, as it has a chunk
of the shard per block at most.  The last step is in the loop: there is no block between
what was executed and what is final.

A chunk that does here something else than its header says ends the attempt, and the
shard is tried again from a boundary after that chunk; so is a shard that was given up
for such a chunk while it was followed.  If the fault was ours, of memory or disk, that
mends it; if it was somebody's crime, its proof halts the shard, and what its state
should be is for people to decide: a halted shard is not taken on.

Spec: docs/protocol/14-state-sync.md
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import trio

from chain.errors import InvalidSnapshot, MissingBodies, PastChunk
from chain.execution.chunk import ChunkBody
from chain.execution.held import HeldBlock
from chain.queries.foreign_packets import has_sent_packets
from chain.snapshots.snapshot import PartPlace, SnapshotShard, iterate_places
from chain.storage.gaps import read_gaps
from chain.storage.store import forget_shard
from chain.tree.adoption import Adoption, Base, find_base, read_frontier
from chain.tree.blocktree import BlockTree
from chain.tree.past_chunks import iterate_next_headers, list_past_boundaries
from network.network import Network
from p2pchain.node.chain.foreign_packets import PacketExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.state_sync.ask import Blame, ask, collect_offers
from p2pchain.node.state_sync.board import PartBoard, Progress
from p2pchain.node.state_sync.files import LostPart, PartFiles
from p2pchain.node.state_sync.messages import (
    FRONTIER,
    MAX_FRONTIER_BYTES,
    FrontierRequest,
    SnapshotName,
)
from p2pchain.node.state_sync.part_fetcher import PartFetcher
from primitives.buckets import EMPTY_HASHES
from primitives.codec import encode
from primitives.errors import MissingError
from primitives.types import Height, ShardId
from shards.chunk import compute_chunk_hash
from shards.errors import InvalidChunk
from shards.layout import ROOT_SHARD

LOOK_S = 0.5
"""How often a node that is behind looks whether it still is."""
FRONTIER_S = 60.0
"""What a peer gets for a frontier, which it may have to make first."""
PAUSE_S = 5.0
"""Before a shard is tried again that nobody serves, twice as long each time; a new
boundary ends the wait."""
MAX_PAUSE_S = 300.0
AHEAD = 8
"""Bodies asked for at a time: a round trip for each would be slower than the chain
where peers are far away."""
REST_S = 0.1
"""The longest rest after a step; rests are as long as steps."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class CannotAdopt(MissingError):
    """A shard that cannot be followed yet; later it may."""


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """How far a shard on its way is."""

    shard: ShardId
    parts: Progress
    """Of its state at the boundary."""
    done_height: Height
    """Up to which its chunks were executed."""
    height: Height
    """Of the last final block."""
    blocks_per_s: float
    """Of the chunks, since the state is here."""

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate; None while that cannot be told."""
        if self.parts.parts_done < self.parts.parts:
            return self.parts.eta_s
        left = self.height - self.done_height
        return left / self.blocks_per_s if self.blocks_per_s > 0 else None


class ShardSync:
    """Begins to follow the shards that are wanted, and drops the others.

    Args:
        network: Where peers are.
        chain: Ours.
        bodies: Gets bodies of chunks.
        packets: Gets packets that a shard has sent before.
        files: Where parts are kept.
        is_behind: Whether blocks are still to be caught up with.
        get_wanted: Returns the shards that should be followed now.
        get_own: Returns those of them that are not followed for others' sake.
    """

    def __init__(
        self,
        network: Network,
        chain: ChainService,
        bodies: BodyExchange,
        packets: PacketExchange,
        files: PartFiles,
        *,
        is_behind: Callable[[], bool],
        get_wanted: Callable[[], frozenset[ShardId]],
        get_own: Callable[[], frozenset[ShardId]],
    ) -> None:
        self._network = network
        self._chain = chain
        self._bodies = bodies
        self._packets = packets
        self._files = files
        self._is_behind = is_behind
        self._get_wanted = get_wanted
        self._get_own = get_own
        self._kept: set[ShardId] = set()
        """Taken on for others' sake."""
        self._parts = PartFetcher(network, files)
        self._adoption: Adoption | None = None
        self._board: PartBoard | None = None
        self._written_at = 0.0
        """When the state at the boundary was in the database."""
        self._wrong: dict[ShardId, Height] = {}
        """Heights of chunks that do something else here than they say."""
        self._rests: dict[ShardId, tuple[float, float]] = {}
        """Shards that could not be had: until when they wait, and how long next time.
        """
        self._changed = trio.Event()
        chain.listen(self._on_final)

    @property
    def _tree(self) -> BlockTree:
        return self._chain.tree

    @property
    def progress(self) -> ShardProgress | None:
        """How far the shard on its way is; None while none is."""
        adoption, board = self._adoption, self._board
        if adoption is None or board is None:
            return None
        now = trio.current_time()
        done = adoption.height - adoption.base.height
        return ShardProgress(
            adoption.shard,
            board.get_progress(now),
            adoption.height,
            self._tree.final_height,
            done / max(now - self._written_at, 0.1),
        )

    async def run(self) -> None:
        """Follow what is wanted, for ever.

        Raises:
            StoreError: The disk failed.
        """
        self._kept.update(self._tree.followed - self._get_own() - {ROOT_SHARD})
        if self._list_wanted() <= self._tree.followed:
            self._files.clear()  # Parts of an earlier time that nobody wants now.
        while True:
            while self._is_behind():
                await trio.sleep(LOOK_S)
            self._kept -= self._get_own()
            unwanted = self._kept & self._tree.followed - self._list_wanted()
            for shard in sorted(unwanted):
                await self._drop(shard)
            wanted = self._choose()
            if wanted is None:
                await self._wait_final()
            else:
                await self._try(wanted)

    def _on_final(self, held: HeldBlock) -> None:
        if held.is_epoch_root:
            self._rests.clear()
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_final(self) -> None:
        """Wait for a block; without one for as long as a shard should rest."""
        with trio.move_on_after(PAUSE_S):
            await self._changed.wait()

    def _list_wanted(self) -> frozenset[ShardId]:
        return self._get_wanted() | {ROOT_SHARD}

    def _choose(self) -> ShardId | None:
        """Return a shard to take on now."""
        now = trio.current_time()
        missing = self._list_wanted() & self._tree.running
        for shard in sorted(missing - self._tree.followed):
            if self._rests.get(shard, (now, 0.0))[0] <= now:
                return shard
        return None

    async def _try(self, shard: ShardId) -> None:
        try:
            await self._take(shard)
        except CannotAdopt as error:
            _, pause_s = self._rests.get(shard, (0.0, PAUSE_S))
            until = trio.current_time() + pause_s
            self._rests[shard] = until, min(2 * pause_s, MAX_PAUSE_S)
            log.info("shard %d is not followed yet: %s", shard, error)
            return
        self._rests.pop(shard, None)
        if shard not in self._get_own():
            self._kept.add(shard)

    async def _drop(self, shard: ShardId) -> None:
        self._kept.discard(shard)
        self._tree.drop(shard)
        self._chain.on_follow()
        log.info("shard %d is not followed any more", shard)
        await self._work(lambda: forget_shard(self._tree.store.kv, shard))

    # Taking a shard on

    async def _take(self, shard: ShardId) -> None:
        """Begin to follow a shard.

        Raises:
            CannotAdopt: Not now.
            StoreError: The disk failed.
        """
        started = time.monotonic()
        self._tree.state.coming = shard
        try:
            adoption = await self._install(shard)
            await self._catch_up(adoption)
        except (PastChunk, LostPart, InvalidSnapshot) as error:
            raise CannotAdopt(str(error)) from error
        finally:
            self._tree.state.coming = None
            self._adoption = self._board = None
        self._chain.on_follow()
        self._files.clear()
        log.info(
            "shard %d is followed, with its state of block %d, %.1f s",
            shard,
            adoption.base.height,
            time.monotonic() - started,
        )

    async def _install(self, shard: ShardId) -> Adoption:
        """Return an adoption that has the state at a boundary."""
        offers: dict[SnapshotName, list[bytes]] | None = None
        for base in self._list_bases(shard):
            adoption = Adoption(self._chain.spec, self._tree.store, base)
            places: tuple[PartPlace, ...] = ()
            if not adoption.is_known:
                if offers is None:
                    offers = await collect_offers(self._network)
                name = SnapshotName(base.height, base.block_hash)
                frontier = await self._find_frontier(base, name, offers.get(name, []))
                if frontier is None:
                    continue
                places = _list_places(frontier)
            if await self._fetch(adoption, places):
                await self._write(adoption, places)
                return adoption
        raise CannotAdopt("nobody serves its state at a boundary that is of use")

    def _list_bases(self, shard: ShardId) -> list[Base]:
        """Return where an adoption could begin, the newest first."""
        tree = self._tree
        heights = list_past_boundaries(
            tree.epoch.epoch, tree.spec.params.epoch_blocks, tree.first_height
        )
        least = self._wrong.get(shard, 0)
        for gap in read_gaps(tree.store):
            if gap.shard == shard and gap.last is None and gap.reason:
                least = max(least, gap.first)
        bases = (find_base(tree.store, shard, height) for height in heights)
        return [base for base in bases if base is not None and base.height >= least]

    async def _find_frontier(
        self, base: Base, name: SnapshotName, peer_ids: list[bytes]
    ) -> SnapshotShard | None:
        """Return of which parts the state at a boundary consists, if somebody knows."""
        question = encode(FrontierRequest(name, base.shard))
        levels = self._chain.spec.params.bucket_levels
        for peer_id in peer_ids:
            with Blame(self._network, peer_id):
                frontier = await ask(
                    self._network,
                    peer_id,
                    FRONTIER,
                    question,
                    SnapshotShard,
                    FRONTIER_S,
                    MAX_FRONTIER_BYTES,
                )
                return read_frontier(base, frontier, levels)
        return None

    async def _fetch(self, adoption: Adoption, places: tuple[PartPlace, ...]) -> bool:
        """Get the parts of a state into files; False if no more of them come."""
        base = adoption.base
        name = SnapshotName(base.height, base.block_hash)
        self._files.keep_only(places)
        log.info("shard %d: its state of block %d is wanted", base.shard, base.height)
        self._board = await self._parts.open_board(name, places)
        self._adoption = adoption
        return await self._parts.fetch(name, self._board)

    async def _write(self, adoption: Adoption, places: tuple[PartPlace, ...]) -> None:
        """Put a state that is in files into the database."""
        await self._work(adoption.clear)
        for place in places:
            await self._work(_put_part, adoption, self._files, place)
        if adoption.is_known:
            await self._work(adoption.put_known)
        await self._work(adoption.finish_parts)
        self._written_at = trio.current_time()

    # The chunks since then

    async def _catch_up(self, adoption: Adoption) -> None:
        """Execute chunks until there are no more, and follow the shard from there."""
        tree, shard = self._tree, adoption.shard
        while True:
            if shard not in self._list_wanted() & tree.running:
                raise CannotAdopt("it is halted, gone, or not wanted any more")
            chunk = tree.find_next_chunk(adoption)
            if chunk is not None:
                body = await self._get_body(adoption)
                try:
                    await self._work(adoption.execute, chunk, body)
                except InvalidChunk as error:
                    self._wrong[shard] = chunk.height
                    raise CannotAdopt(
                        f"its chunk in block {chunk.height} is wrong here: {error}"
                    ) from error
            elif not has_sent_packets(tree, shard):
                # They are from before the boundary.
                self._packets.look()
                await self._wait_final()
            else:
                # Nothing waits from here on: no block comes between.
                try:
                    tree.adopt(adoption)
                    return
                except MissingBodies as missing:
                    await self._bodies.fetch(missing.headers)

    async def _get_body(self, adoption: Adoption) -> ChunkBody:
        """Return the body of the next chunk, and fetch those after it on the way.

        Raises:
            CannotAdopt: Nobody has it.
        """
        tree = self._tree
        headers = iterate_next_headers(tree.store, adoption.shard, adoption.height)
        coming = [header for _, header in islice(headers, AHEAD)]
        name = compute_chunk_hash(coming[0])
        if (body := tree.get_body(name)) is not None:
            return body
        async with trio.open_nursery() as nursery:
            for header in coming:
                if not tree.has_body(compute_chunk_hash(header)):
                    nursery.start_soon(self._bodies.fetch, [header])
        body = tree.get_body(name)
        if body is None:
            raise CannotAdopt(f"nobody has the body of its chunk {coming[0].seq}")
        return body

    async def _work(self, step: Callable[..., T], *arguments: object) -> T:
        """Do a step beside the loop, and rest."""
        started = time.monotonic()
        result = await trio.to_thread.run_sync(step, *arguments)
        await trio.sleep(min(time.monotonic() - started, REST_S))
        return result


def _put_part(adoption: Adoption, files: PartFiles, place: PartPlace) -> None:
    adoption.put_part(place, files.read(place))


def _list_places(frontier: SnapshotShard) -> tuple[PartPlace, ...]:
    """Return the places of parts that have a pair at all."""
    return tuple(
        place
        for place in iterate_places(frontier)
        if place.digest != EMPTY_HASHES[place.levels - place.depth]
    )
