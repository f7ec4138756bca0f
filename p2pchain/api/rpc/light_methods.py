"""
Methods for light clients: records as canonical bytes in hex, each with its own proof.

What they say besides is for people; a light client believes the bytes alone, after it
has verified them (chain/light/client.py).
"""

from typing import Any

from chain.ledger.epochs import compute_last_height
from chain.light.sync import MAX_PROOFS
from chain.records.header import compute_block_hash
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.params import EPOCH, HEIGHT, LIMIT, Param
from p2pchain.api.render import to_hex, to_time
from p2pchain.api.rpc.method import Method
from primitives.codec import encode

Json = dict[str, Any]


async def get_light_block(backend: Backend, height: int | None) -> Json:
    """Return a final block's header with what proves it; by default the newest."""
    block = backend.queries.light.build_block(height)
    if block is None:
        if height is None or height == 0:
            raise NotFound("genesis needs no proof, and no later block is final yet")
        raise NotFound(
            f"block {height} is not final, or too far below the next block that has a "
            "certificate of its own"
        )
    header = block.header
    return {
        "height": str(header.height),
        "block_hash": to_hex(compute_block_hash(header)),
        "epoch": header.epoch,
        "time": to_time(header.time_ms),
        "validators_root": to_hex(header.valset_root),
        "light_block": to_hex(encode(block)),
    }


async def list_epoch_proofs(backend: Backend, from_epoch: int, limit: int) -> Json:
    """Return how epochs ended and who votes after each; `next` when there are more."""
    proofs = backend.queries.light.list_proofs(from_epoch, limit)
    following = from_epoch + len(proofs)
    epoch_blocks = backend.queries.spec.params.epoch_blocks
    is_over = compute_last_height(following, epoch_blocks) <= backend.queries.height
    return {
        "from_epoch": from_epoch,
        "epoch_proofs": [to_hex(encode(proof)) for proof in proofs],
        "next": following if is_over else None,
    }


METHODS = (
    Method(
        "light_block",
        "A final block with its proof, for light clients",
        get_light_block,
        (Param("height", HEIGHT, "by default the newest final block", None),),
    ),
    Method(
        "epoch_proofs",
        "How epochs ended and who votes after them, for light clients",
        list_epoch_proofs,
        (
            Param("from_epoch", EPOCH, "the first one"),
            Param("limit", LIMIT, f"at most {MAX_PROOFS}", MAX_PROOFS),
        ),
    ),
)
