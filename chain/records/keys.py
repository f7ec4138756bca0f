"""
Keys of a shard's state: one letter for the kind of record, then its name.

    a address            Account
    c channel_id         Channel
    o payer payee        channel_id of the one open channel of the pair
    r account            Registration (home shard)
    R home account       Mirror (other shards of the range)
    n                    Count of mirrors
    w payee slot         WorkEntry, the payee's last `WORK_SLOTS`
    W payee              Count of work records posted
    i src                Count of packets consumed
    O dst                Count of packets emitted
    t                    Totals
    q place              ListedProvider
    Q                    Count of listed providers
    z                    Progress
    s account            Stake (root shard, as all below)
    S                    Roster
    p public_key         StakeKey
    e                    EpochRecord
    V epoch              ValidatorSet
    M model_id           ModelRecord
    L epoch              Layout
    G                    Docket
    g number             Proposal
    f shard              Totals of a retired shard, until it is gone
    h account            HostRecord, of an account with a stake
    P epoch              ProducerTable
    H                    HaltedShards

Spec: docs/protocol/03-blocks-and-state.md
"""

from primitives.types import ShardId

WORK_SLOTS = 64
"""Work records per payee in the state: those that can still be sampled for an audit;
older ones stay in the histories."""

TOTALS_KEY = b"t"
MIRROR_COUNT_KEY = b"n"
LISTED_COUNT_KEY = b"Q"
PROGRESS_KEY = b"z"
DOCKET_KEY = b"G"
ROSTER_KEY = b"S"
EPOCH_KEY = b"e"
HALTED_KEY = b"H"


def build_account_key(address: bytes) -> bytes:
    """Return the key of an account."""
    return b"a" + address


def build_channel_key(channel_id: bytes) -> bytes:
    """Return the key of a channel."""
    return b"c" + channel_id


def build_pair_key(payer: bytes, payee: bytes) -> bytes:
    """Return the key under which the pair's open channel is named."""
    return b"o" + payer + payee


def build_registration_key(account: bytes) -> bytes:
    """Return the key of an account's registration in its home shard."""
    return b"r" + account


def build_mirror_key(home: ShardId, account: bytes) -> bytes:
    """Return the key of a registration's copy in another shard."""
    return b"R" + home.to_bytes(2, "big") + account


def build_work_key(payee: bytes, number: int) -> bytes:
    """Return the key of a payee's work record; numbers share slots round robin."""
    return b"w" + payee + (number % WORK_SLOTS).to_bytes(2, "big")


def build_work_count_key(payee: bytes) -> bytes:
    """Return the key of the number of a payee's posted work records."""
    return b"W" + payee


def build_consumed_key(src: ShardId) -> bytes:
    """Return the key of the number of packets consumed from `src`."""
    return b"i" + src.to_bytes(2, "big")


def build_emitted_key(dst: ShardId) -> bytes:
    """Return the key of the number of packets emitted to `dst`."""
    return b"O" + dst.to_bytes(2, "big")


def build_stake_key(account: bytes) -> bytes:
    """Return the key of an account's stake."""
    return b"s" + account


def build_voter_key(public_key: bytes) -> bytes:
    """Return the key under which a BLS public key names its account."""
    return b"p" + public_key


def build_validators_key(epoch: int) -> bytes:
    """Return the key of an epoch's validator set."""
    return b"V" + epoch.to_bytes(8, "big")


def build_listed_key(place: int) -> bytes:
    """Return the key of a place in the list of registrations."""
    return b"q" + place.to_bytes(4, "big")


def build_proposal_key(number: int) -> bytes:
    """Return the key of a proposal."""
    return b"g" + number.to_bytes(4, "big")


def build_farewell_key(shard: ShardId) -> bytes:
    """Return the key of the totals of a shard that has said farewell."""
    return b"f" + shard.to_bytes(2, "big")


def build_layout_key(epoch: int) -> bytes:
    """Return the key of an epoch's layout."""
    return b"L" + epoch.to_bytes(8, "big")


def build_model_key(model_id: bytes) -> bytes:
    """Return the key of a model."""
    return b"M" + model_id


def build_host_key(account: bytes) -> bytes:
    """Return the key of what an account with a stake hosts."""
    return b"h" + account


def build_producers_key(epoch: int) -> bytes:
    """Return the key of an epoch's producers."""
    return b"P" + epoch.to_bytes(8, "big")
