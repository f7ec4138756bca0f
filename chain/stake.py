"""Stakes: the atoms behind each validator's votes, in the root shard."""

from chain.contracts.model import Name
from primitives.codec import Record
from primitives.types import Address, Amount, BlsPublicKey


class Stake(Record):
    """A genesis validator and its stake; the index in the set is part of the key."""

    name: Name
    account: Address
    public_key: BlsPublicKey
    amount: Amount
    """Atoms bonded; also the voting power."""
