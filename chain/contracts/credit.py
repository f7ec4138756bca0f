"""Credit packets: money that arrives from another shard, and its way back."""

from chain.ledger.context import Context
from chain.ledger.ledger import Ledger, credit, send_packet
from chain.ledger.phase import Phase, get_phase
from chain.records.outcome import Event
from primitives.codec import Record, decode
from primitives.types import Address
from shards.layout import ROOT_SHARD
from shards.packet import Packet, PacketKind


class Credit(Record):
    """Payload of a CREDIT packet."""

    recipient: Address
    sender: Address
    """Gets the amount back, in the source shard, if it cannot be credited."""


class Bounce(Record):
    """Payload of a BOUNCE packet."""

    recipient: Address


def apply_credit(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Add the packet's amount to the recipient's balance.

    Raises:
        RuleError: The balance would overflow; the amount then bounces.
    """
    payload = decode(Credit, packet.payload)
    receive(ledger, context, payload.recipient, packet.amount)
    parties = (payload.recipient, payload.sender)
    ledger.note(Event("credited", b"", parties, packet.amount))


def apply_bounce(ledger: Ledger, context: Context, packet: Packet) -> None:
    """Give an amount back that could not be credited elsewhere."""
    payload = decode(Bounce, packet.payload)
    receive(ledger, context, payload.recipient, packet.amount)
    ledger.note(Event("bounced", b"", (payload.recipient,), packet.amount))


def receive(ledger: Ledger, context: Context, account: bytes, amount: int) -> None:
    """Add what came to a balance: here, or in the root shard if this one is emptied.

    Raises:
        RuleError: The balance would overflow.
    """
    if get_phase(context) != Phase.SWEEPING:
        credit(ledger, context, account, amount)
    elif amount:
        onward = Credit(account, account)
        send_packet(
            ledger,
            context,
            ROOT_SHARD,
            PacketKind.CREDIT,
            amount,
            onward,
            is_system=True,
        )
