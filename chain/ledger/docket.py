"""
The docket: proposals to change the layout, in the root shard's state.

    Reshard --> open --more than 2/3 of the power by a boundary--> adopted
                 |---PROPOSAL_EPOCHS boundaries without-----------> expired
                 '---it does not fit the layout any more----------> void

At a boundary at most one is adopted, the oldest that can be: so a change at a time, and
every step from one layout to the next has been in a header for an epoch.

Spec: docs/protocol/06-shards.md
"""

from msgspec.structs import replace

from chain.errors import StoreError
from chain.ledger.ledger import Ledger
from chain.ledger.roster import find_stake
from chain.ledger.stake import StakeStatus
from chain.records.keys import DOCKET_KEY, build_model_key, build_proposal_key
from chain.records.outcome import Event
from chain.records.proposal import (
    PROPOSAL_EPOCHS,
    AddModel,
    Change,
    Docket,
    Proposal,
    RetireModel,
    SplitShard,
)
from consensus.validators import ValidatorSet
from primitives.types import Epoch, ShardId
from shards.errors import InvalidLayout
from shards.layout import Layout
from shards.resharding import (
    add_model,
    compute_next_id,
    retire_model,
    split_shard,
)


def get_docket(ledger: Ledger) -> Docket:
    """Return what is open."""
    return ledger.get(DOCKET_KEY, Docket) or Docket(0, 0, ())


def get_proposal(ledger: Ledger, number: int) -> Proposal:
    """Return an open proposal.

    Raises:
        StoreError: There is none, although the docket has its number.
    """
    proposal = ledger.get(build_proposal_key(number), Proposal)
    if proposal is None:
        raise StoreError(f"proposal {number} is open and not in the state")
    return proposal


def list_proposals(ledger: Ledger) -> list[Proposal]:
    """Return the open proposals, oldest first."""
    return [get_proposal(ledger, number) for number in get_docket(ledger).open]


def put_proposal(ledger: Ledger, proposal: Proposal) -> None:
    """Store a proposal; a new one joins the docket."""
    docket = get_docket(ledger)
    if proposal.number >= docket.next_number:
        is_open = (*docket.open, proposal.number)
        changed = replace(docket, next_number=proposal.number + 1, open=is_open)
        ledger.put(DOCKET_KEY, changed)
    ledger.put(build_proposal_key(proposal.number), proposal)


def apply_change(
    layout: Layout, change: Change, epoch: Epoch, next_id: ShardId
) -> Layout:
    """Return the layout after a change.

    Args:
        layout: Before it.
        change: Of a proposal.
        epoch: First one with the new layout.
        next_id: For the first new shard.

    Raises:
        InvalidLayout: It does not fit.
    """
    match change:
        case SplitShard(shard, layer):
            return split_shard(layout, shard, layer, epoch, next_id)
        case AddModel(model, shards):
            return add_model(
                layout, model.model_id, model.layers, shards, epoch, next_id
            )
        case RetireModel(model_id):
            return retire_model(layout, model_id, epoch)


def choose_next_id(ledger: Ledger, layout: Layout) -> ShardId:
    """Return an id that no shard ever had."""
    return max(get_docket(ledger).next_shard, compute_next_id(layout))


def compute_approval(
    ledger: Ledger, proposal: Proposal, validators: ValidatorSet
) -> int:
    """Return the power of the validators whose stake's owner voted for a proposal."""
    votes = set(proposal.votes)
    power = 0
    for validator in validators.validators:
        stake = find_stake(ledger, validator.public_key)
        if stake is None or stake.status == StakeStatus.TOMBSTONED:
            continue
        if stake.account in votes:
            power += validator.power
    return power


def is_approved(ledger: Ledger, proposal: Proposal, validators: ValidatorSet) -> bool:
    """Tell whether more than two thirds of a set's power is for a proposal."""
    power = compute_approval(ledger, proposal, validators)
    return 3 * power > 2 * validators.total_power


def decide_proposals(
    ledger: Ledger, epoch: Epoch, validators: ValidatorSet, layout: Layout
) -> Layout:
    """Close what is over, and return the layout after the oldest approved change.

    Args:
        ledger: Of the root shard.
        epoch: The one that ends.
        validators: Of it.
        layout: Of the epoch after; the one that is returned is for the next but one.
    """
    decided = layout
    for proposal in list_proposals(ledger):
        if epoch - proposal.epoch >= PROPOSAL_EPOCHS:
            _close(ledger, proposal, "reshard_expired")
        elif decided is layout and is_approved(ledger, proposal, validators):
            next_id = choose_next_id(ledger, layout)
            try:
                decided = apply_change(layout, proposal.change, epoch + 2, next_id)
            except InvalidLayout:
                _close(ledger, proposal, "reshard_void")
                continue
            _close(ledger, proposal, "reshard_adopted")
            docket = replace(
                get_docket(ledger), next_shard=max(next_id, compute_next_id(decided))
            )
            ledger.put(DOCKET_KEY, docket)
            if isinstance(proposal.change, AddModel):
                model = proposal.change.model
                ledger.put(build_model_key(model.model_id), model)
    return decided


def _close(ledger: Ledger, proposal: Proposal, kind: str) -> None:
    docket = get_docket(ledger)
    rest = tuple(number for number in docket.open if number != proposal.number)
    ledger.put(DOCKET_KEY, replace(docket, open=rest))
    ledger.delete(build_proposal_key(proposal.number))
    name = proposal.number.to_bytes(4, "big")
    ledger.note(Event(kind, name, (proposal.account,), 0))
