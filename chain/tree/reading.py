"""
What a block tree holds, to read: the final chain, and the blocks above it.

See chain/tree/blocktree.py for how it changes.
"""

from chain.errors import (
    UnfinalParent,
    UnknownBlock,
)
from chain.execution.bodies import BodyPool, read_body
from chain.execution.chunk import ChunkBody
from chain.execution.executor import ChunkExecutor, InProcess
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.ledger.epochs import compute_first_height
from chain.ledger.halts import get_halts
from chain.ledger.ledger import ShardLedger
from chain.ledger.roster import get_validators
from chain.records.block import Block
from chain.records.spec import ChainSpec
from chain.rewarding.evidence import EvidenceJudge
from chain.storage.final_state import FinalState
from chain.storage.fraud_store import FraudStore
from chain.storage.history import History
from chain.storage.store import ChainStore
from chain.tree.branch import Branch
from chain.tree.court import BranchCourt, Judged
from chain.tree.custody import choose_followed
from chain.tree.endorsing import ExecutedChunks
from chain.tree.following import FOLLOW_ALL, Follow
from chain.tree.inclusion import InclusionJudge
from chain.tree.pending import PendingBlocks
from chain.tree.strays import Strays
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.codec import encode
from primitives.types import Epoch, Height, ShardId, TimeMs
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.layout import ROOT_SHARD, Layout


class TreeReading:
    """What is held, to read; chain/tree/blocktree.py changes it."""

    def __init__(
        self,
        spec: ChainSpec,
        store: ChainStore,
        scheme: SignatureScheme,
        state: FinalState,
        final: HeldBlock,
        verified: VerifiedCache,
        follow: Follow = FOLLOW_ALL,
    ) -> None:
        """Use `chain.tree.opening`."""
        self.spec = spec
        self.follow = follow
        """The shards that we want; `followed` says which ones we have."""
        self.store = store
        self.verified = verified
        """Shared with the mempool, so that each signature is checked once."""
        self.judge = EvidenceJudge(spec.chain_id, scheme)
        """Shared with the evidence pool, for the same reason."""
        self.executor: ChunkExecutor = InProcess()
        """Runs the chunks of others' blocks; a node may put another one here."""
        self.frauds = FraudStore(store.kv)
        """Proofs that notices in blocks name."""
        self.strays = Strays()
        """Certified chunks that are wrong, for whoever denounces them."""
        self._judged = Judged()
        self._inclusion = InclusionJudge(spec.chain_id, scheme)
        self._executed = ExecutedChunks()
        self._bodies = BodyPool()
        self._scheme = scheme
        self._state = state
        self._final = final
        self._first_height = store.get_first_height()
        self._pending = PendingBlocks(store)
        self.history = History(state)
        """The states after the last final blocks."""

    # ------------------------------------------------------------------ reading

    @property
    def final(self) -> HeldBlock:
        """The last final block."""
        return self._final

    @property
    def state(self) -> FinalState:
        """The state after it, with the database that it is in."""
        return self._state

    @property
    def final_height(self) -> Height:
        """Its height; 0 for genesis."""
        return self._final.height

    @property
    def first_height(self) -> Height:
        """Where history begins: 0, or the height of the snapshot that began it."""
        return self._first_height

    @property
    def final_hash(self) -> bytes:
        """Its hash."""
        return self._final.block_hash

    @property
    def final_view(self) -> int:
        """The view in which it was proposed; 0 for genesis."""
        return self._final.header.view

    @property
    def final_certificate(self) -> Certificate | None:
        """The certificate that made it final; None for genesis."""
        return self.store.get_certificate(self.final_height)

    @property
    def tip(self) -> Tip:
        """The last final block as consensus of `epoch` sees it."""
        final = self._final
        if final.is_epoch_root:
            return Tip(final.height, 0, final.block_hash, None)
        certificate = self.final_certificate
        return Tip(final.height, final.header.view, final.block_hash, certificate)

    @property
    def epoch(self) -> EpochConfig:
        """The epoch of the block after the last final one."""
        return self._final.child_epoch.config

    @property
    def layout(self) -> Layout:
        """The shards of the epoch of the block after the last final one."""
        return self._final.child_epoch.layout

    @property
    def followed(self) -> frozenset[ShardId]:
        """Those of them whose state is here."""
        return self._final.followed

    @property
    def running(self) -> frozenset[ShardId]:
        """Those of them that do not stand still for a fraud."""
        halted = {halt.shard for halt in get_halts(self._open_ledger())}
        return frozenset(self.layout.shard_ids) - halted

    @property
    def wanted(self) -> frozenset[ShardId]:
        """Those of them that should be followed; see chain/tree/custody.py."""
        return choose_followed(self._open_ledger(), self.layout, self.follow)

    @property
    def epoch_first_time_ms(self) -> TimeMs | None:
        """Time of the first final block of `epoch`; None while there is none."""
        blocks = self.spec.params.epoch_blocks
        height = compute_first_height(self.epoch.epoch, blocks)
        block = self.store.get_block(height) if height <= self.final_height else None
        return None if block is None else block.header.time_ms

    def get_validators(self, epoch: Epoch) -> ValidatorSet | None:
        """Return an epoch's set: that of `epoch`, the next one, or one not long ago."""
        return get_validators(self._open_ledger(), epoch)

    @property
    def pending(self) -> tuple[HeldBlock, ...]:
        """Blocks above the final one, parents before children."""
        return self._pending.list_blocks()

    def has(self, block_hash: bytes) -> bool:
        """Tell whether a block is final or pending here."""
        return (
            block_hash in self._pending or self.store.get_height(block_hash) is not None
        )

    def get(self, block_hash: bytes) -> HeldBlock:
        """Return a block that others can follow: pending, or the last final one.

        Raises:
            UnknownBlock: It is neither.
        """
        if block_hash == self.final_hash:
            return self._final
        held = self._pending.get(block_hash)
        if held is None:
            raise UnknownBlock(block_hash)
        return held

    def get_block_bytes(self, block_hash: bytes) -> bytes | None:
        """Return the bytes of a pending or final block."""
        held = self._pending.get(block_hash)
        if held is not None:
            return held.block_bytes
        height = self.store.get_height(block_hash)
        return None if height is None else self.store.get_block_bytes(height)

    def get_block(self, block_hash: bytes) -> Block:
        """Return a pending or final block.

        Raises:
            UnknownBlock: Neither.
        """
        held = self._pending.get(block_hash)
        if held is not None:
            return held.block
        height = self.store.get_height(block_hash)
        block = None if height is None else self.store.get_block(height)
        if block is None:
            raise UnknownBlock(block_hash)
        return block

    def get_body(self, chunk_hash: bytes) -> ChunkBody | None:
        """Return the body of a layer shard's chunk, if it is here."""
        done = self._executed.get(chunk_hash)
        if done is not None:
            return ChunkBody(done.result.consumed, done.result.transactions)
        return (
            self._bodies.get(chunk_hash)
            or self._pending.find_body(chunk_hash)
            or self.store.get_body(chunk_hash)
        )

    def get_body_bytes(self, chunk_hash: bytes) -> bytes | None:
        """Return its bytes."""
        data = self.store.get_body_bytes(chunk_hash)
        if data is not None:
            return data
        body = self.get_body(chunk_hash)
        return None if body is None else encode(body)

    def has_body(self, chunk_hash: bytes) -> bool:
        """Tell whether the body of a layer shard's chunk is here."""
        return self.get_body(chunk_hash) is not None

    def add_body(self, header: ChunkHeader, data: bytes) -> None:
        """Keep the body of a chunk until a block that holds it comes.

        Args:
            header: Of a chunk that somebody certified.
            data: Untrusted.

        Raises:
            InvalidBody: It is not the one of the header.
        """
        self.keep_body(header, read_body(header, data))

    def keep_body(self, header: ChunkHeader, body: ChunkBody) -> None:
        """Keep a body that was checked."""
        self._bodies.put(compute_chunk_hash(header), body, header.bytes)

    def get_time_ms(self, block_hash: bytes) -> TimeMs:
        """Return the time of a held block.

        Raises:
            UnknownBlock: It is not held.
        """
        return self.get_block(block_hash).header.time_ms

    def get_final(self, height: Height) -> tuple[bytes, Certificate] | None:
        """Return a final block's bytes and the certificate that made it final.

        The certificate may be a descendant's: the blocks between, which the caller
        gets by asking for their heights, link the two by parent hashes.
        """
        block_bytes = self.store.get_block_bytes(height)
        certificate = self.store.get_certificate(height)
        if block_bytes is None or certificate is None:
            return None
        return block_bytes, certificate

    def open_court(self, parent_hash: bytes) -> BranchCourt:
        """Return the court of a block on a held parent; raises UnknownBlock."""
        return self._open_court(self.build_branch(self.get(parent_hash)))

    def open_final_court(self) -> BranchCourt:
        """Return the court of a block on the last final one: for pools of evidence."""
        return self.open_court(self.final_hash)

    # ------------------------------------------------------------------- inside

    def build_branch(self, tip: HeldBlock) -> Branch:
        """Return the way from the final chain to a held block."""
        pending = tuple(reversed(list(self._pending.walk(tip.block_hash))))
        return Branch(tip, pending, self.final_height, self.store)

    def _open_ledger(self) -> ShardLedger:
        view = self._final.view
        return ShardLedger(lambda key: view.get(ROOT_SHARD, key))

    def validate_root(self, parent: HeldBlock) -> None:
        """Check that the epoch of a block on `parent` has begun."""
        if parent.is_epoch_root and parent.height > self.final_height:
            raise UnfinalParent(parent.block_hash)

    def _open_court(self, branch: Branch) -> BranchCourt:
        return BranchCourt(
            self.spec,
            branch,
            self.frauds,
            self._judged,
            self._scheme,
            self.verified,
            self.executor,
        )
