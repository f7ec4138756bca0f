"""Proofs of the state, alone and beside the answers that they prove."""

from typing import Any

import trio

from chain.contracts.registration import Registration
from chain.keys import (
    build_account_key,
    build_channel_key,
    build_registration_key,
)
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import to_hex
from p2pchain.api.views.stamp import build_stamp
from primitives.codec import encode

Json = dict[str, Any]


async def build_state_proof(
    backend: Backend, shard: int, key: bytes, height: int | None = None
) -> Json:
    """Return a value of a final state with its proof, or the proof of absence.

    Going back to an older state takes long, so everybody else has turns meanwhile.

    Raises:
        NotFound: The layout has no such shard.
        PrunedState: The state after `height` is not kept; says which are.
    """
    if shard not in backend.queries.layout.shard_ids:
        raise NotFound(f"no shard {shard}")
    for _ in backend.queries.prepare_state(shard, height):
        await trio.lowlevel.checkpoint()
    return build_stamp(backend) | prove(backend, shard, key, height)


def prove_account(backend: Backend, address: bytes) -> list[Json]:
    """Return the proofs of an account in every followed shard, the root shard first."""
    key = build_account_key(address)
    shards = backend.queries.followed
    return [prove(backend, shard, key) for shard in shards]


def prove_channel(backend: Backend, shard: int, channel_id: bytes) -> Json | None:
    """Return the proof of an open channel, or that there is none any more.

    Returns:
        None where the shard is gone, or is not followed.
    """
    if shard not in backend.queries.followed:
        return None
    return prove(backend, shard, build_channel_key(channel_id))


def prove_registration(backend: Backend, registration: Registration) -> Json | None:
    """Return the proof of a registration in its home.

    Returns:
        None where the home is not followed.
    """
    if registration.home not in backend.queries.followed:
        return None
    key = build_registration_key(registration.account)
    return prove(backend, registration.home, key)


def prove(backend: Backend, shard: int, key: bytes, height: int | None = None) -> Json:
    """Return a key's value after a final block, by default the last, with its proof.

    Raises:
        PrunedState: The state after `height` is not kept; says which are.
        UnknownShard: There was no such shard then.
    """
    proof = backend.queries.build_state_proof(shard, key, height)
    return {
        "shard": shard,
        "key": to_hex(key),
        "value": None if proof.value is None else to_hex(proof.value),
        "state_height": str(proof.header.height),
        "shard_root": to_hex(proof.shard_root),
        # The whole proof as the bytes that `chain.proofs` checks.
        "proof": to_hex(encode(proof)),
    }
