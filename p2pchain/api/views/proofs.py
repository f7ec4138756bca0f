"""Proofs of the state, alone and beside the answers that they prove."""

from typing import Any

import trio

from chain.errors import ShardNotFollowed
from chain.queries.foreign_state import ForeignValue
from chain.records.keys import (
    build_account_key,
    build_channel_key,
    build_registration_key,
)
from chain.records.registration import Registration
from chain.state.proofs import StateProof
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

    Of a shard that is not followed peers show the newest state.

    Raises:
        NotFound: The layout has no such shard.
        PrunedState: The state after `height` is not kept; says which are.
        ShardNotFollowed: Nobody shows the shard's newest state, or another one is
            asked for.
    """
    if shard not in backend.queries.layout.shard_ids:
        raise NotFound(f"no shard {shard}")
    if shard not in backend.queries.followed and height is None:
        found = await _read_newest(backend, shard, key)
        return build_stamp(backend) | render_foreign(backend, shard, key, found)
    for _ in backend.queries.states.prepare_state(shard, height):
        await trio.lowlevel.checkpoint()
    return build_stamp(backend) | prove(backend, shard, key, height)


async def _read_newest(backend: Backend, shard: int, key: bytes) -> ForeignValue:
    """Return what peers show after our last final block, or shortly before it."""
    for oldest in (backend.queries.height, 0):
        found = await backend.read_foreign(key, [shard], oldest)
        if shard in found:
            return found[shard]
    raise ShardNotFollowed(shard)


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
    return _render(backend.queries.states.build_state_proof(shard, key, height))


def render_foreign(
    backend: Backend, shard: int, key: bytes, found: ForeignValue
) -> Json:
    """Return what a peer showed of a shard that is not followed, with its proof."""
    return _render(backend.queries.states.build_foreign_proof(shard, key, found))


def _render(proof: StateProof) -> Json:
    return {
        "shard": proof.shard,
        "key": to_hex(proof.key),
        "value": None if proof.value is None else to_hex(proof.value),
        "state_height": str(proof.header.height),
        "shard_root": to_hex(proof.shard_root),
        # The whole proof as the bytes that `chain.state.proofs` checks.
        "proof": to_hex(encode(proof)),
    }
