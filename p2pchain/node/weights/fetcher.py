"""
Taking weights from peers: a model of the chain, the parts that this node needs of it.

Theory of operation
-------------------
    model id on the chain --outline, compared with its roots--> which parts
        --those in the cache, hashed--> the rest, from all peers that offer any
        --each compared with its hash--> the cache --> a folder for workers

Nobody is trusted: a peer that sends another part is not asked again.  What is fetched
is offered to others at once, so that many who join share the load.  Everything is in
the cache as soon as it counts; after a crash or a stop the same call goes on where it
was.

`obtain` returns only when all is here.  Nobody may have a part for hours, or the disk
may be full: then it says so, in the log and in `problem`, and tries again.

Spec: docs/protocol/15-weights.md
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from chain.records.model import ModelRecord
from inference.errors import BadWeights, CacheFull, DiskFull, ModelError
from inference.weights.model_info import Model, load_model
from inference.weights.pieces import (
    MAX_OUTLINE_BYTES,
    PART_BYTES,
    Outline,
    Part,
    decode_outline,
    list_parts,
    select_parts,
)
from inference.weights.pieces_folder import (
    MODELS_FOLDER,
    OUTLINE_FILE,
    save_files,
    save_outline,
)
from inference.weights.pieces_store import PieceStore
from network.errors import NetworkError, TooManyStreams
from network.faults import Fault
from network.network import Network
from p2pchain.errors import find_cause
from p2pchain.node.state_sync.ask import ASK_S, request
from p2pchain.node.state_sync.board_fetcher import BoardFetcher
from p2pchain.node.state_sync.work_board import Progress, WorkBoard
from p2pchain.node.weights.messages import (
    MAX_OFFER_BYTES,
    OFFER,
    OUTLINE,
    PART,
    Offer,
    decode_offer,
)
from p2pchain.node.weights.server import WeightsServer
from primitives.errors import DecodeError, MissingError

OUTLINE_S = 120.0
"""What a peer gets for an outline: the largest at 4 Mbit/s."""
PART_S = 20.0
"""What a peer gets for a part: 1 MiB at 0.4 Mbit/s."""
STALL_S = 30.0
"""Without a part for so long, all begins anew: peers are asked what they have."""
OFFER_S = 5.0
"""How often peers are asked: those that fetch themselves have more each time."""
PAUSE_S = 1.0
"""After an attempt that led to nothing, twice as long each time."""
MAX_PAUSE_S = 300.0
FRESH_S = 10.0
"""What was hashed so lately is not hashed again: two workers start with one look."""
MAX_PEERS = 64
"""Asked for offers: each has a connection, and more make nothing faster."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class NobodyHas(MissingError):
    """No peer has what is needed of a model."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a node needs of a model."""

    record: ModelRecord
    layers: range | None
    """Those that it hosts."""
    with_ends: bool
    """Whether it is a requester as well."""
    pin: str
    """Under which name the cache keeps it; empty: it may be evicted."""


class WeightsFetcher:
    """Fetches models' parts into the cache.

    Args:
        network: Where peers are.
        store: The cache.
        folder: Where models' folders are made.
        server: Serves what we have.
        get_providers: Node keys of the registered providers of a model.
    """

    def __init__(
        self,
        network: Network,
        store: PieceStore,
        folder: Path,
        server: WeightsServer,
        get_providers: Callable[[bytes], Collection[bytes]],
    ) -> None:
        self._network = network
        self._store = store
        self._folder = folder / MODELS_FOLDER
        self._server = server
        self._get_providers = get_providers
        self._board: WorkBoard[Part] | None = None
        self._hashed_at: dict[Share, float] = {}
        """When all of a share was last found to be here, on trio's clock."""
        self._ensuring = trio.Lock()
        self._fetching = trio.Lock()
        self.problem = ""
        """Why nothing comes; empty while something does."""
        self.wanted = ""
        """The name of the model that is being fetched."""

    @property
    def progress(self) -> Progress | None:
        """How far it is; None while nothing is fetched."""
        if self._board is None:
            return None
        return self._board.measure(trio.current_time())

    def get_folder(self, model_id: bytes) -> Path:
        """Return the folder of a model, for workers."""
        return self._folder / model_id.hex()

    async def ensure(self, share: Share) -> None:
        """Make sure that all of a share is here and as it must be.

        Called before a worker reads it; what a disk has damaged is fetched anew.
        """
        async with self._ensuring:
            hashed_at = self._hashed_at.get(share, float("-inf"))
            if trio.current_time() >= hashed_at + FRESH_S:
                await self.obtain(share)

    async def obtain(self, share: Share) -> Model:
        """Return a model of which the share is here, however long that takes.

        Raises:
            ModelError: The chain's model is none that can be run.
        """
        model = await self._insist(share.record, lambda: self._try(share))
        self._hashed_at[share] = trio.current_time()
        return model

    async def find_outline(self, record: ModelRecord) -> Outline:
        """Return what a model consists of, however long that takes.

        Raises:
            ModelError: The chain's model is none that can be run.
        """
        return await self._insist(record, lambda: self._load_outline(record))

    async def _insist(
        self, record: ModelRecord, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what an attempt returns, the first time that nothing is missing."""
        pause_s = PAUSE_S
        self.wanted = record.name
        try:
            while True:
                try:
                    return await attempt()
                except (CacheFull, DiskFull, NobodyHas) as error:
                    self.problem = str(error)
                log.warning("the weights of %s: %s", record.name, self.problem)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
        finally:
            self.wanted, self.problem = "", ""

    async def prefetch(self, share: Share) -> None:
        """Fetch a share that a placement announces; gives up rather than wait."""
        try:
            await self._try(share)
        except (ModelError, NobodyHas) as error:
            log.info("not fetched ahead: %s", error)

    async def _try(self, share: Share) -> Model:
        async with self._fetching:
            try:
                return await self._take(share)
            finally:
                self._board = None

    async def _take(self, share: Share) -> Model:
        record = share.record
        self.wanted = record.name
        folder = self.get_folder(record.model_id)
        outline = await self._load_outline(record)
        self._server.add(record.model_id, outline, None)
        parts = select_parts(
            outline, record.layers, share.layers, with_ends=share.with_ends
        )
        if share.pin:
            self._store.pin(share.pin, parts)
        await self._fetch(record, outline, parts)
        if not await trio.to_thread.run_sync(save_files, folder, outline, self._store):
            raise NobodyHas("a file was damaged meanwhile")
        model = await trio.to_thread.run_sync(load_model, folder, record.name)
        if model.info.layers != record.layers:
            raise BadWeights(
                f"its configuration has {model.info.layers} layers, and the chain "
                f"says {record.layers}"
            )
        return model

    # What it consists of

    async def _load_outline(self, record: ModelRecord) -> Outline:
        """Return the outline from our disk, or else from a peer; raises NobodyHas."""
        folder = self.get_folder(record.model_id)
        try:
            data = (folder / OUTLINE_FILE).read_bytes()
            return await self._check_outline(record, data)
        except OSError:
            log.info("fetching the outline of %s", record.name)
        except DecodeError as error:
            log.warning("the outline of %s is damaged on disk: %s", record.name, error)
        for peer_id in self._list_peers(record.model_id):
            try:
                data = await request(
                    self._network,
                    peer_id,
                    OUTLINE,
                    record.model_id,
                    OUTLINE_S,
                    MAX_OUTLINE_BYTES,
                )
                outline = await self._check_outline(record, data)
            except (NetworkError, TooManyStreams) as error:
                log.info("no outline from %s: %s", peer_id.hex()[:8], error)
            except DecodeError as error:
                log.warning("bad outline from %s: %s", peer_id.hex()[:8], error)
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
            else:
                await trio.to_thread.run_sync(save_outline, folder, outline)
                return outline
        raise NobodyHas("no peer has the outline")

    async def _check_outline(self, record: ModelRecord, data: bytes) -> Outline:
        roots = record.weights_root, record.tokenizer_hash
        return await trio.to_thread.run_sync(decode_outline, data, *roots)

    # Its parts

    async def _fetch(
        self, record: ModelRecord, outline: Outline, parts: tuple[Part, ...]
    ) -> None:
        """Get every part into the cache; raises NobodyHas, CacheFull, DiskFull."""
        held = await trio.to_thread.run_sync(self._list_good, parts)
        log.info(
            "weights of %s: %d parts of %.1f MB, %d here already",
            record.name,
            len(parts),
            sum(part.size for part in parts) / 1e6,
            len(held),
        )
        if len(held) == len(parts):
            return
        board = self._board = WorkBoard[Part](parts, held)
        offers = _Offers(self._network, outline, record.model_id)
        source = _WeightsSource(self._network, self._store, record.name)
        fetcher = BoardFetcher(self._network, lambda: list(offers.known))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    offers.run, lambda: self._list_peers(record.model_id), self._clear
                )
                await fetcher.fetch(board, source, STALL_S, offers.get)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            ours, others = group.split(ModelError)
            if ours is None or others is not None:
                raise
            raise find_cause(ours) from group
        if not board.is_complete:
            progress = board.measure(trio.current_time())
            missing = progress.parts - progress.parts_done
            raise NobodyHas(f"{missing} parts of {progress.parts} come from nobody")
        log.info("the weights of %s are here", record.name)

    def _clear(self) -> None:
        self.problem = ""

    def _list_good(self, parts: tuple[Part, ...]) -> set[Part]:
        return {part for part in parts if self._store.get(part.digest) is not None}

    def _list_peers(self, model_id: bytes) -> list[bytes]:
        """Return whom to ask: who is connected, and who serves layers of the model."""
        connected = [peer.peer_id for peer in self._network.peers()]
        others = set(self._get_providers(model_id)) - set(connected)
        others.discard(self._network.peer_id)
        return (connected + sorted(others))[:MAX_PEERS]


class _Offers:
    """What peers have of a model, asked again and again."""

    def __init__(self, network: Network, outline: Outline, model_id: bytes) -> None:
        self._network = network
        self._model_id = model_id
        parts = list_parts(outline.pieces)
        self._numbers = {part.digest: number for number, part in enumerate(parts)}
        self._nothing = Offer(bytes(-(-len(parts) // 8)), self._numbers)
        self.known: dict[bytes, Offer] = {}

    def get(self, peer_id: bytes) -> Offer:
        """Return what a peer has, as far as we know."""
        return self.known.get(peer_id, self._nothing)

    async def run(
        self, list_peers: Callable[[], list[bytes]], on_offer: Callable[[], None]
    ) -> None:
        """Ask until cancelled."""

        async def ask(peer_id: bytes) -> None:
            if await self._ask(peer_id):
                on_offer()

        while True:
            async with trio.open_nursery() as nursery:
                for peer_id in list_peers():
                    nursery.start_soon(ask, peer_id)
            await trio.sleep(OFFER_S)

    async def _ask(self, peer_id: bytes) -> bool:
        try:
            data = await request(
                self._network, peer_id, OFFER, self._model_id, ASK_S, MAX_OFFER_BYTES
            )
            self.known[peer_id] = decode_offer(data, self._numbers)
            return True
        except (NetworkError, TooManyStreams) as error:
            log.debug("no offer from %s: %s", peer_id.hex()[:8], error)
        except DecodeError as error:
            log.warning("bad offer from %s: %s", peer_id.hex()[:8], error)
            self._network.penalize(peer_id, Fault.BAD_MESSAGE)
        self.known.pop(peer_id, None)
        return False


@dataclass(frozen=True, slots=True)
class _WeightsSource:
    """Parts of one model."""

    network: Network
    store: PieceStore
    name: str

    @property
    def label(self) -> str:
        return f"weights of {self.name}"

    async def ask(self, peer_id: bytes, place: Part) -> bytes:
        return await request(
            self.network, peer_id, PART, place.digest, PART_S, PART_BYTES
        )

    async def keep(self, place: Part, data: bytes) -> None:
        await trio.to_thread.run_sync(self.store.put, place.digest, data)
