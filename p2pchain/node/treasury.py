"""
The node's wallet at work: transactions of one account, in order, with funds in place.

A person thinks of one balance; the chain keeps one per shard.  Before a transaction
runs, what it needs is moved to its shard by transfers to oneself, and we wait until
they have arrived.  One plan at a time: plans are made from balances that no other plan
of this account is about to spend.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from chain.errors import ShardNotFollowed
from chain.outcome import Outcome
from chain.transaction import Payload
from p2pchain.errors import NotReady, TransactionFailed
from p2pchain.node.chain_service import ChainService
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import ShardId
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

Request = tuple[ShardId, Payload, int]
"""Where a transaction runs, what it does, and the atoms that it takes there."""


class Treasury:
    """Spends for one account; see the top of the file."""

    def __init__(self, key: SecretKey, chain: ChainService) -> None:
        self._key = key
        self._chain = chain
        self._planning = trio.Lock()

    @property
    def address(self) -> bytes:
        """The account."""
        return self._key.public_key

    def get_balances(self) -> dict[ShardId, int]:
        """Return what the account holds in each open shard that is followed.

        What is in a shard that empties itself comes to the root shard without us.
        """
        return {
            shard: self._chain.queries.get_account(shard, self.address).balance
            for shard in self._chain.queries.layouts.list_open_shards()
            if shard in self._chain.queries.followed
        }

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
            TransactionFailed: It is in a block, and the rules refused it.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        return (await self.execute_all([(shard, payload, amount)]))[0]

    async def execute_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Like `execute` for several transactions, which run side by side."""
        outcomes = await self.run_all(requests)
        for outcome in outcomes:
            _require_ok(outcome)
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
            ShardNotFollowed: What our account has there is not known here.
        """
        params = self._chain.spec.params
        needs: dict[ShardId, int] = {}
        for shard, payload, amount in requests:
            needs[shard] = needs.get(shard, 0) + amount + estimate_fee(params, payload)
        for shard in needs:
            if shard not in self._chain.queries.followed:
                raise ShardNotFollowed(shard)
        async with self._hold_plan():
            await self._fund(needs)
            on_funded()
            tx_ids = self._submit([(shard, payload) for shard, payload, _ in requests])
            return [
                await self._chain.wait_outcome(tx_id, FINAL_TIMEOUT_S)
                for tx_id in tx_ids
            ]

    async def send(self, recipient: bytes, amount: int, shard: ShardId) -> list[bytes]:
        """Pay from whichever shards hold enough; returns the transactions' ids.

        Raises:
            InsufficientFunds: All shards together hold too little; nothing was sent.
            TransactionFailed: The rules refused it; what other shards sent has arrived.
            InvalidTransaction: The mempool refused it.
            NotReady: It is not final in time; it may still become so.
        """
        async with self._hold_plan():
            fee = estimate_transfer_fee(self._chain.spec.params)
            moves = plan_send(self.get_balances(), amount, fee, destination=shard)
            tx_ids = self._submit(_build_requests(moves, recipient))
            # The next plan must see what this one has spent.
            outcomes = [
                await self._chain.wait_outcome(tx_id, FINAL_TIMEOUT_S)
                for tx_id in tx_ids
            ]
        for outcome in outcomes:
            _require_ok(outcome)
        return tx_ids

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
        balances = self.get_balances()
        if closed := needs.keys() - balances.keys():
            raise NotReady(f"shard {min(closed)} takes no transactions")
        moves = plan_funding(balances, needs, fee)
        if not moves:
            return
        log.info("moving funds: %s", ", ".join(map(_describe, moves)))
        for tx_id in self._submit(_build_requests(moves, self.address)):
            _require_ok(await self._chain.wait_outcome(tx_id, FINAL_TIMEOUT_S))
        with trio.move_on_after(FINAL_TIMEOUT_S):
            while not self._has(needs):
                await self._chain.wait_height(self._chain.height + 1)
            return
        raise NotReady("funds are on their way between shards; try again in a moment")

    def _has(self, needs: Mapping[ShardId, int]) -> bool:
        balances = self.get_balances()
        return all(balances.get(shard, 0) >= need for shard, need in needs.items())

    def _submit(self, requests: list[tuple[ShardId, Payload]]) -> list[bytes]:
        shards = {shard for shard, _ in requests}
        view = ChainView(
            chain_id=self._chain.chain_id,
            params=self._chain.spec.params,
            height=self._chain.height,
            nonces={
                shard: self._chain.get_next_nonce(shard, self.address)
                for shard in shards
            },
        )
        signed = build_transactions(self._key, view, requests)
        return [self._chain.submit(encode(each)) for each in signed]


def _build_requests(
    moves: Sequence[Move], recipient: bytes
) -> list[tuple[ShardId, Payload]]:
    return [(move.source, move.build_payload(recipient)) for move in moves]


def _require_ok(outcome: Outcome) -> None:
    if not outcome.ok:
        raise TransactionFailed(outcome.code, outcome.message)


def _describe(move: Move) -> str:
    return f"{move.amount_atoms} from shard {move.source} to {move.destination}"
