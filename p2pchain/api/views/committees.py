"""Who produces and endorses in a slot, and how sure that makes a chunk."""

from typing import Any

from chain.queries.shards import Duty
from p2pchain.api.backend import Backend
from p2pchain.api.views.stamp import get_name, get_validator_names
from shards.committee import (
    MANDATES,
    MAX_WHOLE_SET,
    Committee,
    compute_bad_chunk_probability,
)

Json = dict[str, Any]


def build_duty(backend: Backend, shard: int) -> Json | None:
    """Return who may produce and endorse a shard's chunk right now.

    Returns:
        None for the root shard: its chunk is the leader's, and everybody executes it.
    """
    shards = backend.queries.shards
    epoch = backend.queries.stakes.record.epoch
    consensus = backend.get_consensus_info()
    # Consensus enters an epoch with its first view, and may not be there yet.
    view = consensus.view if consensus.epoch == epoch else 1
    duty = shards.get_duty(shard, max(1, view))
    return None if duty is None else _render_duty(backend, duty)


def build_committee(
    backend: Backend, committee: Committee, epoch: int, members: bool = True
) -> Json:
    """Return a committee with the probability that it lets a bad chunk pass.

    Args:
        backend: Knows the names.
        committee: Of a slot of the epoch.
        epoch: Which one.
        members: Name them all, or only say how many.
    """
    names = get_validator_names(backend, epoch)
    count = len(names)
    is_whole = count <= MAX_WHOLE_SET
    probability = compute_bad_chunk_probability(count, MANDATES)
    shown: Json = {
        "unit": "atoms" if is_whole else "mandates",
        "size": len(committee.members),
        "weight": str(committee.weight),
        "needed": str(committee.needed),
        "total": str(committee.total),
        "validators": count,
        # With a third of the stake faulty; less cannot do more.
        "bad_chunk_probability": probability,
        "security": "impossible while less than 1/3 is faulty"
        if is_whole
        else f"{probability:.1e} with 1/3 faulty",
    }
    if members:
        shown["members"] = [
            {"index": index, "name": get_name(names, index), "weight": str(weight)}
            for index, weight in zip(committee.members, committee.weights, strict=True)
        ]
    return shown


def _render_validator(names: tuple[str | None, ...], index: int) -> Json:
    return {"index": index, "name": get_name(names, index)}


def _render_duty(backend: Backend, duty: Duty) -> Json:
    slot = duty.slot
    names = get_validator_names(backend, slot.epoch)
    return {
        "epoch": slot.epoch,
        "view": str(slot.created_view),
        "producers": [
            {
                "rank": rank,
                "role": "host" if index in duty.hosts else "custodian",
                "index": index,
                "name": get_name(names, index),
            }
            for rank, index in enumerate(duty.producers)
        ],
        # Of the whole epoch; at most three hosts have a turn in one slot.
        "hosts": [_render_validator(names, index) for index in duty.hosts],
        "custodians": [_render_validator(names, index) for index in duty.custodians],
        "committee": build_committee(backend, duty.committee, slot.epoch),
    }
