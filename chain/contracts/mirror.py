"""
Mirrors: a registration's read-only copies in the other shards of its range.

    home                      other shard
      | -- MIRROR ------------> |   keep the copy, or refuse: no room
      | <------ MIRROR_ANSWER - |
      | -- MIRROR_REMOVE -----> |   refused elsewhere, or no longer in the range

Packets arrive in order, so a copy is never older than the last message about it.
An answer names the version it is about; the home ignores those of older versions.
"""

import msgspec

from chain.context import Context
from chain.contracts.registration import (
    Mirror,
    Registration,
    RegistrationStatus,
)
from chain.keys import (
    MIRROR_COUNT_KEY,
    build_mirror_key,
    build_registration_key,
)
from chain.ledger import Count, Ledger, credit, get_count, send_packet
from chain.outcome import Event
from primitives.codec import Record, decode
from primitives.types import U32, Address
from shards.packet import Packet, PacketKind


class MirrorAnswer(Record):
    """Payload of a MIRROR_ANSWER packet."""

    account: Address
    version: U32
    is_kept: bool


class MirrorRemoval(Record):
    """Payload of a MIRROR_REMOVE packet."""

    account: Address


def send_mirrors(
    ledger: Ledger,
    context: Context,
    previous: Registration | None,
    registration: Registration,
) -> None:
    """Send copies to the range's other shards, removals to those that left it.

    Raises:
        RuleError: congested.
    """
    if previous is not None and previous.status != RegistrationStatus.REFUSED:
        shards = context.layout.shards_of_range(
            previous.model_id, previous.start, previous.end
        )
        for shard in sorted(set(shards[1:]) - set(registration.awaiting)):
            _send_removal(ledger, context, shard, registration.account)
    mirror = Mirror(
        account=registration.account,
        home=registration.home,
        version=registration.version,
        model_id=registration.model_id,
        start=registration.start,
        end=registration.end,
        node_key=registration.node_key,
    )
    for shard in registration.awaiting:
        send_packet(ledger, context, shard, PacketKind.MIRROR, 0, mirror)


def apply_mirror(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Keep a copy if there is room, and answer."""
    mirror = decode(Mirror, packet.payload)
    key = build_mirror_key(packet.src, mirror.account)
    count = get_count(ledger, MIRROR_COUNT_KEY)
    is_new = ledger.get(key, Mirror) is None
    is_kept = not is_new or count < context.params.shard_mirrors
    if is_kept:
        ledger.put(key, mirror)
        if is_new:
            ledger.put(MIRROR_COUNT_KEY, Count(count + 1))
    answer = MirrorAnswer(mirror.account, mirror.version, is_kept)
    send_packet(
        ledger,
        context,
        packet.src,
        PacketKind.MIRROR_ANSWER,
        0,
        answer,
        is_system=True,
    )
    kind = "mirrored" if is_kept else "mirror_refused"
    ledger.note(Event(kind, mirror.account, (mirror.account,), 0))


def apply_mirror_answer(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Count an answer; the last yes activates, the first no refuses."""
    answer = decode(MirrorAnswer, packet.payload)
    key = build_registration_key(answer.account)
    registration = ledger.get(key, Registration)
    if registration is None or registration.version != answer.version:
        return
    if registration.status != RegistrationStatus.PENDING:
        return
    if not answer.is_kept:
        _refuse(ledger, context, registration, packet.src)
        return
    awaiting = tuple(shard for shard in registration.awaiting if shard != packet.src)
    status = RegistrationStatus.PENDING if awaiting else RegistrationStatus.ACTIVE
    ledger.put(
        key, msgspec.structs.replace(registration, awaiting=awaiting, status=status)
    )
    if not awaiting:
        account = registration.account
        ledger.note(Event("registration_active", account, (account,), 0))


def apply_mirror_remove(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Forget a copy; it may never have been kept."""
    removal = decode(MirrorRemoval, packet.payload)
    key = build_mirror_key(packet.src, removal.account)
    if ledger.get(key, Mirror) is not None:
        ledger.delete(key)
        count = get_count(ledger, MIRROR_COUNT_KEY)
        ledger.put(MIRROR_COUNT_KEY, Count(count - 1))


def _refuse(
    ledger: Ledger, context: Context, registration: Registration, refused_by: int
) -> None:
    credit(ledger, context, registration.account, registration.collateral)
    shards = context.layout.shards_of_range(
        registration.model_id, registration.start, registration.end
    )
    for shard in sorted(set(shards[1:]) - {refused_by}):
        _send_removal(ledger, context, shard, registration.account)
    refused = msgspec.structs.replace(
        registration, collateral=0, status=RegistrationStatus.REFUSED, awaiting=()
    )
    ledger.put(build_registration_key(registration.account), refused)
    account = registration.account
    ledger.note(
        Event("registration_refused", account, (account,), registration.collateral)
    )


def _send_removal(ledger: Ledger, context: Context, shard: int, account: bytes) -> None:
    """Removals are bounded by the copies that were kept, so they count as system."""
    removal = MirrorRemoval(account)
    send_packet(
        ledger, context, shard, PacketKind.MIRROR_REMOVE, 0, removal, is_system=True
    )
