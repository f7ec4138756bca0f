"""Accounts and their payment channels."""

from typing import Any

from msgspec.structs import asdict

from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_hex
from p2pchain.api.views import proofs
from p2pchain.api.views.staking import render_stake
from p2pchain.api.views.stamp import (
    build_block_stamp,
    build_stamp,
    find_block,
    get_account_name,
)
from primitives.address import encode_address

Json = dict[str, Any]


def build_account(backend: Backend, address: bytes, prove: bool = False) -> Json:
    """Return what an address holds in every shard that is followed, and its stake.

    `total` is what lies in accounts: neither a stake nor deposits count.  With `prove`
    there is a proof of every shard's account, or of its absence.
    """
    queries = backend.queries
    accounts = queries.list_accounts(address)
    stake = queries.stakes.get_stake(address)
    answer = build_stamp(backend) | {
        "address": encode_address(address),
        "name": get_account_name(backend, address),
        "total": str(sum(a.balance + a.maturing for a in accounts)),
        "shards": [
            {
                "shard": account.shard,
                "balance": str(account.balance),
                "maturing": str(account.maturing),
                "nonce": str(account.nonce),
            }
            for account in accounts
        ],
        # What it has there this node cannot say.
        "unknown_shards": [
            shard for shard in queries.layout.shard_ids if shard not in queries.followed
        ],
        "stake": stake and render_stake(backend, stake),
    }
    if prove:
        answer["proofs"] = proofs.prove_account(backend, address)
    return answer


def build_channel(backend: Backend, channel_id: bytes, prove: bool = False) -> Json:
    """Return a channel as it is, or as it was when it ended.

    With `prove` there is its proof; of one that has ended the state knows nothing, and
    the proof is that of its absence.

    Raises:
        NotFound: There never was one of this id.
    """
    channel = backend.queries.get_channel(channel_id)
    if channel is None:
        raise NotFound(f"no channel {to_hex(channel_id)}")
    answer = build_stamp(backend) | render(channel)
    if prove:
        answer["proof"] = proofs.prove_channel(backend, channel.shard, channel_id)
    return answer


def build_channels(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return the channels of an address, as payer or payee, newest first."""
    page = backend.queries.list_channels(address, after, limit)
    return build_stamp(backend) | {
        "channels": [render(channel) for channel in page.items],
        "next": page.next,
    }


def build_supply(backend: Backend, height: int | None = None) -> Json:
    """Return where all atoms were after a final block, without a height the last one.

    `held` and `created` must be equal.

    Raises:
        NotFound: No such final block.
    """
    block = find_block(backend, height)
    books = backend.queries.get_conservation(block.height)
    numbers = {name: str(value) for name, value in asdict(books).items()}
    numbers["packets"] = numbers.pop("away")
    return (
        build_block_stamp(block)
        | numbers
        | {
            "held": str(books.held),
            "created": str(books.created),
            "conserved": books.is_conserved,
        }
    )
