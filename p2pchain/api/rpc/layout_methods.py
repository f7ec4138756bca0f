"""Methods about the layout: what it is, what it will be, and having a say in it."""

from typing import Any

from chain.records.model import ModelRecord
from chain.records.proposal import AddModel, Change, RetireModel, SplitShard
from p2pchain.api.backend import Backend
from p2pchain.api.errors import InvalidParams
from p2pchain.api.params import BYTES, COUNT, FLAG, HASH, LAYER, SHARD, Param
from p2pchain.api.rpc.method import Access, Method
from p2pchain.api.rpc.wallet_methods import finish
from p2pchain.api.views import layout
from p2pchain.api.wallet_results import SendResult
from primitives.codec import decode
from primitives.errors import DecodeError

Json = dict[str, Any]


async def get_layout(backend: Backend) -> Json:
    """Return this epoch's shards, the next one's, and the open proposals."""
    return layout.build_layout(backend)


async def propose_split(backend: Backend, shard: int, layer: int, wait: bool) -> Json:
    """Propose that a new shard takes a shard's layers from `layer` on."""
    return await _propose(backend, SplitShard(shard, layer), wait)


async def propose_model(
    backend: Backend, model: bytes, shards: int, wait: bool
) -> Json:
    """Propose that a model joins."""
    try:
        record = decode(ModelRecord, model)
    except DecodeError as error:
        raise InvalidParams(f"model: {error}", param="model") from error
    return await _propose(backend, AddModel(record, shards), wait)


async def propose_retire(backend: Backend, model_id: bytes, wait: bool) -> Json:
    """Propose that a model leaves."""
    return await _propose(backend, RetireModel(model_id), wait)


async def vote(backend: Backend, number: int, wait: bool) -> Json:
    """Approve a proposal."""
    return await _finish(backend, await backend.vote_reshard(number), wait)


async def _propose(backend: Backend, change: Change, wait: bool) -> Json:
    return await _finish(backend, await backend.reshard(change), wait)


async def _finish(backend: Backend, result: SendResult, wait: bool) -> Json:
    answer = await finish(backend, result.tx_ids, wait)
    answer["fee_limit"] = str(result.fee_limit)
    return answer | {"proposals": layout.build_layout(backend)["proposals"]}


_WAIT = Param("wait", FLAG, "answer when it is final", False)

METHODS = (
    Method("layout", "Shards now and next epoch, and open proposals", get_layout),
    Method(
        "wallet_propose_split",
        "Propose that a new shard takes a shard's layers from one on",
        propose_split,
        (
            Param("shard", SHARD, "keeps the layers below"),
            Param("layer", LAYER, "first one of the new shard"),
            _WAIT,
        ),
        Access.WALLET,
    ),
    Method(
        "wallet_propose_model",
        "Propose that a model joins, with new shards",
        propose_model,
        (
            Param("model", BYTES, "the encoded model record"),
            Param("shards", COUNT, "into how many its layers are cut"),
            _WAIT,
        ),
        Access.WALLET,
    ),
    Method(
        "wallet_propose_retire",
        "Propose that a model leaves, with its shards",
        propose_retire,
        (Param("model_id", HASH, "which"), _WAIT),
        Access.WALLET,
    ),
    Method(
        "wallet_vote",
        "Approve a proposal to change the layout",
        vote,
        (Param("number", COUNT, "of the proposal"), _WAIT),
        Access.WALLET,
    ),
)
