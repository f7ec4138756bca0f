"""Questions about snapshots: asked of one peer, or of all, and who is to blame."""

import logging
from typing import TypeVar

import trio

from chain.errors import InvalidSnapshot, LightError
from network.errors import RequestTimeout, TooManyStreams
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.node.state_sync.messages import (
    MAX_OFFERS_BYTES,
    OFFERS,
    Offers,
    SnapshotName,
)
from primitives.codec import Record, decode
from primitives.errors import DecodeError, MissingError, RemoteError

ASK_S = 5.0
"""What a peer gets for a small answer."""

R = TypeVar("R", bound=Record)

log = logging.getLogger(__name__)


async def request(
    network: Network,
    peer_id: bytes,
    protocol: str,
    payload: bytes,
    timeout_s: float,
    max_bytes: int,
) -> bytes:
    """Return a peer's answer; raises NetworkError."""
    return await network.request(
        peer_id,
        protocol,
        payload,
        timeout_s=timeout_s,
        priority=Priority.BULK,
        max_answer_bytes=max_bytes,
    )


async def ask(
    network: Network,
    peer_id: bytes,
    protocol: str,
    payload: bytes,
    kind: type[R],
    timeout_s: float,
    max_bytes: int,
) -> R:
    """Return a peer's answer as a record; raises NetworkError, DecodeError."""
    data = await request(network, peer_id, protocol, payload, timeout_s, max_bytes)
    return decode(kind, data, max_bytes)


async def collect_offers(network: Network) -> dict[SnapshotName, list[bytes]]:
    """Return which peers offer which snapshots."""
    found: dict[SnapshotName, list[bytes]] = {}

    async def ask_one(peer_id: bytes) -> None:
        with Blame(network, peer_id):
            answer = await ask(
                network, peer_id, OFFERS, b"", Offers, ASK_S, MAX_OFFERS_BYTES
            )
            for offer in answer.snapshots:
                found.setdefault(offer, []).append(peer_id)

    async with trio.open_nursery() as nursery:
        for peer in network.peers():
            nursery.start_soon(ask_one, peer.peer_id)
    return found


class Blame:
    """Swallows what a peer's answers are worth, and charges it for lies."""

    def __init__(self, network: Network, peer_id: bytes) -> None:
        self._network = network
        self._peer_id = peer_id

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> bool:
        name = self._peer_id.hex()[:8]
        match error:
            case LightError() | InvalidSnapshot() | DecodeError():
                log.warning("%s lies about a snapshot: %s", name, error)
                self._network.penalize(self._peer_id, Fault.BAD_MESSAGE)
            case RequestTimeout():
                log.info("no answer from %s: %s", name, error)
                self._network.penalize(self._peer_id, Fault.TIMEOUT)
            case MissingError() | RemoteError() | TooManyStreams():
                log.info("no snapshot from %s: %s", name, error)
            case _:
                return False
        return True
