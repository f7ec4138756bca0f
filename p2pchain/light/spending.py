"""
A wallet on a light client: it signs by itself and believes nothing that is not proven.

The node sees signed transactions only.  Balance and nonce come with proofs, the fee
follows from the parameters in genesis, and that a transaction is final shows in the
proven nonce: only its owner can have used it.  A node can still keep a transaction to
itself; it then expires, which shows in the height of a proven block.

Nothing in the chain commits to a transaction's outcome.  That it paid shows in the
balance, which fell by the amount at least; when other money came in at the same time
that cannot be told, and we say so.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chain.records.transaction import Payload, SignedTransaction, compute_tx_id
from p2pchain.client import RpcClient
from p2pchain.errors import NotReady, UnknownFunds
from p2pchain.light.client import LightClient, ShownAccount
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.types import Amount, Height, ShardId
from shards.layout import ROOT_SHARD
from wallet.errors import InsufficientFunds
from wallet.funding import plan_send
from wallet.transactions import (
    ChainView,
    build_transaction,
    build_transactions,
    estimate_fee,
    estimate_transfer_fee,
)

FINAL_TIMEOUT_S = 60.0
"""Sixty blocks; a transaction that is not in by then waits for something else."""
MAX_ANSWER_BYTES = 64 * 1024
"""Of a node that took a transaction, or says at length why not."""


@dataclass(frozen=True, slots=True)
class Payment:
    """A transfer that was handed to a node."""

    tx_id: bytes
    signed: SignedTransaction
    amount: Amount
    """What arrives, or leaves the balance for a stake, in atoms."""
    balance: Amount
    """Of the source before."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A transfer whose nonce is used, proven."""

    payment: Payment
    height: Height
    """Of the block in whose state that was seen."""
    is_paid: bool
    """The balance fell by the amount; if not, that it paid is not proven."""


class LightWallet:
    """Spends for one account; see the top of the file."""

    def __init__(
        self,
        client: LightClient,
        rpc: RpcClient,
        key: SecretKey,
        *,
        wait: Callable[[], None] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            client: Has synchronised.
            rpc: Takes the transactions.
            key: Never leaves this process.
            wait: Returns when it is worth asking again; by default half a block later.
            timer: Seconds.
        """
        self._client = client
        self._rpc = rpc
        self._key = key
        interval_s = client.trust.interval_ms / 1000
        self._wait = wait or (lambda: time.sleep(interval_s / 2))
        self._timer = timer

    @property
    def address(self) -> bytes:
        """The account."""
        return self._key.public_key

    def send(
        self, recipient: bytes, amount: Amount, shard: ShardId
    ) -> tuple[Payment, ...]:
        """Hand transfers that together pay `amount` to the node.

        Raises:
            InsufficientFunds: All shards together hold too little; nothing was sent.
            UnknownFunds: Those that the node shows do; nothing was sent.
            InvalidTransaction: It could never be accepted; nothing was sent.
            RpcError: The node refuses; transfers out of earlier shards may be under
                way.
            LightError, MissingError, BadAnswer: What the node shows of the account.
        """
        accounts = {a.shard: a for a in self._client.list_accounts(self.address)}
        try:
            payments = self._sign(accounts, recipient, amount, shard)
        except InsufficientFunds as error:
            if missing := self._client.list_missing(accounts.values()):
                raise UnknownFunds(str(error), missing) from error
            raise
        for payment in payments:
            self._hand_in(payment)
        return payments

    def execute(self, payload: Payload, outflow: Amount) -> Payment:
        """Hand one transaction in the root shard to the node.

        Args:
            payload: What it does.
            outflow: Atoms that leave the balance besides the fee.

        Raises:
            InsufficientFunds: The root shard holds too little; nothing was sent.
            The rest as `send`.
        """
        trust = self._client.trust
        shown = self._client.get_account(ROOT_SHARD, self.address)
        balance = shown.account.balance
        spendable = balance - estimate_fee(trust.params, payload)
        if spendable < outflow:
            raise InsufficientFunds(
                needed_atoms=outflow, available_atoms=max(0, spendable)
            )
        view = ChainView(
            chain_id=trust.chain_id,
            params=trust.params,
            height=shown.height,
            nonces={ROOT_SHARD: shown.account.nonce},
        )
        signed = build_transaction(self._key, view, ROOT_SHARD, payload)
        payment = Payment(compute_tx_id(encode(signed)), signed, outflow, balance)
        self._hand_in(payment)
        return payment

    def wait_settled(self, payment: Payment) -> Settled:
        """Return when the payment's nonce is used.

        Raises:
            NotReady: It is not final in time, or it has expired.
            LightError, MissingError, BadAnswer, RpcError: What the node answers.
        """
        transaction = payment.signed.transaction
        deadline = self._timer() + FINAL_TIMEOUT_S
        while True:
            shown = self._client.get_account(transaction.shard, self.address)
            if shown.account.nonce > transaction.nonce:
                fallen = payment.balance - shown.account.balance
                return Settled(payment, shown.height, fallen >= payment.amount)
            if shown.height > transaction.valid_until_height:
                raise NotReady(
                    f"transaction 0x{payment.tx_id.hex()} has expired at block "
                    f"{transaction.valid_until_height}; nothing was paid"
                )
            if self._timer() > deadline:
                raise NotReady(
                    f"transaction 0x{payment.tx_id.hex()} is not final yet; it may "
                    f"become so up to block {transaction.valid_until_height}"
                )
            self._wait()

    def _hand_in(self, payment: Payment) -> None:
        self._rpc.call_bounded(
            "broadcast_tx_sync",
            {"tx": "0x" + encode(payment.signed).hex()},
            MAX_ANSWER_BYTES,
        )

    def _sign(
        self,
        accounts: Mapping[ShardId, ShownAccount],
        recipient: bytes,
        amount: Amount,
        shard: ShardId,
    ) -> tuple[Payment, ...]:
        trust = self._client.trust
        moves = plan_send(
            {a.shard: a.account.balance for a in accounts.values()},
            amount,
            estimate_transfer_fee(trust.params),
            destination=shard,
        )
        view = ChainView(
            chain_id=trust.chain_id,
            params=trust.params,
            height=min(account.height for account in accounts.values()),
            nonces={a.shard: a.account.nonce for a in accounts.values()},
        )
        requests = [(move.source, move.build_payload(recipient)) for move in moves]
        signed = build_transactions(self._key, view, requests)
        return tuple(
            Payment(
                compute_tx_id(encode(each)),
                each,
                move.amount_atoms,
                accounts[move.source].account.balance,
            )
            for move, each in zip(moves, signed, strict=True)
        )
