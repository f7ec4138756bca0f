"""Four validators in one process: real keys and real blocks, no network."""

import time
from collections.abc import Mapping
from pathlib import Path

from chain.block import NO_ATTENDANCE, Attendance
from chain.blocktree import BlockTree, open_tree
from chain.building import Picker
from chain.contracts.model import ModelRecord, compute_model_id
from chain.held import HeldBlock
from chain.leveldb import LevelStore
from chain.spec import ChainSpec
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Kind,
    compute_finalize_bytes,
    compute_notarize_bytes,
)
from consensus.randao import compute_reveal_bytes
from consensus.validators import encode_bitmap
from genesis.genesis import GenesisValidator
from genesis.presets import build_devnet_genesis
from genesis.state import build_chain_spec
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.keys import SecretKey
from primitives.types import ATOMS_PER_COIN

COUNT = 4
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
    """The keys of a network and what they sign."""

    def __init__(self, balances: Mapping[bytes, int]) -> None:
        """Make a genesis in which the accounts hold `balances` in the root shard."""
        self._keys = [
            BlsSecretKey((index + 1).to_bytes(32, "big")) for index in range(COUNT)
        ]
        validators = [
            GenesisValidator(
                name=f"validator{index}",
                account=SecretKey(bytes([index + 1]) * 32).public_key,
                public_key=key.public_key,
                proof_of_possession=key.prove_possession(),
                power=ATOMS_PER_COIN,
            )
            for index, key in enumerate(self._keys)
        ]
        self.genesis = build_devnet_genesis(
            validators=validators,
            models=[MODEL],
            balances=balances,
            time_ms=time.time_ns() // 1_000_000 - 60_000,
        )
        self.spec: ChainSpec = build_chain_spec(self.genesis)

    def open_tree(self, folder: Path) -> BlockTree:
        """Return the tree of a new node on a database of its own."""
        return open_tree(self.spec, LevelStore(folder), bls)

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
            reveal=self._keys[leader].sign(reveal),
            attendance=self._attend(parent),
            time_ms=parent.header.time_ms + 1000,
            picker=picker,
        )

    def certify(self, held: HeldBlock) -> Certificate:
        """Return the certificate that makes a block final."""
        return Certificate(
            kind=Kind.FINALIZATION,
            proposal=held.proposal,
            epoch=held.header.epoch,
            view=held.header.view,
            bitmap=encode_bitmap(range(COUNT), COUNT),
            signature=self._sign(
                compute_finalize_bytes(self.spec.chain_id, held.proposal)
            ),
        )

    def _attend(self, parent: HeldBlock) -> Attendance:
        if parent.is_epoch_root:
            return NO_ATTENDANCE
        message = compute_notarize_bytes(self.spec.chain_id, parent.proposal)
        return Attendance(encode_bitmap(range(COUNT), COUNT), self._sign(message))

    def _sign(self, message: bytes) -> bytes:
        return bls.aggregate([key.sign(message) for key in self._keys])
