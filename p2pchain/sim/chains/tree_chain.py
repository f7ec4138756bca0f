"""
The real chain in a simulated network: chain.tree.blocktree over a database in memory.

Blocks hold what their leader makes up for the root shard (people.py), what its desk
picks of the layer shards' certified chunks, and the evidence of which its consensus
told it.
Accounts and BLS keys are real, so that possession proofs verify; votes are signed with
whatever the world's key ring makes.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from chain.checks.conservation import compute_conservation
from chain.checks.database import verify_database
from chain.errors import InvalidBlock, InvalidBody
from chain.execution.chunk import ChunkBody
from chain.execution.held import HeldBlock
from chain.ledger.epochs import compute_last_height
from chain.ledger.halts import find_halted, read_halts
from chain.ledger.ledger import ShardLedger
from chain.ledger.roster import find_stake
from chain.light.client import LightChain, LightState, adopt, advance
from chain.queries.foreign_packets import (
    MissingPackets,
    find_missing_packets,
    list_sent,
    take_packets,
)
from chain.queries.light import LightQueries
from chain.records.block import Attendance, decode_block
from chain.records.header import Header, build_proposal, compute_block_hash
from chain.rewarding.slashing import SLASH_EVENT
from chain.tree.blocktree import BlockTree
from chain.tree.evidence_pool import EvidencePool
from chain.tree.opening import open_tree
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate, Proposal, Vote
from consensus.validators import ValidatorSet
from p2pchain.node.chain.evidence_desk import REPEAT_BLOCKS
from p2pchain.sim.chains.genesis import (
    BUCKET_LEVELS,
    EVIDENCE_EPOCHS,
    build_spec,
    get_account,
)
from p2pchain.sim.chains.kept_states import KeptStates
from p2pchain.sim.chains.people import RandomPicker
from p2pchain.sim.machine.evidence_desk import EvidenceDesk
from p2pchain.sim.machine.questions import ShardState
from p2pchain.sim.machine.store import SimStore
from primitives.codec import encode
from primitives.kv import MemoryStore
from shards.certificate import ChunkCertificate
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.errors import InvalidShardEvidence
from shards.fraud import FraudNotice, build_fraud, build_notice, compute_proof_hash
from shards.layout import ROOT_SHARD
from shards.messages import ProducedChunk
from shards.packet import PacketProof

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World


MAX_PACKETS = 8
"""In an answer; few, so that some have to be asked for twice."""


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
        scheme = self.world.keys.scheme
        tree = open_tree(self.spec, node.disk.database, scheme, node.follow)
        return TreeChain(self, tree, node)


class TreeChain:
    """One node's chain; implements p2pchain.sim.chains.chains.Chain."""

    def __init__(self, chains: TreeChains, tree: BlockTree, node: "Node") -> None:
        self.tree = tree
        self._chains = chains
        self._node = node
        self._pool = EvidencePool(tree.judge, EVIDENCE_EPOCHS)
        self.evidence = EvidenceDesk(node, self._take_evidence)
        self._kept = KeptStates(chains.spec)
        self._early: list[FraudNotice] = []
        """Of chunks that stand on blocks that are not final here yet."""

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

    def list_packets(self, height: int) -> dict[int, list[tuple[int, int]]]:
        """Return (source, number) of what a final block consumes, by shard."""
        store = self.tree.store
        block = store.get_block(height)
        assert block is not None
        found: dict[int, list[tuple[int, int]]] = {s: [] for s in self.tree.followed}
        for header in block.body.headers:
            chunk = store.get_chunk(block, header.shard)
            if chunk is None:
                found.pop(header.shard, None)
            else:
                packets = [proof.packet for proof in chunk.packets]
                found[header.shard] = [(each.src, each.seq) for each in packets]
        return found

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

    @property
    def halted(self) -> frozenset[int]:
        """Shards that stand still after the last final block."""
        return find_halted(read_halts(self._read_root), self.tree.final_height)

    def find_imbalance(self) -> str:
        """Return what is wrong with the books; empty when nothing is."""
        books = compute_conservation(self.tree)
        return "" if books.is_conserved else repr(books)

    def find_damage(self) -> str:
        """Return what a search of the database finds; empty when it is sound."""
        spec, scheme = self._chains.spec, self._chains.world.keys.scheme
        verdict = verify_database(spec, self.tree.store.kv, scheme, lambda line: None)
        return "; ".join(f"{each.what}: {each.message}" for each in verdict.findings)

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

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return the blocks that gave way to others since the last call."""
        return self.tree.take_evicted()

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
        parent = self.tree.get(parent_hash)
        desk = self._node.desk
        assert desk is not None
        held = self.tree.build(
            parent_hash=parent_hash,
            view=view,
            proposer=proposer,
            reveal=reveal,
            attendance=attendance,
            time_ms=time_ms,
            picker=self.build_picker(),
            chunks=desk.offer(parent_hash, view),
            evidence=self._pool.pick(
                lambda key: parent.view.get(ROOT_SHARD, key),
                self.tree.open_court(parent_hash),
            ),
        )
        return held.block_hash, held.block_bytes, held.height

    def keep_body(self, produced: ProducedChunk) -> None:
        """Hold a body that came with its chunk."""
        body = ChunkBody(produced.packets, produced.transactions)
        self.tree.keep_body(produced.header, body)

    def build_picker(self) -> RandomPicker:
        """Return transactions for one more block or chunk."""
        world = self._chains.world
        world.built += 1
        return RandomPicker(self._chains, self.tree, world.built)

    def read_proposal(self, block_bytes: bytes) -> Proposal:
        """Return the proposal that a block gives."""
        header = decode_block(block_bytes).header
        return build_proposal(header, compute_block_hash(header))

    def get_proof(self, proof_hash: bytes) -> bytes | None:
        """Return a fraud proof that is held."""
        return self.tree.frauds.get_bytes(proof_hash)

    def offer_proof(self, proof_hash: bytes, data: bytes) -> bool:
        """Hold a fraud proof that was asked for; False: it is another one."""
        if compute_proof_hash(data) != proof_hash:
            return False
        with suppress(InvalidShardEvidence):
            # Else these are the bytes that were named, and no others will do.
            self.tree.frauds.offer(data)
        return True

    def fetch_proof(
        self, proof_hash: bytes, first: bytes | None, on_held: Callable[[], None]
    ) -> None:
        """Get a fraud proof that a block names."""
        self._node.requests.fetch_proof(proof_hash, on_held)

    def denounce(self, produced: ProducedChunk, certificate: ChunkCertificate) -> None:
        """Take a chunk that is wrong, as we found, and was endorsed all the same."""
        proof = build_fraud(produced, certificate)
        validators = self.tree.get_validators(proof.header.epoch)
        if validators is not None:
            self.tree.frauds.offer(encode(proof))
            self._accuse(build_notice(proof, validators))

    def _accuse(self, notice: FraudNotice) -> None:
        if not self.evidence.accuse(notice):
            self._early.append(notice)

    def add_block(
        self, proposal: Proposal, block_bytes: bytes, *, is_decided: bool = False
    ) -> None:
        """Judge and hold a block."""
        now_ms = self._node.get_clock_ms()
        self.tree.add(block_bytes, now_ms, proposal, is_decided=is_decided)

    def get_body(self, chunk_hash: bytes) -> bytes | None:
        """Return the body of a chunk, if it is here."""
        return self.tree.get_body_bytes(chunk_hash)

    def offer_body(self, header: ChunkHeader, data: bytes) -> bool:
        """Keep a body that was asked for; False: it is not the chunk's."""
        try:
            self.tree.add_body(header, data)
        except InvalidBody:
            return False
        return True

    def collect_bodies(self, block_bytes: bytes) -> dict[bytes, bytes]:
        """Return those bodies of a block's chunks that are here, by chunk hash."""
        chunks = decode_block(block_bytes).body.chunks
        names = [compute_chunk_hash(chunk.header) for chunk in chunks]
        found = {name: self.tree.get_body_bytes(name) for name in names}
        return {name: data for name, data in found.items() if data is not None}

    def take_bodies(self, block_bytes: bytes, bodies: Mapping[bytes, bytes]) -> None:
        """Keep bodies that came with a block, of shards that are followed.

        Raises:
            InvalidBlock: They are not those of its chunks.
        """
        for chunk in decode_block(block_bytes).body.chunks:
            data = bodies.get(compute_chunk_hash(chunk.header))
            if data is None or chunk.header.shard not in self.tree.followed:
                continue
            if not self.offer_body(chunk.header, data):
                raise InvalidBlock("bodies of other chunks")

    def find_missing_packets(self) -> tuple[MissingPackets, ...]:
        """Return what has to be fetched for the chunks that we fill."""
        return tuple(find_missing_packets(self.tree))

    def list_sent(
        self, chunk_hash: bytes, dst: int, first: int
    ) -> tuple[PacketProof, ...]:
        """Return packets of a final chunk, as far as they are here."""
        return list_sent(self.tree, chunk_hash, dst, first, MAX_PACKETS)

    def take_packets(
        self, missing: MissingPackets, packets: tuple[PacketProof, ...]
    ) -> int:
        """Keep packets that were asked for; return how many.

        Raises:
            InvalidPacket: They are others.
        """
        return take_packets(self.tree, missing, packets)

    def save_pending(self, block_hash: bytes) -> None:
        """Make a block and its ancestors durable."""
        self.tree.save_pending(block_hash)

    def finalize(self, certificate: Certificate) -> None:
        """Make a block and its ancestors final."""
        self._show_blocks(certificate)
        if self.tree.finalize(certificate):
            if self._chains.world.setup.is_adopting and self.tree.final.is_epoch_root:
                self._kept.keep(self.final_hash, self.tree.store.kv.freeze())
            self._repeat_denouncing()
            self._pool.revalidate(self._read_root)
            if self.final_height % REPEAT_BLOCKS == 0:
                for piece in self._pool.list_pieces():
                    self.evidence.tell(piece.data)

    def collect_state(self, block_hash: bytes, shard: int) -> ShardState | None:
        """Return the state of a shard after a boundary, if it is kept."""
        return self._kept.collect(block_hash, shard)

    def _repeat_denouncing(self) -> None:
        """Try again what was early; and what executed differently here is new."""
        early, self._early = self._early, []
        for notice in early:
            if notice.slot.epoch >= self.tree.epoch.epoch - 1:
                self._accuse(notice)
        for stray in self.tree.strays.take():
            self.denounce(stray.produced, stray.certificate)

    def _show_blocks(self, certificate: Certificate) -> None:
        """Let the judge see what becomes final while the state before it is there."""
        assert certificate.proposal is not None
        known = {held.block_hash: held for held in self.tree.pending}
        path: list[HeldBlock] = []
        held = known.get(certificate.proposal.block_hash)
        while held is not None:
            path.append(held)
            held = known.get(held.header.parent_hash)
        parent = self.tree.final
        for held in reversed(path):
            self._chains.world.judge.on_included(self._node, parent, held)
            parent = held

    def _take_evidence(self, data: bytes) -> tuple[bytes, ...]:
        court = self.tree.open_final_court()
        return self._pool.add(data, self._read_root, court).guilty

    def _read_root(self, key: bytes) -> bytes | None:
        return self.tree.final.view.get(ROOT_SHARD, key)

    def _get_header(self, height: int) -> Header:
        data = self.tree.store.get_block_bytes(height)
        assert data is not None
        return decode_block(data).header
