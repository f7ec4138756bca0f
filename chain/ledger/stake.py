r"""
Stakes: the atoms behind each validator's votes, in the root shard.

    ACTIVE --half an epoch missed--> DOWN --Bond--> ACTIVE
       \---------evidence------------/------------> TOMBSTONED, for ever

An account has one stake and one key; its record lives until the last atom is paid out.
Keys of the records: chain/records/keys.py.

Spec: docs/protocol/11-staking.md
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from chain.records.model import Name
from primitives.codec import Record
from primitives.types import Address, Amount, BlsPublicKey, Epoch, Hash32

MAX_ROSTER = 256
"""Stakes at one time: the 128 of the largest set and as many that wait or leave."""

MAX_UNBONDINGS = 8
"""Parts of one stake that wait for their payout: one every few epochs."""


class StakeStatus(IntEnum):
    """What a stake may do."""

    ACTIVE = 1
    """Counts when a validator set is chosen."""
    DOWN = 2
    """Left for missing votes; a Bond brings it back."""
    TOMBSTONED = 3
    """Convicted; neither account's stake nor key ever counts again."""


class Unbonding(Record):
    """A part of a stake on its way back to the account."""

    amount: Amount
    due_epoch: Epoch
    """Paid out at the end of this epoch, or as soon after as no set counts it."""


class Offence(Record):
    """What a tombstoned stake was convicted of, and what that has cost so far."""

    epoch: Epoch
    """Of the votes in the evidence."""
    slashed_epoch: Epoch
    """Of the block that included the evidence."""
    stake: Amount
    """Atoms bonded and unbonding before anything was taken."""
    penalty: Amount
    """Atoms taken so far."""
    is_settled: bool
    """The window is over and the whole penalty is taken."""


class Stake(Record):
    """One account's stake."""

    name: Name
    """What people call the validator."""
    account: Address
    """Owns the atoms; earns the rewards."""
    public_key: BlsPublicKey
    """Votes."""
    bonded: Amount
    """Atoms that count as voting power, two epochs on."""
    unbonding: Annotated[tuple[Unbonding, ...], Meta(max_length=MAX_UNBONDINGS)]
    """Ascending by epoch."""
    status: StakeStatus
    rewarded: Amount
    """Atoms earned so far; they are in the account's balance, not in the stake."""
    slashed: Amount
    """Atoms taken so far."""
    offence: Offence | None
    """Present exactly when tombstoned."""

    @property
    def unbonding_amount(self) -> int:
        """Atoms that wait for their payout."""
        return sum(entry.amount for entry in self.unbonding)

    @property
    def locked(self) -> int:
        """All atoms in the stake."""
        return self.bonded + self.unbonding_amount


class Roster(Record):
    """The accounts with a stake, ascending."""

    accounts: Annotated[tuple[Address, ...], Meta(max_length=MAX_ROSTER)]


class StakeKey(Record):
    """Who votes with a key; stays for ever once its stake is tombstoned."""

    account: Address


class EpochRecord(Record):
    """The epoch of the next block."""

    epoch: Epoch
    seed: Hash32
    """Draws its leaders."""
    next_seed: Hash32
    """Will draw those of the epoch after."""
