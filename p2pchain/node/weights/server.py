"""
Serving weights: every node that has a model gives parts of it to whoever asks.

    a folder with safetensors files    all of its parts, read where they lie
    the cache of parts                 what is in it, also while more is being fetched

A part is compared with its hash before it leaves.  One that a disk has damaged is named
in the log and not offered any more; nobody is sent what he would have to blame us for.
Reading and hashing happen in threads, within the limits of a state sync.

Spec: docs/protocol/15-weights.md
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from blake3 import blake3

from inference.errors import BadWeights
from inference.weights.pieces import PART_BYTES, Outline, Part, list_parts
from inference.weights.pieces_store import PieceStore
from inference.weights.weights import StoredTensor, open_weights
from network.network import Network
from network.stream import Stream
from p2pchain.node.state_sync.serving_limits import (
    ServingBudget,
    ServingTurns,
    serve_bulk,
)
from p2pchain.node.weights.messages import (
    MAX_REQUEST_BYTES,
    OFFER,
    OUTLINE,
    PART,
    decode_hash,
    encode_offer,
)
from primitives.codec import encode
from primitives.errors import MissingError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part lies in a folder with safetensors files."""

    read_into: Callable[[memoryview, int], None]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Served:
    """One model."""

    outline: bytes
    parts: tuple[Part, ...]
    places: dict[bytes, _Place] = field(default_factory=dict)
    """By hash; empty for a model that is in the cache."""


class WeightsServer:
    """Answers questions for weights.

    Args:
        network: Where peers ask.
        store: The cache of parts.
    """

    def __init__(self, network: Network, store: PieceStore) -> None:
        self._store = store
        self._models: dict[bytes, _Served] = {}
        self._turns = ServingTurns()
        self._budget = ServingBudget()
        serve_bulk(
            network,
            {OUTLINE: self._on_outline, OFFER: self._on_offer},
            {PART: self._serve_part},
            MAX_REQUEST_BYTES,
        )

    def add(self, model_id: bytes, outline: Outline, directory: Path | None) -> None:
        """Serve a model from now on.

        Args:
            model_id: Its name on the chain.
            outline: Of the model.
            directory: With its files; None for a model of the cache.
        """
        places = {} if directory is None else _list_places(outline, directory)
        parts = list_parts(outline.pieces)
        self._models[model_id] = _Served(encode(outline), parts, places)

    async def _on_outline(self, peer_id: bytes, payload: bytes) -> bytes:
        data = self._find(payload).outline
        await self._budget.spend(len(data))
        return data

    async def _on_offer(self, peer_id: bytes, payload: bytes) -> bytes:
        served = self._find(payload)

        def is_held(digest: bytes) -> bool:
            return digest in served.places or digest in self._store

        return await trio.to_thread.run_sync(encode_offer, served.parts, is_held)

    async def _serve_part(self, peer_id: bytes, stream: Stream) -> None:
        digest = decode_hash(await stream.receive())
        async with self._turns.take(peer_id):
            data = await trio.to_thread.run_sync(self._read, digest)
            if data is None:
                raise MissingError(f"part {digest.hex()} is not here")
            await self._budget.spend(len(data))
            await stream.send(data)

    def _find(self, payload: bytes) -> _Served:
        model_id = decode_hash(payload)
        served = self._models.get(model_id)
        if served is None:
            raise MissingError(f"model {model_id.hex()} is not here")
        return served

    def _read(self, digest: bytes) -> bytes | None:
        for served in list(self._models.values()):
            place = served.places.get(digest)
            if place is None:
                continue
            if (data := _read_place(place, digest)) is not None:
                return data
            served.places.pop(digest, None)
        return self._store.get(digest)


def _read_place(place: _Place, digest: bytes) -> bytes | None:
    data = bytearray(place.size)
    try:
        place.read_into(memoryview(data), place.start)
    except BadWeights as error:
        log.warning("part %s is not served any more: %s", digest.hex(), error)
        return None
    if blake3(data).digest() != digest:
        log.warning("part %s is not served any more: its file changed", digest.hex())
        return None
    return bytes(data)


def _list_places(outline: Outline, directory: Path) -> dict[bytes, _Place]:
    tensors: dict[str, StoredTensor] = dict(open_weights(directory).entries)
    places: dict[bytes, _Place] = {}
    for piece in outline.pieces:
        if piece.is_file:
            read_into = _FileReader(directory / piece.name).read_into
        else:
            read_into = tensors[piece.name].read_into
        for number, part in enumerate(piece.list_parts()):
            place = _Place(read_into, number * PART_BYTES, part.size)
            places.setdefault(part.digest, place)
    return places


@dataclass(frozen=True, slots=True)
class _FileReader:
    """A small file of a model, read as tensors are."""

    path: Path

    def read_into(self, buffer: memoryview, start: int) -> None:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                if file.readinto(buffer) != len(buffer):
                    raise BadWeights(f"{self.path.name} has become shorter")
        except OSError as error:
            raise BadWeights(f"{self.path.name}: {error.strerror}") from error
