"""
Staking by transaction, in the root shard: plain data; the rules are bond and unbond.

Spec: docs/protocol/11-staking.md
"""

from chain.records.model import Name
from primitives.codec import Record
from primitives.types import Amount, BlsPublicKey, BlsSignature


class Bond(Record, tag=9):
    """Become a validator, add to the own stake, or come back after downtime."""

    name: Name
    """What people call the validator."""
    public_key: BlsPublicKey
    """Votes; the same for the whole life of a stake."""
    proof_of_possession: BlsSignature
    """Without it a key could be chosen that cancels the others out.  It names the
    account: who copies it out of a pool cannot stake behind somebody else's key."""
    amount: Amount
    """Atoms to move from the balance; 0 only brings a stake back."""


class Unbond(Record, tag=10):
    """Take atoms out of the own stake; they are paid out `unbonding_epochs` later."""

    amount: Amount
    """Atoms, at least 1: all that is bonded, or leaving `min_stake`."""
