"""What resharding brings from other shards: registrations, balances, farewells."""

from chain.contracts.credit import receive
from chain.contracts.mirror import renew, replace_home
from chain.errors import RuleError
from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, Totals, get_account, send_packet
from chain.ledger.listing import append_listed
from chain.ledger.phase import Phase, get_phase
from chain.records.account import Account, compute_with_entries
from chain.records.keys import (
    build_account_key,
    build_farewell_key,
    build_registration_key,
)
from chain.records.outcome import Event
from chain.records.registration import Registration, RegistrationStatus
from chain.records.resharding import Move, Sweep
from primitives.codec import decode
from shards.layout import ROOT_SHARD
from shards.packet import Packet, PacketKind


def apply_move(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Take a registration over, or send it on if its layers have gone on.

    If its owner has registered here meanwhile, or the shard goes, nothing is left of it
    but its collateral.
    """
    move = decode(Move, packet.payload)
    registration = move.registration
    account = registration.account
    key = build_registration_key(account)
    is_taken = ledger.get(key, Registration) is not None
    if get_phase(context) != Phase.ACTIVE or is_taken:
        receive(ledger, context, account, packet.amount)
        return
    home = context.layout.home_shard(registration.model_id, registration.start)
    if home != context.shard:
        amount = packet.amount
        send_packet(
            ledger, context, home, PacketKind.MOVE, amount, move, is_system=True
        )
        return
    if registration.status == RegistrationStatus.REFUSED:
        ledger.put(key, replace_home(registration, context))
    else:
        renew(ledger, context, registration)
    append_listed(ledger, account)
    ledger.note(Event("registration_moved", account, (account,), packet.amount))


def apply_sweep(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Add what an account had in a shard that goes, as it was there.

    Raises:
        RuleError: It says that more matures than came.
    """
    sweep = decode(Sweep, packet.payload)
    at_once = packet.amount - sum(entry.amount for entry in sweep.maturing)
    if context.shard != ROOT_SHARD or at_once < 0:
        raise RuleError("bad_sweep", "no shard sends such a packet")
    account = get_account(ledger, sweep.account, context.height)
    swept = Account(account.balance + at_once, account.nonce, account.maturing)
    ledger.put(
        build_account_key(sweep.account), compute_with_entries(swept, sweep.maturing)
    )
    ledger.note(Event("swept", b"", (sweep.account,), packet.amount))


def apply_farewell(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Remember that a shard is empty, and its totals; the next boundary lets it go.

    Raises:
        RuleError: This is not the root shard.
    """
    if context.shard != ROOT_SHARD:
        raise RuleError("not_root_shard", "shards go by a word to the root shard")
    ledger.put(build_farewell_key(packet.src), decode(Totals, packet.payload))
