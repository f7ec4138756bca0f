"""Methods about models, routes and the work that was announced."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.completion import ServedModel
from p2pchain.api.errors import UnknownModel
from p2pchain.api.params import LIMIT, TEXT, Param
from p2pchain.api.render import (
    render_route_hop,
    render_seen_receipt,
    render_served_model,
)
from p2pchain.api.rpc.method import Method

Json = dict[str, Any]


async def list_models(backend: Backend) -> Json:
    """Return the models of the chain, servable ones first."""
    return {"models": [render_served_model(m) for m in backend.list_models()]}


async def get_route(backend: Backend, model: str | None) -> Json:
    """Return the route a request would take now."""
    chosen = model or _choose_model(backend.list_models())
    hops = backend.get_route(chosen)
    return {"model": chosen, "hops": [render_route_hop(hop) for hop in hops]}


async def list_receipts(backend: Backend, limit: int) -> Json:
    """Return receipts that providers announced, newest first."""
    seen = backend.list_receipts(limit)
    return {"receipts": [render_seen_receipt(receipt) for receipt in seen]}


def _choose_model(models: tuple[ServedModel, ...]) -> str:
    if not models:
        raise UnknownModel("the chain has no model", param="model")
    return models[0].name


METHODS = (
    Method("model_list", "Models of the chain, servable ones first", list_models),
    Method(
        "route",
        "The providers a request would visit now",
        get_route,
        (Param("model", TEXT, "name or id; the first one by default", None),),
    ),
    Method(
        "receipt_list",
        "Signed receipts seen on topic `work`, newest first",
        list_receipts,
        (Param("limit", LIMIT, "at most 100", 25),),
    ),
)
