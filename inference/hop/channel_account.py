"""
A provider's side of one channel: what it delivered, what was paid, and for whom.

Theory of operation
-------------------
Payments are cumulative per channel, but several sessions may use a channel at once
and their payments may overtake each other.  So payments fill one pool, and every Pay
message says how many units of the pool are meant for its step:

    paid        units that came in over the channel's life (from the book of claims)
    claimed     of those, units that steps or arrears have used up
    arrears     units of ended sessions that were delivered and never paid
    billed      units delivered over the channel's life; written before each answer

`paid - claimed` is free.  Two sessions that pay in the wrong order at first find less
in the pool than they were promised and the rest comes with the other's message, so
their claims wait; nothing is lost.  A session that ends gives back what it had paid
ahead, or leaves arrears, which block the channel for new sessions until they are paid.

After a restart arrears are those of sessions that had ended.  A step that was under way
when we died is written off: nobody can tell any more whether it arrived, and the death
was ours.
"""

from dataclasses import dataclass

from msgspec.structs import replace

from primitives.codec import Record
from primitives.types import U63


class Standing(Record):
    """What a provider writes down about one channel."""

    billed_units: U63
    """Units of all steps that were delivered."""
    paid_steps: U63
    """Steps that were delivered and paid; decides about paying ahead."""
    receipts: U63
    """Receipts signed for this channel: the next one's nonce."""
    arrears_units: U63 = 0
    """Units that ended sessions have left unpaid."""


EMPTY_STANDING = Standing(billed_units=0, paid_steps=0, receipts=0)


@dataclass(slots=True)
class ChannelAccount:
    """One channel's pool of payments; shared by all its open sessions."""

    channel_id: bytes
    standing: Standing
    paid: int
    claimed: int
    arrears: int
    sessions: int = 0
    """Sessions open on this channel now."""

    @classmethod
    def load(
        cls, channel_id: bytes, standing: Standing, paid_units: int
    ) -> "ChannelAccount":
        """Return the account as it must be after a restart."""
        owed = max(0, standing.billed_units - paid_units)
        # Payments may have come since the arrears were written down.
        arrears = min(owed, standing.arrears_units)
        billed = standing.billed_units - (owed - arrears)
        return cls(
            channel_id,
            replace(standing, billed_units=billed, arrears_units=arrears),
            paid=paid_units,
            claimed=min(billed, paid_units),
            arrears=arrears,
        )

    @property
    def free(self) -> int:
        """Units paid that no step has claimed."""
        return self.paid - self.claimed

    def credit(self, units: int) -> None:
        """Add what a payment brought."""
        self.paid += units

    def claim(self, units: int) -> int:
        """Take up to `units` from the pool; returns how many there were."""
        taken = min(units, self.free)
        self.claimed += taken
        return taken

    def give_back(self, units: int) -> None:
        """Return units to the pool that were claimed and not used."""
        assert 0 <= units <= self.claimed
        self.claimed -= units

    def add_arrears(self, units: int) -> None:
        """Note units that a session leaves unpaid."""
        self._set_arrears(self.arrears + units)

    def pay_arrears(self) -> int:
        """Use the pool for arrears; returns what is still owed."""
        self._set_arrears(self.arrears - self.claim(self.arrears))
        return self.arrears

    def _set_arrears(self, units: int) -> None:
        self.arrears = units
        self.standing = replace(self.standing, arrears_units=units)

    def bill(self, units: int) -> None:
        """Note a delivered step's price; to be saved before the answer goes out."""
        billed = self.standing.billed_units + units
        self.standing = replace(self.standing, billed_units=billed)

    def take_back(self, units: int) -> None:
        """Note that a billed step did not arrive and is made again."""
        self.bill(-units)

    def count_paid_steps(self, steps: int) -> None:
        """Note that `steps` more delivered steps are paid."""
        paid_steps = self.standing.paid_steps + steps
        self.standing = replace(self.standing, paid_steps=paid_steps)

    def take_nonce(self) -> int:
        """Return the next receipt's nonce; to be saved before the receipt goes out."""
        nonce = self.standing.receipts
        self.standing = replace(self.standing, receipts=nonce + 1)
        return nonce
