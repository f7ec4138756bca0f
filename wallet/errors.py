"""
What can go wrong in a wallet, sorted by whose fault it is.

    LocalError
    |- WalletError
       |- KeystoreError
       |  |- WrongPassphrase       the file is well formed, the key does not open
       |  |- CorruptKeystore       not a keystore that this program can read
       |  |- KeystoreExists        writing would replace a key
       |- InvalidMnemonic          not a BIP-39 phrase; says which word
       |- InvalidPath              not a derivation path of the scheme
       |- InsufficientFunds        the shards together do not hold enough
       |- InvalidTransaction       a transaction that no shard could accept
       |- DepositExhausted         a channel cannot pay that many units any more
       |- UnknownChannel           the book holds no such channel
    RemoteError
    |- InvalidPayment              the payer sent what does not pay
    |  |- InvalidVoucher
    |  |  |- OtherChannel          of another opening or another chain
    |  |  |- WrongUnitPrice
    |  |  |- TooManyUnits
    |  |  |- AboveDeposit
    |  |  |- SmallerVoucher        promises no more than what is already held
    |  |  |- UnevenVoucher         pays no whole number of units
    |  |  |- BadVoucherSignature
    |  |- MissingVoucher           a preimage before any voucher
    |  |- InvalidPreimage          does not hash to the chain root
    |     |- ReplayedPreimage      was already counted
    |- InvalidClaim                the payee claims what we never signed
"""

from pathlib import Path

from primitives.amounts import format_amount
from primitives.errors import LocalError, RemoteError


class WalletError(LocalError):
    """Something the wallet's owner has to mend."""


class KeystoreError(WalletError):
    """A keystore file that cannot be used as asked."""


class WrongPassphrase(KeystoreError):
    """The passphrase does not open the keystore."""

    def __init__(self) -> None:
        super().__init__(
            "the passphrase does not open this keystore: try again, or, if it is"
            " certainly right, restore the key from its 24 words (the file may have"
            " been altered)"
        )


class CorruptKeystore(KeystoreError):
    """A file that is not a keystore this program can read."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"not a usable keystore: {reason}."
            " Put back a copy of the file or restore the key from its 24 words"
        )
        self.reason = reason


class KeystoreExists(KeystoreError):
    """Writing here would replace a key, perhaps the only copy."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} already exists and keys are never overwritten:"
            " choose another name or move the file away"
        )
        self.path = path


class InvalidMnemonic(WalletError):
    """Words that are not a BIP-39 phrase of 24 words."""


class InvalidPath(WalletError):
    """A derivation path that the scheme does not know."""


class InsufficientFunds(WalletError):
    """All shards together do not hold what a payment and its fees need."""

    def __init__(self, *, needed_atoms: int, available_atoms: int) -> None:
        super().__init__(
            f"needed: {format_amount(needed_atoms)}; all shards together can pay "
            f"{format_amount(available_atoms)} after fees"
        )
        self.needed_atoms = needed_atoms
        self.available_atoms = available_atoms


class InvalidTransaction(WalletError):
    """A transaction that no shard could accept, found before it is signed."""


class DepositExhausted(WalletError):
    """The channel's deposit cannot pay that many units any more."""

    def __init__(self, *, units: int, remaining_units: int) -> None:
        super().__init__(
            f"{units} units asked and the deposit pays {remaining_units} more:"
            " top the channel up"
        )
        self.units = units
        self.remaining_units = remaining_units


class UnknownChannel(WalletError):
    """The book holds no channel of this id."""

    def __init__(self, channel_id: bytes) -> None:
        super().__init__(f"no channel 0x{channel_id.hex()} in this book")
        self.channel_id = channel_id


class InvalidPayment(RemoteError):
    """The payer sent something that does not pay."""


class InvalidVoucher(InvalidPayment):
    """A voucher that this channel cannot accept."""


class OtherChannel(InvalidVoucher):
    """A voucher of another channel, or of another opening of this one."""


class WrongUnitPrice(InvalidVoucher):
    """A voucher at a unit price other than the one fixed at the opening."""


class TooManyUnits(InvalidVoucher):
    """A voucher over a longer hash chain than the payee would walk."""


class AboveDeposit(InvalidPayment):
    """More than the chain holds for this channel."""


class SmallerVoucher(InvalidVoucher):
    """A voucher that promises no more than what is already held."""


class UnevenVoucher(InvalidVoucher):
    """A voucher that pays no whole number of units."""


class BadVoucherSignature(InvalidVoucher):
    """A voucher that the channel's session key did not sign."""


class MissingVoucher(InvalidPayment):
    """A preimage where no voucher names a root for it."""


class InvalidPreimage(InvalidPayment):
    """A preimage that does not hash to the voucher's root."""


class ReplayedPreimage(InvalidPreimage):
    """A preimage that was already counted; pays nothing."""


class InvalidClaim(RemoteError):
    """The payee shows a claim that this payer never made."""
