"""Unbond: take atoms out of the own stake, to be paid out after the unbonding time."""

import msgspec

from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger
from chain.ledger.roster import get_roster, get_stake, put_stake
from chain.ledger.stake import MAX_UNBONDINGS, Stake, StakeStatus, Unbonding
from chain.records.outcome import Event
from chain.records.staking import Unbond
from shards.layout import ROOT_SHARD

UNBOND_WORK = 400
"""The stake, and some of the others when all of it goes."""


def compute_unbond_work(payload: Unbond) -> int:
    """Return the work units of an unbond."""
    return UNBOND_WORK


def compute_unbond_outflow(ledger: Ledger, sender: bytes, payload: Unbond) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return 0


def apply_unbond(ledger: Ledger, context: Context, call: Call, payload: Unbond) -> None:
    """Move the amount from bonded to unbonding.

    Raises:
        RuleError: not_root_shard, unknown_stake, tombstoned, zero_amount,
            insufficient_stake, below_minimum, last_validator, too_many_unbondings.
    """
    if context.shard != ROOT_SHARD:
        raise RuleError("not_root_shard", "stakes are in the root shard")
    stake = get_stake(ledger, call.sender)
    if stake is None:
        raise RuleError("unknown_stake", "this account has no stake")
    _validate(stake, context, payload)
    if payload.amount == stake.bonded and _is_last(ledger, stake):
        raise RuleError("last_validator", "no other stake could carry the chain")
    due_epoch = context.epoch + context.params.unbonding_epochs
    put_stake(ledger, _add_unbonding(stake, payload.amount, due_epoch))
    ledger.note(Event("unbonding", stake.public_key, (call.sender,), payload.amount))


def _validate(stake: Stake, context: Context, payload: Unbond) -> None:
    if stake.status == StakeStatus.TOMBSTONED:
        raise RuleError("tombstoned", "a convicted stake stays locked until it is paid")
    if payload.amount == 0:
        raise RuleError("zero_amount", "an unbond takes at least 1 atom")
    rest = stake.bonded - payload.amount
    if rest < 0:
        raise RuleError(
            "insufficient_stake", f"bonded {stake.bonded}, {payload.amount} asked"
        )
    if 0 < rest < context.params.min_stake:
        raise RuleError(
            "below_minimum",
            f"{rest} would be left: take all of it or leave {context.params.min_stake}",
        )


def _is_last(ledger: Ledger, stake: Stake) -> bool:
    """Tell whether no other stake can vote; stops at the first that can."""
    others = (
        get_stake(ledger, account)
        for account in get_roster(ledger).accounts
        if account != stake.account
    )
    return not any(
        other is not None and other.status == StakeStatus.ACTIVE and other.bonded > 0
        for other in others
    )


def _add_unbonding(stake: Stake, amount: int, due_epoch: int) -> Stake:
    """Return the stake after the move; one epoch's parts are one entry."""
    waiting = stake.unbonding
    if waiting and waiting[-1].due_epoch == due_epoch:
        waiting, amount_due = waiting[:-1], waiting[-1].amount + amount
    else:
        amount_due = amount
    if len(waiting) >= MAX_UNBONDINGS:
        raise RuleError(
            "too_many_unbondings",
            f"{MAX_UNBONDINGS} parts wait already, the first one until the end of "
            f"epoch {waiting[0].due_epoch}",
        )
    return msgspec.structs.replace(
        stake,
        bonded=stake.bonded - amount,
        unbonding=(*waiting, Unbonding(amount_due, due_epoch)),
    )
