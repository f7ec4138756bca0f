"""
Fetching what consensus misses: single blocks by hash, certificates by view.

A block whose parent is missing too waits here while the parent is fetched; when a
block is held, those that waited for it are judged.  One whose chunks have bodies that
are missing waits likewise.  Long gaps are not for this file:
beyond `MAX_WAITING` blocks it gives up and sync.py takes whole ranges.

One attempt asks each connected peer once.  Nothing here retries by itself: the core
asks again for as long as it needs the block (R7).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from chain.errors import InvalidBlock
from consensus.messages import Certificate, Proposal
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.node.consensus.application import Application
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.sync_messages import (
    BLOCK,
    CERTIFICATES,
    MAX_SMALL_BYTES,
    CertificatesAnswer,
    CertificatesRequest,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError
from shards.chunk import ChunkHeader

MAX_WAITING = 64
"""Blocks that wait for a parent: a minute of blocks, and 64 MiB at the very worst."""
MAX_BODILESS = 16
"""Blocks that wait for bodies: of as many views, all of them recent."""
MAX_FETCHES = 8
"""Requests at once; more would only queue behind each other on one line."""
MAX_BLOCK_ANSWER = 2 * 1024 * 1024
"""A block is at most 1 MiB."""
TIMEOUT_S = 2.0
"""For one peer: a round trip and a megabyte; the next peer may be faster."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WaitingBlock:
    """A block that cannot be judged before its parent."""

    proposal: Proposal
    block: bytes
    sender: bytes | None


class Fetcher:
    """Asks peers for blocks and certificates.

    Args:
        network: Where peers are.
        application: Reads blocks and knows which are held.
        bodies: Gets the bodies of chunks.
        on_block: Judges a block that came: (proposal, bytes, sender).
        on_certificate: Takes a certificate that came: (certificate, sender).
    """

    def __init__(
        self,
        network: Network,
        application: Application,
        bodies: BodyExchange | None,
        on_block: Callable[[Proposal, bytes, bytes | None], None],
        on_certificate: Callable[[Certificate, bytes], None],
    ) -> None:
        self._network = network
        self._application = application
        self._on_block = on_block
        self._on_certificate = on_certificate
        self._bodies = bodies
        self._waiting: dict[bytes, WaitingBlock] = {}
        self._bodiless: dict[bytes, WaitingBlock] = {}
        self._running: set[object] = set()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Hold the tasks that fetch."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def park(self, waiting: WaitingBlock, *, is_fetching: bool) -> None:
        """Keep a block, unless full, until its parent is held; fetch that if told."""
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting[waiting.proposal.block_hash] = waiting
        if is_fetching:
            self.fetch_block(waiting.proposal.parent_hash, waiting.sender)

    def park_bodiless(
        self, waiting: WaitingBlock, headers: Sequence[ChunkHeader]
    ) -> None:
        """Keep a block, unless full, until the bodies of its chunks are here."""
        block_hash = waiting.proposal.block_hash
        if len(self._bodiless) < MAX_BODILESS and self._start(
            ("bodies", block_hash),
            self._ask_for_bodies,
            block_hash,
            headers,
            waiting.sender,
        ):
            self._bodiless[block_hash] = waiting

    def take_children(self, block_hash: bytes) -> list[WaitingBlock]:
        """Return the blocks that waited for this one; they wait no longer."""
        children = [
            waiting
            for waiting in self._waiting.values()
            if waiting.proposal.parent_hash == block_hash
        ]
        for child in children:
            del self._waiting[child.proposal.block_hash]
        return children

    def forget_below(self, height: int) -> None:
        """Drop blocks that no longer can be wanted."""
        self._waiting = {
            block_hash: waiting
            for block_hash, waiting in self._waiting.items()
            if waiting.proposal.height > height
        }
        self._bodiless = {
            block_hash: waiting
            for block_hash, waiting in self._bodiless.items()
            if waiting.proposal.height > height
        }

    def fetch_block(self, block_hash: bytes, first: bytes | None = None) -> None:
        """Get a block, or the ancestor that it waits for, from any peer."""
        while block_hash in self._waiting:
            block_hash = self._waiting[block_hash].proposal.parent_hash
        is_coming = block_hash in self._bodiless
        if not is_coming and not self._application.has_block(block_hash):
            self._start(block_hash, self._ask_for_block, block_hash, first)

    def fetch_certificates(
        self, epoch: int, view: int, is_enough: Callable[[], bool]
    ) -> None:
        """Get a view's certificates from peers, until `is_enough`."""
        request = CertificatesRequest(epoch, view)
        self._start(request, self._ask_for_certificates, request, is_enough)

    def _start(self, key: object, task: Callable[..., object], *args: object) -> bool:
        """Start a task unless it runs or too many do; tell whether it was started."""
        if self._nursery is None or key in self._running:
            return False
        if len(self._running) >= MAX_FETCHES:
            return False
        self._running.add(key)
        self._nursery.start_soon(self._run_one, key, task, args)
        return True

    async def _run_one(self, key: object, task: Callable, args: tuple) -> None:  # type: ignore[type-arg]
        try:
            await task(*args)
        finally:
            self._running.discard(key)

    async def _ask_for_block(self, block_hash: bytes, first: bytes | None) -> None:
        for peer_id in self._order_peers(first):
            if self._application.has_block(block_hash):
                return
            answer = await self._request(peer_id, BLOCK, block_hash, MAX_BLOCK_ANSWER)
            if answer is None:
                continue
            try:
                proposal = self._application.read_proposal(answer)
            except InvalidBlock:
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
                continue
            if proposal.block_hash != block_hash:
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
                continue
            # Free the place: judging this block may need its parent fetched.
            self._running.discard(block_hash)
            self._on_block(proposal, answer, peer_id)
            return
        log.debug("no peer has block %s", block_hash.hex()[:8])

    async def _ask_for_bodies(
        self, block_hash: bytes, headers: Sequence[ChunkHeader], first: bytes | None
    ) -> None:
        assert self._bodies is not None, "only blocks with chunks lack bodies"
        is_complete = False
        try:
            is_complete = await self._bodies.fetch(headers, first)
        finally:
            waiting = self._bodiless.pop(block_hash, None)
        if is_complete and waiting is not None:
            self._on_block(waiting.proposal, waiting.block, waiting.sender)

    async def _ask_for_certificates(
        self, request: CertificatesRequest, is_enough: Callable[[], bool]
    ) -> None:
        for peer_id in self._order_peers(None):
            if is_enough():
                return
            answer = await self._request(
                peer_id, CERTIFICATES, encode(request), MAX_SMALL_BYTES
            )
            if answer is None:
                continue
            try:
                found = decode(CertificatesAnswer, answer, MAX_SMALL_BYTES)
            except DecodeError:
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
                continue
            for certificate in found.certificates:
                self._on_certificate(certificate, peer_id)

    async def _request(
        self, peer_id: bytes, protocol: str, payload: bytes, max_bytes: int
    ) -> bytes | None:
        try:
            return await self._network.request(
                peer_id,
                protocol,
                payload,
                timeout_s=TIMEOUT_S,
                priority=Priority.BLOCKS,
                max_answer_bytes=max_bytes,
            )
        except NetworkError as error:
            log.debug("%s from %s: %s", protocol, peer_id.hex()[:8], error)
            return None

    def _order_peers(self, first: bytes | None) -> Iterator[bytes]:
        """Yield the connected peers: `first`, then the nearest."""
        peers = sorted(
            self._network.peers(),
            key=lambda peer: (peer.peer_id != first, peer.rtt_ms or 0.0),
        )
        for peer in peers:
            yield peer.peer_id
