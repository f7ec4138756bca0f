"""Accounts and their payment channels."""

from typing import Any

from msgspec.structs import asdict

from chain.queries.found import read_account
from chain.records.keys import build_account_key
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


async def build_account(backend: Backend, address: bytes, prove: bool = False) -> Json:
    """Return what an address holds in every shard, and its stake.

    Shards that are not followed are shown by peers, with proofs under our own roots;
    those that nobody shows are in `unknown_shards`.  `total` is what lies in accounts:
    neither a stake nor deposits count.  With `prove` there is a proof of every shard's
    account, or of its absence.
    """
    queries = backend.queries
    followed = queries.followed
    answer = build_stamp(backend)
    accounts = list(queries.list_accounts(address))
    stake = queries.stakes.get_stake(address)
    shown_proofs = proofs.prove_account(backend, address) if prove else []
    elsewhere = [s for s in queries.layout.shard_ids if s not in followed]
    key = build_account_key(address)
    shown = await backend.read_foreign(key, elsewhere) if elsewhere else {}
    for shard, value in shown.items():
        accounts.append(read_account(shard, address, value.value, value.height))
        if prove:
            shown_proofs.append(proofs.render_foreign(backend, shard, key, value))
    accounts.sort(key=lambda account: account.shard)
    answer |= {
        "address": encode_address(address),
        "name": get_account_name(backend, address),
        "total": str(sum(a.balance + a.maturing for a in accounts)),
        "shards": [
            {
                "shard": account.shard,
                "balance": str(account.balance),
                "maturing": str(account.maturing),
                "nonce": str(account.nonce),
                # Of the block after which it is so: peers may be a few behind us.
                "height": str(account.height),
                "followed": account.shard in followed,
            }
            for account in accounts
        ],
        # What it has there this node cannot find out now.
        "unknown_shards": [shard for shard in elsewhere if shard not in shown],
        "stake": stake and render_stake(backend, stake),
    }
    if prove:
        answer["proofs"] = sorted(shown_proofs, key=lambda proof: proof["shard"])
    return answer


def build_channel(backend: Backend, channel_id: bytes, prove: bool = False) -> Json:
    """Return a channel as it is, or as it was when it ended.

    With `prove` there is its proof; of one that has ended the state knows nothing, and
    the proof is that of its absence.

    Raises:
        NotFound: There never was one of this id.
    """
    channel = backend.queries.market.get_channel(channel_id)
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
    page = backend.queries.market.list_channels(address, after, limit)
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
