"""
The books of one session at one hop: steps, bills, payments, ranges, receipts.

The state machine (inference/hop/hop.py) decides when something happens; this is the
account of it.  The last step can be taken back: when the route changes, a step that was
under way did not arrive.  Its bill, its place in the open range and, if it closed the
range, the receipt go; the next receipt then has the same `previous_own` as the one that
was withdrawn.

What was computed is owed all the same.  A step that was taken back waits here for its
return: made again as it was, it is entered as any step; if the session goes on without
it, or ends, it is entered then, in the open range.  So however often a route changes,
nothing is computed for nothing (docs/adr/0044-work-without-pay.md).
"""

from collections.abc import Callable
from dataclasses import dataclass

from chain.records.proof import Receipt, compute_receipt_hash
from inference.hop.channel_account import ChannelAccount
from inference.hop.checks import Held
from inference.protocol.account import SessionAccount
from inference.protocol.activations import compute_digest
from inference.protocol.messages import SessionTerms, SignedInput
from inference.protocol.receipts import (
    Range,
    ReceiptTrail,
    Sign,
    compute_input_hash,
    sign_receipt,
)
from inference.protocol.steps import Schedule, Step
from inference.protocol.terms import get_contribution, get_prices
from primitives.types import EMPTY_HASH

MAX_US = 2**32 - 1
"""What a 32-bit field of microseconds can say: 71 minutes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One computed step."""

    step: Step
    units: int
    in_digest: bytes
    out_digest: bytes
    compute_us: int


@dataclass(frozen=True, slots=True)
class _Page:
    """The last step, and the books before it."""

    entry: _Entry
    steps: int
    billed: int
    work: Range
    trail: ReceiptTrail
    receipts: int
    decodes: int
    tokens_out: int


class HopBooks:
    """What was delivered and paid in one session.

    Args:
        terms: Those that opened the session.
        account: The channel's pool, shared with other sessions of the channel.
        sign: Signs with the node key.
        get_expiry: Height after which a receipt signed now is void.
    """

    def __init__(
        self,
        terms: SessionTerms,
        account: ChannelAccount,
        sign: Sign,
        get_expiry: Callable[[], int],
    ) -> None:
        self.account = account
        self.steps = 0
        """Steps delivered, over all attempts."""
        self.billed = 0
        """Units that they cost."""
        self.claimed = 0
        """Units that were paid for this session."""
        self.work = Range()
        """The open range."""
        self._terms = terms
        self._prices = get_prices(terms)
        self._sign = sign
        self._get_expiry = get_expiry
        self._promised = 0
        self._trail = ReceiptTrail()
        self._receipts: list[Receipt] = []
        self._decode_us: list[int] = []
        self._tokens_out = 0
        self._before: _Page | None = None
        self._undone: _Entry | None = None
        """Taken back and not made again."""

    @property
    def awaits_return(self) -> bool:
        """Tell whether a step that was taken back has to come again as it was."""
        return self._undone is not None

    @property
    def can_take_back(self) -> bool:
        """Tell whether the last step can be made undone."""
        return self._before is not None

    # Payments

    def compute_units(self, step: Step) -> int:
        """Return what a step costs."""
        return self._prices.compute_units(step)

    def promise(self, units: int, schedule: Schedule) -> None:
        """Note units that the requester means for this session.

        A promise beyond what can be due with the following step is of no use to anyone.
        """
        limit = self.billed + self._prices.compute_dearest(schedule)
        self._promised = max(self.claimed, min(self._promised + units, limit))

    def claim(self) -> None:
        """Take from the pool what was promised, as far as it is there."""
        if self._promised > self.claimed:
            self.claimed += self.account.claim(self._promised - self.claimed)

    # Steps

    def deliver(self, held: Held, out_digest: bytes, compute_us: int) -> Receipt | None:
        """Enter a step that leaves now; returns the receipt if it closes a range."""
        step = held.step
        entry = _Entry(
            step, self.compute_units(step), held.in_digest, out_digest, compute_us
        )
        self._before = _Page(
            entry,
            self.steps,
            self.billed,
            self.work,
            self._trail,
            len(self._receipts),
            len(self._decode_us),
            self._tokens_out,
        )
        self._undone = None
        self._enter(entry)
        if not step.closes_range:
            return None
        return self.sign_range(held.data.signed_input, held.data.receipt)

    def bill_unawaited(self, held: Held) -> None:
        """Enter a step that is being computed when the requester leaves.

        Its answer is nothing: whoever asked does not wait for it.
        """
        units = self.compute_units(held.step)
        nothing = compute_digest(b"")
        self._enter(_Entry(held.step, units, held.in_digest, nothing, 0))

    def _enter(self, entry: _Entry) -> None:
        step = entry.step
        self.work = self.work.add(step, entry.units, entry.in_digest, entry.out_digest)
        self.steps += 1
        self.billed += entry.units
        self._tokens_out += step.output_tokens
        self.account.bill(entry.units)
        if not step.is_prefill:
            self._decode_us.append(min(entry.compute_us, MAX_US))

    def take_back(self) -> None:
        """Make the last step undone, until it comes again."""
        before = self._before
        assert before is not None
        self._undone = before.entry
        self.account.take_back(before.entry.units)
        self.steps, self.billed = before.steps, before.billed
        self.work, self._trail = before.work, before.trail
        del self._receipts[before.receipts :]
        del self._decode_us[before.decodes :]
        self._tokens_out = before.tokens_out
        self._before = None

    def keep_undone(self) -> None:
        """Enter a step that was taken back and does not come again."""
        undone, self._undone = self._undone, None
        if undone is not None:
            self._enter(undone)

    def sign_range(self, said: SignedInput | None, receipt: Receipt | None) -> Receipt:
        """Sign for the open range and begin a new one.

        Args:
            said: The requester's word about it, at the first hop.
            receipt: The previous hop's word; without either, the range was cut off.
        """
        if said is not None:
            previous_hop = compute_input_hash(said)
        elif receipt is not None:
            previous_hop = compute_receipt_hash(receipt)
        else:
            previous_hop = EMPTY_HASH
        signed = sign_receipt(
            get_contribution(self._terms),
            self._trail,
            self.work,
            previous_hop=previous_hop,
            nonce=self.account.take_nonce(),
            expires_height=self._get_expiry(),
            sign=self._sign,
        )
        self._trail = self._trail.extend(signed)
        self._receipts.append(signed)
        self.work = Range()
        return signed

    def cut_off(self) -> Receipt | None:
        """Sign for a range that was cut off, if one is open.

        Steps before it cannot be taken back any more.
        """
        self._before = None
        return self.sign_range(None, None) if self.work.tokens else None

    # The end

    def settle(self) -> None:
        """Leave arrears on the channel, or give back what was paid ahead."""
        missing = self.billed - self.claimed
        if missing > 0:
            self.account.add_arrears(missing)
            self.account.count_paid_steps(max(0, self.steps - 1))
        else:
            self.account.give_back(-missing)
            self.claimed = self.billed
            self.account.count_paid_steps(self.steps)

    def build_account(self, code: int) -> SessionAccount:
        """Return the session as it is filed; code 0 is an end in order."""
        terms = self._terms
        tokens = sum(receipt.tokens for receipt in self._receipts)
        return SessionAccount(
            session=terms.session,
            channel_id=terms.channel_id,
            client=terms.client,
            start=terms.start,
            end=terms.end,
            unit_price=terms.unit_price,
            receipts=tuple(self._receipts),
            tokens_in=tokens - self._tokens_out,
            tokens_out=self._tokens_out,
            billed_units=self.billed,
            claimed_units=self.claimed,
            decode_us=tuple(self._decode_us),
            code=code,
        )
