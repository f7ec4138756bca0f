"""
The real chain in a simulated network: chain.blocktree over a database in memory.

Blocks hold what their leader makes up: transfers within and between three shards,
bonds, unbonds, a newcomer's stake; and the evidence of which its consensus told it.
Accounts and BLS keys are real, so that possession proofs verify; votes are signed with
whatever the world's key ring makes.
"""

import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from chain.account import Account
from chain.block import Attendance, decode_block
from chain.blocktree import BlockTree, open_tree
from chain.building import ReadState
from chain.chunk_execution import ChunkBody
from chain.conservation import compute_conservation
from chain.contracts.model import ModelRecord, compute_model_id
from chain.contracts.staking import Bond, Unbond
from chain.contracts.transfer import Transfer
from chain.epochs import compute_last_height
from chain.errors import MissingBodies
from chain.evidence_pool import EvidencePool
from chain.header import Header, build_proposal, compute_block_hash
from chain.keys import build_account_key
from chain.ledger import ShardLedger
from chain.light import LightChain, LightState, adopt, advance
from chain.light_queries import LightQueries
from chain.roster import find_stake
from chain.slashing import SLASH_EVENT
from chain.spec import ChainSpec
from chain.transaction import (
    Payload,
    SignedTransaction,
    Transaction,
    sign_transaction,
)
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate, Proposal, Vote
from consensus.scheme import Signer
from consensus.validators import ValidatorSet
from genesis.genesis import Genesis, GenesisParams, GenesisValidator
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec
from p2pchain.node.evidence_desk import REPEAT_BLOCKS
from p2pchain.sim.committee import certify_chunks
from p2pchain.sim.errors import PowerCut
from p2pchain.sim.evidence import EvidenceDesk
from p2pchain.sim.listchain import GENESIS_TIME_MS
from p2pchain.sim.signatures import make_real_key
from primitives.codec import decode, encode
from primitives.keys import SecretKey
from primitives.kv import MemoryStore
from shards.chunk import compute_chunk_hash
from shards.layout import ROOT_SHARD

if TYPE_CHECKING:
    from p2pchain.sim.disk import Disk
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

COIN = 10**9
STAKE = 1000 * COIN
SHARDS = (0, 1, 2)
PEOPLE = 4
"""Accounts without a stake that pay each other."""
BUCKET_LEVELS = 2
"""Sixteen buckets per shard: a tree is built at every restart."""
EVIDENCE_EPOCHS = 2
UNBONDING_EPOCHS = 7
"""As few as genesis allows, so that payouts happen."""
VALIDITY = 50

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


@cache
def get_account(name: str) -> SecretKey:
    """Return the account of a node or of one of the people, by name."""
    return SecretKey(name.encode().ljust(32, b"."))


class SimStore(MemoryStore):
    """A database whose machine may go off before or after any batch."""

    def __init__(self, disk: "Disk") -> None:
        super().__init__()
        self._disk = disk

    def write(
        self, changes: Mapping[bytes, bytes | None], *, sync: bool = False
    ) -> None:
        """Apply all changes or none."""
        is_last = self._disk.before_batch()
        super().write(changes, sync=sync)
        if is_last:
            raise PowerCut


@cache
def build_spec(names: str, everybody: str, epoch_blocks: int) -> ChainSpec:
    """Return the chain of a network.

    Args:
        names: Validators of the first set, one letter each.
        everybody: And all other nodes.
        epoch_blocks: Length of an epoch.
    """
    validators = [_build_validator(name) for name in names]
    accounts = [*everybody, *(f"p{number}" for number in range(PEOPLE))]
    chain = msgspec.structs.replace(
        DEVNET_PARAMS.chain,
        bucket_levels=BUCKET_LEVELS,
        epoch_blocks=epoch_blocks,
        evidence_epochs=EVIDENCE_EPOCHS,
        unbonding_epochs=UNBONDING_EPOCHS,
    )
    genesis: Genesis = build_devnet_genesis(
        validators=validators,
        models=[MODEL],
        balances={get_account(name).public_key: 2 * STAKE for name in accounts},
        shard_balances={
            (get_account(name).public_key, shard): 100 * COIN
            for name in accounts
            for shard in SHARDS[1:]
        },
        time_ms=GENESIS_TIME_MS,
        params=GenesisParams(chain=chain, consensus=DEVNET_PARAMS.consensus),
    )
    return build_chain_spec(genesis)


def _build_validator(name: str) -> GenesisValidator:
    key = make_real_key(repr(name))
    return GenesisValidator(
        name=f"validator-{name}",
        account=get_account(name).public_key,
        public_key=key.public_key,
        proof_of_possession=key.prove_possession(),
        power=STAKE,
    )


class TreeChains:
    """The genesis of a tree chain."""

    def __init__(self, world: "World") -> None:
        self.world = world
        setup = world.setup
        everybody = "".join(world.signers)
        names = everybody[: setup.size]
        self.newcomers = everybody[setup.size :]
        self.spec = build_spec(names, everybody, setup.epoch_blocks)
        self.chain_id = self.spec.chain_id
        tree = open_tree(self.spec, MemoryStore(), world.keys.scheme)
        self.genesis_hash = tree.final_hash
        self.bodies: dict[bytes, ChunkBody] = {}
        """Of all chunks by hash; their committees, who always answer."""
        self.light_chain = LightChain(
            chain_id=self.spec.chain_id,
            epoch_blocks=self.spec.params.epoch_blocks,
            bucket_levels=BUCKET_LEVELS,
        )

    def open(self, node: "Node") -> "TreeChain":
        """Return the chain that a node's disk holds; a new disk is filled first."""
        if node.disk.database is None:
            node.disk.database = SimStore(node.disk)
        assert isinstance(node.disk.database, SimStore)
        tree = open_tree(self.spec, node.disk.database, self.world.keys.scheme)
        return TreeChain(self, tree, node)


class TreeChain:
    """One node's chain; implements p2pchain.sim.chains.Chain."""

    def __init__(self, chains: TreeChains, tree: BlockTree, node: "Node") -> None:
        self.tree = tree
        self._chains = chains
        self._node = node
        self._pool = EvidencePool(tree.judge, EVIDENCE_EPOCHS)
        self.evidence = EvidenceDesk(node, self._take_evidence)

    @property
    def final_height(self) -> int:
        """Height of the last final block."""
        return self.tree.final_height

    @property
    def durable_height(self) -> int:
        """What a restart would find; more than `final_height` inside of a crash."""
        tip = self.tree.store.get_tip()
        return 0 if tip is None else tip.height

    @property
    def final_hash(self) -> bytes:
        """Its hash."""
        return self.tree.final_hash

    @property
    def tip(self) -> Tip:
        """It as consensus wants to know it."""
        return self.tree.tip

    @property
    def epoch(self) -> EpochConfig:
        """The epoch of the next block."""
        return self.tree.epoch

    @property
    def epoch_first_time_ms(self) -> int | None:
        """Time of its first block, if that is final."""
        return self.tree.epoch_first_time_ms

    @property
    def held_blocks(self) -> int:
        """Blocks that are not final."""
        return len(self.tree.pending)

    def get_epoch_end(self, epoch: int) -> Certificate | None:
        """Return the finalization of an epoch's boundary."""
        blocks = self._chains.spec.params.epoch_blocks
        found = self.tree.get_final(compute_last_height(epoch, blocks))
        return None if found is None else found[1]

    def get_hash(self, height: int) -> bytes:
        """Return the hash of a final block."""
        return compute_block_hash(self._get_header(height))

    def get_root(self, height: int) -> bytes:
        """Return the root over all shards' states after a final block."""
        return self._get_header(height).roots_root

    def get_validators(self, epoch: int) -> ValidatorSet | None:
        """Return an epoch's set, if it is known."""
        if epoch == 0:
            return self._chains.spec.first_validators
        return self.tree.store.get_validators(epoch)

    def list_packets(self, height: int) -> list[tuple[int, int, int]]:
        """Return (source, destination, number) of what a final block consumes."""
        store = self.tree.store
        block = store.get_block(height)
        assert block is not None
        chunks = [store.get_chunk(block, h.shard) for h in block.body.headers]
        return [
            (proof.packet.src, proof.packet.dst, proof.packet.seq)
            for chunk in chunks
            if chunk is not None
            for proof in chunk.packets
        ]

    def list_convicted(self, height: int) -> list[bytes]:
        """Return the BLS keys that a final block convicted."""
        signers = self._chains.world.signers
        keys = {get_account(n).public_key: s.public_key for n, s in signers.items()}
        return [
            keys[event.addresses[0]]
            for event in self.tree.store.get_system_events(height)
            if event.kind == SLASH_EVENT
        ]

    def is_convicted(self, public_key: bytes) -> bool:
        """Tell whether the stake of a key is tombstoned in the final state."""
        stake = find_stake(ShardLedger(self._read_root), public_key)
        return stake is not None and stake.offence is not None

    def find_imbalance(self) -> str:
        """Return what is wrong with the books; empty when nothing is."""
        books = compute_conservation(self.tree)
        return "" if books.is_conserved else repr(books.to_dict())

    def follow_lightly(self) -> bytes | None:
        """Return the newest block's hash as a light client finds it from genesis."""
        spec, scheme = self._chains.spec, self._chains.world.keys.scheme
        queries = LightQueries(self.tree)
        light_chain = self._chains.light_chain
        state = LightState.from_set(light_chain, 0, spec.first_validators)
        while proofs := queries.list_proofs(state.epoch, 8):
            for proof in proofs:
                state = advance(state, proof, scheme)
        block = queries.build_block()
        is_known = state.newest and state.newest.height == self.final_height
        if block is not None and not is_known:
            state = adopt(state, block, scheme)
        return None if state.newest is None else compute_block_hash(state.newest)

    def get_final(self, height: int) -> tuple[bytes, Certificate] | None:
        """Return a final block and the finalization of it or a descendant."""
        return self.tree.get_final(height)

    def has_block(self, block_hash: bytes) -> bool:
        """Tell whether a block is held."""
        return self.tree.has(block_hash)

    def get_block_bytes(self, block_hash: bytes) -> bytes | None:
        """Return a held block."""
        return self.tree.get_block_bytes(block_hash)

    def get_time_ms(self, block_hash: bytes) -> int:
        """Return a held block's time."""
        return self.tree.get_time_ms(block_hash)

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Keep evidence for a block, and tell the others."""
        self.evidence.report(first, second)

    def build_block(
        self,
        *,
        epoch: int,
        view: int,
        parent_hash: bytes,
        parent_view: int,
        proposer: int,
        reveal: bytes,
        attendance: Attendance,
        time_ms: int,
    ) -> tuple[bytes, bytes, int]:
        """Build and hold a block."""
        world = self._chains.world
        world.built += 1
        parent = self.tree.get(parent_hash)
        picker = RandomPicker(self._chains, self.final_height, world.built)
        chunks = certify_chunks(
            self.tree, parent, view, picker, self._list_signers(), world.keys.scheme
        )
        held = self.tree.build(
            parent_hash=parent_hash,
            view=view,
            proposer=proposer,
            reveal=reveal,
            attendance=attendance,
            time_ms=time_ms,
            picker=picker,
            chunks=chunks,
            evidence=self._pool.pick(lambda key: parent.view.get(ROOT_SHARD, key)),
        )
        self._chains.bodies.update(held.bodies)
        return held.block_hash, held.block_bytes, held.height

    def read_proposal(self, block_bytes: bytes) -> Proposal:
        """Return the proposal that a block gives."""
        header = decode_block(block_bytes).header
        return build_proposal(header, compute_block_hash(header))

    def add_block(self, proposal: Proposal, block_bytes: bytes) -> None:
        """Judge and hold a block."""
        now_ms = self._node.get_clock_ms()
        try:
            self.tree.add(block_bytes, now_ms, proposal)
        except MissingBodies as error:
            for header in error.headers:
                body = self._chains.bodies[compute_chunk_hash(header)]
                self.tree.keep_body(header, body)
            self.tree.add(block_bytes, now_ms, proposal)

    def save_pending(self, block_hash: bytes) -> None:
        """Make a block and its ancestors durable."""
        self.tree.save_pending(block_hash)

    def finalize(self, certificate: Certificate) -> None:
        """Make a block and its ancestors final."""
        if self.tree.finalize(certificate):
            self._pool.revalidate(self._read_root)
            if self.final_height % REPEAT_BLOCKS == 0:
                for piece in self._pool.list_pieces():
                    self.evidence.tell(piece.data)

    def _list_signers(self) -> list[Signer]:
        """Return the signers of the epoch's set, in its order."""
        signers = {s.public_key: s for s in self._chains.world.signers.values()}
        return [signers[v.public_key] for v in self.tree.epoch.validators.validators]

    def _take_evidence(self, data: bytes) -> tuple[bytes, ...]:
        return self._pool.add(data, self._read_root).guilty

    def _read_root(self, key: bytes) -> bytes | None:
        return self.tree.final.view.get(ROOT_SHARD, key)

    def _get_header(self, height: int) -> Header:
        data = self.tree.store.get_block_bytes(height)
        assert data is not None
        return decode_block(data).header


class RandomPicker:
    """Makes transactions up; some of them fail, as some always do."""

    def __init__(self, chains: TreeChains, height: int, number: int) -> None:
        self._chains = chains
        self._height = height
        self._luck = random.Random(f"{chains.world.seed} {number}")

    def get_waiting(self, shard: int) -> int:
        """Return 1: there is always something."""
        return 1

    def pick(
        self, shard: int, read: ReadState
    ) -> Iterator[tuple[bytes, SignedTransaction]]:
        """Yield a few transactions of different senders."""
        names = [*self._chains.world.signers, *(f"p{n}" for n in range(PEOPLE))]
        for name in self._luck.sample(names, self._luck.randrange(3)):
            sender = get_account(name)
            data = read(build_account_key(sender.public_key))
            nonce = 0 if data is None else decode(Account, data).nonce
            transaction = Transaction(
                version=1,
                chain_id=self._chains.chain_id,
                shard=shard,
                sender=sender.public_key,
                nonce=nonce,
                fee_limit=COIN,
                valid_until_height=self._height + VALIDITY,
                payload=self._draw_payload(name, shard),
            )
            signed = sign_transaction(transaction, sender)
            yield encode(signed), signed

    def _draw_payload(self, name: str, shard: int) -> Payload:
        luck = self._luck
        setup = self._chains.world.setup
        # Villains keep the stake they have: more of it, and they may have a third.
        is_staker = len(name) == 1 and name not in setup.villains | setup.frail
        if shard == ROOT_SHARD and is_staker and luck.random() < 0.5:
            if name in self._chains.newcomers or luck.random() < 0.5:
                key = make_real_key(repr(name))
                return Bond(
                    name=f"validator-{name}",
                    public_key=key.public_key,
                    proof_of_possession=key.prove_possession(
                        get_account(name).public_key
                    ),
                    amount=luck.choice((0, COIN, 20 * COIN, STAKE)),
                )
            return Unbond(luck.choice((COIN, 20 * COIN)))
        recipient = get_account(f"p{luck.randrange(PEOPLE)}").public_key
        amount = luck.choice((0, 1, COIN, 30 * COIN, 10**12))
        return Transfer(recipient, luck.choice(SHARDS), amount)
