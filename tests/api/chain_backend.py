"""The toy node on a real chain: every wait for a height makes the next block."""

import trio
from chain_world import ALICE, COIN, GENESIS, World, build_offer
from toy_backend import ToyNode

from chain.mempool import Mempool
from chain.queries.queries import Queries
from chain.records.channel import (
    Close,
    OpenChannels,
    Opening,
    RequestClose,
    compute_channel_id,
)
from chain.records.resharding import Reshard, ReshardVote
from chain.records.staking import Bond, Unbond
from chain.records.transaction import SignedTransaction
from chain.records.transfer import Transfer
from chain.rewarding.evidence import Verdict
from chain.tree.evidence_pool import EvidencePool, PooledEvidence
from genesis.genesis import Genesis
from genesis.state import build_chain_spec
from p2pchain.api.errors import InsufficientFunds, NotFound, TransactionRejected
from p2pchain.api.status import MempoolInfo
from p2pchain.api.wallet_results import OpenResult, OwnChannel, SendResult
from primitives.bls import BlsSecretKey
from primitives.codec import encode
from primitives.keys import SecretKey

FEE = 10**9
KEY = BlsSecretKey(bytes([77]).rjust(32, b"\0"))
"""With which Alice's node would vote."""


class ChainNode(ToyNode):
    """A node whose wallet is Alice's and whose leader is always in time."""

    def __init__(self, genesis: Genesis = GENESIS) -> None:
        super().__init__()
        self.world = World(build_chain_spec(genesis))
        self.tree = self.world.tree
        self.genesis = genesis
        self.queries = Queries(self.tree)
        self.mempool = Mempool(self.tree.spec, self.tree.verified)
        self.evidence = EvidencePool(
            self.tree.judge, self.tree.spec.params.evidence_epochs
        )
        self.stalled = False
        """No blocks any more, as when a third of the power is gone."""
        self.channel_id = b""
        """Of the channel that was opened last by `add_channel`."""

    def add_provider(self, owner: SecretKey, layers: tuple[int, int] = (2, 6)) -> None:
        """Register a provider of some layers, and let its collateral arrive."""
        register = build_offer(owner, layers)
        self.world.advance(self.world.sign(owner, register, 1), blocks=3)

    def add_channel(
        self, payer: SecretKey, payee: SecretKey, signer: SecretKey
    ) -> SignedTransaction:
        """Open a channel of one coin in shard 1 and return what opened it."""
        payee_key, signer_key = payee.public_key, signer.public_key
        opening = Opening(payee_key, signer_key, COIN, 1000)
        opened = self.world.sign(payer, OpenChannels((opening,)), 1)
        self.world.advance(opened)
        self.channel_id = self._compute_channel_id(payee_key, signer_key, opened)
        return opened

    def _compute_channel_id(
        self, payee: bytes, signer: bytes, opened: SignedTransaction
    ) -> bytes:
        """Return the id of the first channel that a transaction opens."""
        tx = opened.transaction
        chain_id = self.tree.spec.chain_id
        return compute_channel_id(
            chain_id, tx.shard, tx.sender, payee, signer, tx.nonce, 0
        )

    def make_block(self) -> None:
        evidence = self.evidence.pick(self._read)
        self.world.finalize(self.world.build(picker=self.mempool, evidence=evidence))
        self.mempool.revalidate(self.tree.final)
        self.evidence.revalidate(self._read)

    def get_status(self):
        status = super().get_status()
        changes = {
            "address": ALICE.public_key,
            "height": self.tree.final_height,
            "block_hash": self.tree.final_hash,
            "mempool_transactions": len(self.mempool),
        }
        fields = {name: getattr(status, name) for name in status.__dataclass_fields__}
        return type(status)(**(fields | changes))

    async def wait_height(self, height: int) -> None:
        if self.stalled:
            await trio.sleep_forever()
        while self.tree.final_height < height:
            self.make_block()
            await trio.lowlevel.checkpoint()

    def submit_transaction(self, data: bytes) -> bytes:
        return self.mempool.add(data, self.tree.final)

    def submit_evidence(self, data: bytes) -> Verdict:
        return self.evidence.add(data, self._read)

    def list_waiting_evidence(self) -> tuple[PooledEvidence, ...]:
        return self.evidence.list_pieces()

    def _read(self, key: bytes) -> bytes | None:
        return self.tree.final.view.get(0, key)

    def get_mempool(self, limit: int) -> MempoolInfo:
        waiting = self.mempool.list_waiting(limit)
        return MempoolInfo(
            count=len(self.mempool),
            total_bytes=self.mempool.get_bytes(),
            transactions=tuple(each.signed for each in waiting),
        )

    def get_pending(self, tx_id: bytes):
        waiting = self.mempool.get(tx_id)
        return waiting and waiting.signed

    def _submit(self, payload, shard=0):
        signed = self.world.sign(ALICE, payload, shard)
        return signed, self.submit_transaction(encode(signed))

    async def send(self, recipient: bytes, amount: int, shard: int) -> SendResult:
        available = self.queries.get_account(0, ALICE.public_key).balance
        if amount > available:
            raise InsufficientFunds(f"{amount} atoms asked, {available} there")
        _, tx_id = self._submit(Transfer(recipient, shard, amount))
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    async def stake(self, amount: int) -> SendResult:
        payload = Bond(
            "alice", KEY.public_key, KEY.prove_possession(ALICE.public_key), amount
        )
        _, tx_id = self._submit(payload)
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    async def unstake(self, amount: int | None) -> SendResult:
        stake = self.queries.stakes.get_stake(ALICE.public_key)
        if stake is None:
            raise TransactionRejected("nothing bonded", reason="unknown_stake")
        payload = Unbond(stake.bonded if amount is None else amount)
        _, tx_id = self._submit(payload)
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    async def reshard(self, change) -> SendResult:
        _, tx_id = self._submit(Reshard(change))
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    async def vote_reshard(self, number: int) -> SendResult:
        _, tx_id = self._submit(ReshardVote(number))
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    async def open_channel(self, payee, deposit, unit_price) -> OpenResult:
        opening = Opening(payee, ALICE.public_key, deposit, unit_price or 1000)
        signed, tx_id = self._submit(OpenChannels((opening,)), 1)
        channel_id = self._compute_channel_id(payee, ALICE.public_key, signed)
        return OpenResult(channel_id=channel_id, shard=1, tx_ids=(tx_id,))

    async def close_channel(self, channel_id: bytes) -> SendResult:
        channel = self.queries.market.get_channel(channel_id)
        if channel is None:
            raise NotFound("no open channel of this wallet has this id")
        payload = RequestClose(channel_id)
        if channel.payee == ALICE.public_key:
            payload = Close(channel_id, None, None)
        _, tx_id = self._submit(payload, channel.shard)
        return SendResult(tx_ids=(tx_id,), fee_limit=FEE)

    def list_own_channels(self):
        page = self.queries.market.list_channels(ALICE.public_key)
        return tuple(
            OwnChannel(channel=c, role="payer", promised=c.settled) for c in page.items
        )
