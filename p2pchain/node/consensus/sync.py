"""
Catching up: a node that is behind takes final blocks in ranges.

Peers tell each other their final height when they meet and every few seconds.  Whoever
sees a peer ahead asks it for the blocks after its own last one.  An answer carries
blocks in order and one finalization; hash links tie the blocks to each other and to
it, so a lot is authenticated before the first of its blocks is executed.  With it come
the bodies of chunks in the shards that the asker follows.

A range ends with the epoch at the latest: the boundary block has a finalization of its
own, by the epoch's validators, and whoever has executed it knows those of the next.

Full nodes without a validator key follow the chain in the same way: proposals and
certificates as they come, ranges for what they missed.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import trio

from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    InvalidBody,
    MissingBodies,
    MissingFraudProof,
    MissingParent,
    TooManyPending,
    UnjudgedFraud,
)
from chain.records.block import decode_block
from consensus.messages import Certificate, Proposal
from network.errors import NetworkError, RequestTimeout
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.node.consensus.application import Application
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.sync_messages import (
    BLOCK,
    CERTIFICATES,
    FINAL,
    MAX_RANGE_BLOCKS,
    MAX_RANGE_BYTES,
    MAX_SMALL_BYTES,
    RANGE_BYTES,
    STATUS,
    CertificatesAnswer,
    CertificatesRequest,
    FinalRange,
    FinalRequest,
    NamedBody,
    Status,
)
from primitives.codec import decode, encode
from primitives.errors import DecodeError, LocalError, MissingError, RemoteError
from shards.chunk import compute_chunk_hash

STATUS_INTERVAL_S = 5.0
"""A peer that fell behind notices within this, whatever it missed."""
STATUS_TIMEOUT_S = 3.0
RANGE_TIMEOUT_S = 15.0
"""Four megabytes over a slow line."""
MAX_GAP = 1
"""Blocks behind a peer that the normal course closes by itself: the one in flight."""

log = logging.getLogger(__name__)


class BadRange(RemoteError):
    """An answer that does not continue our chain."""


class CannotFollow(LocalError):
    """A block that others hold for final is not valid here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPorts:
    """What catching up needs of consensus."""

    get_status: Callable[[], Status]
    verify_certificate: Callable[[Certificate], bool]
    get_certificates: Callable[[int, int], tuple[Certificate, ...]]
    """Of an epoch and view."""
    on_block: Callable[[Proposal], None]
    """A block of a lot is held now."""
    on_certificate: Callable[[Certificate, bytes], None]


class Sync:
    """Serves the chain to peers and takes from them what we miss.

    Args:
        network: Where peers are.
        application: Final blocks.
        ports: The way into consensus.
        bodies: Gets the bodies of chunks, where the application's blocks have any.
    """

    def __init__(
        self,
        network: Network,
        application: Application,
        ports: SyncPorts,
        bodies: BodyExchange | None = None,
    ) -> None:
        self._network = network
        self._application = application
        self._ports = ports
        self._bodies = bodies
        self._heights: dict[bytes, int] = {}
        self._wake = trio.Event()
        self._is_urgent = False
        self._nursery: trio.Nursery | None = None
        self.is_catching_up = False
        """Whether ranges are being taken right now."""
        self.is_held: Callable[[], bool] = lambda: False
        """Whether ranges have to wait, for a snapshot is on its way."""
        self._serve(STATUS, self._on_status, MAX_SMALL_BYTES)
        self._serve(BLOCK, self._on_block_request, MAX_SMALL_BYTES)
        self._serve(CERTIFICATES, self._on_certificates_request, MAX_SMALL_BYTES)
        self._serve(FINAL, self._on_final_request, MAX_SMALL_BYTES)
        network.watch_peers(self._on_peer)

    @property
    def best_height(self) -> int:
        """The highest final height that a connected peer claims, or ours."""
        return max([self._application.final_height, *self._heights.values()])

    def get_height(self, peer_id: bytes) -> int | None:
        """Return the final height that a connected peer last claimed."""
        return self._heights.get(peer_id)

    def note_height(self, peer_id: bytes | None, height: int) -> None:
        """Learn from a message that a peer knows a final block of this height."""
        if peer_id is None:
            return
        if height > self._heights.get(peer_id, -1):
            self._heights[peer_id] = height
        if height > self._application.final_height + MAX_GAP:
            self._wake.set()

    def ask(self, peer_id: bytes) -> None:
        """Ask a peer for final blocks, for it seems to know of one above ours."""
        height = self._application.final_height + 1
        self._heights[peer_id] = max(height, self._heights.get(peer_id, 0))
        self._is_urgent = True
        self._wake.set()

    async def run(self) -> None:
        """Exchange statuses and catch up for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self._network.peers():
                nursery.start_soon(self._exchange_status, peer.peer_id)
            nursery.start_soon(self._exchange_regularly)
            while True:
                with trio.move_on_after(STATUS_INTERVAL_S) as waiting:
                    await self._wake.wait()
                self._wake = trio.Event()
                # A gap that is still there after the interval does not close itself.
                is_any_gap = self._is_urgent or waiting.cancelled_caught
                self._is_urgent = False
                await self._catch_up(0 if is_any_gap else MAX_GAP)

    # Asking

    def _on_peer(self, peer_id: bytes, is_connected: bool) -> None:
        self._heights.pop(peer_id, None)
        if is_connected and self._nursery is not None:
            self._nursery.start_soon(self._exchange_status, peer_id)

    async def _exchange_regularly(self) -> None:
        while True:
            await trio.sleep(STATUS_INTERVAL_S)
            async with trio.open_nursery() as nursery:
                for peer in self._network.peers():
                    nursery.start_soon(self._exchange_status, peer.peer_id)

    async def _exchange_status(self, peer_id: bytes) -> None:
        ours = encode(self._ports.get_status())
        try:
            answer = await self._request(
                peer_id, STATUS, ours, MAX_SMALL_BYTES, STATUS_TIMEOUT_S
            )
            status = decode(Status, answer, MAX_SMALL_BYTES)
        except NetworkError as error:
            log.debug("no status from %s: %s", peer_id.hex()[:8], error)
        except DecodeError:
            self._network.penalize(peer_id, Fault.BAD_MESSAGE)
        else:
            self._heights[peer_id] = status.height
            self.note_height(peer_id, status.height)

    async def _catch_up(self, gap: int) -> None:
        """Take ranges until no peer is known to be ahead."""
        tried: set[bytes] = set()
        try:
            while (peer_id := self._find_ahead(gap, tried)) is not None:
                if self.is_held():
                    return
                self.is_catching_up = True
                before = self._application.final_height
                try:
                    await self._take_range(peer_id)
                except RequestTimeout as error:
                    log.info("no range from %s: %s", peer_id.hex()[:8], error)
                    self._network.penalize(peer_id, Fault.TIMEOUT)
                except (NetworkError, MissingBodies) as error:
                    log.info("no range from %s: %s", peer_id.hex()[:8], error)
                except CannotFollow as error:
                    log.error("cannot follow the final chain: %s", error)
                except RemoteError as error:
                    log.warning("bad range from %s: %s", peer_id.hex()[:8], error)
                    self._network.penalize(peer_id, Fault.BAD_MESSAGE)
                if self._application.final_height <= before:
                    # Its claim stands until its next status; others come first.
                    tried.add(peer_id)
        finally:
            self.is_catching_up = False

    def _find_ahead(self, gap: int, tried: set[bytes]) -> bytes | None:
        ours = self._application.final_height
        ahead = [
            (height, peer_id)
            for peer_id, height in self._heights.items()
            if height > ours + gap and peer_id not in tried
        ]
        return max(ahead)[1] if ahead else None

    async def _take_range(self, peer_id: bytes) -> None:
        """Ask one peer for lots until one of them becomes final here."""
        start = height = self._application.final_height
        parent_hash = self._application.final_hash
        while self._application.final_height == start:
            lot = await self._ask_for_range(peer_id, height + 1)
            if self._application.final_height != start:
                return  # others were faster; the lot may be of an epoch that is over
            target = lot.certificate.proposal
            if target is None or not self._ports.verify_certificate(lot.certificate):
                raise BadRange("a finalization that does not verify")
            proposals = self._read_lot(lot, height, parent_hash)
            bodies = {body.chunk_hash: body.data for body in lot.bodies}
            # Only then the certificate covers what the blocks say.
            is_decided = target.height == proposals[-1].height
            for proposal, block in zip(proposals, lot.blocks, strict=True):
                try:
                    self._add(proposal, block, is_decided)
                except MissingBodies as missing:
                    await self._get_bodies(missing, bodies, peer_id)
                    self._add(proposal, block, is_decided)
                await trio.lowlevel.checkpoint()
            height, parent_hash = proposals[-1].height, proposals[-1].block_hash
            if target.height == height:
                self._ports.on_certificate(lot.certificate, peer_id)
                return

    def _add(self, proposal: Proposal, block: bytes, is_decided: bool) -> None:
        try:
            if not self._application.has_block(proposal.block_hash):
                self._application.add_block(proposal, block, is_decided=is_decided)
        except BodyMismatch:
            raise
        except MissingParent as error:
            raise BadRange(str(error)) from error
        except (
            InvalidBlock,
            TooManyPending,
            MissingFraudProof,
            UnjudgedFraud,
        ) as error:
            # A quorum stands behind the hash: the fault may well be our clock or code.
            raise CannotFollow(f"block {proposal.height}: {error}") from error
        self._ports.on_block(proposal)

    async def _get_bodies(
        self, missing: MissingBodies, given: Mapping[bytes, bytes], peer_id: bytes
    ) -> None:
        """Take bodies from those that came with a lot; ask for the others.

        Raises:
            MissingBodies: Nobody has them.
        """
        assert self._bodies is not None, "only blocks with chunks lack bodies"
        others = []
        for header in missing.headers:
            data = given.get(compute_chunk_hash(header))
            if data is None:
                others.append(header)
                continue
            try:
                self._bodies.take(header, data)
            except InvalidBody as error:
                raise BadRange(f"a body: {error}") from error
        if others and not await self._bodies.fetch(others, peer_id):
            raise missing

    def _read_lot(
        self, lot: FinalRange, height: int, parent_hash: bytes
    ) -> list[Proposal]:
        """Return the proposals of a lot, linked to ours and to the certificate."""
        target = lot.certificate.proposal
        assert target is not None
        proposals = []
        for block in lot.blocks:
            proposal = self._application.read_proposal(block)
            height += 1
            if (proposal.height, proposal.parent_hash) != (height, parent_hash):
                raise BadRange(f"block {height} does not continue the chain")
            parent_hash = proposal.block_hash
            proposals.append(proposal)
        if height > target.height or (
            height == target.height and parent_hash != target.block_hash
        ):
            raise BadRange("the lot does not lead to its certificate")
        return proposals

    async def _ask_for_range(self, peer_id: bytes, height: int) -> FinalRange:
        shards = () if self._bodies is None else self._bodies.followed
        request = encode(FinalRequest(height, shards))
        answer = await self._request(
            peer_id, FINAL, request, MAX_RANGE_BYTES, RANGE_TIMEOUT_S
        )
        return decode(FinalRange, answer, MAX_RANGE_BYTES)

    async def _request(
        self,
        peer_id: bytes,
        protocol: str,
        payload: bytes,
        max_bytes: int,
        timeout_s: float,
    ) -> bytes:
        return await self._network.request(
            peer_id,
            protocol,
            payload,
            timeout_s=timeout_s,
            priority=Priority.BLOCKS,
            max_answer_bytes=max_bytes,
        )

    # Answering

    def _serve(
        self,
        protocol: str,
        handler: Callable[[bytes, bytes], Awaitable[bytes]],
        max_bytes: int,
    ) -> None:
        self._network.handle_request(
            protocol, handler, priority=Priority.BLOCKS, max_message_bytes=max_bytes
        )

    async def _on_status(self, peer_id: bytes, payload: bytes) -> bytes:
        status = decode(Status, payload, MAX_SMALL_BYTES)
        self._heights[peer_id] = status.height
        self.note_height(peer_id, status.height)
        return encode(self._ports.get_status())

    async def _on_block_request(self, peer_id: bytes, payload: bytes) -> bytes:
        if len(payload) != 32:
            raise DecodeError("a block hash has 32 bytes")
        block = self._application.get_block_bytes(payload)
        if block is None:
            raise MissingError(f"block {payload.hex()} is not here")
        return block

    async def _on_certificates_request(self, peer_id: bytes, payload: bytes) -> bytes:
        request = decode(CertificatesRequest, payload, MAX_SMALL_BYTES)
        found = self._ports.get_certificates(request.epoch, request.view)
        return encode(CertificatesAnswer(found))

    async def _on_final_request(self, peer_id: bytes, payload: bytes) -> bytes:
        request = decode(FinalRequest, payload, MAX_SMALL_BYTES)
        blocks: list[bytes] = []
        bodies: list[NamedBody] = []
        size = 0
        certificate: Certificate | None = None
        while len(blocks) < MAX_RANGE_BLOCKS and size < RANGE_BYTES:
            found = self._application.get_final(request.height + len(blocks))
            if found is None:
                break
            if certificate is not None and found[1].epoch != certificate.epoch:
                # Who asks cannot check it before it knows the epoch's validators.
                break
            block, certificate = found
            blocks.append(block)
            size += len(block)
            if self._bodies is not None and request.shards:
                found_bodies = self._bodies.collect(decode_block(block), request.shards)
                bodies += found_bodies
                size += sum(len(body.data) for body in found_bodies)
        if certificate is None:
            raise MissingError(f"no final block {request.height} here")
        return encode(FinalRange(tuple(blocks), certificate, tuple(bodies)))
