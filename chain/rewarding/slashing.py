"""
Slashing: what equivocation costs, and where each atom of it goes.

Theory of operation
-------------------
    included                               settled                    paid out
    |------ evidence_epochs ---------------|------ ... ---------------|
    tombstoned                             the whole penalty          what is left
    5 % taken: 1/20 of it to the reporter  is known and taken
    everything else locked

A lone validator that equivocates most likely ran two machines with one key; a third
of the set that does so attacked the chain.  So the penalty grows with what others did
at about the same time: three times the fraction of the power that was convicted
within `evidence_epochs` of the offence, at least 5 %, at most everything.  Others may
be convicted after the offence was included, so the fraction is known only when that
window is over.  Until then the stake is locked whole, and the penalty does not depend
on the order in which reports arrive.

The window counts epochs of inclusion, not of the votes: what is included can no longer
change, whereas evidence of old votes may still come up.

A tombstoned stake is never convicted again, so no piece of evidence counts twice, and
what one key can lose is bounded by what it had.

Every division rounds penalties up and rewards down.

Spec: docs/protocol/11-staking.md; the reasons: docs/adr/0016-slashing.md
"""

from collections.abc import Iterable, Sequence

import msgspec

from chain.errors import InvalidBlock, StoreError, UselessEvidence
from chain.ledger.context import Context
from chain.ledger.halts import is_halted, put_halt
from chain.ledger.ledger import Ledger, burn, credit
from chain.ledger.roster import find_stake, get_validators, list_stakes, put_stake
from chain.ledger.stake import Offence, Stake, StakeStatus, Unbonding
from chain.records.outcome import Event
from chain.rewarding.evidence import (
    NO_COURT,
    Accusation,
    Court,
    EvidenceJudge,
    Verdict,
    is_timely,
)
from consensus.errors import InvalidEvidence
from primitives.types import ShardId
from shards.fraud import FraudNotice, build_halt

FLOOR_DIVISOR = 20
"""The least penalty is a 20th of the stake, 5 %: no second machine is worth it."""

REWARD_DIVISOR = 20
"""The reporter gets a 20th of what is taken at once: enough to include evidence, and
far too little to slash oneself for."""

SLASH_EVENT = "slashed"
"""Taken at a conviction; the event's object is the evidence."""
REWARD_EVENT = "slash_reward"
"""Paid to the reporter; likewise."""
HALT_EVENT = "shard_halted"
"""A proven fraud stops its shard; likewise."""
SETTLE_EVENT = "slash_settled"
"""Taken at the end of the window; the event's object is the BLS public key."""

CORRELATION_FACTOR = 3
"""A third of the power, which is what a fork needs, loses everything."""


def compute_floor(stake: int) -> int:
    """Return the atoms that a conviction takes at once: 5 %, rounded up."""
    return -(-stake // FLOOR_DIVISOR)


def compute_reward(penalty: int) -> int:
    """Return the reporter's part of what is taken at once, rounded down."""
    return penalty // REWARD_DIVISOR


def compute_penalty(stake: int, convicted: int, total_power: int) -> int:
    """Return the atoms that an offence costs in all.

    Args:
        stake: What the offender had.
        convicted: What all offenders of the window had, this one included.
        total_power: Of the set of the epoch in which the offence was included.
    """
    correlated = -(-CORRELATION_FACTOR * convicted * stake // total_power)
    return min(stake, max(compute_floor(stake), correlated))


def find_culprits(ledger: Ledger, guilty: Iterable[bytes]) -> tuple[Stake, ...]:
    """Return the stakes of BLS keys that can still be convicted, in their order.

    Keys that are tombstoned, and keys whose stake was paid out to the last atom, are
    out of reach.
    """
    stakes = (find_stake(ledger, public_key) for public_key in guilty)
    return tuple(
        stake
        for stake in stakes
        if stake is not None and stake.status != StakeStatus.TOMBSTONED
    )


def find_targets(ledger: Ledger, found: Accusation | Verdict) -> frozenset[bytes]:
    """Return what a piece would change: keys it convicts, and the shard it halts.

    A piece without any is useless: everything that it could do is done.
    """
    guilty = found.guilty if isinstance(found, Verdict) else found.accused
    targets = {stake.public_key for stake in find_culprits(ledger, guilty)}
    if found.halted is not None and not is_halted(ledger, found.halted):
        targets.add(_name_halt(found.halted))
    return frozenset(targets)


def list_targets(verdict: Verdict) -> frozenset[bytes]:
    """Return what a piece changes at most, in the terms of `find_targets`."""
    halted = verdict.halted
    return frozenset(verdict.guilty).union(
        () if halted is None else (_name_halt(halted),)
    )


def apply_evidence(
    ledger: Ledger,
    context: Context,
    items: Sequence[bytes],
    judge: EvidenceJudge,
    proposer: int,
    court: Court = NO_COURT,
) -> None:
    """Convict whom a block's evidence convicts, piece by piece.

    Args:
        ledger: Of the root shard, before anything else in the block.
        context: Its epoch is the block's.
        items: The body's evidence, untrusted.
        judge: Verifies and remembers.
        proposer: Index of the block's leader in its epoch's set; the reporter.
        court: Judges frauds on the block's branch.

    Raises:
        InvalidBlock: A piece that is no evidence, is too old or of the future, or
            convicts nobody who is not tombstoned yet.
        MissingFraudProof: The proof of one has to be fetched first.
        UnjudgedFraud: Only a quorum's word can tell.
    """
    for index, data in enumerate(items):
        try:
            verdict = _judge(ledger, context, data, judge, court)
        except (InvalidEvidence, UselessEvidence) as error:
            raise InvalidBlock(f"evidence {index}: {error}") from error
        culprits = find_culprits(ledger, verdict.guilty)
        penalty = sum(_convict(ledger, context, verdict, s) for s in culprits)
        _distribute(ledger, context, verdict, penalty, proposer)
        _halt(ledger, context, verdict)


def settle_offences(ledger: Ledger, context: Context) -> None:
    """At an epoch's boundary: take the rest of penalties whose window is over.

    What is left of such a stake is paid out as if it had been unbonded when the
    offence was included.

    Args:
        ledger: Of the root shard, after the block's evidence was applied.
        context: Its epoch is the block's.
    """
    evidence_epochs = context.params.evidence_epochs
    stakes = list_stakes(ledger)
    offences = [stake.offence for stake in stakes if stake.offence is not None]
    for stake in stakes:
        offence = stake.offence
        if offence is None or offence.is_settled:
            continue
        if context.epoch < offence.slashed_epoch + evidence_epochs:
            continue
        convicted = sum(
            other.stake
            for other in offences
            if abs(other.slashed_epoch - offence.slashed_epoch) <= evidence_epochs
        )
        _settle(ledger, context, stake, offence, convicted)


def is_forgettable(stake: Stake, epoch: int, evidence_epochs: int) -> bool:
    """Tell whether no later settlement needs the record of an empty stake.

    Args:
        stake: Any.
        epoch: Of the boundary block.
        evidence_epochs: Of the parameters.
    """
    if stake.locked > 0:
        return False
    offence = stake.offence
    return offence is None or (
        offence.is_settled and epoch >= offence.slashed_epoch + 2 * evidence_epochs
    )


def _judge(
    ledger: Ledger, context: Context, data: bytes, judge: EvidenceJudge, court: Court
) -> Verdict:
    """Check a piece in the order of the cost of its checks."""
    accusation = judge.read(data, lambda epoch: get_validators(ledger, epoch))
    if not is_timely(accusation, context.epoch, context.params.evidence_epochs):
        raise UselessEvidence(f"of epoch {accusation.epoch}, now it is {context.epoch}")
    if not find_targets(ledger, accusation):
        raise UselessEvidence("against nobody who could still be convicted")
    return judge.judge(accusation, court)


def _name_halt(shard: ShardId) -> bytes:
    return b"halt" + shard.to_bytes(2, "big")


def _halt(ledger: Ledger, context: Context, verdict: Verdict) -> None:
    """Stop the shard of a proven fraud, unless it stands still already."""
    notice = verdict.piece
    if not isinstance(notice, FraudNotice) or is_halted(ledger, notice.slot.shard):
        return
    put_halt(ledger, build_halt(notice, context.height + 1))
    ledger.note(Event(HALT_EVENT, verdict.evidence_id, (), 0))


def _convict(ledger: Ledger, context: Context, verdict: Verdict, stake: Stake) -> int:
    """Tombstone a stake and return the atoms taken at once.

    What was unbonding is bonded again, so that nothing has a date of payout: locked.
    """
    penalty = compute_floor(stake.locked)
    offence = Offence(
        epoch=verdict.epoch,
        slashed_epoch=context.epoch,
        stake=stake.locked,
        penalty=penalty,
        is_settled=False,
    )
    convicted = msgspec.structs.replace(
        stake,
        bonded=stake.locked - penalty,
        unbonding=(),
        status=StakeStatus.TOMBSTONED,
        slashed=stake.slashed + penalty,
        offence=offence,
    )
    put_stake(ledger, convicted)
    ledger.note(Event(SLASH_EVENT, verdict.evidence_id, (stake.account,), penalty))
    return penalty


def _distribute(
    ledger: Ledger, context: Context, verdict: Verdict, penalty: int, proposer: int
) -> None:
    """Pay the reporter and burn the rest; who is convicted reports for nothing."""
    reporter = _find_reporter(ledger, context, proposer)
    reward = 0 if reporter is None else compute_reward(penalty)
    burn(ledger, penalty - reward)
    if reporter is not None and reward > 0:
        credit(ledger, context, reporter.account, reward)
        event = Event(REWARD_EVENT, verdict.evidence_id, (reporter.account,), reward)
        ledger.note(event)


def _find_reporter(ledger: Ledger, context: Context, proposer: int) -> Stake | None:
    """Return the stake of the block's leader, unless it is convicted itself."""
    validators = get_validators(ledger, context.epoch)
    if validators is None:
        raise StoreError(f"the state has no validators of epoch {context.epoch}")
    stake = find_stake(ledger, validators.validators[proposer].public_key)
    if stake is None or stake.status == StakeStatus.TOMBSTONED:
        return None
    return stake


def _settle(
    ledger: Ledger, context: Context, stake: Stake, offence: Offence, convicted: int
) -> None:
    validators = get_validators(ledger, offence.slashed_epoch)
    if validators is None:
        raise StoreError(f"the state has no validators of {offence.slashed_epoch}")
    penalty = compute_penalty(offence.stake, convicted, validators.total_power)
    rest = penalty - offence.penalty
    left = stake.locked - rest
    due_epoch = offence.slashed_epoch + context.params.unbonding_epochs
    settled = msgspec.structs.replace(
        stake,
        bonded=0,
        unbonding=(Unbonding(left, due_epoch),) if left > 0 else (),
        slashed=stake.slashed + rest,
        offence=msgspec.structs.replace(offence, penalty=penalty, is_settled=True),
    )
    put_stake(ledger, settled)
    burn(ledger, rest)
    ledger.note(Event(SETTLE_EVENT, stake.public_key, (stake.account,), rest))
