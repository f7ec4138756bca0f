"""
The chain of this node: what consensus drives, and what every other service reads.

Consensus agrees on hashes; `ChainService` is the application behind it.  It builds and
judges blocks, makes them final in one batch, and tells whoever waits.  Transactions
come in through `submit`, from our own interfaces, and through gossip from peers
(transaction_gossip.py).
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice

import trio

from chain.execution.held import HeldBlock
from chain.ledger.epochs import compute_last_height
from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.block import Attendance, decode_block
from chain.records.header import build_proposal, compute_block_hash
from chain.records.outcome import Outcome
from chain.records.spec import ChainSpec
from chain.tree.blocktree import BlockTree
from chain.tree.following import FOLLOW_ALL, Follow
from chain.tree.opening import open_tree
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate, Proposal, Vote
from network.network import Network
from p2pchain.errors import NotReady
from p2pchain.node.chain.evidence_desk import EvidenceDesk
from p2pchain.node.chain.transaction_gossip import TransactionGossip
from primitives import bls
from primitives.kv import KeyValueStore
from primitives.types import Epoch, Height, Nonce, ShardId, TimeMs, View
from shards.certificate import CertifiedChunk

log = logging.getLogger(__name__)

REPEAT_BLOCKS = 10
"""Our own transactions are told again while they wait: a peer may have joined since, or
have lost its pool in a restart."""
PASSED_ON_BLOCKS = 30
"""How long we tell transactions again of which we cannot see what became."""
MAX_REPEATED = 256
"""Of them at a time: one sender's window in a shard, and far below a peer's budget."""

OfferChunks = Callable[[bytes, View], Sequence[CertifiedChunk]]


def _offer_nothing(parent_hash: bytes, view: View) -> Sequence[CertifiedChunk]:
    return ()


class ChainService:
    """Blocks, transactions and news of them; implements consensus' Application."""

    def __init__(
        self,
        spec: ChainSpec,
        kv: KeyValueStore,
        network: Network,
        follow: Follow = FOLLOW_ALL,
    ) -> None:
        """Open the chain's database.

        Raises:
            StoreError: It is damaged or of another chain.
        """
        self.spec = spec
        self.chain_id = spec.chain_id
        self.tree: BlockTree = open_tree(spec, kv, bls, follow)
        self.mempool = Mempool(spec, self.tree.verified)
        self.queries = Queries(self.tree)
        self.evidence = EvidenceDesk(self.tree, network)
        self.gossip = TransactionGossip(network, self.mempool, lambda: self.tree.final)
        self._changed = trio.Event()
        self._listeners: list[Callable[[HeldBlock], None]] = []
        self.offer_chunks: OfferChunks = _offer_nothing
        """What waits to be included in a block of a view on a parent."""
        self._own: dict[bytes, bytes] = {}
        """Transactions that we brought in, while they wait."""
        self._passed_on: dict[bytes, tuple[bytes, Height]] = {}
        """Those of shards that we do not follow, and until when we tell them."""

    # What consensus asks for

    @property
    def final_height(self) -> Height:
        """Height of the last final block."""
        return self.tree.final_height

    @property
    def final_hash(self) -> bytes:
        """Its hash."""
        return self.tree.final_hash

    @property
    def tip(self) -> Tip:
        """The last final block, as consensus sees it."""
        return self.tree.tip

    @property
    def epoch(self) -> EpochConfig:
        """The epoch of the child of the last final block."""
        return self.tree.epoch

    @property
    def epoch_first_time_ms(self) -> TimeMs | None:
        """Time of the epoch's first final block."""
        return self.tree.epoch_first_time_ms

    def get_epoch_end(self, epoch: Epoch) -> Certificate | None:
        """Return the finalization of an epoch's boundary block, if that is final."""
        blocks = self.spec.params.epoch_blocks
        found = self.tree.get_final(compute_last_height(epoch, blocks))
        return None if found is None else found[1]

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Take two verified statements that exclude each other."""
        self.evidence.report(first, second)

    def build_block(
        self,
        *,
        epoch: int,
        view: int,
        parent_hash: bytes,
        parent_view: int,
        proposer: int,
        reveal: bytes,
        attendance: Attendance,
        time_ms: int,
    ) -> tuple[bytes, bytes, Height]:
        """Build and hold a block; returns its hash, bytes and height."""
        held = self.tree.build(
            parent_hash=parent_hash,
            view=view,
            proposer=proposer,
            reveal=reveal,
            attendance=attendance,
            time_ms=time_ms,
            picker=self.mempool,
            chunks=self.offer_chunks(parent_hash, view),
            evidence=self.evidence.pick(parent_hash),
        )
        return held.block_hash, held.block_bytes, held.height

    def add_block(
        self, proposal: Proposal, block_bytes: bytes, *, is_decided: bool = False
    ) -> None:
        """Judge and hold a block; raises InvalidBlock or what is missing."""
        self.tree.add(block_bytes, _now_ms(), proposal, is_decided=is_decided)

    def fetch_proof(
        self, proof_hash: bytes, first: bytes | None, on_held: Callable[[], None]
    ) -> None:
        """Get a fraud proof that a block names; call `on_held` when it is here."""
        self.evidence.proofs.fetch(proof_hash, first, on_held)

    def read_proposal(self, block_bytes: bytes) -> Proposal:
        """Return the proposal that a block's header gives; raises InvalidBlock."""
        header = decode_block(block_bytes).header
        return build_proposal(header, compute_block_hash(header))

    def has_block(self, block_hash: bytes) -> bool:
        """Tell whether a block is final or pending here."""
        return self.tree.has(block_hash)

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return the blocks that gave way to others since the last call."""
        return self.tree.take_evicted()

    def get_block_bytes(self, block_hash: bytes) -> bytes | None:
        """Return the bytes of a held block."""
        return self.tree.get_block_bytes(block_hash)

    def save_pending(self, block_hash: bytes) -> None:
        """Make a pending block survive a crash."""
        self.tree.save_pending(block_hash)

    def get_time_ms(self, block_hash: bytes) -> int:
        """Return the time of a held block."""
        return self.tree.get_time_ms(block_hash)

    def get_final(self, height: Height) -> tuple[bytes, Certificate] | None:
        """Return a final block and the certificate that covers it."""
        return self.tree.get_final(height)

    def finalize(self, certificate: Certificate) -> None:
        """Make a block and its ancestors final, and tell whoever waits."""
        blocks = self.tree.finalize(certificate)
        if not blocks:
            return
        self.mempool.revalidate(self.tree.final)
        self.evidence.on_final()
        for block in blocks:
            for listener in self._listeners:
                listener(block)
        self._repeat_own()
        self._changed.set()
        self._changed = trio.Event()

    def on_follow(self) -> None:
        """The tree follows other shards than before."""
        self.queries.forget()
        self.mempool.revalidate(self.tree.final)

    # What everybody else asks for

    @property
    def height(self) -> Height:
        """Height of the last final block."""
        return self.tree.final_height

    def listen(self, listener: Callable[[HeldBlock], None]) -> None:
        """Call `listener` with every block that becomes final, in order."""
        self._listeners.append(listener)

    async def wait_height(self, height: Height) -> None:
        """Return once the final height is at least `height`."""
        while self.height < height:
            await self._changed.wait()

    async def wait_outcome(self, tx_id: bytes, timeout_s: float) -> Outcome:
        """Return what became of a transaction, once that is final.

        Raises:
            NotReady: It is not final within `timeout_s` or waits no more; in both
                cases it may still become so, for other nodes may know it.
        """
        with trio.move_on_after(timeout_s):
            while True:
                outcome = self._find_outcome(tx_id)
                if outcome is not None:
                    return outcome
                if tx_id not in self.mempool:
                    raise NotReady(
                        f"transaction 0x{tx_id.hex()} waits no more: it expired, its "
                        "account cannot pay it, or another one took its place"
                    )
                await self._changed.wait()
        raise NotReady(
            f"transaction 0x{tx_id.hex()} is not final after {timeout_s:.0f} s; "
            "it may still become so"
        )

    def _find_outcome(self, tx_id: bytes) -> Outcome | None:
        place = self.tree.store.get_place(tx_id)
        if place is None:
            return None
        return self.tree.store.get_outcomes(place.height, place.shard)[place.index]

    def get_next_nonce(self, shard: ShardId, address: bytes) -> Nonce:
        """Return the nonce that an account's next transaction needs."""
        return self.mempool.get_next_nonce(shard, address, self.tree.final)

    def submit(self, data: bytes) -> bytes:
        """Take a signed transaction, tell the peers, return its id.

        Raises:
            InvalidTransaction: Refused; the class says why.
        """
        tx_id = self.mempool.add(data, self.tree.final)
        self.gossip.tell(data)
        if tx_id in self.mempool:
            self._own[tx_id] = data
        else:
            # Of a shard that we do not follow: whether it is in, we shall not see.
            self._passed_on[tx_id] = (data, self.height + PASSED_ON_BLOCKS)
        return tx_id

    def _repeat_own(self) -> None:
        """Tell our waiting transactions again, every few blocks, the oldest first."""
        self._own = {t: data for t, data in self._own.items() if t in self.mempool}
        if self.height % REPEAT_BLOCKS == 0:
            self._passed_on = {
                tx_id: (data, last)
                for tx_id, (data, last) in self._passed_on.items()
                if last >= self.height
            }
            passed_on = (data for data, _ in self._passed_on.values())
            for data in islice(chain(self._own.values(), passed_on), MAX_REPEATED):
                self.gossip.tell(data)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
