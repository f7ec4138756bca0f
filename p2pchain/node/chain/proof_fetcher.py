"""
Fetching fraud proofs that blocks and gossip only name, and giving them to others.

    frauds/proof     proof hash -> encoded FraudProof

A proof is asked for once per peer, first of whoever named it.  Whoever waits for one is
called when it is here; if nobody has it, whoever needs it asks again when it hears of
it again.
"""

import logging
from collections.abc import Callable

import trio

from chain.storage.fraud_store import FraudStore
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from primitives.errors import DecodeError, MissingError
from shards.errors import InvalidShardEvidence
from shards.fraud import MAX_FRAUD_BYTES, compute_proof_hash

PROOF = "frauds/proof"
MAX_FETCHES = 4
"""At once, 16 MiB of memory; a block names eight at most, and they come in turns."""
MAX_WAITING = 16
"""Who waits for one proof: a block, a piece of gossip, and what repeats them."""
TIMEOUT_S = 10.0
"""For one peer: four megabytes over a slow line."""

log = logging.getLogger(__name__)


class ProofFetcher:
    """Gets proofs from peers and serves them.

    Args:
        store: Where proofs are held.
        network: Where peers are.
    """

    def __init__(self, store: FraudStore, network: Network) -> None:
        self._store = store
        self._network = network
        self._waiting: dict[bytes, list[Callable[[], None]]] = {}
        self._nursery: trio.Nursery | None = None
        network.handle_request(
            PROOF,
            self._on_request,
            priority=Priority.BLOCKS,
            max_message_bytes=MAX_FRAUD_BYTES,
        )

    async def run(self) -> None:
        """Hold the tasks that fetch, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def fetch(
        self, proof_hash: bytes, first: bytes | None, on_held: Callable[[], None]
    ) -> None:
        """Get a proof; call `on_held` once it is here, unless nobody has it.

        Args:
            proof_hash: Names it.
            first: The peer to ask first, who named it.
            on_held: Called from the trio thread.
        """
        waiting = self._waiting.get(proof_hash)
        if waiting is not None:
            if len(waiting) < MAX_WAITING:
                waiting.append(on_held)
        elif self._nursery is not None and len(self._waiting) < MAX_FETCHES:
            self._waiting[proof_hash] = [on_held]
            self._nursery.start_soon(self._fetch_one, proof_hash, first)

    async def _fetch_one(self, proof_hash: bytes, first: bytes | None) -> None:
        is_held = False
        try:
            is_held = await self._ask(proof_hash, first)
        finally:
            waiting = self._waiting.pop(proof_hash)
        if not is_held:
            log.info("no peer has fraud proof %s", proof_hash.hex()[:8])
            return
        for on_held in waiting:
            on_held()

    async def _ask(self, proof_hash: bytes, first: bytes | None) -> bool:
        """Ask one peer after the other; tell whether the proof is here."""
        peers = sorted(
            self._network.peers(),
            key=lambda peer: (peer.peer_id != first, peer.rtt_ms or 0.0),
        )
        for peer in peers:
            if proof_hash in self._store:
                return True
            try:
                data = await self._network.request(
                    peer.peer_id,
                    PROOF,
                    proof_hash,
                    timeout_s=TIMEOUT_S,
                    priority=Priority.BLOCKS,
                    max_answer_bytes=MAX_FRAUD_BYTES,
                )
            except NetworkError as error:
                log.debug("no proof from %s: %s", peer.peer_id.hex()[:8], error)
                continue
            if compute_proof_hash(data) != proof_hash:
                self._network.penalize(peer.peer_id, Fault.BAD_MESSAGE)
                continue
            try:
                self._store.offer(data)
            except InvalidShardEvidence as error:
                # These are the bytes that were named; no others will do.
                log.info("fraud proof %s is none: %s", proof_hash.hex()[:8], error)
                return False
            return True
        return proof_hash in self._store

    async def _on_request(self, peer_id: bytes, payload: bytes) -> bytes:
        if len(payload) != 32:
            raise DecodeError("a proof's name has 32 bytes")
        data = self._store.get_bytes(payload)
        if data is None:
            raise MissingError(f"fraud proof {payload.hex()} is not here")
        return data
