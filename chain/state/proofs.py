"""
Proofs of a key's value: from the state of a shard to a certified header.

    value --bucket proof--> shard root --list path--> roots_root --in--> header
    header --hash--> block hash <-- certificate (or a certified descendant's parents)

A proof is good for presence and absence alike.

Spec: docs/protocol/03-blocks-and-state.md
"""

from typing import Annotated

from msgspec import Meta

from chain.records.header import Header
from consensus.messages import Certificate
from primitives.buckets import BucketProof, verify_proof
from primitives.codec import Record, encode
from primitives.merkle import MAX_PATH, verify_path
from primitives.types import U8, U16, Hash32, ShardId

MAX_DESCENDANTS = 63
"""What `chain.light.client.MAX_LINKS` leaves beside the block itself."""


class StateProof(Record):
    """What `key` held in a shard after a block."""

    shard: ShardId
    key: bytes
    value: bytes | None
    """None: there is no such key."""
    bucket: BucketProof
    levels: U8
    """Of the shard's bucket tree."""
    shard_root: Hash32
    index: U16
    """Place of the shard among the roots."""
    count: U16
    """How many shards there are."""
    path: Annotated[tuple[Hash32, ...], Meta(max_length=MAX_PATH)]
    header: Header
    """Of the block."""
    certificate: Certificate | None
    """Makes it final, or the last of its descendants; None for genesis, and where the
    next certified block is further away than `MAX_DESCENDANTS`."""
    descendants: Annotated[tuple[Header, ...], Meta(max_length=MAX_DESCENDANTS)] = ()
    """From its child up to the certified one, where it has no certificate itself."""


def verify_membership(proof: StateProof, levels: int) -> bool:
    """Tell whether the header binds the value; says nothing of the header.

    Args:
        proof: Untrusted.
        levels: Of the chain's bucket trees.
    """
    if proof.levels != levels:
        return False
    if not verify_proof(proof.shard_root, levels, proof.key, proof.value, proof.bucket):
        return False
    leaf = encode((proof.shard, proof.shard_root))
    roots_root = proof.header.roots_root
    return verify_path(roots_root, proof.count, proof.index, leaf, proof.path)
