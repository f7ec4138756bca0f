"""Outcomes: what became of a transaction in its block."""

from primitives.codec import Record
from primitives.types import U63, Address, Amount, Hash32


class Event(Record):
    """One thing that a rule did, for histories and explorers; not in the state."""

    kind: str
    """Word such as "transfer", "channel_opened", "settled", "registered"."""
    object_id: bytes
    """The channel, packet or account concerned; may be empty."""
    addresses: tuple[Address, ...]
    """Accounts whose history shows the transaction."""
    amount: Amount
    """Atoms moved, 0 if none."""


class Outcome(Record):
    """What a transaction did in the block that holds it."""

    tx_id: Hash32
    ok: bool
    """False: the rule refused; fee and nonce are spent, nothing else happened."""
    code: str
    """Empty if ok, else the stable code of the refusal."""
    message: str
    """For people."""
    fee: Amount
    """Atoms burned."""
    work: U63
    """Work units the transaction was charged for."""
    events: tuple[Event, ...]
