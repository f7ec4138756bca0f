"""Bond: become a validator, add to the own stake, or come back after downtime."""

import msgspec

from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.ledger import Ledger, debit
from chain.ledger.roster import get_roster, get_stake, put_stake
from chain.ledger.stake import MAX_ROSTER, Stake, StakeKey, StakeStatus
from chain.records.keys import build_voter_key
from chain.records.outcome import Event
from chain.records.staking import Bond
from primitives.bls import verify_possession
from shards.layout import ROOT_SHARD

BOND_WORK = 4000
"""Two pairings, about 2 ms, and the roster."""

MAX_BONDED = 2**56 - 1
"""The most power that one validator can have."""


def compute_bond_work(payload: Bond) -> int:
    """Return the work units of a bond."""
    return BOND_WORK


def compute_bond_outflow(ledger: Ledger, sender: bytes, payload: Bond) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return payload.amount


def apply_bond(ledger: Ledger, context: Context, call: Call, payload: Bond) -> None:
    """Move the amount into the sender's stake, which is ACTIVE from then on.

    Raises:
        RuleError: not_root_shard, tombstoned, other_key, key_in_use, roster_full,
            zero_amount, below_minimum, above_maximum, insufficient_funds,
            bad_possession.
    """
    if context.shard != ROOT_SHARD:
        raise RuleError("not_root_shard", "stakes are in the root shard")
    current = get_stake(ledger, call.sender)
    if current is None:
        _validate_newcomer(ledger, payload)
    else:
        _validate_own(current, payload)
    stake = _build_stake(current, call, payload)
    if stake.bonded < context.params.min_stake:
        raise RuleError(
            "below_minimum", f"{stake.bonded} bonded < {context.params.min_stake}"
        )
    if stake.bonded > MAX_BONDED:
        raise RuleError("above_maximum", f"{stake.bonded} bonded > {MAX_BONDED}")
    debit(ledger, context, call.sender, payload.amount)
    # Last, because it costs most.
    proof = payload.proof_of_possession
    if not verify_possession(payload.public_key, proof, call.sender):
        raise RuleError("bad_possession", "the proof of possession does not verify")
    put_stake(ledger, stake)
    ledger.note(Event("bonded", stake.public_key, (call.sender,), payload.amount))


def _validate_newcomer(ledger: Ledger, payload: Bond) -> None:
    if ledger.get(build_voter_key(payload.public_key), StakeKey) is not None:
        raise RuleError("key_in_use", "this key has been another stake's")
    if len(get_roster(ledger).accounts) >= MAX_ROSTER:
        raise RuleError("roster_full", f"{MAX_ROSTER} stakes, try again later")


def _validate_own(current: Stake, payload: Bond) -> None:
    if current.status == StakeStatus.TOMBSTONED:
        raise RuleError("tombstoned", "this stake was convicted; it never comes back")
    if current.public_key != payload.public_key:
        raise RuleError(
            "other_key",
            f"this stake votes with {current.public_key.hex()[:16]}; "
            "take all of it out before another key can join",
        )
    if payload.amount == 0 and current.status == StakeStatus.ACTIVE:
        raise RuleError("zero_amount", "the stake is active already")


def _build_stake(current: Stake | None, call: Call, payload: Bond) -> Stake:
    if current is not None:
        return msgspec.structs.replace(
            current,
            name=payload.name,
            bonded=current.bonded + payload.amount,
            status=StakeStatus.ACTIVE,
        )
    return Stake(
        name=payload.name,
        account=call.sender,
        public_key=payload.public_key,
        bonded=payload.amount,
        unbonding=(),
        status=StakeStatus.ACTIVE,
        rewarded=0,
        slashed=0,
        offence=None,
    )
