"""Who serves what: providers, models, and the work that was posted."""

from typing import Any

from chain.queries.found import FoundWork
from chain.records.registration import Registration
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_address, to_hex
from p2pchain.api.views import proofs
from p2pchain.api.views.stamp import build_stamp, get_account_name, get_model_name

Json = dict[str, Any]


def build_providers(backend: Backend) -> Json:
    """Return every registration, by model and layers."""
    found = sorted(
        backend.queries.market.list_registrations(),
        key=lambda r: (r.model_id, r.start, r.end),
    )
    return build_stamp(backend) | {
        "providers": [_render_registration(backend, r) for r in found]
    }


def build_provider(backend: Backend, address: bytes, prove: bool = False) -> Json:
    """Return an account's registrations, by model and layers, with their proofs.

    Raises:
        NotFound: It has none.
    """
    found = [
        r for r in backend.queries.market.list_registrations() if r.account == address
    ]
    if not found:
        raise NotFound(f"{to_address(address)} provides nothing")
    shown = []
    for registration in sorted(found, key=lambda r: (r.model_id, r.start, r.end)):
        row = _render_registration(backend, registration)
        if prove:
            row["proof"] = proofs.prove_registration(backend, registration)
        shown.append(row)
    return build_stamp(backend) | {
        "address": to_address(address),
        "registrations": shown,
    }


def build_models(backend: Backend) -> Json:
    """Return the models of the chain with the layers that have providers."""
    registrations = backend.queries.market.list_registrations()
    models = []
    for model in backend.queries.market.list_models():
        hosts = [
            sum(
                r.model_id == model.model_id
                and r.status.name == "ACTIVE"
                and r.start <= layer < r.end
                for r in registrations
            )
            for layer in range(model.layers)
        ]
        models.append(render(model) | {"providers_by_layer": hosts})
    return build_stamp(backend) | {"models": models}


def build_work(
    backend: Backend, limit: int, after: str | None, payee: bytes | None
) -> Json:
    """Return posted work records, newest first."""
    page = backend.queries.market.list_work(after, limit, payee)
    return build_stamp(backend) | {
        "records": [_render_work(backend, found) for found in page.items],
        "next": page.next,
    }


def _render_registration(backend: Backend, registration: Registration) -> Json:
    name = get_account_name(backend, registration.account)
    return {
        "name": name or registration.node_key.hex()[:16],
        "model": get_model_name(backend, registration.model_id),
    } | render(registration)


def _render_work(backend: Backend, found: FoundWork) -> Json:
    # The entry's own height is the rule's "now", one below the block that holds it.
    return render(found.entry) | {
        "height": str(found.height),
        "shard": found.shard,
        "tx_id": to_hex(found.tx_id),
        "payee_name": get_account_name(backend, found.entry.payee),
        "payer_name": get_account_name(backend, found.entry.payer),
    }
