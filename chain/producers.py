"""
Producers of chunks in the root shard's state: who hosts what, and what follows from it.

    h account            HostRecord, of an account with a stake
    P epoch              ProducerTable

A HOSTING packet is taken from accounts with a stake only, so there are at most as many
records as stakes; whoever stakes later registers again.  A stake that is deleted takes
its record along.

Spec: docs/protocol/06-shards.md
"""

from chain.context import Context
from chain.ledger import Ledger
from chain.outcome import Event
from chain.roster import find_stake, get_stake
from consensus.validators import ValidatorSet
from primitives.codec import decode
from primitives.types import Epoch
from shards.errors import InvalidPacket
from shards.layout import Layout
from shards.packet import Packet
from shards.producers import (
    NO_HOSTING,
    Hosting,
    HostRecord,
    ProducerTable,
    apply_hosting,
    choose_producers,
)

HOSTING_EVENT = "hosting"
"""An account with a stake hosts other shards than before; the object is the account."""


def build_host_key(account: bytes) -> bytes:
    """Return the key of what an account hosts."""
    return b"h" + account


def build_producers_key(epoch: Epoch) -> bytes:
    """Return the key of an epoch's producers."""
    return b"P" + epoch.to_bytes(8, "big")


def get_hosted(ledger: Ledger, account: bytes) -> HostRecord:
    """Return what an account hosts."""
    return ledger.get(build_host_key(account), HostRecord) or NO_HOSTING


def get_producers(ledger: Ledger, epoch: Epoch) -> ProducerTable | None:
    """Return an epoch's producers, as long as they are kept."""
    return ledger.get(build_producers_key(epoch), ProducerTable)


def apply_hosting_packet(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Keep what a home shard says that an account hosts.

    What nobody with a stake said, and what no rule emits, leaves no trace.

    Args:
        ledger: Of the root shard.
        context: Of the root shard; not needed so far.
        packet: From the home.
    """
    del context
    hosting = decode(Hosting, packet.payload)
    if get_stake(ledger, hosting.account) is None:
        return
    before = get_hosted(ledger, hosting.account)
    try:
        after = apply_hosting(before, packet.src, hosting)
    except InvalidPacket:
        return
    if after == before:
        return
    if after.homes:
        ledger.put(build_host_key(hosting.account), after)
    else:
        forget_hosted(ledger, hosting.account)
    ledger.note(Event(HOSTING_EVENT, hosting.account, (hosting.account,), 0))


def forget_hosted(ledger: Ledger, account: bytes) -> None:
    """Forget what an account hosts: its stake is gone."""
    if get_hosted(ledger, account) != NO_HOSTING:
        ledger.delete(build_host_key(account))


def choose_epoch_producers(
    ledger: Ledger, epoch: Epoch, seed: bytes, layout: Layout, validators: ValidatorSet
) -> ProducerTable:
    """Put down the producers of an epoch, and forget those of the one before the last.

    Args:
        ledger: Of the root shard, at the boundary two epochs before.
        epoch: Whose producers are chosen.
        seed: Of that epoch, which this boundary's mix gives.
        layout: Of that epoch.
        validators: Of that epoch, chosen at this boundary.
    """
    hosted = {}
    for index, validator in enumerate(validators.validators):
        stake = find_stake(ledger, validator.public_key)
        if stake is None:
            continue
        record = get_hosted(ledger, stake.account)
        if record != NO_HOSTING:
            hosted[index] = record
    table = choose_producers(
        seed,
        [spec.shard_id for spec in layout.shards],
        [validator.power for validator in validators.validators],
        hosted,
    )
    ledger.put(build_producers_key(epoch), table)
    # The epoch that ends is `epoch` - 2; chunks of it are no longer made or judged.
    if epoch >= 2 and get_producers(ledger, epoch - 2) is not None:
        ledger.delete(build_producers_key(epoch - 2))
    return table
