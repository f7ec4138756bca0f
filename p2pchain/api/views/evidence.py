"""Who signed two things that exclude each other, and what it cost them."""

from typing import Any

from chain.queries.evidence import FoundEvidence
from chain.rewarding.evidence import Verdict
from chain.tree.evidence_pool import PooledEvidence
from p2pchain.api.backend import Backend
from p2pchain.api.render import to_address, to_hex
from p2pchain.api.views.stamp import build_stamp, get_account_name
from primitives.codec import encode

Json = dict[str, Any]


def build_evidence_list(backend: Backend, limit: int, after: str | None) -> Json:
    """Return what waits for a block, and a page of what final blocks applied."""
    page = backend.queries.evidence.list_evidence(after, limit)
    return build_stamp(backend) | {
        "waiting": [
            _render_waiting(backend, piece) for piece in backend.list_waiting_evidence()
        ],
        "evidence": [_render_found(backend, found) for found in page.items],
        "next": page.next,
    }


def render_verdict(backend: Backend, verdict: Verdict) -> Json:
    """Return what a piece proves."""
    return {
        "evidence_id": to_hex(verdict.evidence_id),
        "offence": verdict.misdeed.value,
        "epoch": verdict.epoch,
        "view": str(verdict.view),
        "guilty": [_render_guilty(backend, key) for key in verdict.guilty],
    }


def _render_waiting(backend: Backend, piece: PooledEvidence) -> Json:
    return render_verdict(backend, piece.verdict) | {"data": to_hex(piece.data)}


def _render_guilty(backend: Backend, public_key: bytes) -> Json:
    stake = backend.queries.stakes.find_stake(public_key)
    return {
        "public_key": to_hex(public_key),
        "name": stake and stake.name,
        "account": stake and to_address(stake.account),
    }


def _render_found(backend: Backend, found: FoundEvidence) -> Json:
    return {
        "evidence_id": to_hex(found.evidence_id),
        "offence": found.misdeed.value,
        "epoch": found.epoch,
        "view": str(found.view),
        "height": str(found.height),
        "convicted": [
            _render_share(backend, account, taken) for account, taken in found.taken
        ],
        "reporter": found.reward and _render_share(backend, *found.reward),
        "data": to_hex(encode(found.piece)),
    }


def _render_share(backend: Backend, account: bytes, amount: int) -> Json:
    return {
        "name": get_account_name(backend, account),
        "account": to_address(account),
        "amount": str(amount),
    }
