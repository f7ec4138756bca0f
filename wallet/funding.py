"""
Where the money is and where it has to be: plans over the balances of all shards.

An account has a balance in every shard, and a transfer out of a shard pays its fee
there.  A person thinks of one sum, so the wallet moves money by itself.  Nothing here
signs or sends: a plan is a list of moves, each of which becomes one transfer.

For one destination, taking the richest sources first needs the fewest moves and
finds a plan whenever one exists.  For several destinations at once (a route's channels)
the fewest moves is a packing problem; we fill the largest need first in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from chain.records.transfer import Transfer
from primitives.types import Address, Amount, ShardId
from wallet.errors import InsufficientFunds

ROOT_SHARD = 0
"""Where a payment arrives unless said otherwise."""


@dataclass(frozen=True, slots=True)
class Move:
    """One transfer out of `source`."""

    source: ShardId
    destination: ShardId
    amount_atoms: Amount
    """What arrives; the source pays the fee besides."""

    def build_payload(self, recipient: Address) -> Transfer:
        """Return the transfer, to be sent in shard `source`."""
        return Transfer(recipient, self.destination, self.amount_atoms)


def plan_funding(
    balances: Mapping[ShardId, Amount],
    needs: Mapping[ShardId, Amount],
    move_fee_atoms: Amount,
) -> tuple[Move, ...]:
    """Return the transfers to oneself after which every shard holds what it needs.

    Args:
        balances: What the account holds, per shard.
        needs: What it must hold, per shard, fees of later transactions included.
        move_fee_atoms: Most that one transfer costs, paid in its source.

    Raises:
        InsufficientFunds: The shards together do not hold enough.
    """
    free = {
        shard: balance - needs.get(shard, 0)
        for shard, balance in balances.items()
        if balance > needs.get(shard, 0)
    }
    missing = {
        shard: need - balances.get(shard, 0)
        for shard, need in needs.items()
        if need > balances.get(shard, 0)
    }
    moves: list[Move] = []
    for shard in sorted(missing, key=lambda shard: (-missing[shard], shard)):
        part = _plan_transfers(free, missing[shard], move_fee_atoms, shard)
        for move in part:
            free[move.source] -= move.amount_atoms + move_fee_atoms
        moves += part
    return tuple(moves)


def plan_send(
    balances: Mapping[ShardId, Amount],
    amount_atoms: Amount,
    move_fee_atoms: Amount,
    *,
    destination: ShardId = ROOT_SHARD,
) -> tuple[Move, ...]:
    """Return the transfers to a recipient that together pay exactly `amount_atoms`.

    One transfer if any shard can pay alone, out of `destination` itself if that can;
    otherwise as few as possible.

    Raises:
        InsufficientFunds: The shards together do not hold enough.
    """
    if balances.get(destination, 0) >= amount_atoms + move_fee_atoms:
        return (Move(destination, destination, amount_atoms),)
    return _plan_transfers(balances, amount_atoms, move_fee_atoms, destination)


def compute_spendable(
    balances: Mapping[ShardId, Amount], move_fee_atoms: Amount
) -> int:
    """Return the most that one can send, one transfer and its fee out of each shard."""
    return sum(max(0, balance - move_fee_atoms) for balance in balances.values())


def _plan_transfers(
    balances: Mapping[ShardId, Amount],
    amount: int,
    fee: int,
    destination: ShardId,
) -> tuple[Move, ...]:
    """Take the richest first, lower shard on ties, until the sum is exact."""
    moves = []
    left = amount
    for source in sorted(balances, key=lambda shard: (-balances[shard], shard)):
        taken = min(left, balances[source] - fee)
        if taken <= 0:
            break
        moves.append(Move(source, destination, taken))
        left -= taken
    if left > 0:
        raise InsufficientFunds(
            needed_atoms=amount, available_atoms=compute_spendable(balances, fee)
        )
    return tuple(moves)
