"""
Taking a state from peers instead of replaying the chain.

Theory of operation
-------------------
    far behind? --offers--> newest snapshot --manifest--> does it fit together?
        --light client, from what this node trusts--> is its block final?
        --parts, from all peers at once--> files --> restart --> database

A node is far behind when a peer claims more than `snapshot_after_epochs` epochs above
its last final block.  A claim is not believed; it only makes us ask.  While we ask and
fetch, ranges of blocks wait (`is_holding`), because what they bring would be thrown
away.  When nobody has a snapshot for us, ranges go on, and we ask again later, less and
less often: so a peer that lies delays us by seconds and no more.

Trust comes from the validators of this node's own last epoch, of genesis at the
latest, or of the checkpoint in its settings, and from there by the proofs of
chain/light/sync.py alone.  Everything else follows from the block's header.

When every part is here the node stops and starts again in the same process: the
database is rewritten while nothing runs that could read half of it.

Spec: docs/protocol/14-state-sync.md
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from chain.errors import InvalidSnapshot
from chain.light.client import EpochProof, LightBlock, LightChain, LightState
from chain.light.sync import AskBlock, AskProofs, LightSync
from chain.snapshots.snapshot import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Snapshot,
    decode_manifest,
    narrow_manifest,
    read_snapshot,
)
from network.network import Network
from p2pchain.node.chain.service import ChainService
from p2pchain.node.state_sync.ask import ASK_S, Blame, ask, collect_offers, request
from p2pchain.node.state_sync.board import PartBoard, Progress
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.messages import (
    BLOCK,
    EPOCHS,
    MANIFEST,
    MAX_BLOCK_BYTES,
    MAX_PROOFS_BYTES,
    LightRequest,
    ProofsAnswer,
    ProofsRequest,
    SnapshotName,
)
from p2pchain.node.state_sync.part_fetcher import PartFetcher
from primitives import bls
from primitives.codec import encode
from primitives.errors import MissingError
from primitives.types import Epoch, Hash32

HEAR_S = 1.0
"""After the start nobody has told a height yet, and no range is taken in that time."""
LOOK_S = 0.5
"""How often a node looks whether it is far behind; peers tell heights every 5 s."""
MANIFEST_S = 90.0
"""What a peer gets for a manifest, which it may have to make first."""
PAUSE_S = 30.0
"""Before asking again after a round without a snapshot, twice as long each time."""
MAX_PAUSE_S = 1800.0

log = logging.getLogger(__name__)


class NoSnapshot(MissingError):
    """Nobody has a snapshot that is of use to us."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An epoch and the root of its validator set, told by somebody we believe."""

    epoch: Epoch
    root: Hash32


class StateSync:
    """Fetches a snapshot when the node is far behind.

    Args:
        network: Where peers are.
        chain: Ours, which is behind.
        files: Where parts are kept.
        after_epochs: Behind by more than so many epochs is far; None: never.
        get_best_height: The highest final height that a peer claims.
        checkpoint: Where trust begins if it is later than our own last epoch.
    """

    def __init__(
        self,
        network: Network,
        chain: ChainService,
        files: PartFiles,
        *,
        after_epochs: int | None,
        get_best_height: Callable[[], int],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._network = network
        self._chain = chain
        self._files = files
        self._after_epochs = after_epochs
        self._get_best_height = get_best_height
        self._checkpoint = checkpoint
        self._parts = PartFetcher(network, files)
        self._board: PartBoard | None = None
        self._is_giving_way = False
        """Whether ranges go on although we are far behind."""
        self._heard_at = 0.0
        """When peers will have told how far they are."""
        self.ready = trio.Event()
        """Every part is here: the node is to stop and start again."""

    @property
    def is_holding(self) -> bool:
        """Whether ranges of blocks have to wait."""
        if self._after_epochs is None or self._is_giving_way:
            return False
        return trio.current_time() < self._heard_at or self._is_far_behind

    @property
    def progress(self) -> Progress | None:
        """How far the snapshot is; None while none is fetched."""
        if self._board is None:
            return None
        return self._board.get_progress(trio.current_time())

    async def run(self) -> None:
        """Watch, and fetch a snapshot if need be; returns when one is ready.

        Raises:
            StoreError: The disk does not take the parts.
        """
        pause_s = PAUSE_S
        self._heard_at = trio.current_time() + HEAR_S
        while True:
            while not self._is_far_behind:
                pause_s = PAUSE_S
                await trio.sleep(LOOK_S)
            try:
                snapshot = await self._find_snapshot()
                if await self._fetch(snapshot):
                    self.ready.set()
                    return
            except NoSnapshot as error:
                log.info("%s; going on with blocks", error)
            self._is_giving_way = True
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            self._is_giving_way = False

    @property
    def _is_far_behind(self) -> bool:
        if self._after_epochs is None:
            return False
        gap = self._get_best_height() - self._chain.height
        return gap > self._after_epochs * self._chain.spec.params.epoch_blocks

    # Which snapshot

    async def _find_snapshot(self) -> Snapshot:
        """Return the newest snapshot of a block that is final.

        Raises:
            NoSnapshot: There is none, or it saves too little.
        """
        offers = await collect_offers(self._network)
        least = self._chain.height + self._chain.spec.params.epoch_blocks
        saved = self._files.load_manifest()
        for name in sorted(offers, key=_rank, reverse=True):
            for peer_id in offers[name]:
                if name.height <= least:
                    continue
                manifest = saved if saved and _is_of(saved, name, self._chain) else None
                snapshot = await self._try_manifest(peer_id, name, manifest)
                if snapshot is not None:
                    return self._narrow(snapshot)
        raise NoSnapshot("far behind, and no peer has a snapshot of use")

    def _narrow(self, snapshot: Snapshot) -> Snapshot:
        """Return no more of a snapshot than the shards that we want.

        By the layout of long ago: what came since then is taken on afterwards.
        """
        tree = self._chain.tree
        if tree.follow.shards is None:
            return snapshot
        spec = self._chain.spec
        manifest = narrow_manifest(snapshot.manifest, tree.wanted)
        return read_snapshot(manifest, spec.chain_id, spec.params.epoch_blocks)

    async def _try_manifest(
        self, peer_id: bytes, name: SnapshotName, saved: Manifest | None
    ) -> Snapshot | None:
        """Return a peer's snapshot if its manifest is right and its block final."""
        spec = self._chain.spec
        with Blame(self._network, peer_id):
            manifest = saved
            if manifest is None:
                data = await request(
                    self._network,
                    peer_id,
                    MANIFEST,
                    encode(name),
                    MANIFEST_S,
                    MAX_MANIFEST_BYTES,
                )
                manifest = decode_manifest(data)
            snapshot = read_snapshot(manifest, spec.chain_id, spec.params.epoch_blocks)
            if (snapshot.height, snapshot.block_hash) != (name.height, name.block_hash):
                raise InvalidSnapshot("a manifest of another snapshot")
            await self._verify_final(peer_id, snapshot)
            return snapshot
        return None

    # Whether it is final

    async def _verify_final(self, peer_id: bytes, snapshot: Snapshot) -> None:
        """Follow the validator sets from what we trust to the snapshot's block.

        Raises:
            LightError, MissingError, NetworkError: They do not lead there.
        """
        spec = self._chain.spec
        latest_ms = time.time_ns() // 1_000_000 + spec.params.max_drift_ms
        state = await self._load_trust(peer_id, snapshot)
        sync = LightSync(state, bls, latest_ms)
        is_asked = False
        while (ask := sync.ask) is not None:
            match ask:
                case AskBlock(None):
                    sync.on_block(snapshot.light_block)
                case AskBlock(height):
                    assert height is not None
                    sync.on_block(await self._ask_block(peer_id, height))
                case AskProofs(epoch, count):
                    sync.on_proofs(await self._ask_proofs(peer_id, epoch, count))
            is_asked = True
        newest = sync.state.newest
        if not is_asked or newest != snapshot.header:
            raise InvalidSnapshot("the snapshot's block is not shown to be final")
        self._warn_of_age(snapshot)

    async def _load_trust(self, peer_id: bytes, snapshot: Snapshot) -> LightState:
        """Return our own last epoch's trust, or the checkpoint's if that is later."""
        spec, epoch = self._chain.spec, self._chain.epoch
        chain = LightChain(
            chain_id=spec.chain_id,
            epoch_blocks=spec.params.epoch_blocks,
            bucket_levels=spec.params.bucket_levels,
        )
        point = self._checkpoint
        if point is None or point.epoch <= epoch.epoch:
            return LightState.from_set(chain, epoch.epoch, epoch.validators)
        if point.epoch > snapshot.header.epoch:
            raise InvalidSnapshot("the snapshot is older than the checkpoint")
        block = snapshot.light_block
        if point.epoch < snapshot.header.epoch:
            height = point.epoch * spec.params.epoch_blocks + 1
            block = await self._ask_block(peer_id, height)
        if block.validators.compute_root() != point.root:
            raise InvalidSnapshot(
                f"another validator set of epoch {point.epoch} than the checkpoint's"
            )
        return LightState.from_set(chain, point.epoch, block.validators)

    async def _ask_block(self, peer_id: bytes, height: int) -> LightBlock:
        question = encode(LightRequest(height))
        return await ask(
            self._network, peer_id, BLOCK, question, LightBlock, ASK_S, MAX_BLOCK_BYTES
        )

    async def _ask_proofs(
        self, peer_id: bytes, epoch: int, count: int
    ) -> tuple[EpochProof, ...]:
        question = encode(ProofsRequest(epoch, count))
        answer = await ask(
            self._network,
            peer_id,
            EPOCHS,
            question,
            ProofsAnswer,
            ASK_S,
            MAX_PROOFS_BYTES,
        )
        return answer.proofs

    def _warn_of_age(self, snapshot: Snapshot) -> None:
        """Say so when those who vouch for the snapshot could have sold their keys."""
        params = self._chain.spec.params
        gap = snapshot.header.epoch - self._chain.epoch.epoch
        if gap > params.unbonding_epochs and self._checkpoint is None:
            log.warning(
                "%d epochs behind, stake is bound for %d: compare block %d %s with "
                "somebody you know, or set a checkpoint",
                gap,
                params.unbonding_epochs,
                snapshot.height,
                snapshot.block_hash.hex(),
            )

    # Its parts

    async def _fetch(self, snapshot: Snapshot) -> bool:
        """Fetch every part; False when nobody serves the snapshot any more."""
        places = snapshot.list_places()
        self._files.begin(snapshot.manifest, places)
        name = SnapshotName(snapshot.height, snapshot.block_hash)
        board = self._board = await self._parts.open_board(name, places)
        try:
            if await self._parts.fetch(name, board):
                self._files.finish(snapshot.manifest)
                log.info("the state at block %d is here", snapshot.height)
            return board.is_complete
        finally:
            if not board.is_complete:
                self._board = None


def _rank(name: SnapshotName) -> tuple[int, bytes]:
    return name.height, name.block_hash


def _is_of(manifest: Manifest, name: SnapshotName, chain: ChainService) -> bool:
    """Tell whether a manifest is that of a snapshot."""
    spec = chain.spec
    try:
        snapshot = read_snapshot(manifest, spec.chain_id, spec.params.epoch_blocks)
    except InvalidSnapshot:
        return False
    return (snapshot.height, snapshot.block_hash) == (name.height, name.block_hash)
