"""
The system step: what a block does to the root shard before its transactions.

Theory of operation
-------------------
    parent's state --evidence--> --boundary--> root chunk's pre_root --chunks--> ...

Most blocks have no system step: neither evidence nor a boundary, and nothing is read
or written.  Where there is one, it comes before the chunks, so that its place in the
block does not depend on what anybody sends, and it runs on the same ledger that rules
run on, so that there is one way to move an atom.

At its epoch's boundary a block pays for votes, lets go who missed half of them,
closes the windows of old offences, chooses validators, layout and producers of the
epoch after the next one, pays out what was unbonded, and begins the next epoch in the
state.

Leader and validators run the same code; see also docs/adr/0015-system-step.md.

Spec: docs/protocol/11-staking.md
"""

from dataclasses import dataclass

from chain.execution.context import build_context
from chain.execution.held import HeldBlock
from chain.ledger.context import Context
from chain.ledger.epochs import EpochState, compute_seed, load_epoch
from chain.ledger.layouts import choose_layout
from chain.ledger.ledger import Ledger, ShardLedger
from chain.ledger.producers import choose_epoch_producers
from chain.ledger.roster import get_epoch_record, get_validators, list_stakes
from chain.ledger.stake import EpochRecord, StakeStatus
from chain.records.block import Attendance
from chain.records.keys import EPOCH_KEY, build_validators_key
from chain.records.outcome import Event
from chain.records.spec import ChainSpec
from chain.rewarding.evidence import NO_COURT, Court, EvidenceJudge
from chain.rewarding.payouts import pay_unbondings
from chain.rewarding.rewards import is_eligible, pay_rewards, suspend_absent
from chain.rewarding.selection import Candidate, select_validators
from chain.rewarding.slashing import apply_evidence, settle_offences
from chain.state.state import StateView
from consensus.validators import ValidatorSet, decode_bitmap
from shards.layout import ROOT_SHARD


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemInput:
    """What a block says that its system step depends on."""

    proposer: int
    """Index of its leader: who reports its evidence."""
    attendance: Attendance
    """For the parent."""
    evidence: tuple[bytes, ...]
    mix: bytes
    """The block's own."""


@dataclass(frozen=True, slots=True)
class SystemResult:
    """What came of it."""

    view: StateView
    """The state on which the chunks run."""
    writes: dict[bytes, bytes | None]
    """Changed keys of the root shard; empty for most blocks."""
    events: tuple[Event, ...]
    seen: tuple[int, ...]
    """By index in the epoch's set: its blocks so far that recorded the vote."""
    child_epoch: EpochState
    """The epoch of the block's children."""


def run_system(
    spec: ChainSpec,
    parent: HeldBlock,
    given: SystemInput,
    judge: EvidenceJudge,
    court: Court = NO_COURT,
) -> SystemResult:
    """Return the state before the chunks of a block on `parent`.

    Raises:
        InvalidBlock: The block's evidence is not what a correct leader includes.
        MissingFraudProof, UnjudgedFraud: As the court has it.
    """
    seen = count_attendance(parent, given.attendance)
    epoch = parent.child_epoch
    is_boundary = parent.height + 1 == epoch.config.last_height
    if not is_boundary and not given.evidence:
        return SystemResult(parent.view, {}, (), seen, epoch)
    view = parent.view
    ledger = ShardLedger(lambda key: view.get(ROOT_SHARD, key))
    context = build_context(spec, parent, ROOT_SHARD)
    apply_evidence(ledger, context, given.evidence, judge, given.proposer, court)
    if is_boundary:
        close_epoch(ledger, context, seen, given.mix)
    events = ledger.commit()
    writes = ledger.compute_writes()
    after = view.compute_child({ROOT_SHARD: writes})
    if is_boundary:
        epoch = load_epoch(ledger, spec.params.epoch_blocks)
    return SystemResult(after, writes, events, seen, epoch)


def count_attendance(parent: HeldBlock, attendance: Attendance) -> tuple[int, ...]:
    """Return the epoch's tally with a block on `parent` that has this attendance.

    The attendance of an epoch's first block is empty: its set did not vote yet.
    """
    validators = parent.child_epoch.validators
    counts = [0] * len(validators) if parent.is_epoch_root else list(parent.seen)
    for index in decode_bitmap(attendance.bitmap, len(validators)) or ():
        counts[index] += 1
    return tuple(counts)


def close_epoch(
    ledger: Ledger, context: Context, seen: tuple[int, ...], mix: bytes
) -> None:
    """Do what a boundary does; the next block is of the next epoch.

    Args:
        ledger: Of the root shard, after the block's evidence was applied.
        context: Its epoch is the one that ends.
        seen: The epoch's tally, by index in its set.
        mix: Of the boundary block.
    """
    record = get_epoch_record(ledger)
    validators = get_validators(ledger, record.epoch)
    following = get_validators(ledger, record.epoch + 1)
    assert validators is not None
    assert following is not None
    pay_rewards(ledger, context, validators, seen)
    suspend_absent(ledger, context, validators, seen)
    settle_offences(ledger, context)
    chosen = choose_validators(ledger, context, following)
    ledger.put(build_validators_key(record.epoch + 2), chosen)
    layout = choose_layout(ledger, record.epoch, validators)
    seed = compute_seed(mix)
    choose_epoch_producers(ledger, record.epoch + 2, seed, layout, chosen)
    pay_unbondings(ledger, context)
    oldest = record.epoch - context.params.evidence_epochs - 1
    if oldest >= 0:
        ledger.delete(build_validators_key(oldest))
    after = EpochRecord(record.epoch + 1, record.next_seed, seed)
    ledger.put(EPOCH_KEY, after)


def choose_validators(
    ledger: Ledger, context: Context, following: ValidatorSet
) -> ValidatorSet:
    """Return the set that comes after `following`, by the stakes as they are."""
    stakes = list_stakes(ledger)
    candidates = [
        Candidate(stake.account, stake.public_key, stake.bonded)
        for stake in stakes
        if is_eligible(stake, context)
    ]
    convicted = {
        stake.public_key for stake in stakes if stake.status == StakeStatus.TOMBSTONED
    }
    return select_validators(following, candidates, convicted)
