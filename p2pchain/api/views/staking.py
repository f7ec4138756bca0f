"""Who votes and with what: validators, epochs, stakes and their punishments."""

from typing import Any

from chain.ledger.stake import Stake, StakeStatus
from chain.queries.stakes import FoundEpoch, Member
from chain.records.outcome import Event
from p2pchain.api.backend import Backend
from p2pchain.api.errors import NotFound
from p2pchain.api.render import render, to_address, to_hex
from p2pchain.api.views.stamp import build_stamp

Json = dict[str, Any]
Powers = tuple[dict[bytes, int], dict[bytes, int]]
"""Voting power by public key, in the running epoch and in the next one."""

REWARD = "rewarded"
"""Kind of the event by which an epoch's end pays a validator."""


def build_validators(backend: Backend, number: int | None) -> Json:
    """Return the validators of an epoch, by default of the running one.

    Raises:
        NotFound: The epoch is further ahead than the next one.
    """
    epoch = _find_epoch(backend, number)
    members = backend.queries.stakes.list_members(epoch.number) or ()
    total = epoch.validators.total_power
    return build_stamp(backend) | {
        "epoch": epoch.number,
        "total_power": str(total),
        "counted_blocks": epoch.counted,
        "validators": [_render_member(member, total, epoch) for member in members],
    }


def build_epoch(backend: Backend, number: int | None) -> Json:
    """Return an epoch that is over, runs, or comes next; by default the running one.

    Raises:
        NotFound: It is further ahead than the next one.
    """
    epoch = _find_epoch(backend, number)
    running = backend.queries.stakes.record.epoch
    params = backend.queries.spec.params
    return build_stamp(backend) | {
        "epoch": epoch.number,
        "state": _get_state(epoch, running),
        "first_height": str(epoch.first_height),
        "last_height": str(epoch.last_height),
        "blocks": epoch.blocks,
        "blocks_to_go": epoch.blocks_to_go,
        "seed": to_hex(epoch.seed),
        "validators": len(epoch.validators),
        "total_power": str(epoch.validators.total_power),
        "validators_root": to_hex(epoch.validators_root),
        "next_validators_root": epoch.next_validators_root
        and to_hex(epoch.next_validators_root),
        "reward": str(params.epoch_reward),
        "rewarded": str(_sum_rewards(epoch.events)) if not epoch.blocks_to_go else None,
        "events": build_events(backend, epoch.events),
    }


def build_stakes(backend: Backend) -> Json:
    """Return all stakes, the largest first."""
    stakes = backend.queries.stakes.list_stakes()
    powers = _get_powers(backend)
    ordered = sorted(stakes, key=lambda stake: (-stake.bonded, stake.account))
    return build_stamp(backend) | {
        "epoch": backend.queries.stakes.record.epoch,
        "bonded": str(sum(stake.bonded for stake in stakes)),
        "unbonding": str(sum(stake.unbonding_amount for stake in stakes)),
        "stakes": [_render_stake(stake, powers) for stake in ordered],
    }


def build_stake(backend: Backend, account: bytes) -> Json:
    """Return an account's stake.

    Raises:
        NotFound: It has none.
    """
    stake = backend.queries.stakes.get_stake(account)
    if stake is None:
        raise NotFound(f"{to_address(account)} has no stake")
    return build_stamp(backend) | render_stake(backend, stake)


def render_stake(backend: Backend, stake: Stake) -> Json:
    """Return a stake with its power in the running epoch and the next one."""
    return _render_stake(stake, _get_powers(backend))


def build_events(backend: Backend, events: tuple[Event, ...]) -> list[Json]:
    """Return what a block did besides its transactions, with names for people."""
    return [
        render(event) | {"names": [_get_name(backend, a) for a in event.addresses]}
        for event in events
    ]


def build_account_events(
    backend: Backend, address: bytes, limit: int, after: str | None
) -> Json:
    """Return what the chain did to an account by itself, newest first."""
    page = backend.queries.stakes.list_account_events(address, after, limit)
    return build_stamp(backend) | {
        "events": [
            {"height": str(found.height), **build_events(backend, (found.event,))[0]}
            for found in page.items
        ],
        "next": page.next,
    }


def _find_epoch(backend: Backend, number: int | None) -> FoundEpoch:
    stakes = backend.queries.stakes
    running = stakes.record.epoch
    found = stakes.get_epoch(running if number is None else number)
    if found is None:
        raise NotFound(f"no epoch {number} yet; the running one is {running}")
    return found


def _get_state(epoch: FoundEpoch, running: int) -> str:
    if epoch.number == running:
        return "RUNNING"
    return "OVER" if epoch.number < running else "NEXT"


def _render_member(member: Member, total_power: int, epoch: FoundEpoch) -> Json:
    stake, validator = member.stake, member.validator
    is_counted = member.seen is not None and epoch.counted > 0
    return {
        "index": member.index,
        "name": stake and stake.name,
        "account": stake and to_address(stake.account),
        "public_key": to_hex(validator.public_key),
        "power": str(validator.power),
        "share": round(validator.power / total_power, 6),
        "seen": member.seen,
        "attendance": round((member.seen or 0) / epoch.counted, 4)
        if is_counted
        else None,
        "status": "LEFT" if stake is None else StakeStatus(stake.status).name,
    }


def _get_powers(backend: Backend) -> Powers:
    running, following = backend.queries.stakes.get_known_validators()
    return (
        {each.public_key: each.power for each in running.validators},
        {each.public_key: each.power for each in following.validators},
    )


def _render_stake(stake: Stake, powers: Powers) -> Json:
    return render(stake) | {
        "unbonding_total": str(stake.unbonding_amount),
        "power": str(powers[0].get(stake.public_key, 0)),
        "next_power": str(powers[1].get(stake.public_key, 0)),
    }


def _get_name(backend: Backend, account: bytes) -> str | None:
    stake = backend.queries.stakes.get_stake(account)
    return None if stake is None else stake.name


def _sum_rewards(events: tuple[Event, ...]) -> int:
    return sum(event.amount for event in events if event.kind == REWARD)
