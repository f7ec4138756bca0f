"""What a provider has in hand when a session is over, and the work record of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from chain.contracts.proof import Receipt, WorkRecord, compute_work_root


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAccount:
    """One finished session at one hop, kept until its work is settled."""

    session: bytes
    channel_id: bytes
    client: bytes
    start: int
    end: int
    unit_price: int
    """Atoms."""
    receipts: tuple[Receipt, ...]
    """In order; together they cover every step that was delivered and attested."""
    tokens_in: int
    tokens_out: int
    billed_units: int
    """Price of the steps that were delivered."""
    claimed_units: int
    """What was paid for them; less than billed leaves arrears on the channel."""
    decode_us: tuple[int, ...]
    """Computation time of each decode step, microseconds."""
    code: int
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
