"""
Paying unbonded atoms out, once nobody can be convicted with them any more.

An entry is due `unbonding_epochs` after its Unbond, which is more than evidence ever
takes.  The one exception is a stake whose power the change limit has not let go of in
time: it waits until every set against which evidence can still come counts less for
it than what stays.  So whoever votes has at least as many atoms at stake.

Spec: docs/protocol/11-staking.md
"""

import msgspec

from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, credit
from chain.ledger.producers import forget_hosted
from chain.ledger.roster import delete_stake, get_validators, list_stakes, put_stake
from chain.ledger.stake import Stake, StakeStatus
from chain.records.outcome import Event
from chain.rewarding.slashing import is_forgettable


def pay_unbondings(ledger: Ledger, context: Context) -> None:
    """Pay what is due at the end of the context's epoch; forget stakes without atoms.

    Runs after the set two epochs on has been chosen.
    """
    params = context.params
    stakes = list_stakes(ledger)
    is_any_due = any(_list_due(stake, context.epoch) for stake in stakes)
    powers = _compute_powers(ledger, context) if is_any_due else {}
    for stake in stakes:
        power = powers.get(stake.public_key, 0)
        needed = 0 if stake.status == StakeStatus.TOMBSTONED else power
        paid = _pay_due(ledger, context, stake, needed)
        if is_forgettable(paid, context.epoch, params.evidence_epochs):
            delete_stake(ledger, paid)
            forget_hosted(ledger, paid.account)


def _pay_due(ledger: Ledger, context: Context, stake: Stake, needed: int) -> Stake:
    """Pay the entries that are due while `needed` atoms stay; return the stake."""
    amount, count = 0, 0
    for entry_amount in _list_due(stake, context.epoch):
        if stake.locked - amount - entry_amount < needed:
            break
        amount += entry_amount
        count += 1
    if count == 0:
        return stake
    paid = msgspec.structs.replace(stake, unbonding=stake.unbonding[count:])
    put_stake(ledger, paid)
    credit(ledger, context, stake.account, amount)
    ledger.note(Event("unbonded", stake.public_key, (stake.account,), amount))
    return paid


def _list_due(stake: Stake, epoch: int) -> list[int]:
    return [entry.amount for entry in stake.unbonding if entry.due_epoch <= epoch]


def _compute_powers(ledger: Ledger, context: Context) -> dict[bytes, int]:
    """Return the most power per key in all sets that can still be judged or vote."""
    first = max(0, context.epoch - context.params.evidence_epochs)
    powers: dict[bytes, int] = {}
    for epoch in range(first, context.epoch + 3):
        validators = get_validators(ledger, epoch)
        for validator in () if validators is None else validators.validators:
            known = powers.get(validator.public_key, 0)
            powers[validator.public_key] = max(known, validator.power)
    return powers
