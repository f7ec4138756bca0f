"""Validators in one process: real keys and real blocks, no network."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from chain.execution.held import HeldBlock
from chain.records.block import NO_ATTENDANCE, Attendance
from chain.records.model import ModelRecord, compute_model_id
from chain.records.spec import ChainSpec
from chain.storage.leveldb import LevelStore
from chain.tree.blocktree import BlockTree
from chain.tree.building import Picker
from chain.tree.opening import open_tree
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Proposal,
    compute_finalize_bytes,
    compute_notarize_bytes,
)
from consensus.randao import compute_reveal_bytes
from consensus.validators import encode_bitmap
from genesis.genesis import GenesisValidator
from genesis.presets import DEVNET_SHARDS_PER_MODEL, build_devnet_genesis
from genesis.state import build_chain_spec
from p2pchain.sim.chains.committee import certify_chunks
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore
from primitives.types import ATOMS_PER_COIN

HASH = bytes(31) + b"\1"

MODEL = ModelRecord(
    model_id=compute_model_id(HASH, HASH),
    name="none",
    architecture="llama",
    layers=8,
    hidden_size=128,
    vocab_size=1024,
    dtype="float32",
    weights_root=HASH,
    tokenizer_hash=HASH,
    min_collateral=ATOMS_PER_COIN,
)
"""Gives the chain the layer shards of a devnet; nobody hosts it."""


class Validators:
    """The keys of a network and what they sign.

    Args:
        balances: What accounts hold in the root shard at genesis.
        count: How many validators there are.
        time_ms: Of genesis; a minute ago when None.
        layer_shards: Into how many shards the model is cut.
        shard_balances: Besides those in the root shard, by (address, shard).
    """

    def __init__(
        self,
        balances: Mapping[bytes, int],
        count: int = 4,
        time_ms: int | None = None,
        *,
        layer_shards: int = DEVNET_SHARDS_PER_MODEL,
        shard_balances: Mapping[tuple[bytes, int], int] | None = None,
    ) -> None:
        self.count = count
        self.keys = [
            BlsSecretKey((index + 1).to_bytes(32, "big")) for index in range(count)
        ]
        validators = [
            GenesisValidator(
                name=f"validator{index}",
                account=derive_account(index).public_key,
                public_key=key.public_key,
                proof_of_possession=key.prove_possession(),
                power=ATOMS_PER_COIN,
            )
            for index, key in enumerate(self.keys)
        ]
        self.genesis = build_devnet_genesis(
            validators=validators,
            models=[MODEL],
            balances=balances,
            time_ms=get_past_ms(60) if time_ms is None else time_ms,
            shards_per_model=layer_shards,
            shard_balances=shard_balances,
        )
        self.spec: ChainSpec = build_chain_spec(self.genesis)

    def open_tree(self, folder: Path) -> BlockTree:
        """Return the tree of a new node on a database of its own."""
        return open_tree(self.spec, LevelStore(folder), bls)

    def open_tree_on(self, store: KeyValueStore) -> BlockTree:
        """Return the tree on a database that the caller closes."""
        return open_tree(self.spec, store, bls)

    def build(self, tree: BlockTree, picker: Picker) -> HeldBlock:
        """Return the next block on the final one, by the leader whose turn it is."""
        parent = tree.final
        view = parent.child_parent_view + 1
        epoch = tree.epoch
        leader = compute_leader(epoch.seed, view, epoch.validators)
        reveal = compute_reveal_bytes(self.spec.chain_id, epoch.epoch, view)
        return tree.build(
            parent_hash=parent.block_hash,
            view=view,
            proposer=leader,
            reveal=self.keys[leader].sign(reveal),
            attendance=self._attend(parent),
            time_ms=parent.header.time_ms + 1000,
            picker=picker,
            chunks=certify_chunks(tree, parent, view, picker, self.keys, bls),
        )

    def certify(self, held: HeldBlock) -> Certificate:
        """Return the certificate of everybody that makes a block final."""
        return self.build_certificate(Kind.FINALIZATION, held.proposal)

    def build_certificate(
        self, kind: Kind, proposal: Proposal, signers: Sequence[int] | None = None
    ) -> Certificate:
        """Return a certificate of a proposal.

        Args:
            kind: NOTARIZATION or FINALIZATION.
            proposal: Its subject.
            signers: Ascending; everybody when None.
        """
        signers = range(self.count) if signers is None else signers
        compute = (
            compute_finalize_bytes
            if kind is Kind.FINALIZATION
            else compute_notarize_bytes
        )
        return Certificate(
            kind=kind,
            proposal=proposal,
            epoch=proposal.epoch,
            view=proposal.view,
            bitmap=encode_bitmap(signers, self.count),
            signature=self._sign(compute(self.spec.chain_id, proposal), signers),
        )

    def notarize(self, index: int, proposal: Proposal) -> Notarize:
        """Return a validator's vote."""
        message = compute_notarize_bytes(self.spec.chain_id, proposal)
        return Notarize(proposal, index, self.keys[index].sign(message))

    def finalize(self, index: int, proposal: Proposal) -> Finalize:
        """Return a validator's vote that a block be final."""
        message = compute_finalize_bytes(self.spec.chain_id, proposal)
        return Finalize(proposal, index, self.keys[index].sign(message))

    def _attend(self, parent: HeldBlock) -> Attendance:
        if parent.is_epoch_root:
            return NO_ATTENDANCE
        message = compute_notarize_bytes(self.spec.chain_id, parent.proposal)
        everybody = range(self.count)
        return Attendance(
            encode_bitmap(everybody, self.count), self._sign(message, everybody)
        )

    def _sign(self, message: bytes, signers: Sequence[int]) -> bytes:
        return bls.aggregate([self.keys[index].sign(message) for index in signers])


def get_past_ms(age_s: int) -> int:
    """Return the Unix time of `age_s` seconds ago, in milliseconds."""
    return time.time_ns() // 1_000_000 - 1000 * age_s


def derive_account(index: int) -> SecretKey:
    """Return the account key of a validator."""
    return SecretKey(bytes([index + 1]) * 32)
