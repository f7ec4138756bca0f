"""
Hosting: a registration's shards, told to the root shard.

    home: ACTIVE      -- HOSTING (shards) --> root shard: may produce their chunks, if
    home: over here   -- HOSTING () ------>               the account has a stake

The home says so whenever a registration becomes active, is refused, or goes to another
home; a change that still waits for answers is not said.  A registration of a shard that
goes is not said either: no producer is chosen for a shard that is not in the layout.

An owner that registers waits while the root shard is behind, as for any packet; what
follows from packets and from resharding is bounded by them.
"""

from collections.abc import Iterable

from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, send_packet
from chain.records.registration import Registration
from primitives.types import ShardId
from shards.layout import ROOT_SHARD
from shards.packet import PacketKind
from shards.producers import Hosting


def send_hosting(
    ledger: Ledger,
    context: Context,
    registration: Registration,
    *,
    is_system: bool = True,
) -> None:
    """Say which shards an active registration covers.

    Args:
        ledger: Of the registration's home.
        context: Of the registration's home.
        registration: As it is from now on.
        is_system: It is not the owner's transaction that asks.

    Raises:
        RuleError: congested; not if it is system.
    """
    shards = (registration.home, *registration.mirrors)
    _send(ledger, context, registration, shards, is_system)


def send_hosting_end(
    ledger: Ledger, context: Context, registration: Registration
) -> None:
    """Say that a registration covers nothing from this home any more."""
    _send(ledger, context, registration, (), True)


def _send(
    ledger: Ledger,
    context: Context,
    registration: Registration,
    shards: Iterable[ShardId],
    is_system: bool,
) -> None:
    said = Hosting(registration.account, registration.version, tuple(sorted(shards)))
    send_packet(
        ledger,
        context,
        ROOT_SHARD,
        PacketKind.HOSTING,
        0,
        said,
        is_system=is_system,
    )
