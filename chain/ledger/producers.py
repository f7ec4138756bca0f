"""
Producers of chunks in the root shard's state: who hosts what, and what follows from it.

    h account            HostRecord, of an account with a stake
    P epoch              ProducerTable

A HOSTING packet is taken from accounts with a stake only, so there are at most as many
records as stakes; whoever stakes later registers again.  A stake that is deleted takes
its record along.

Spec: docs/protocol/06-shards.md
"""

from chain.errors import RuleError
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger
from chain.ledger.roster import find_stake, get_stake
from chain.records.keys import build_host_key, build_producers_key
from chain.records.outcome import Event
from consensus.validators import ValidatorSet
from primitives.codec import decode
from primitives.types import Epoch
from shards.errors import InvalidPacket
from shards.layout import ROOT_SHARD, Layout
from shards.packet import Packet
from shards.producers import (
    NO_HOSTING,
    Hosting,
    HostRecord,
    ProducerTable,
    apply_hosting,
    choose_producers,
    drop_homes,
)

HOSTING_EVENT = "hosting"
"""An account with a stake hosts other shards than before; the object is the account."""


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
        context: Of the root shard.
        packet: From the home.

    Raises:
        RuleError: This is not the root shard.
    """
    if context.shard != ROOT_SHARD:
        raise RuleError("not_root_shard", "hosts are known to the root shard")
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
    _put_hosted(ledger, hosting.account, after)
    ledger.note(Event(HOSTING_EVENT, hosting.account, (hosting.account,), 0))


def forget_hosted(ledger: Ledger, account: bytes) -> None:
    """Forget what an account hosts: its stake is gone."""
    if get_hosted(ledger, account) != NO_HOSTING:
        ledger.delete(build_host_key(account))


def choose_epoch_producers(
    ledger: Ledger, epoch: Epoch, seed: bytes, layout: Layout, validators: ValidatorSet
) -> ProducerTable:
    """Put down the producers of an epoch, and forget those of the one that ends.

    Homes that are gone by then say nothing more, and are forgotten too.

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
        kept = drop_homes(record, layout.shard_ids)
        if kept != record:
            _put_hosted(ledger, stake.account, kept)
        if kept != NO_HOSTING:
            hosted[index] = kept
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


def _put_hosted(ledger: Ledger, account: bytes, record: HostRecord) -> None:
    if record == NO_HOSTING:
        forget_hosted(ledger, account)
    else:
        ledger.put(build_host_key(account), record)
