"""A whole network's producers and endorsers in one hand, without a message between."""

from collections.abc import Sequence

from chain.execution.held import HeldBlock
from chain.ledger.epochs import EpochState
from chain.tree.blocktree import BlockTree
from chain.tree.building import Picker
from consensus.scheme import SignatureScheme, Signer
from shards.certificate import (
    CertifiedChunk,
    ChunkCertificate,
    build_chunk_certificate,
    compute_endorsement_bytes,
)
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.layout import ROOT_SHARD
from shards.slots import Slot, get_slot


def certify_chunks(
    tree: BlockTree,
    parent: HeldBlock,
    view: int,
    picker: Picker,
    signers: Sequence[Signer],
    scheme: SignatureScheme,
) -> list[CertifiedChunk]:
    """Return the chunks of all shards that have something to do, certified.

    Args:
        tree: Holds the parent.
        parent: What they stand on; no unfinal boundary.
        view: In which they are made.
        picker: Candidates.
        signers: Of the epoch's validators, in their order.
        scheme: Of the signers.
    """
    epoch = parent.child_epoch
    certified: list[CertifiedChunk] = []
    for shard in sorted(parent.heads.keys() - {ROOT_SHARD}):
        slot = Slot(epoch.epoch, shard, view)
        producer = epoch.roles.get_producers(slot)[0]
        produced = tree.chunks.produce_chunk(slot, parent.block_hash, producer, picker)
        if produced is None:
            continue
        header = produced.header
        certificate = endorse(tree.spec.chain_id, epoch, header, signers, scheme)
        certified.append(CertifiedChunk(header, certificate))
    return certified


def endorse(
    chain_id: bytes,
    epoch: EpochState,
    header: ChunkHeader,
    signers: Sequence[Signer],
    scheme: SignatureScheme,
) -> ChunkCertificate:
    """Return the certificate of a whole committee, whatever the header says.

    Args:
        chain_id: Of the chain.
        epoch: Of the chunk.
        header: Of the chunk.
        signers: Of the epoch's validators, in their order.
        scheme: Of the signers.
    """
    slot = get_slot(header)
    message = compute_endorsement_bytes(chain_id, slot, compute_chunk_hash(header))
    members = epoch.roles.get_committee(slot).members
    return build_chunk_certificate(
        {index: signers[index].sign(message) for index in members},
        epoch.validators,
        scheme,
    )


def hand_bodies(held: HeldBlock, tree: BlockTree) -> None:
    """Give another tree the bodies that a block names, as gossip would."""
    for certified in held.block.body.chunks:
        body = held.bodies.get(compute_chunk_hash(certified.header))
        if body is not None:
            tree.keep_body(certified.header, body)
