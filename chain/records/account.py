"""
Accounts: balance, nonce and what matures.

Amounts from settlements mature: they count in the balance only `maturity_blocks`
later, so that an audit can still reach them.  An account carries its own short queue
of (height, amount) and folds what is ripe into the balance whenever a rule touches
it, so no block ever sweeps all accounts.  The queue is short because release heights
are rounded up to a sixteenth of the maturity.
"""

from collections.abc import Iterable

from primitives.codec import Record
from primitives.types import Amount, Height, Nonce

MATURING_STEPS = 16
"""Release heights are multiples of maturity / 16: at most 17 entries per account."""


class Maturing(Record):
    """An amount and the height from which on it is part of the balance."""

    height: Height
    amount: Amount


class Account(Record):
    """What a shard knows of an address."""

    balance: Amount
    """Atoms that can be spent now, but for ripe entries of the queue."""
    nonce: Nonce
    """The sender's next nonce in this shard."""
    maturing: tuple[Maturing, ...]
    """Ascending by height."""

    @property
    def maturing_amount(self) -> int:
        """Atoms in the queue, ripe or not."""
        return sum(entry.amount for entry in self.maturing)


NO_ACCOUNT = Account(0, 0, ())
"""What every address has before anything happens to it."""


def compute_ripe(account: Account, height: int) -> Account:
    """Return the account with everything ripe at `height` in its balance."""
    if not account.maturing or account.maturing[0].height > height:
        return account
    ripe = sum(entry.amount for entry in account.maturing if entry.height <= height)
    waiting = tuple(entry for entry in account.maturing if entry.height > height)
    return Account(account.balance + ripe, account.nonce, waiting)


def compute_with_maturing(
    account: Account, amount: int, height: int, maturity_blocks: int
) -> Account:
    """Return the account with `amount` released `maturity_blocks` after `height`.

    The release is rounded up to a multiple of a sixteenth of the maturity, itself
    rounded up.
    """
    if maturity_blocks == 0:
        return Account(account.balance + amount, account.nonce, account.maturing)
    step = -(-maturity_blocks // MATURING_STEPS)
    release = -(-(height + maturity_blocks) // step) * step
    return compute_with_entries(account, (Maturing(release, amount),))


def compute_with_entries(account: Account, more: Iterable[Maturing]) -> Account:
    """Return the account with entries more in its queue; one per height stays one."""
    entries = {entry.height: entry.amount for entry in account.maturing}
    for entry in more:
        entries[entry.height] = entries.get(entry.height, 0) + entry.amount
    queue = tuple(Maturing(at, entries[at]) for at in sorted(entries))
    return Account(account.balance, account.nonce, queue)
