"""Reshard: propose to split a shard, to add a model, or to retire one."""

from chain.errors import RuleError
from chain.ledger.context import Call, Context
from chain.ledger.docket import (
    apply_change,
    choose_next_id,
    get_docket,
    list_proposals,
    put_proposal,
)
from chain.ledger.layouts import get_layout, list_models
from chain.ledger.ledger import Ledger
from chain.ledger.roster import get_stake
from chain.ledger.stake import StakeStatus
from chain.records.model import ModelRecord, compute_model_id
from chain.records.outcome import Event
from chain.records.proposal import MAX_PROPOSALS, AddModel, Proposal
from chain.records.resharding import Reshard
from shards.errors import InvalidLayout
from shards.layout import ROOT_SHARD, Layout

RESHARD_WORK = 2000
"""The open proposals, with their votes."""


def compute_reshard_work(payload: Reshard) -> int:
    """Return the work units of a proposal."""
    return RESHARD_WORK


def compute_reshard_outflow(ledger: Ledger, sender: bytes, payload: Reshard) -> int:
    """Return the atoms that leave the sender's balance besides the fee."""
    return 0


def apply_reshard(
    ledger: Ledger, context: Context, call: Call, payload: Reshard
) -> None:
    """Open a proposal with the sender's vote.

    Raises:
        RuleError: not_root_shard, unknown_stake, tombstoned, proposal_open,
            too_many_proposals, bad_reshard.
    """
    validate_voter(ledger, context, call)
    if any(proposal.account == call.sender for proposal in list_proposals(ledger)):
        raise RuleError("proposal_open", "an earlier proposal of the sender is open")
    docket = get_docket(ledger)
    if len(docket.open) >= MAX_PROPOSALS:
        raise RuleError("too_many_proposals", f"{len(docket.open)} proposals are open")
    layout = get_layout(ledger, context.epoch + 1)
    if isinstance(payload.change, AddModel):
        _validate_model(ledger, layout, payload.change.model)
    try:
        next_id = choose_next_id(ledger, layout)
        apply_change(layout, payload.change, context.epoch + 2, next_id)
    except InvalidLayout as error:
        raise RuleError("bad_reshard", str(error)) from error
    proposal = Proposal(
        number=docket.next_number,
        account=call.sender,
        epoch=context.epoch,
        change=payload.change,
        votes=(call.sender,),
    )
    put_proposal(ledger, proposal)
    name = proposal.number.to_bytes(4, "big")
    ledger.note(Event("reshard_proposed", name, (call.sender,), 0))


def validate_voter(ledger: Ledger, context: Context, call: Call) -> None:
    """Check that the sender may have a say.

    Raises:
        RuleError: not_root_shard, unknown_stake, tombstoned.
    """
    if context.shard != ROOT_SHARD:
        raise RuleError("not_root_shard", "layouts are of the root shard")
    stake = get_stake(ledger, call.sender)
    if stake is None:
        raise RuleError("unknown_stake", "the sender has no stake")
    if stake.status == StakeStatus.TOMBSTONED:
        raise RuleError("tombstoned", "the sender's stake was convicted")


def _validate_model(ledger: Ledger, layout: Layout, model: ModelRecord) -> None:
    if model.model_id != compute_model_id(model.weights_root, model.tokenizer_hash):
        raise RuleError("bad_reshard", "model_id is not the hash of the model's roots")
    for known in list_models(ledger, layout).values():
        if known.name == model.name:
            raise RuleError("bad_reshard", f"there is a model named {model.name}")
