"""
Proofs of a key's value: from the state of a shard to a certified header.

    value --bucket proof--> shard root --list path--> roots_root --in--> header
    header --hash--> block hash <-- certificate (or a certified descendant's parents)

A proof is good for presence and absence alike.

Spec: docs/protocol/03-blocks-and-state.md
"""

from typing import Annotated

from msgspec import Meta

from chain.records.header import Header, compute_block_hash
from consensus.certificates import verify_certificate
from consensus.messages import Certificate, Kind
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
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


def verify_state_proof(
    proof: StateProof,
    chain_id: bytes,
    levels: int,
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> bool:
    """Tell whether the proof holds for a final block of the chain.

    Args:
        proof: Untrusted.
        chain_id: The chain that the caller trusts.
        levels: Of its bucket trees, a parameter of its genesis.
        validators: Its validator set.
        scheme: Verifies the certificate.
    """
    if proof.header.chain_id != chain_id or not verify_membership(proof, levels):
        return False
    return _verify_final(proof, chain_id, validators, scheme)


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


def _verify_final(
    proof: StateProof,
    chain_id: bytes,
    validators: ValidatorSet,
    scheme: SignatureScheme,
) -> bool:
    certificate = proof.certificate
    if certificate is None or certificate.kind != Kind.FINALIZATION:
        return False
    if certificate.proposal is None:
        return False
    block_hash = compute_block_hash(proof.header)
    for header in proof.descendants:
        if header.parent_hash != block_hash:
            return False
        block_hash = compute_block_hash(header)
    if certificate.proposal.block_hash != block_hash:
        return False
    return verify_certificate(certificate, validators, chain_id, scheme)
