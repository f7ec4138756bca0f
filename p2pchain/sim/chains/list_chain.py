"""
A chain of blocks that say where they stand and nothing else.

It keeps every promise that consensus relies on: leaders, reveals, attendance and times
are checked, epochs have boundaries, seeds come from the mix and sets from a plan.  What
it leaves out is a state, so that a view costs a millisecond.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from chain.errors import (
    BodyMismatch,
    InvalidBlock,
    MissingParent,
    UselessEvidence,
)
from chain.records.block import Attendance
from consensus.book import Tip
from consensus.certificates import verify_attendance
from consensus.epoch import EpochConfig
from consensus.evidence import (
    decode_evidence,
    find_accused,
    get_place,
    validate_evidence,
)
from consensus.leader import compute_first_seed, compute_leader
from consensus.messages import Certificate, Proposal, Vote
from consensus.randao import compute_first_mix, compute_mix, compute_reveal_bytes
from p2pchain.sim.chains.chunkless import Chunkless
from p2pchain.sim.chains.list_blocks import (
    CHAIN_ID,
    GENESIS,
    GENESIS_TIME_MS,
    INVALID,
    ListBlock,
    ListStore,
    build_list_proposal,
    decode_list_block,
    hash_block,
)
from p2pchain.sim.chains.plans import Plan, build_plan
from p2pchain.sim.errors import PowerCut
from p2pchain.sim.machine.disk import Disk
from p2pchain.sim.machine.evidence_desk import EvidenceDesk
from primitives.codec import encode
from primitives.hashing import compute_hash

if TYPE_CHECKING:
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

MAX_DRIFT_MS = 1000


class ListChains:
    """The genesis of a list chain."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chain_id = CHAIN_ID
        self.genesis_hash = GENESIS
        self.plan: Plan = build_plan(world.setup, world.signers)
        self.epoch_blocks = world.setup.epoch_blocks
        self._first_seed = compute_first_seed(CHAIN_ID)

    def set_first_seed(self, seed: bytes) -> None:
        """Choose who leads in the first two epochs, before anybody starts."""
        self._first_seed = seed

    def open(self, node: "Node") -> "ListChain":
        """Return the chain that a node's disk holds; a new disk is filled first."""
        if node.disk.database is None:
            first, seed = self.plan.first, self._first_seed
            node.disk.database = ListStore(sets=[first, first], seeds=[seed, seed])
        store = node.disk.database
        assert isinstance(store, ListStore)
        return ListChain(self, store, node)


class ListChain(Chunkless):
    """One node's chain; implements p2pchain.sim.chains.chains.Chain."""

    def __init__(self, chains: ListChains, store: ListStore, node: "Node") -> None:
        self._chains = chains
        self._scheme = chains.world.keys.scheme
        self._store = store
        self._disk: Disk = node.disk
        self._name = node.name
        self._now_ms: Callable[[], int] = node.get_clock_ms
        self._pending: dict[bytes, ListBlock] = {}
        self._bytes: dict[bytes, bytes] = {}
        self.evidence = EvidenceDesk(node, self._take_evidence)
        self._convicted: set[bytes] = set()
        self.payload: bytes | None = None
        """A villain's own choice for the next block."""
        self._final_set = set(store.final)
        for block_hash, data in store.blocks.items():
            if block_hash not in self._final_set:
                self._hold(block_hash, data)
        self._drop_stale()

    # Where the chain stands

    @property
    def final_height(self) -> int:
        """Height of the last final block."""
        return len(self._store.final) - 1

    @property
    def final_hash(self) -> bytes:
        """Its hash."""
        return self._store.final[-1]

    @property
    def tip(self) -> Tip:
        """It as consensus wants to know it."""
        if self.final_height % self._chains.epoch_blocks == 0:
            return Tip(self.final_height, 0, self.final_hash, None)
        certificate = self._store.certificates[self.final_height]
        view = self._get_block(self.final_hash).view
        return Tip(self.final_height, view, self.final_hash, certificate)

    @property
    def epoch(self) -> EpochConfig:
        """The epoch of the next block."""
        epoch = self._compute_epoch(self.final_height + 1)
        return EpochConfig(
            epoch=epoch,
            seed=self._store.seeds[epoch],
            validators=self._store.sets[epoch],
            last_height=(epoch + 1) * self._chains.epoch_blocks,
        )

    @property
    def epoch_first_time_ms(self) -> int | None:
        """Time of its first block, if that is final."""
        return self._store.first_times.get(self.epoch.epoch)

    @property
    def held_blocks(self) -> int:
        """Blocks that are not final."""
        return len(self._pending)

    @property
    def durable_height(self) -> int:
        """The same: memory and disk never differ here."""
        return self.final_height

    def list_convicted(self, height: int) -> list[bytes]:
        """Return nothing: blocks hold no evidence."""
        return []

    def is_convicted(self, public_key: bytes) -> bool:
        """Tell whether there was evidence in this life of the node."""
        return public_key in self._convicted

    def get_epoch_end(self, epoch: int) -> Certificate | None:
        """Return the finalization of an epoch's boundary."""
        last = (epoch + 1) * self._chains.epoch_blocks
        return self._store.certificates.get(last)

    def get_hash(self, height: int) -> bytes:
        """Return the hash of a final block."""
        return self._store.final[height]

    def get_root(self, height: int) -> bytes:
        """Return a hash of everything up to a final block."""
        return self._store.roots[height]

    def get_final(self, height: int) -> tuple[bytes, Certificate] | None:
        """Return a final block and the finalization of it or a descendant."""
        if not 0 < height <= self.final_height:
            return None
        block = self._store.blocks[self._store.final[height]]
        last = self._compute_epoch(height) + 1
        for later in range(height, last * self._chains.epoch_blocks + 1):
            if later in self._store.certificates:
                return block, self._store.certificates[later]
        return None

    def has_block(self, block_hash: bytes) -> bool:
        """Tell whether a block is held."""
        return block_hash in self._final_set or block_hash in self._pending

    def get_block_bytes(self, block_hash: bytes) -> bytes | None:
        """Return a held block."""
        found = self._bytes.get(block_hash)
        return found if found is not None else self._store.blocks.get(block_hash)

    def get_time_ms(self, block_hash: bytes) -> int:
        """Return a held block's time."""
        if block_hash == GENESIS:
            return GENESIS_TIME_MS
        return self._get_block(block_hash).time_ms

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Take evidence; here it is only passed on."""
        self.evidence.report(first, second)

    def _take_evidence(self, data: bytes) -> tuple[bytes, ...]:
        """Verify a piece that convicts somebody new.

        Raises:
            InvalidEvidence: It proves nothing.
            UselessEvidence: Of an epoch not known yet, or against the convicted.
        """
        evidence, sets = decode_evidence(data), self._store.sets
        epoch, _ = get_place(evidence)
        if epoch >= len(sets):
            raise UselessEvidence(f"of epoch {epoch}")
        accused = find_accused(evidence, sets[epoch])
        keys = tuple(sets[epoch].get_public_keys(accused))
        if self._convicted.issuperset(keys):
            raise UselessEvidence("against the convicted")
        validate_evidence(evidence, sets[epoch], CHAIN_ID, self._scheme)
        self._convicted.update(keys)
        return keys

    # Blocks in and out

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
        self._chains.world.built += 1
        payload = self.payload or b"%s %d" % (
            self._name.encode(),
            self._chains.world.built,
        )
        block = ListBlock(
            epoch=epoch,
            view=view,
            parent_view=parent_view,
            parent_hash=parent_hash,
            height=self._get_height(parent_hash) + 1,
            time_ms=max(time_ms, self.get_time_ms(parent_hash) + 1),
            proposer=proposer,
            reveal=reveal,
            mix=compute_mix(self._get_mix(parent_hash), reveal),
            bitmap=attendance.bitmap,
            signature=attendance.signature,
            payload=payload,
        )
        data = encode(block)
        block_hash = hash_block(data)
        self._pending[block_hash], self._bytes[block_hash] = block, data
        return block_hash, data, block.height

    def read_proposal(self, block_bytes: bytes) -> Proposal:
        """Return the proposal that a block gives."""
        return build_list_proposal(
            decode_list_block(block_bytes), hash_block(block_bytes)
        )

    def add_block(
        self, proposal: Proposal, block_bytes: bytes, *, is_decided: bool = False
    ) -> None:
        """Judge and hold a block."""
        block_hash = hash_block(block_bytes)
        if block_hash != proposal.block_hash:
            raise BodyMismatch("other bytes")
        block = decode_list_block(block_bytes)
        if build_list_proposal(block, block_hash) != proposal:
            raise InvalidBlock("another place")
        if self.has_block(block_hash):
            return
        if block.payload == INVALID:
            raise InvalidBlock("the payload")
        if block.parent_hash != self.final_hash:
            if block.parent_hash not in self._pending:
                if block.height <= self.final_height + 1:
                    raise InvalidBlock("beside the final chain")
                raise MissingParent(block.parent_hash)
            if block.epoch != self.epoch.epoch:
                raise MissingParent(block.parent_hash)
        self._validate(block)
        self._hold(block_hash, block_bytes)

    def save_pending(self, block_hash: bytes) -> None:
        """Make a block and its ancestors durable."""
        unsaved = {}
        while block_hash not in self._store.blocks and block_hash != GENESIS:
            unsaved[block_hash] = self._bytes[block_hash]
            block_hash = self._pending[block_hash].parent_hash
        if unsaved:
            is_last = self._disk.before_batch()
            self._store.blocks.update(unsaved)
            if is_last:
                raise PowerCut

    def finalize(self, certificate: Certificate) -> None:
        """Make a block and its ancestors final."""
        assert certificate.proposal is not None
        path, block_hash = [], certificate.proposal.block_hash
        if block_hash in self._final_set:
            return
        while block_hash not in self._final_set:
            path.append(block_hash)
            block_hash = self._pending[block_hash].parent_hash
        if block_hash != self.final_hash:
            raise InvalidBlock("a finalization beside the final chain")
        is_last = self._disk.before_batch()
        for final_hash in reversed(path):
            self._append(final_hash)
        self._store.certificates[self.final_height] = certificate
        self._final_set.update(path)
        self._drop_stale()
        if is_last:
            raise PowerCut

    # Inside

    def _append(self, block_hash: bytes) -> None:
        store, block = self._store, self._pending[block_hash]
        store.blocks[block_hash] = self._bytes[block_hash]
        store.final.append(block_hash)
        store.roots.append(compute_hash("sim-root", store.roots[-1], block_hash))
        store.first_times.setdefault(block.epoch, block.time_ms)
        if block.height % self._chains.epoch_blocks == 0:
            seed = compute_hash("seed", block.mix)
            store.seeds.append(seed)
            following = self._chains.plan.compute_next(seed, store.sets[-1])
            store.sets.append(following)

    def _drop_stale(self) -> None:
        """Forget what can never become final any more."""
        kept = {self.final_hash}
        for block_hash, block in sorted(
            self._pending.items(), key=lambda item: item[1].height
        ):
            is_final = block_hash in self._final_set
            if not is_final and block.parent_hash in kept:
                kept.add(block_hash)
        for block_hash in [name for name in self._pending if name not in kept]:
            del self._pending[block_hash], self._bytes[block_hash]
            if block_hash not in self._final_set:
                self._store.blocks.pop(block_hash, None)
        self._pending.pop(self.final_hash, None)
        self._bytes.pop(self.final_hash, None)

    def _hold(self, block_hash: bytes, data: bytes) -> None:
        self._pending[block_hash] = decode_list_block(data)
        self._bytes[block_hash] = data

    def _validate(self, block: ListBlock) -> None:
        parent_hash, epoch = block.parent_hash, self.epoch
        is_root = parent_hash == self.final_hash and self.tip.view == 0
        parent = None if is_root else self._get_block(parent_hash)
        parent_height = self._get_height(parent_hash)
        if block.epoch != epoch.epoch or parent_height >= epoch.last_height:
            raise InvalidBlock("epoch")
        if block.height != parent_height + 1:
            raise InvalidBlock("height")
        if block.parent_view != (0 if parent is None else parent.view):
            raise InvalidBlock("parent's view")
        if block.view <= block.parent_view:
            raise InvalidBlock("view")
        if block.time_ms <= self.get_time_ms(parent_hash):
            raise InvalidBlock("time before the parent's")
        if block.time_ms > self._now_ms() + MAX_DRIFT_MS:
            raise InvalidBlock("time in the future")
        leader = compute_leader(epoch.seed, block.view, epoch.validators)
        if block.proposer != leader:
            raise InvalidBlock("leader")
        message = compute_reveal_bytes(CHAIN_ID, block.epoch, block.view)
        public_key = epoch.validators.validators[leader].public_key
        if not self._scheme.verify(public_key, message, block.reveal):
            raise InvalidBlock("reveal")
        if block.mix != compute_mix(self._get_mix(parent_hash), block.reveal):
            raise InvalidBlock("mix")
        self._validate_attendance(block, parent, epoch)

    def _validate_attendance(
        self, block: ListBlock, parent: ListBlock | None, epoch: EpochConfig
    ) -> None:
        if parent is None:
            if block.bitmap or block.signature:
                raise InvalidBlock("attendance for an epoch's root")
        elif not verify_attendance(
            build_list_proposal(parent, block.parent_hash),
            block.bitmap,
            block.signature,
            epoch.validators,
            CHAIN_ID,
            self._scheme,
        ):
            raise InvalidBlock("attendance")

    def _get_block(self, block_hash: bytes) -> ListBlock:
        pending = self._pending.get(block_hash)
        return pending or decode_list_block(self._store.blocks[block_hash])

    def _get_height(self, block_hash: bytes) -> int:
        return 0 if block_hash == GENESIS else self._get_block(block_hash).height

    def _get_mix(self, block_hash: bytes) -> bytes:
        if block_hash == GENESIS:
            return compute_first_mix(CHAIN_ID)
        return self._get_block(block_hash).mix

    def _compute_epoch(self, height: int) -> int:
        return max(height - 1, 0) // self._chains.epoch_blocks
