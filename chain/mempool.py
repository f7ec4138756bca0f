"""
The mempool: transactions that wait for a block.

Theory of operation
-------------------
One queue per (shard, sender), by nonce, in a window above the account's nonce in the
final state; so gaps are allowed while they are small, and a sender's share is bounded.
Nothing is ever replaced: there is no tip to outbid with, and a second transaction with
a waiting nonce is a double spend.

Everything is judged against the final state.  A queue is only as long as its sender
can pay: fees and outflows of all its transactions together.  Leaders pick against the
state of the parent block, which may be ahead; what does not fit there waits.  After
every final block `revalidate` drops what was included, has expired or cannot be paid
any more.

Pure: no clock, no task; the final block is an argument.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from chain.contracts.rules import RULES, compute_fee
from chain.errors import (
    AlreadyKnown,
    CannotPay,
    CongestedShard,
    DoubleSpend,
    NonceGap,
    PoolFull,
    ShardHalted,
    ValidityTooLong,
    WrongNonce,
    WrongShard,
)
from chain.execution.context import build_context
from chain.execution.envelope import validate_static, verify_once
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.ledger.ledger import ShardLedger
from chain.records.account import NO_ACCOUNT, Account, compute_ripe
from chain.records.keys import build_account_key
from chain.records.spec import ChainSpec
from chain.records.transaction import (
    SignedTransaction,
    compute_tx_id,
    decode_transaction,
)
from chain.records.transfer import Transfer
from chain.tree.building import ReadState
from primitives.codec import decode
from primitives.types import Height, Nonce, ShardId
from shards.chunk import get_count
from shards.layout import ROOT_SHARD

MAX_TRANSACTIONS = 16_384
"""A quarter of a minute of full blocks; what is refused can be sent again."""
MAX_BYTES = 16 * 1024 * 1024
"""The same with transactions of 1 KiB each."""
NONCE_WINDOW = 256
"""Per sender and shard: enough for any wallet, one sixty-fourth of the pool."""

Place = tuple[ShardId, bytes]
"""A queue's name: shard and sender."""

NEVER: Height = 2**63 - 1
"""Expiry of a queue with nothing in it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in the pool."""

    tx_id: bytes
    signed_bytes: bytes
    signed: SignedTransaction
    cost: int
    """Atoms that have to be in the sender's balance: fee and outflow."""


@dataclass(slots=True)
class Queue:
    """One sender's transactions in one shard."""

    waiting: dict[Nonce, Waiting] = field(default_factory=dict)
    cost: int = 0
    """Of all of them."""
    expiry: Height = NEVER
    """No transaction expires before this height."""


class Mempool:
    """See the top of the file."""

    def __init__(self, spec: ChainSpec, verified: VerifiedCache) -> None:
        """
        Args:
            spec: The chain.
            verified: Filled here and read when blocks are executed.
        """
        self._spec = spec
        self._verified = verified
        self._queues: dict[Place, Queue] = {}
        self._by_id: dict[bytes, Waiting] = {}
        self._bytes = 0
        self._final: HeldBlock | None = None
        self._contexts: dict[ShardId, Context] = {}
        """Of transactions judged at `_final`, by shard; all those of a block share
        one."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, tx_id: bytes) -> bool:
        return tx_id in self._by_id

    def get(self, tx_id: bytes) -> Waiting | None:
        """Return a waiting transaction."""
        return self._by_id.get(tx_id)

    def list_waiting(self, limit: int) -> list[Waiting]:
        """Return up to `limit` transactions, the longest waiting first."""
        return list(islice(self._by_id.values(), limit))

    def get_bytes(self) -> int:
        """Return the length of everything that waits."""
        return self._bytes

    def add(self, signed_bytes: bytes, final: HeldBlock) -> bytes:
        """Judge a transaction, keep it, and return its id.

        One of a shard that is not followed is judged by itself alone and not kept.

        Args:
            signed_bytes: Untrusted.
            final: The last final block.

        Raises:
            InvalidTransaction: Its class and `code` say why it was refused.
        """
        tx_id = compute_tx_id(signed_bytes)
        if tx_id in self._by_id:
            raise AlreadyKnown(f"transaction {tx_id.hex()} is waiting already")
        signed = decode_transaction(signed_bytes)
        transaction = signed.transaction
        context = self._validate_static(signed, len(signed_bytes), final)
        if transaction.shard not in final.followed:
            # Others know the account; what can be seen of it here is right.
            if tx_id in self._verified:
                raise AlreadyKnown(f"transaction {tx_id.hex()} was passed on already")
            verify_once(self._verified, tx_id, signed)
            return tx_id
        ledger = ShardLedger(lambda key: final.view.get(transaction.shard, key))
        rule = RULES[type(transaction.payload)]
        fee = compute_fee(context.params, transaction.payload, len(signed_bytes))
        outflow = rule.compute_outflow(ledger, transaction.sender, transaction.payload)
        waiting = Waiting(tx_id, signed_bytes, signed, fee + outflow)
        self._validate_place(waiting, final)
        _validate_backlog(context, final, signed)
        verify_once(self._verified, tx_id, signed)
        self._insert(waiting)
        return tx_id

    def get_next_nonce(self, shard: ShardId, address: bytes, final: HeldBlock) -> Nonce:
        """Return the nonce that the sender's next transaction needs."""
        nonce = _read_account(final, shard, address).nonce
        queue = self._queues.get((shard, address))
        while queue is not None and nonce in queue.waiting:
            nonce += 1
        return nonce

    def revalidate(self, final: HeldBlock) -> list[bytes]:
        """Drop what the final block made impossible; return the dropped ids.

        Most of them are in the block; the store knows which.
        """
        dropped = []
        halted = build_context(self._spec, final, ROOT_SHARD).halted
        for place, queue in list(self._queues.items()):
            if place[0] in halted or place[0] not in final.followed:
                impossible = list(queue.waiting.values())
            else:
                account = _read_account(final, *place)
                impossible = self._find_impossible(queue, account, final.height)
            for waiting in impossible:
                self._remove(place, waiting)
                dropped.append(waiting.tx_id)
        return dropped

    def get_waiting(self, shard: ShardId) -> int:
        """Return how many transactions wait for the shard."""
        return sum(
            len(queue.waiting)
            for (queue_shard, _), queue in self._queues.items()
            if queue_shard == shard
        )

    def pick(
        self, shard: ShardId, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield candidates: each sender's next one, then the ones after it, in turns.

        Args:
            shard: Where they run.
            read: The shard's state at the parent block.
        """
        turns: list[tuple[Queue, Nonce]] = []
        for (queue_shard, sender), queue in list(self._queues.items()):
            if queue_shard != shard:
                continue
            data = read(build_account_key(sender))
            nonce = 0 if data is None else decode(Account, data).nonce
            waiting = queue.waiting.get(nonce)
            if waiting is not None:
                yield waiting.signed_bytes, waiting.signed
                turns.append((queue, nonce + 1))
        while turns:
            following = []
            for queue, nonce in turns:
                waiting = queue.waiting.get(nonce)
                if waiting is not None:
                    yield waiting.signed_bytes, waiting.signed
                    following.append((queue, nonce + 1))
            turns = following

    def _validate_static(
        self, signed: SignedTransaction, length: int, final: HeldBlock
    ) -> Context:
        transaction = signed.transaction
        shard = transaction.shard
        context = self._get_context(shard, final)
        fee = compute_fee(context.params, transaction.payload, length)
        validate_static(context, signed, fee)
        last = final.height + context.params.validity_blocks
        if transaction.valid_until_height > last:
            raise ValidityTooLong(
                f"valid until height {transaction.valid_until_height}, "
                f"at most {last} can be promised"
            )
        return context

    def _get_context(self, shard: ShardId, final: HeldBlock) -> Context:
        if final is not self._final:
            self._final, self._contexts = final, {}
        context = self._contexts.get(shard)
        if context is None:
            if shard not in final.child_epoch.layout.shard_ids:
                raise WrongShard(f"there is no shard {shard}")
            context = build_context(self._spec, final, shard)
            self._contexts[shard] = context
        return context

    def _validate_place(self, waiting: Waiting, final: HeldBlock) -> None:
        """Check nonce, room and funds."""
        transaction = waiting.signed.transaction
        account = _read_account(final, transaction.shard, transaction.sender)
        nonce = transaction.nonce
        if nonce < account.nonce:
            raise WrongNonce(f"nonce {nonce}, {account.nonce} is next")
        if nonce >= account.nonce + NONCE_WINDOW:
            raise NonceGap(
                f"nonce {nonce} is {nonce - account.nonce} ahead, "
                f"at most {NONCE_WINDOW - 1} are"
            )
        queue = self._queues.get((transaction.shard, transaction.sender), Queue())
        other = queue.waiting.get(nonce)
        if other is not None:
            raise DoubleSpend(
                f"nonce {nonce} is taken by {other.tx_id.hex()}, which waits"
            )
        if queue.cost + waiting.cost > account.balance:
            raise CannotPay(
                f"balance {account.balance} in shard {transaction.shard}, "
                f"{queue.cost} promised, {waiting.cost} needed"
            )
        if len(self._by_id) >= MAX_TRANSACTIONS:
            raise PoolFull(f"{len(self._by_id)} transactions wait, try again later")
        if self._bytes + len(waiting.signed_bytes) > MAX_BYTES:
            raise PoolFull(f"{self._bytes} bytes wait, try again later")

    def _find_impossible(
        self, queue: Queue, account: Account, height: Height
    ) -> list[Waiting]:
        """Return what was included, has expired or cannot be paid any more."""
        included = [w for nonce, w in queue.waiting.items() if nonce < account.nonce]
        left = queue.cost - sum(waiting.cost for waiting in included)
        if left <= account.balance and queue.expiry >= height:
            return included
        impossible = included
        cost = 0
        queue.expiry = NEVER
        for nonce in sorted(queue.waiting):
            if nonce < account.nonce:
                continue
            waiting = queue.waiting[nonce]
            expiry = waiting.signed.transaction.valid_until_height
            if expiry < height or cost + waiting.cost > account.balance:
                impossible.append(waiting)
            else:
                cost += waiting.cost
                queue.expiry = min(queue.expiry, expiry)
        return impossible

    def _insert(self, waiting: Waiting) -> None:
        transaction = waiting.signed.transaction
        place = (transaction.shard, transaction.sender)
        queue = self._queues.setdefault(place, Queue())
        queue.waiting[transaction.nonce] = waiting
        queue.cost += waiting.cost
        queue.expiry = min(queue.expiry, transaction.valid_until_height)
        self._by_id[waiting.tx_id] = waiting
        self._bytes += len(waiting.signed_bytes)

    def _remove(self, place: Place, waiting: Waiting) -> None:
        queue = self._queues[place]
        del queue.waiting[waiting.signed.transaction.nonce]
        queue.cost -= waiting.cost
        if not queue.waiting:
            del self._queues[place]
        del self._by_id[waiting.tx_id]
        self._bytes -= len(waiting.signed_bytes)


def _read_account(final: HeldBlock, shard: ShardId, address: bytes) -> Account:
    data = final.view.get(shard, build_account_key(address))
    account = NO_ACCOUNT if data is None else decode(Account, data)
    return compute_ripe(account, final.height)


def _validate_backlog(
    context: Context, final: HeldBlock, signed: SignedTransaction
) -> None:
    """Refuse what would go to a shard that takes nothing, before anybody pays a fee."""
    payload = signed.transaction.payload
    if not isinstance(payload, Transfer) or payload.shard == context.shard:
        return
    if payload.shard in context.halted:
        raise ShardHalted(f"shard {payload.shard} is halted")
    emitted = get_count(final.heads[context.shard].out_count, payload.shard)
    backlog = emitted - context.consumed.get(payload.shard, 0)
    if backlog >= context.params.backlog_limit:
        raise CongestedShard(f"{backlog} packets wait for shard {payload.shard}")
