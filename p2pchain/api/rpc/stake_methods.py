"""Methods about validators, epochs and stakes."""

from typing import Any

from p2pchain.api.backend import Backend
from p2pchain.api.params import ADDRESS, EPOCH, LIMIT, TEXT, Param
from p2pchain.api.rpc.method import Method
from p2pchain.api.views import staking

Json = dict[str, Any]


async def list_validators(backend: Backend, epoch: int | None) -> Json:
    """Return an epoch's validators with their attendance."""
    return staking.build_validators(backend, epoch)


async def get_epoch(backend: Backend, epoch: int | None) -> Json:
    """Return an epoch: its blocks, its sets, and what its end brought about."""
    return staking.build_epoch(backend, epoch)


async def list_stakes(backend: Backend) -> Json:
    """Return all stakes, the largest first."""
    return staking.build_stakes(backend)


async def get_stake(backend: Backend, address: bytes) -> Json:
    """Return an account's stake."""
    return staking.build_stake(backend, address)


async def list_account_events(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return rewards, slashes and payouts of an account, newest first."""
    return staking.build_account_events(backend, address, limit, after)


_EPOCH = Param("epoch", EPOCH, "number; the running one by default", None)

METHODS = (
    Method(
        "validators",
        "An epoch's validators, with attendance in the running one",
        list_validators,
        (_EPOCH,),
    ),
    Method(
        "epoch",
        "An epoch's blocks, validator sets, seed, and what its end brought about",
        get_epoch,
        (_EPOCH,),
    ),
    Method("stake_list", "All stakes, the largest first", list_stakes),
    Method(
        "stake",
        "An account's stake: bonded, unbonding, earned, taken",
        get_stake,
        (Param("address", ADDRESS, "account"),),
    ),
    Method(
        "account_events",
        "What the chain did to an account by itself: rewards, slashes, payouts",
        list_account_events,
        (
            Param("address", ADDRESS, "account"),
            Param("limit", LIMIT, "at most 100", 25),
            Param("after", TEXT, "`next` of the page before", None),
        ),
    ),
)
