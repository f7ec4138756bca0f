"""
The node's wallet at work: transactions of one account, in order, with funds in place.

A person thinks of one balance; the chain keeps one per shard.  Before a transaction
runs, what it needs is moved to its shard by transfers to oneself, and we wait until
they have arrived.  One plan at a time: plans are made from balances that no other plan
of this account is about to spend.

What lies in shards that this node does not follow counts too: peers show it, and what
became of a transaction there (p2pchain/node/chain/foreign_accounts.py).  A shard of
which nobody shows anything is left out of the plan, and named when the rest is too
little.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from chain.errors import ShardNotFollowed
from chain.queries.found import FoundAccount
from chain.records.outcome import Outcome
from chain.records.transaction import Payload, SignedTransaction, compute_tx_id
from p2pchain.errors import NotReady, TransactionFailed, UnknownFunds
from p2pchain.node.chain.foreign_accounts import ForeignAccounts
from p2pchain.node.chain.service import ChainService
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import Height, Nonce, ShardId
from wallet.errors import InsufficientFunds
from wallet.funding import Move, plan_funding, plan_send
from wallet.transactions import (
    ChainView,
    build_transactions,
    estimate_fee,
    estimate_transfer_fee,
)

log = logging.getLogger(__name__)

FINAL_TIMEOUT_S = 60.0
"""Sixty blocks; a transaction that is not in by then has lost its chance."""
BUSY_TIMEOUT_S = 60.0
"""For the plans before this one; each takes a few blocks."""
POLL_BLOCKS = 2
"""Between looks at a shard elsewhere for funds to arrive there; a packet takes two."""

Request = tuple[ShardId, Payload, int]
"""Where a transaction runs, what it does, and the atoms that it takes there."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction of ours that is final."""

    tx_id: bytes
    shard: ShardId
    height: Height
    """Of its block, or of one shortly after it where that is not known here."""
    outcome: Outcome | None
    """None: it ran in a shard that is not followed, and nobody showed what it did."""

    @property
    def is_ok(self) -> bool | None:
        """Whether the rules took it; None: not known here."""
        return None if self.outcome is None else self.outcome.ok


@dataclass(frozen=True, slots=True)
class Flying:
    """A transaction of ours in a shard that is not followed."""

    signed_bytes: bytes
    signed: SignedTransaction
    since: Height
    """No block up to this height holds it."""


@dataclass(frozen=True, slots=True)
class Purse:
    """What the account holds, as far as that is known, by shard."""

    accounts: Mapping[ShardId, FoundAccount]
    unknown: tuple[ShardId, ...]
    """Shards that are not followed and of which nobody showed anything."""

    @property
    def balances(self) -> dict[ShardId, int]:
        """Atoms that can be spent."""
        return {shard: found.balance for shard, found in self.accounts.items()}


class Treasury:
    """Spends for one account; see the top of the file.

    Args:
        key: The account's.
        chain: Takes transactions and tells outcomes.
        foreign: The account in shards that are not followed; None: they do not count.
    """

    def __init__(
        self,
        key: SecretKey,
        chain: ChainService,
        foreign: ForeignAccounts | None = None,
    ) -> None:
        self._key = key
        self._chain = chain
        self._foreign = foreign
        self._planning = trio.Lock()
        self._flying: dict[bytes, Flying] = {}
        """By id: in shards that are not followed, until they are final or expired."""
        self._seen: Height = 0
        """A transaction of ours elsewhere is final there: older states will not do."""

    @property
    def address(self) -> bytes:
        """The account."""
        return self._key.public_key

    def get_balances(self) -> dict[ShardId, int]:
        """Return what the account holds in each open shard that is followed.

        What is in a shard that empties itself comes to the root shard without us.
        """
        queries = self._chain.queries
        return {
            shard: queries.get_account(shard, self.address).balance
            for shard in queries.layouts.list_open_shards()
        }

    async def open_purse(self) -> Purse:
        """Return what the account holds in every open shard.

        Those that are not followed cost a question to a peer.
        """
        queries = self._chain.queries
        shards = queries.layouts.list_running_shards()
        here = [shard for shard in shards if shard in queries.followed]
        elsewhere = [shard for shard in shards if shard not in queries.followed]
        found = {shard: queries.get_account(shard, self.address) for shard in here}
        if elsewhere and self._foreign is not None:
            found |= await self._foreign.read(self.address, elsewhere, self._seen)
        unknown = tuple(shard for shard in elsewhere if shard not in found)
        return Purse(found, unknown)

    async def execute(
        self, shard: ShardId, payload: Payload, amount: int = 0
    ) -> Outcome:
        """Run a transaction with its funds in place; returns when it is final.

        Args:
            shard: Where it runs.
            payload: What it does.
            amount: Atoms that it takes from the balance there, fee aside.

        Raises:
            InsufficientFunds: All shards together hold too little; nothing was sent.
            UnknownFunds: Those of which something is known do; nothing was sent.
            TransactionFailed: It is in a block, and the rules refused it.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        return (await self.execute_all([(shard, payload, amount)]))[0]

    async def execute_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Like `execute` for several transactions, which run side by side."""
        outcomes = await self.run_all(requests)
        for outcome in outcomes:
            if not outcome.ok:
                raise TransactionFailed(outcome.code, outcome.message)
        return outcomes

    async def run_all(
        self,
        requests: Sequence[Request],
        on_funded: Callable[[], None] = lambda: None,
    ) -> list[Outcome]:
        """Like `execute_all`, and leave it to the caller to look at the outcomes.

        Args:
            requests: What to run.
            on_funded: Called before anything of it is signed; from then on a failure
                does not mean that it will not happen.

        Raises:
            ShardNotFollowed: What our account has there nobody shows.
            NotReady: Not final in time, or final and nobody shows what it did.
        """
        params = self._chain.spec.params
        needs: dict[ShardId, int] = {}
        for shard, payload, amount in requests:
            needs[shard] = needs.get(shard, 0) + amount + estimate_fee(params, payload)
        async with self._hold_plan():
            await self._fund(needs)
            purse = await self._reopen(needs)
            on_funded()
            given = [(shard, payload) for shard, payload, _ in requests]
            done = [await self._wait(each) for each in self._submit(given, purse)]
        return [_require_known(each) for each in done]

    async def send(self, recipient: bytes, amount: int, shard: ShardId) -> list[Sent]:
        """Pay from whichever shards hold enough; returns the final transactions.

        Raises:
            InsufficientFunds: All shards together hold too little; nothing was sent.
            UnknownFunds: Those of which something is known do; nothing was sent.
            TransactionFailed: The rules refused it; what other shards sent has arrived.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        async with self._hold_plan():
            fee = estimate_transfer_fee(self._chain.spec.params)
            purse = await self.open_purse()
            with _naming(purse.unknown):
                moves = plan_send(purse.balances, amount, fee, destination=shard)
            given = self._submit(_build_requests(moves, recipient), purse)
            # The next plan must see what this one has spent.
            done = [await self._wait(each) for each in given]
        for each in done:
            _require_ok(each)
        return done

    @asynccontextmanager
    async def _hold_plan(self) -> AsyncIterator[None]:
        """Let one plan run at a time; while the chain stands still, nobody waits long.

        Raises:
            NotReady: Another one is not done.
        """
        with trio.move_on_after(BUSY_TIMEOUT_S) as waiting:
            await self._planning.acquire()
        if waiting.cancelled_caught:
            raise NotReady("the wallet waits for earlier transactions; try again later")
        try:
            yield
        finally:
            self._planning.release()

    async def _fund(self, needs: Mapping[ShardId, int]) -> None:
        """Bring every shard to what it needs, and wait until it is there."""
        fee = estimate_transfer_fee(self._chain.spec.params)
        followed = self._chain.queries.followed
        purse = Purse(self._get_followed(), ())
        if not needs.keys() <= set(followed) or not _covers(purse, needs):
            purse = await self.open_purse()
        self._require_open(needs, purse)
        with _naming(purse.unknown):
            moves = plan_funding(purse.balances, needs, fee)
        if not moves:
            return
        log.info("moving funds: %s", ", ".join(map(_describe, moves)))
        for each in self._submit(_build_requests(moves, self.address), purse):
            _require_ok(await self._wait(each))
        with trio.move_on_after(FINAL_TIMEOUT_S):
            await self._wait_funds(needs)
            return
        raise NotReady("funds are on their way between shards; try again in a moment")

    async def _wait_funds(self, needs: Mapping[ShardId, int]) -> None:
        """Return when every shard has what it needs."""
        is_near = needs.keys() <= set(self._chain.queries.followed)
        while True:
            purse = (
                Purse(self._get_followed(), ())
                if is_near
                else (await self.open_purse())
            )
            if _covers(purse, needs):
                return
            blocks = 1 if is_near else POLL_BLOCKS
            await self._chain.wait_height(self._chain.height + blocks)

    async def _reopen(self, needs: Mapping[ShardId, int]) -> Purse:
        """Return the purse of those shards in which requests are to run."""
        if needs.keys() <= set(self._chain.queries.followed):
            return Purse(self._get_followed(), ())
        purse = await self.open_purse()
        self._require_open(needs, purse)
        return purse

    def _get_followed(self) -> dict[ShardId, FoundAccount]:
        get_account = self._chain.queries.get_account
        return {
            shard: get_account(shard, self.address) for shard in self.get_balances()
        }

    def _require_open(self, needs: Mapping[ShardId, int], purse: Purse) -> None:
        for shard in sorted(needs.keys() - purse.accounts.keys()):
            if shard in purse.unknown:
                raise ShardNotFollowed(shard)
            raise NotReady(f"shard {shard} takes no transactions")

    def _submit(
        self, requests: list[tuple[ShardId, Payload]], purse: Purse
    ) -> list[SignedTransaction]:
        """Sign and hand in; the purse knows the shards that are not followed."""
        view = ChainView(
            chain_id=self._chain.chain_id,
            params=self._chain.spec.params,
            height=self._chain.height,
            nonces={shard: self._get_next_nonce(shard, purse) for shard, _ in requests},
        )
        signed = build_transactions(self._key, view, requests)
        for each in signed:
            data = encode(each)
            shard = each.transaction.shard
            tx_id = self._chain.submit(data)
            if shard not in self._chain.queries.followed:
                since = purse.accounts[shard].height
                self._flying[tx_id] = Flying(data, each, since)
        return list(signed)

    def _get_next_nonce(self, shard: ShardId, purse: Purse) -> Nonce:
        if shard in self._chain.queries.followed:
            return self._chain.get_next_nonce(shard, self.address)
        height, nonce = purse.accounts[shard].height, purse.accounts[shard].nonce
        self._flying = {
            tx_id: flying
            for tx_id, flying in self._flying.items()
            if flying.signed.transaction.valid_until_height > height
        }
        for flying in self._flying.values():
            if flying.signed.transaction.shard == shard:
                nonce = max(nonce, flying.signed.transaction.nonce + 1)
        return nonce

    async def _wait(self, signed: SignedTransaction) -> Sent:
        """Return a transaction that was handed in, once it is final."""
        data = encode(signed)
        tx_id, shard = compute_tx_id(data), signed.transaction.shard
        flying = self._flying.get(tx_id)
        if flying is None or self._foreign is None:
            outcome = await self._chain.wait_outcome(tx_id, FINAL_TIMEOUT_S)
            place = self._chain.tree.store.get_place(tx_id)
            assert place is not None, "there is an outcome"
            return Sent(tx_id, shard, place.height, outcome)
        found = await self._foreign.wait_outcome(
            data, signed.transaction, flying.since, FINAL_TIMEOUT_S
        )
        self._flying.pop(tx_id, None)
        self._seen = max(self._seen, found.height)
        return Sent(tx_id, shard, found.height, found.outcome)


@contextmanager
def _naming(unknown: Sequence[ShardId]) -> Iterator[None]:
    """Name the shards of which nothing is known, where the others hold too little."""
    try:
        yield
    except InsufficientFunds as error:
        if unknown:
            raise UnknownFunds(str(error), unknown) from error
        raise


def _covers(purse: Purse, needs: Mapping[ShardId, int]) -> bool:
    balances = purse.balances
    return all(balances.get(shard, 0) >= need for shard, need in needs.items())


def _build_requests(
    moves: Sequence[Move], recipient: bytes
) -> list[tuple[ShardId, Payload]]:
    return [(move.source, move.build_payload(recipient)) for move in moves]


def _require_ok(sent: Sent) -> None:
    """What is not known is not refused: whoever waits for its effect sees that."""
    if sent.outcome is not None and not sent.outcome.ok:
        raise TransactionFailed(sent.outcome.code, sent.outcome.message)


def _require_known(sent: Sent) -> Outcome:
    if sent.outcome is None:
        raise NotReady(
            f"transaction 0x{sent.tx_id.hex()} is final in block {sent.height}; this "
            f"node does not follow shard {sent.shard}, and nobody showed what it did"
        )
    return sent.outcome


def _describe(move: Move) -> str:
    return f"{move.amount_atoms} from shard {move.source} to {move.destination}"
