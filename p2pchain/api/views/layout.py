"""Which shards there are, which there will be, and what is proposed."""

from typing import Any

from chain.queries.layouts import FoundProposal
from chain.records.proposal import AddModel
from p2pchain.api.backend import Backend
from p2pchain.api.render import render, render_union, to_hex
from p2pchain.api.views.stamp import build_stamp, get_account_name
from primitives.address import encode_address
from shards.layout import Layout

Json = dict[str, Any]


def build_layout(backend: Backend) -> Json:
    """Return this epoch's layout, the next one, and the open proposals."""
    layouts = backend.queries.layouts
    return build_stamp(backend) | {
        "epoch": backend.queries.stakes.record.epoch,
        "shards": _render_layout(backend, layouts.layout),
        "layout_root": to_hex(layouts.layout.compute_root()),
        "next_shards": _render_layout(backend, layouts.next_layout),
        "next_layout_root": to_hex(layouts.next_layout.compute_root()),
        "proposals": [_render_proposal(backend, p) for p in layouts.list_proposals()],
    }


def _render_layout(backend: Backend, layout: Layout) -> list[Json]:
    layouts = backend.queries.layouts
    names = layouts.list_model_names()
    known = layouts.layout.shard_ids
    rows: list[Json] = []
    for spec in layout.shards:
        shard = spec.shard_id
        phase = layouts.get_phase(shard).name if shard in known else "ACTIVE"
        last_height = layouts.get_last_height(spec)
        rows.append(
            render(spec)
            | {
                "model": names.get(spec.model_id),
                "phase": phase.lower(),
                "last_height": None if last_height is None else str(last_height),
            }
        )
    return rows


def _render_proposal(backend: Backend, found: FoundProposal) -> Json:
    proposal = found.proposal
    change = render_union(proposal.change)
    if isinstance(proposal.change, AddModel):
        change["name"] = proposal.change.model.name
    return {
        "number": proposal.number,
        "account": encode_address(proposal.account),
        "name": get_account_name(backend, proposal.account),
        "epoch": proposal.epoch,
        "last_epoch": found.last_epoch,
        "change": change,
        "votes": [
            {
                "account": encode_address(account),
                "name": get_account_name(backend, account),
            }
            for account in proposal.votes
        ],
        "power": str(found.power),
        "total_power": str(found.total_power),
        "approved": found.is_approved,
    }
