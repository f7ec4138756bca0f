"""
The payee's side of a channel: check each payment, keep the best claim.

A payment without a voucher costs as many hashes as it pays units; one with a voucher
costs a signature check (about 130 microseconds) besides.  A payer that skips units
forward has paid them all, so that is welcome; everything that pays nothing is refused
with the reason.  The claim only ever grows and never exceeds the deposit, so the chain
will honour it.

Spec: docs/protocol/05-channels.md
"""

from chain.records.channel import (
    MAX_UNITS,
    Channel,
    Claim,
    Payment,
    Voucher,
    compute_payword,
    compute_total,
    verify_preimage,
    verify_voucher,
)
from primitives.codec import Record
from primitives.types import Address, Amount, Hash32, PublicKey, ShardId
from wallet.errors import (
    AboveDeposit,
    BadVoucherSignature,
    InvalidPreimage,
    MissingVoucher,
    OtherChannel,
    ReplayedPreimage,
    SmallerVoucher,
    TooManyUnits,
    UnevenVoucher,
    WrongUnitPrice,
)


class PayeeChannel(Record):
    """A channel that pays us, and the best claim on it so far."""

    chain_id: Hash32
    channel_id: Hash32
    shard: ShardId
    payer: Address
    signer: PublicKey
    """The payer's session key."""
    deposit: Amount
    unit_price: Amount
    claim: Claim | None
    """Worth more than every payment before it; None before the first."""

    @classmethod
    def from_channel(cls, chain_id: bytes, channel: Channel) -> "PayeeChannel":
        """Return the payee's side of a channel as the chain shows it, unpaid yet."""
        return cls(
            chain_id=chain_id,
            channel_id=channel.channel_id,
            shard=channel.shard,
            payer=channel.payer,
            signer=channel.signer,
            deposit=channel.deposit,
            unit_price=channel.unit_price,
            claim=None,
        )

    @property
    def total(self) -> int:
        """Atoms that the best claim is worth, settled ones included."""
        return 0 if self.claim is None else compute_total(self.claim)

    def accept(self, payment: Payment) -> "tuple[PayeeChannel, int]":
        """Return the channel with the payment counted, and the units it newly pays.

        The caller stores the new channel before it serves anything for it.

        Raises:
            InvalidPayment: It pays nothing here; the subclass says why.
        """
        claim = self._validate_payment(payment)
        total = compute_total(claim)
        if total > self.deposit:
            raise AboveDeposit(f"{total} atoms claimed of a deposit of {self.deposit}")
        gain = total - self.total
        if gain <= 0:
            raise SmallerVoucher(f"total {total}, {self.total} are held already")
        units, rest = divmod(gain, self.unit_price)
        if rest:
            raise UnevenVoucher(f"{gain} atoms at {self.unit_price} a unit")
        return self._replace(claim=claim), units

    def set_deposit(self, deposit: int) -> "PayeeChannel":
        """Return the channel after a top-up became final."""
        return self._replace(deposit=deposit)

    def _validate_payment(self, payment: Payment) -> Claim:
        """Return the claim that the payment proves, whatever it is worth."""
        voucher, best = payment.voucher, self.claim
        # A voucher sent a second time (the first answer was lost) is no news.
        if voucher is None or (best is not None and voucher == best.voucher):
            return self._validate_preimage(payment)
        claim = Claim(voucher, payment.used, payment.preimage)
        self._validate_voucher(voucher, compute_total(claim))
        if payment.used > voucher.units:
            raise InvalidPreimage(f"unit {payment.used} of {voucher.units}")
        if not verify_preimage(claim):
            raise InvalidPreimage("the preimage does not hash to the voucher's root")
        return claim

    def _validate_voucher(self, voucher: Voucher, total: int) -> None:
        """Refuse a voucher; the cheap checks first, the signature last."""
        if voucher.channel_id != self.channel_id:
            raise OtherChannel(
                f"voucher of opening 0x{voucher.channel_id.hex()}, this channel is"
                f" 0x{self.channel_id.hex()}"
            )
        if voucher.unit_price != self.unit_price:
            raise WrongUnitPrice(
                f"{voucher.unit_price} atoms a unit, opened at {self.unit_price}"
            )
        if voucher.units > MAX_UNITS:
            raise TooManyUnits(f"{voucher.units} units, at most {MAX_UNITS}")
        if total > self.deposit:
            raise AboveDeposit(f"{total} atoms promised, deposit {self.deposit}")
        # Folding: a new voucher holds all that was paid, or it would take some back.
        if voucher.cumulative < self.total:
            raise SmallerVoucher(
                f"cumulative {voucher.cumulative}, {self.total} are held already"
            )
        if not verify_voucher(self.chain_id, voucher, self.signer):
            raise BadVoucherSignature("the channel's session key did not sign it")

    def _validate_preimage(self, payment: Payment) -> Claim:
        best = self.claim
        if best is None:
            raise MissingVoucher("a preimage came before any voucher")
        if payment.used > best.voucher.units:
            raise InvalidPreimage(f"unit {payment.used} of {best.voucher.units}")
        # The deeper word hashes to the shallower one.
        step = payment.used - best.used
        if step <= 0:
            if compute_payword(best.preimage, -step) != payment.preimage:
                raise InvalidPreimage("not a word of this chain")
            raise ReplayedPreimage(f"unit {payment.used}, {best.used} are held already")
        if compute_payword(payment.preimage, step) != best.preimage:
            raise InvalidPreimage(f"not {step} hashes from the last word")
        return Claim(best.voucher, payment.used, payment.preimage)

    def _replace(
        self, *, claim: Claim | None = None, deposit: int | None = None
    ) -> "PayeeChannel":
        return PayeeChannel(
            self.chain_id,
            self.channel_id,
            self.shard,
            self.payer,
            self.signer,
            self.deposit if deposit is None else deposit,
            self.unit_price,
            self.claim if claim is None else claim,
        )
