"""Registration: who serves which layers, at what price, with what collateral."""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from primitives.codec import Record
from primitives.types import (
    U16,
    U32,
    Address,
    Amount,
    Hash32,
    Height,
    PublicKey,
    ShardId,
)

MAX_ADDRESSES = 4
"""Ways to reach one node: two networks, two protocols."""
MAX_ADDRESS_CHARS = 128
"""A 64-digit key, a host name of sensible length and a port."""

PeerAddress = Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS)]
"""`p2p://<node key in hex>@<host>:<port>`."""
PeerAddresses = Annotated[tuple[PeerAddress, ...], Meta(max_length=MAX_ADDRESSES)]


class Register(Record, tag=2):
    """Offer a layer range; repeated by the same account it updates the offer."""

    model_id: Hash32
    profile: Hash32
    """Hash of the `chain.records.model.Profile` that is served."""
    start: U16
    """First layer; its shard is the registration's home."""
    end: U16
    """One past the last layer."""
    input_price: Amount
    """Atoms per layer and token of prefill."""
    output_price: Amount
    """Atoms per layer and token of decode."""
    measured_us: U32
    """Microseconds per decode token for the whole range, as the node measured it."""
    collateral: Amount
    """Atoms locked in the home shard in all, not an increment."""
    payout: Address
    """Where earnings go; for people, the chain pays the channel's payee."""
    node_key: PublicKey
    """Network identity; signs receipts."""
    addresses: PeerAddresses


class RegistrationStatus(IntEnum):
    """Life of a registration; routes use ACTIVE ones only."""

    PENDING = 1
    """Other shards of the range have not answered yet."""
    ACTIVE = 2
    REFUSED = 3
    """A shard refused; the collateral is back with the account."""


class Registration(Record):
    """The writable record in the home shard."""

    account: Address
    model_id: Hash32
    profile: Hash32
    start: U16
    end: U16
    input_price: Amount
    output_price: Amount
    measured_us: U32
    collateral: Amount
    """Atoms locked now; 0 once refused."""
    payout: Address
    node_key: PublicKey
    addresses: PeerAddresses
    home: ShardId
    version: U32
    """1 at first, one more with every update."""
    status: RegistrationStatus
    awaiting: tuple[ShardId, ...]
    """Shards that have not answered this version yet, ascending."""
    mirrors: tuple[ShardId, ...]
    """Shards that were asked to keep a copy of this version, ascending; none once
    refused."""
    registered_height: Height
    updated_height: Height


class Mirror(Record):
    """The read-only copy in another shard of the range; holds no money."""

    account: Address
    home: ShardId
    version: U32
    model_id: Hash32
    start: U16
    end: U16
    node_key: PublicKey
