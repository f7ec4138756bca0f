"""
An account in shards that this node does not follow: what it holds, what it did.

Theory of operation
-------------------
What an account holds is shown by peers under roots of ours.  What became of its
transaction takes three steps, each of which proves itself:

    the account's nonce is above the transaction's     something used it: it is over
    the transaction is in the body of a chunk, in a    it was this one, and not another
      block between the last proof in which the          that its owner signed elsewhere
      nonce was unused and the first in which it is
    executing that chunk from its witness              its outcome, as everybody has it

The first step is 1.5 kB a block, and the others are taken once.  Endorsers have a
chunk with its witness for some blocks longer than it takes to become final; if nobody
gives it in time, body alone says that the transaction is final, and its outcome is not
known here.

A chunk that held a transaction of ours is kept, so that histories show it.  One that
turns out to be wrong is denounced, as every other one is.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

import msgspec
import trio

from chain.errors import InvalidWitness
from chain.execution.chunk import ExecutedChunk
from chain.queries.found import FoundAccount, read_account
from chain.records.keys import build_account_key
from chain.records.outcome import Outcome
from chain.records.transaction import Transaction, compute_tx_id
from chain.storage.index import compute_seen_changes
from network.errors import NetworkError
from network.faults import Fault
from network.network import Network
from network.topics import Priority
from p2pchain.errors import NotReady
from p2pchain.node.chain.foreign_state import StateExchange
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.bodies import BodyExchange
from primitives.codec import decode, encode
from primitives.errors import DecodeError, MissingError
from primitives.types import Height, ShardId
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidChunk
from shards.messages import MAX_PRODUCED_BYTES, ProducedChunk, validate_body

PRODUCED = "chunks/produced"

TIMEOUT_S = 4.0
"""For one peer: up to four megabytes."""

FindProduced = Callable[[bytes], ProducedChunk | None]
"""Returns a chunk with its witness, by its hash, if it is kept here."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ForeignOutcome:
    """What became of a transaction in a shard that is not followed."""

    height: Height
    """Of the final block that holds it; of the first after which its nonce is known to
    be used, where the body of a chunk could not be had."""
    outcome: Outcome | None
    """None: nobody showed it."""


class ForeignAccounts:
    """Accounts elsewhere; see the top of the file.

    Args:
        network: Where peers are.
        chain: Final blocks.
        bodies: Gets bodies of chunks.
        state: Gets values.
        find_produced: Where chunks are that we vouched for.
    """

    def __init__(
        self,
        network: Network,
        chain: ChainService,
        bodies: BodyExchange,
        state: StateExchange,
        find_produced: FindProduced,
    ) -> None:
        self._network = network
        self._chain = chain
        self._bodies = bodies
        self._state = state
        self._find_produced = find_produced
        network.handle_request(
            PRODUCED,
            self._on_request,
            priority=Priority.TRANSACTIONS,
            max_message_bytes=1024,
        )

    async def read(
        self, address: bytes, shards: Collection[ShardId], oldest: Height = 0
    ) -> dict[ShardId, FoundAccount]:
        """Return an account in shards, as far as peers show it in time.

        Args:
            address: Whose.
            shards: Of the layout.
            oldest: No older states than the one after this block.
        """
        values = await self._state.read(build_account_key(address), shards, oldest)
        return {
            shard: read_account(shard, address, found.value, found.height)
            for shard, found in values.items()
        }

    async def wait_outcome(
        self,
        signed_bytes: bytes,
        transaction: Transaction,
        since: Height,
        limit_s: float,
    ) -> ForeignOutcome:
        """Return what became of a transaction of ours, once that is final.

        Args:
            signed_bytes: The transaction as it was submitted.
            transaction: What it says.
            since: No block up to this height holds it.
            limit_s: Seconds.

        Raises:
            NotReady: It is not final in time, has expired, or another transaction has
                its nonce.
        """
        tx_id = compute_tx_id(signed_bytes)
        shard = transaction.shard
        with trio.move_on_after(limit_s):
            while True:
                found = await self.read(transaction.sender, [shard], since)
                account = found.get(shard)
                if account is not None and account.nonce > transaction.nonce:
                    return await self._find(tx_id, shard, since, account.height)
                if account is not None:
                    since = max(since, account.height)
                    if since >= transaction.valid_until_height:
                        raise NotReady(
                            f"transaction 0x{tx_id.hex()} has expired at block "
                            f"{transaction.valid_until_height}"
                        )
                await self._chain.wait_height(self._chain.height + 1)
        raise NotReady(
            f"transaction 0x{tx_id.hex()} is not final after {limit_s:.0f} s; "
            "it may still become so"
        )

    async def _find(
        self, tx_id: bytes, shard: ShardId, since: Height, used: Height
    ) -> ForeignOutcome:
        """Look for a transaction in the chunks of the blocks in (since, used]."""
        is_complete = True
        for height in range(since + 1, used + 1):
            header = self._chain.tree.store.get_chunk_header(shard, height)
            if header is None or not header.tx_count:
                continue
            done = await self._execute(header, height)
            if done is not None:
                outcomes = {each.tx_id: each for each in done.result.outcomes}
                if tx_id in outcomes:
                    self._keep(height, header, done)
                    return ForeignOutcome(height, outcomes[tx_id])
                continue
            await self._bodies.fetch([header])
            body = self._chain.tree.get_body(compute_chunk_hash(header))
            if body is None:
                is_complete = False
            elif tx_id in map(compute_tx_id, body.transactions):
                return ForeignOutcome(height, None)
        if is_complete:
            raise NotReady(
                f"transaction 0x{tx_id.hex()} will never be final: another one of the "
                "account took its nonce"
            )
        return ForeignOutcome(used, None)

    def _keep(self, height: Height, header: ChunkHeader, done: ExecutedChunk) -> None:
        """Let the transaction be looked up, with its chunk, as those of shards here."""
        changes = compute_seen_changes(height, header, done.result)
        self._chain.tree.store.kv.write(changes, sync=False)

    async def _execute(
        self, header: ChunkHeader, height: Height
    ) -> ExecutedChunk | None:
        """Return what a final chunk did; None: nobody has given its witness."""
        chunk_hash = compute_chunk_hash(header)
        court = self._chain.tree.open_final_court()
        async for peer_id, produced in self._find_copies(chunk_hash):
            try:
                return court.execute(produced)
            except InvalidWitness as error:
                log.info("chunk %s: %s", chunk_hash.hex()[:16], error)
                if peer_id is not None:
                    self._network.penalize(peer_id, Fault.BAD_MESSAGE)
            except InvalidChunk as error:
                log.error(
                    "a wrong chunk is final: %s: %s", chunk_hash.hex()[:16], error
                )
                self._denounce(produced, height)
                return None
            except MissingError as error:
                log.info("chunk %s: %s", chunk_hash.hex()[:16], error)
                return None
        return None

    async def _find_copies(
        self, chunk_hash: bytes
    ) -> AsyncIterator[tuple[bytes | None, ProducedChunk]]:
        """Yield a chunk with its witness and who gave it; None: it was kept here."""
        kept = self._find_produced(chunk_hash)
        if kept is not None:
            yield None, kept
        for peer in sorted(self._network.peers(), key=lambda peer: peer.rtt_ms or 0.0):
            produced = await self._fetch(peer.peer_id, chunk_hash)
            if produced is not None:
                yield peer.peer_id, produced

    async def _fetch(self, peer_id: bytes, chunk_hash: bytes) -> ProducedChunk | None:
        """Return a chunk with some witness from a peer; its body is the header's."""
        try:
            data = await self._network.request(
                peer_id,
                PRODUCED,
                chunk_hash,
                timeout_s=TIMEOUT_S,
                priority=Priority.TRANSACTIONS,
                max_answer_bytes=MAX_PRODUCED_BYTES,
            )
            produced = decode(ProducedChunk, data, MAX_PRODUCED_BYTES)
            if compute_chunk_hash(produced.header) != chunk_hash:
                raise InvalidChunk("another chunk than the one that was asked for")
            validate_body(produced)
        except NetworkError as error:
            log.debug("no chunk from %s: %s", peer_id.hex()[:8], error)
        except (DecodeError, InvalidChunk) as error:
            log.info("a wrong chunk from %s: %s", peer_id.hex()[:8], error)
            self._network.penalize(peer_id, Fault.BAD_MESSAGE)
        else:
            return produced
        return None

    def _denounce(self, produced: ProducedChunk, height: Height) -> None:
        block = self._chain.tree.store.get_block(height)
        if block is None:
            return
        for certified in block.body.chunks:
            if certified.header == produced.header:
                # Whose signature a peer has put there we do not know.
                nameless = msgspec.structs.replace(produced, signature=bytes(96))
                self._chain.evidence.denounce(nameless, certified.certificate)

    async def _on_request(self, peer_id: bytes, payload: bytes) -> bytes:
        if len(payload) != 32:
            raise DecodeError("a chunk hash has 32 bytes")
        produced = self._find_produced(payload)
        if produced is None:
            raise MissingError(f"chunk {payload.hex()} is not kept here")
        return encode(produced)
