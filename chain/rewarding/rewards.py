"""
What an epoch's attendance brings: rewards for votes, and leave for who missed half.

Only the attendance in final blocks counts.  Each block records the votes for its
parent, so an epoch of L blocks records L - 1 times; its last block is recorded by
nobody.

Spec: docs/protocol/11-staking.md
"""

from collections.abc import Sequence

import msgspec

from chain.errors import RuleError
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, mint
from chain.ledger.roster import find_stake, list_stakes, put_stake
from chain.ledger.stake import Stake, StakeStatus
from chain.records.outcome import Event
from consensus.validators import ValidatorSet

MIN_VALIDATORS = 4
"""Downtime never shrinks the set below this: with three, one fault stops the chain."""


def compute_reward(
    epoch_reward: int, power: int, total_power: int, seen: int, blocks: int
) -> int:
    """Return a validator's atoms for an epoch, rounded down.

    Args:
        epoch_reward: What the whole set earns if nobody misses a vote.
        power: The validator's.
        total_power: Of its set.
        seen: Blocks that recorded its vote.
        blocks: Blocks that recorded votes.
    """
    return epoch_reward * power * seen // (total_power * blocks)


def find_absent(
    seen: Sequence[int | None],
    blocks: int,
    bonded: Sequence[int],
    active: Sequence[int],
) -> list[int]:
    """Return who leaves for missing more than half of an epoch, the worst first.

    Leaving stops before those who stay are too few, or one of them could stop the
    chain alone: a third of what is left is a veto.

    Args:
        seen: By index in the set: blocks that recorded the vote; None: does not count,
            because it left already.
        blocks: Blocks that recorded votes.
        bonded: Their stakes, in atoms.
        active: All stakes that could be in the next sets, in atoms, those included.
    """
    absent = [
        (count, index)
        for index, count in enumerate(seen)
        if count is not None and 2 * count < blocks
    ]
    leaving: list[int] = []
    staying = list(active)
    for _, index in sorted(absent):
        staying.remove(bonded[index])
        if len(staying) < MIN_VALIDATORS or 3 * max(staying) >= sum(staying):
            break
        leaving.append(index)
    return leaving


def pay_rewards(
    ledger: Ledger, context: Context, validators: ValidatorSet, seen: Sequence[int]
) -> None:
    """Mint every validator's reward into its account; who is convicted gets none."""
    blocks = context.params.epoch_blocks - 1
    total_power = validators.total_power
    for validator, count in zip(validators.validators, seen, strict=True):
        stake = find_stake(ledger, validator.public_key)
        reward = compute_reward(
            context.params.epoch_reward, validator.power, total_power, count, blocks
        )
        if stake is None or stake.status == StakeStatus.TOMBSTONED or reward == 0:
            continue
        try:
            mint(ledger, context, stake.account, reward)
        except RuleError:
            # All that can ever exist does: from then on votes are their own reward.
            continue
        rewarded = stake.rewarded + reward
        put_stake(ledger, msgspec.structs.replace(stake, rewarded=rewarded))
        ledger.note(Event("rewarded", stake.public_key, (stake.account,), reward))


def suspend_absent(
    ledger: Ledger, context: Context, validators: ValidatorSet, seen: Sequence[int]
) -> None:
    """Take the votes of stakes that missed more than half of the epoch."""
    stakes = [find_stake(ledger, v.public_key) for v in validators.validators]
    counts = [
        count if is_eligible(stake, context) else None
        for stake, count in zip(stakes, seen, strict=True)
    ]
    bonded = [0 if stake is None else stake.bonded for stake in stakes]
    active = [s.bonded for s in list_stakes(ledger) if is_eligible(s, context)]
    for index in find_absent(counts, context.params.epoch_blocks - 1, bonded, active):
        stake = stakes[index]
        assert stake is not None
        put_stake(ledger, msgspec.structs.replace(stake, status=StakeStatus.DOWN))
        ledger.note(Event("validator_down", stake.public_key, (stake.account,), 0))


def is_eligible(stake: Stake | None, context: Context) -> bool:
    """Tell whether a stake may be in the sets that are chosen from now on."""
    return (
        stake is not None
        and stake.status == StakeStatus.ACTIVE
        and stake.bonded >= context.params.min_stake
    )
