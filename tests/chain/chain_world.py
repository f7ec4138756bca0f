"""A small real world: four validators with real keys, a toy model, some accounts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from chain.execution.held import HeldBlock
from chain.records.block import NO_ATTENDANCE, Attendance, Block
from chain.records.model import ModelRecord, compute_model_id
from chain.records.registration import Register
from chain.records.spec import ChainSpec
from chain.records.transaction import (
    Payload,
    SignedTransaction,
    Transaction,
    sign_transaction,
)
from chain.tree.blocktree import BlockTree
from chain.tree.building import Picker
from chain.tree.opening import open_tree
from consensus.leader import compute_leader
from consensus.messages import (
    Certificate,
    Kind,
    compute_finalize_bytes,
    compute_notarize_bytes,
)
from consensus.randao import compute_reveal_bytes
from consensus.validators import encode_bitmap
from genesis.genesis import Genesis, GenesisParams, GenesisValidator
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec
from p2pchain.sim.chains.committee import certify_chunks
from p2pchain.sim.chains.people import NothingWaits
from primitives import bls
from primitives.bls import ORDER, SECRET_BYTES, BlsSecretKey
from primitives.codec import encode
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore, MemoryStore
from shards.chunk import compute_chunk_hash

COIN = 10**9
START_MS = 1_700_000_000_000
VALIDATORS = 4

BLS_KEYS = [BlsSecretKey((i + 1).to_bytes(32, "big")) for i in range(VALIDATORS)]
STAKERS = [SecretKey(bytes([100 + i]) * 32) for i in range(VALIDATORS)]
KEYS = {key.public_key: key for key in BLS_KEYS}
"""By public key; whoever makes up a validator puts its key here."""
ALICE, BOB, CAROL, DAVE = (SecretKey(bytes([i]) * 32) for i in range(1, 5))
SIGNER = SecretKey(bytes([9]) * 32)
"""Signs vouchers."""

MODEL = ModelRecord(
    model_id=compute_model_id(bytes([1]) * 32, bytes([2]) * 32),
    name="toy",
    architecture="llama",
    layers=8,
    hidden_size=128,
    vocab_size=1024,
    dtype="float32",
    weights_root=bytes([1]) * 32,
    tokenizer_hash=bytes([2]) * 32,
    min_collateral=COIN,
)


def build_offer(
    owner: SecretKey,
    layers: tuple[int, int] = (0, 4),
    node_key: bytes = bytes([8]) * 32,
    address: str = "",
) -> Register:
    """Return the registration of a provider of some layers of the toy model."""
    return Register(
        model_id=MODEL.model_id,
        profile=bytes([7]) * 32,
        start=layers[0],
        end=layers[1],
        input_price=40,
        output_price=160,
        measured_us=1500,
        collateral=2 * COIN,
        payout=owner.public_key,
        node_key=node_key,
        addresses=(address or f"p2p://{node_key.hex()}@127.0.0.1:9",),
    )


@lru_cache(maxsize=1024)
def add_keys(keys: tuple[BlsSecretKey, ...]) -> BlsSecretKey:
    """Return the key whose signatures are the sums of theirs, at the cost of one."""
    total = sum(int.from_bytes(key.secret, "big") for key in keys)
    return BlsSecretKey((total % ORDER).to_bytes(SECRET_BYTES, "big"))


def build_genesis(**changes: int) -> Genesis:
    """Return a genesis with a hundred coins per account and shard."""
    validators = [
        GenesisValidator(
            name=f"validator-{i}",
            account=STAKERS[i].public_key,
            public_key=BLS_KEYS[i].public_key,
            proof_of_possession=BLS_KEYS[i].prove_possession(),
            power=1000 * COIN,
        )
        for i in range(VALIDATORS)
    ]
    people = (ALICE, BOB, CAROL)
    chain = msgspec.structs.replace(DEVNET_PARAMS.chain, **changes)
    return build_devnet_genesis(
        validators=validators,
        models=[MODEL],
        balances={person.public_key: 100 * COIN for person in people},
        shard_balances={
            (person.public_key, shard): 100 * COIN
            for person in people
            for shard in (1, 2)
        },
        time_ms=START_MS,
        params=GenesisParams(chain=chain, consensus=DEVNET_PARAMS.consensus),
    )


GENESIS = build_genesis()
SPEC = build_chain_spec(GENESIS)


@dataclass
class ListPicker:
    """Offers the given transactions in the given order."""

    transactions: Sequence[SignedTransaction] = ()

    def get_waiting(self, shard):
        return sum(1 for t in self.transactions if t.transaction.shard == shard)

    def pick(self, shard, read):
        for signed in self.transactions:
            if signed.transaction.shard == shard:
                yield encode(signed), signed


@dataclass
class World:
    """A tree, and the validators' keys to drive it."""

    spec: ChainSpec = SPEC
    store: KeyValueStore = field(default_factory=MemoryStore)
    tree: BlockTree = field(init=False)
    now_ms: int = START_MS
    nonces: dict[tuple[bytes, int], int] = field(default_factory=dict)

    def __post_init__(self):
        self.reopen()

    def reopen(self, store: KeyValueStore | None = None) -> BlockTree:
        """Open the database again, as after a crash."""
        self.store = store or self.store
        self.tree = open_tree(self.spec, self.store, bls)
        return self.tree

    def sign(
        self, sender: SecretKey, payload: Payload, shard: int = 0, **changes
    ) -> SignedTransaction:
        """Return the sender's next transaction in the shard; counts its nonce."""
        nonce = self.nonces.get((sender.public_key, shard), 0)
        if "nonce" not in changes:
            self.nonces[sender.public_key, shard] = nonce + 1
        fields = {
            "version": 1,
            "chain_id": self.spec.chain_id,
            "shard": shard,
            "sender": sender.public_key,
            "nonce": nonce,
            "fee_limit": COIN,
            "valid_until_height": 1000,
            "payload": payload,
        } | changes
        return sign_transaction(Transaction(**fields), sender)

    def leader(self, view: int) -> int:
        epoch = self.tree.epoch
        return compute_leader(epoch.seed, view, epoch.validators)

    def reveal(self, view: int) -> bytes:
        epoch = self.tree.epoch.epoch
        message = compute_reveal_bytes(self.spec.chain_id, epoch, view)
        return self.keys()[self.leader(view)].sign(message)

    def keys(self) -> list[BlsSecretKey]:
        """Return the keys of the epoch's validators, in order."""
        validators = self.tree.epoch.validators.validators
        return [KEYS[validator.public_key] for validator in validators]

    def attend(self, held: HeldBlock, signers=None) -> Attendance:
        """Return votes for a block; without `signers` everybody's."""
        if held.is_epoch_root:
            return NO_ATTENDANCE
        message = compute_notarize_bytes(self.spec.chain_id, held.proposal)
        keys = self.keys()
        signers = range(len(keys)) if signers is None else signers
        return Attendance(
            encode_bitmap(signers, len(keys)),
            add_keys(tuple(keys[i] for i in signers)).sign(message),
        )

    def build(
        self,
        *transactions: SignedTransaction,
        parent: HeldBlock | None = None,
        view: int | None = None,
        picker: Picker | None = None,
        signers=None,
        evidence: tuple[bytes, ...] = (),
    ) -> HeldBlock:
        """Return a new block by the right leader, held by the tree."""
        parent = parent or self.tip
        view = view or parent.child_parent_view + 1
        picker = picker or (
            ListPicker(transactions) if transactions else NothingWaits()
        )
        self.now_ms = max(self.now_ms, parent.header.time_ms) + 1000
        return self.tree.build(
            parent_hash=parent.block_hash,
            view=view,
            proposer=self.leader(view),
            reveal=self.reveal(view),
            attendance=self.attend(parent, signers),
            evidence=evidence,
            time_ms=self.now_ms,
            picker=picker,
            chunks=certify_chunks(self.tree, parent, view, picker, self.keys(), bls),
        )

    def certify(self, held: HeldBlock) -> Certificate:
        """Return the certificate that makes a block final."""
        message = compute_finalize_bytes(self.spec.chain_id, held.proposal)
        keys = self.keys()
        return Certificate(
            kind=Kind.FINALIZATION,
            proposal=held.proposal,
            epoch=held.header.epoch,
            view=held.header.view,
            bitmap=encode_bitmap(range(len(keys)), len(keys)),
            signature=add_keys(tuple(keys)).sign(message),
        )

    def finalize(self, held: HeldBlock) -> HeldBlock:
        self.tree.finalize(self.certify(held))
        return held

    def advance(self, *transactions: SignedTransaction, blocks: int = 1) -> HeldBlock:
        """Build and finalize a block with the transactions, then empty ones."""
        held = self.finalize(self.build(*transactions))
        for _ in range(blocks - 1):
            self.finalize(self.build())
        return held

    @property
    def tip(self) -> HeldBlock:
        """The highest block that the tree holds."""
        return max((self.tree.final, *self.tree.pending), key=lambda held: held.height)


def copy_bodies(block: Block, source: BlockTree, target: BlockTree) -> None:
    """Give a tree the bodies that a block names from those of another one."""
    for certified in block.body.chunks:
        body = source.get_body(compute_chunk_hash(certified.header))
        if body is not None:
            target.keep_body(certified.header, body)
