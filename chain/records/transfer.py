"""A transfer: an amount for an address, in this shard or another one."""

from primitives.codec import Record
from primitives.types import Address, Amount, ShardId


class Transfer(Record, tag=1):
    """Pay `recipient`, in the transaction's shard or by a packet in another one."""

    recipient: Address
    shard: ShardId
    """Where the recipient is credited."""
    amount: Amount
    """Atoms, at least 1."""
