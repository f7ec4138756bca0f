"""What a provider has in hand when a session is over, and the work record of it."""

from collections.abc import Sequence
from statistics import median_low

from chain.records.proof import Receipt, WorkRecord, compute_work_root
from primitives.codec import Record
from primitives.types import U16, U32, U63, Address, Amount, Hash32


class SessionAccount(Record):
    """One finished session at one hop, kept until its work is settled."""

    session: Hash32
    channel_id: Hash32
    client: Address
    start: U16
    end: U16
    unit_price: Amount
    """Atoms."""
    receipts: tuple[Receipt, ...]
    """In order; together they cover every step that was delivered and attested."""
    tokens_in: U63
    tokens_out: U63
    billed_units: U63
    """Price of the steps that were delivered."""
    claimed_units: U63
    """What was paid for them; less than billed leaves arrears on the channel."""
    decode_us: tuple[U32, ...]
    """Computation time of each decode step, microseconds."""
    code: U16
    """0 when it ended in order, else the `AbortCode`."""


def build_work_record(accounts: Sequence[SessionAccount]) -> WorkRecord:
    """Return the record that a settlement for these sessions posts.

    All are of one channel and layer range; the receipts go in by nonce.
    """
    receipts = [receipt for account in accounts for receipt in account.receipts]
    receipts.sort(key=lambda receipt: receipt.nonce)
    times = [time for account in accounts for time in account.decode_us]
    first = accounts[0]
    return WorkRecord(
        work_root=compute_work_root(receipts),
        receipts=len(receipts),
        start=first.start,
        end=first.end,
        tokens_in=sum(account.tokens_in for account in accounts),
        tokens_out=sum(account.tokens_out for account in accounts),
        price_sum=sum(receipt.price_units for receipt in receipts) * first.unit_price,
        median_us=min(median_low(times), 2**32 - 1) if times else 0,
    )
