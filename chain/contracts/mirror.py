"""
Mirrors: a registration's read-only copies in the other shards of its range.

    home                      other shard
      | -- MIRROR ------------> |   keep the copy, or refuse: no room
      | <------ MIRROR_ANSWER - |
      | -- MIRROR_REMOVE -----> |   refused elsewhere, or no longer in the range

Packets arrive in order, so a copy is never older than the last message about it.
An answer names the version it is about; the home ignores those of older versions.
"""

from collections.abc import Iterable

import msgspec

from chain.contracts.hosting import send_hosting, send_hosting_end
from chain.ledger.context import Context
from chain.ledger.ledger import Count, Ledger, credit, get_count, send_packet
from chain.ledger.phase import Phase, get_phase
from chain.records.keys import (
    MIRROR_COUNT_KEY,
    build_mirror_key,
    build_registration_key,
)
from chain.records.outcome import Event
from chain.records.registration import (
    Mirror,
    Registration,
    RegistrationStatus,
)
from primitives.codec import Record, decode
from primitives.types import U32, Address, ShardId
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
    registration: Registration,
    *,
    is_system: bool = False,
) -> None:
    """Send copies to the range's other shards, which answer.

    Args:
        ledger: Of the registration's home.
        context: Of the registration's home.
        registration: As it is from now on.
        is_system: It is resharding that asks, and not the owner.

    Raises:
        RuleError: congested; not if it is system.
    """
    mirror = Mirror(
        account=registration.account,
        home=registration.home,
        version=registration.version,
        model_id=registration.model_id,
        start=registration.start,
        end=registration.end,
        node_key=registration.node_key,
    )
    for shard in registration.mirrors:
        send_packet(
            ledger, context, shard, PacketKind.MIRROR, 0, mirror, is_system=is_system
        )


def send_removals(
    ledger: Ledger, context: Context, account: bytes, shards: Iterable[ShardId]
) -> None:
    """Tell shards to forget their copy.

    They are bounded by the copies that were kept, so they count as system.
    """
    removal = MirrorRemoval(account)
    for shard in sorted(shards):
        send_packet(
            ledger, context, shard, PacketKind.MIRROR_REMOVE, 0, removal, is_system=True
        )


def renew(ledger: Ledger, context: Context, registration: Registration) -> None:
    """Put a registration down in this shard as a new version; ask for its mirrors."""
    shards = context.layout.shards_of_range(
        registration.model_id, registration.start, registration.end
    )
    others = tuple(sorted(shards[1:]))
    renewed = msgspec.structs.replace(
        replace_home(registration, context),
        version=registration.version + 1,
        status=RegistrationStatus.PENDING if others else RegistrationStatus.ACTIVE,
        awaiting=others,
        mirrors=others,
    )
    ledger.put(build_registration_key(registration.account), renewed)
    left = set(registration.mirrors) - set(others)
    is_moved = registration.home != context.shard
    send_removals(ledger, context, registration.account, () if is_moved else left)
    send_mirrors(ledger, context, renewed, is_system=True)
    if not others:
        send_hosting(ledger, context, renewed)


def replace_home(registration: Registration, context: Context) -> Registration:
    """Return the registration as one of the context's shard."""
    return msgspec.structs.replace(
        registration, home=context.shard, updated_height=context.height
    )


def apply_mirror(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Keep a copy if there is room, and answer; a shard that goes does neither."""
    if get_phase(context) != Phase.ACTIVE:
        return
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
    if get_phase(context) != Phase.ACTIVE:
        return
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
    answered = msgspec.structs.replace(registration, awaiting=awaiting, status=status)
    ledger.put(key, answered)
    if not awaiting:
        send_hosting(ledger, context, answered)
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
    keepers = set(registration.mirrors) - {refused_by}
    send_removals(ledger, context, registration.account, keepers)
    send_hosting_end(ledger, context, registration)
    refused = msgspec.structs.replace(
        registration,
        collateral=0,
        status=RegistrationStatus.REFUSED,
        awaiting=(),
        mirrors=(),
    )
    ledger.put(build_registration_key(registration.account), refused)
    account = registration.account
    ledger.note(
        Event("registration_refused", account, (account,), registration.collateral)
    )
