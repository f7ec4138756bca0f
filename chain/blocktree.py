"""
The block tree: the final chain, and every block above it that may still become final.

Theory of operation
-------------------
    genesis -- ... -- final --+-- a1 -- a2          pending: held in memory, executed
                              +-- b1                (bytes on disk once saved)

`add` judges a block and executes it on its parent's state; `build` makes one and holds
it at once, so no block is executed twice.  `finalize` takes a certificate, writes the
certified block and all its ancestors in one synchronous batch (state, index, blocks,
tip), folds their state into the final one and forgets every branch beside them.  After
a crash `open` finds either all of that or none.

`save_pending` makes a block survive a crash before it is final: a validator calls it
before it votes Finalize, and for every block that it knows to be certified, so that
the whole network may lose power at once without losing a block that was final for
somebody.  Saved blocks are never evicted.

Nothing follows the last block of an epoch before that is final: only then is it known
who may.  So the pending blocks above a final one are all of one epoch, `epoch`.

The tree never asks a clock: `now_ms` comes as an argument.  It is not thread-safe.

Spec: docs/protocol/03-blocks-and-state.md
"""

from collections.abc import Sequence
from dataclasses import replace

from chain.adoption import Adoption
from chain.block import (
    Attendance,
    Block,
    compute_heads_root,
    compute_roots_root,
    decode_block,
)
from chain.bodies import BodyPool, read_body
from chain.branch import Branch
from chain.building import Picker, build_block, build_chunks
from chain.chunk_execution import ChunkBody
from chain.court import BranchCourt, Judged
from chain.custody import choose_followed
from chain.endorsing import ExecutedChunks, judge_chunk
from chain.epochs import compute_first_height
from chain.errors import (
    BodyMismatch,
    ConflictingFinal,
    InvalidBlock,
    MissingBodies,
    MissingParent,
    StoreError,
    UnfinalParent,
    UnknownBlock,
)
from chain.evidence import QUORUMS_WORD, EvidenceJudge
from chain.executor import ChunkExecutor, InProcess
from chain.final_state import FinalState
from chain.finality import compute_final_changes, fold_final
from chain.following import FOLLOW_ALL, Follow
from chain.fraud_store import FraudStore
from chain.halts import get_halts
from chain.header import compute_block_hash
from chain.held import HeldBlock
from chain.history import History
from chain.inclusion import InclusionJudge, build_inclusion_base
from chain.index import Changes
from chain.ledger import ShardLedger
from chain.limits import compute_producer_limits
from chain.opening import check_database, create_chain, drop_unfollowed, load_final
from chain.past_chunks import FinalChunk, find_next_chunk
from chain.pending import PendingBlocks, build_held
from chain.processing import BlockBase, Processed, process_body
from chain.producing import ChunkPlace, produce_chunk
from chain.roster import get_validators
from chain.spec import ChainSpec
from chain.state import StateView
from chain.store import (
    FOLLOW_KEY,
    AdoptedAt,
    ChainStore,
    build_adopted_key,
    build_key,
)
from chain.strays import NO_SIGNATURE, Strays
from chain.system import SystemInput, run_system
from chain.validity import validate_body, validate_header, validate_proposal
from chain.verified import VerifiedCache
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate, Proposal
from consensus.randao import compute_mix
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from primitives.codec import encode
from primitives.kv import KeyValueStore
from primitives.types import Epoch, Height, ShardId, TimeMs, View
from shards.certificate import CertifiedChunk
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.inclusion import InclusionBase
from shards.layout import ROOT_SHARD, Layout
from shards.messages import ProducedChunk
from shards.slots import Slot


class BlockTree:
    """All blocks that a node holds; see the top of the file."""

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
        """Use `open_tree`."""
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
        """Those of them that should be followed; see chain/custody.py."""
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

    # ----------------------------------------------------------------- changing

    def build(
        self,
        *,
        parent_hash: bytes,
        view: int,
        proposer: int,
        reveal: bytes,
        attendance: Attendance,
        time_ms: TimeMs,
        picker: Picker,
        chunks: Sequence[CertifiedChunk] = (),
        evidence: tuple[bytes, ...] = (),
    ) -> HeldBlock:
        """Build a block on a held parent and hold it.

        Args:
            parent_hash: The block to follow.
            view: Of the new block.
            proposer: Index of its leader.
            reveal: The leader's signature over epoch and view.
            attendance: Votes for the parent; `NO_ATTENDANCE` on an epoch's root.
            time_ms: Now; raised to one above the parent's if it is not later.
            picker: Where the root shard's transactions come from.
            chunks: Certified ones of layer shards; what does not fit is left out.
            evidence: Pieces that convict somebody in the parent's state.

        Raises:
            UnknownBlock: The parent is not held.
            UnfinalParent: It ends an epoch and is not final.
            InvalidBlock: A piece of evidence that no block on the parent can hold.
            TooManyPending: No room and nothing to evict.
        """
        parent = self.get(parent_hash)
        self._validate_root(parent)
        branch = self._build_branch(parent)
        court = self._open_court(branch)
        given = SystemInput(
            proposer=proposer,
            attendance=attendance,
            evidence=evidence,
            mix=compute_mix(parent.header.mix, reveal),
        )
        system = run_system(self.spec, parent, given, self.judge, court)
        processed = build_chunks(
            self.spec,
            BlockBase(branch, system, view, proposer, self.follow),
            chunks,
            self.get_body,
            picker,
            self._inclusion,
            self._executed,
            self.verified,
            self._note_strays,
        )
        block = build_block(
            self.spec,
            processed,
            reveal=reveal,
            attendance=attendance,
            evidence=evidence,
            time_ms=max(time_ms, parent.header.time_ms + 1),
        )
        return self._hold(block, encode(block), processed)

    def add(
        self,
        block_bytes: bytes,
        now_ms: TimeMs,
        proposal: Proposal | None = None,
        *,
        is_decided: bool = False,
    ) -> bytes:
        """Judge a block, hold it and return its hash; held blocks are not judged again.

        Args:
            block_bytes: Untrusted.
            now_ms: Our clock, for the bound on the block's time.
            proposal: What was voted on, if there was a vote: the block has to be the
                one that it names.
            is_decided: A verified finalization covers the block: frauds that it names
                are believed, for a quorum has judged them.

        Raises:
            BodyMismatch: Not the block that the proposal or its header names.
            InvalidBlock: A block that no correct leader builds.
            MissingParent: The parent is not held.
            UnfinalParent: It ends an epoch and is not final.
            MissingBodies: Bodies of shards that we follow are not here; everything
                else is right.
            MissingFraudProof: A proof that it names has to be fetched first.
            UnjudgedFraud: It names one from before our history.
            TooManyPending: No room and nothing to evict.
        """
        block = decode_block(block_bytes)
        block_hash = compute_block_hash(block.header)
        if proposal is not None and proposal.block_hash != block_hash:
            raise BodyMismatch(
                f"block {block_hash.hex()} where {proposal.block_hash.hex()} was named"
            )
        # First what somebody on the way may have added, then what the leader did.
        validate_body(block)
        if len(block_bytes) > self.spec.params.block_bytes:
            raise InvalidBlock(f"{len(block_bytes)} bytes")
        if proposal is not None:
            validate_proposal(block.header, block_hash, proposal)
        if self.has(block_hash):
            return block_hash
        parent = self._get_parent(block)
        self._validate_root(parent)
        validate_header(
            self.spec,
            parent,
            block.header,
            block.body.attendance,
            now_ms,
            self._scheme,
        )
        processed = self._process(parent, block, is_believed=is_decided)
        self._hold(block, block_bytes, processed)
        return block_hash

    # ------------------------------------------------------- chunks of layer shards

    def build_inclusion_base(self, parent_hash: bytes, view: View) -> InclusionBase:
        """Return what the chunks of a block of `view` on a parent are judged by.

        Raises:
            UnknownBlock: The parent is not held.
        """
        branch = self._build_branch(self.get(parent_hash))
        return build_inclusion_base(self.spec, branch, view)

    def note_certified(self, certified: CertifiedChunk) -> None:
        """Take note of a certificate that was verified: blocks with it cost less."""
        self._inclusion.remember(certified)

    def produce_chunk(
        self, slot: Slot, anchor: bytes, producer: int, picker: Picker
    ) -> ProducedChunk | None:
        """Return an unsigned chunk on a held block; None if there is nothing to do.

        Args:
            slot: Of the anchor's child epoch and a later view.
            anchor: The block to stand on.
            producer: Our index in the epoch's set.
            picker: Where transactions come from.

        Raises:
            UnknownBlock: The anchor is not held.
            UnfinalParent: It ends an epoch and is not final.
        """
        parent, shard = self.get(anchor), slot.shard
        self._validate_root(parent)
        branch = self._build_branch(parent)
        if shard in branch.halted:
            return None
        busy = sum(
            1
            for other in parent.heads
            if other not in (shard, ROOT_SHARD)
            and (picker.get_waiting(other) or branch.has_inbox(other))
        )
        params = self.spec.params
        fresh = produce_chunk(
            self.spec,
            parent,
            ChunkPlace(shard, slot.epoch, slot.created_view, producer),
            inbox=branch.get_inbox(shard, params.chunk_packets),
            candidates=picker.pick(shard, lambda key: parent.view.get(shard, key)),
            limits=compute_producer_limits(params, len(parent.heads), 1 + busy),
            verified=self.verified,
        )
        if fresh is None:
            return None
        self._executed.add(compute_chunk_hash(fresh.header), fresh.executed)
        return ProducedChunk(
            header=fresh.header,
            signature=NO_SIGNATURE,
            transactions=fresh.body.transactions,
            packets=fresh.body.packets,
            witness=fresh.witness,
        )

    def judge_chunk(self, produced: ProducedChunk, parent_hash: bytes) -> None:
        """Execute somebody's chunk from its witness alone.

        Args:
            produced: Its header fits a block on the parent, its body the header.
            parent_hash: Of a block that could hold it.

        Raises:
            UnknownBlock: The parent is not held.
            InvalidChunk: Executing it does not give its header.
            InvalidWitness: The witness is not the chunk's.
        """
        branch = self._build_branch(self.get(parent_hash))
        executed = judge_chunk(
            self.spec, branch, produced, self.verified, self.executor
        )
        self._executed.add(compute_chunk_hash(produced.header), executed)

    def open_court(self, parent_hash: bytes) -> BranchCourt:
        """Return the court of a block on a held parent; raises UnknownBlock."""
        return self._open_court(self._build_branch(self.get(parent_hash)))

    def open_final_court(self) -> BranchCourt:
        """Return the court of a block on the last final one: for pools of evidence."""
        return self.open_court(self.final_hash)

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return the blocks that gave way to others since the last call."""
        return self._pending.take_evicted()

    def save_pending(self, block_hash: bytes) -> None:
        """Make a pending block and its pending ancestors survive a crash.

        Returns when they are on disk.  A final block is on disk already.

        Raises:
            UnknownBlock: It is neither pending nor final.
        """
        if block_hash in self._pending or self.store.get_height(block_hash) is None:
            self._pending.save(block_hash)

    def finalize(self, certificate: Certificate) -> tuple[HeldBlock, ...]:
        """Make a block and its ancestors final; return them, oldest first.

        Args:
            certificate: A finalization that consensus has verified.

        Raises:
            UnknownBlock: The block is not held.
            ConflictingFinal: It is not on the final chain and never can be.
        """
        assert certificate.proposal is not None
        block_hash = certificate.proposal.block_hash
        target = self._pending.get(block_hash)
        if target is None:
            self._validate_old_final(certificate.proposal)
            return ()
        chain = tuple(reversed(list(self._pending.walk(block_hash))))
        kept = self._pending.find_descendants(target)
        changes = self._pending.compute_forgotten(kept)
        changes.update(compute_final_changes(self._state, chain, certificate))
        self.store.kv.write(changes, sync=True)
        self._final = fold_final(self._state, chain, kept)
        self._pending.retain(kept)
        return chain

    # ------------------------------------------------------------ following shards

    def find_next_chunk(self, adoption: Adoption) -> FinalChunk | None:
        """Return the next chunk of an adoption; None: it is where the chain is.

        Raises:
            PastChunk: It can be executed no more.
        """
        shard, height = adoption.shard, adoption.height
        branch = self._build_branch(self._final)
        chunk = find_next_chunk(self.spec, branch, shard, height)
        if chunk is None:
            adoption.skip(self.final_height)
        return chunk

    def adopt(self, adoption: Adoption) -> None:
        """Follow a shard from now on.

        Args:
            adoption: Its state after the last final block, in the database.

        Raises:
            MissingBodies: Pending blocks have chunks of it whose bodies are not here;
                nothing has changed.
        """
        assert adoption.height == self.final_height
        shard = adoption.shard
        bodies = self._pending.collect_bodies(shard, self.get_body)
        self._write_followed(
            self.followed | {shard},
            {
                build_adopted_key(shard): encode(
                    AdoptedAt(adoption.base.height, self.final_height)
                ),
                **bodies,
            },
        )
        self._state.adopt(shard, adoption.table)
        self.history.forget(shard)
        self._hold_again(self.followed | {shard})

    def drop(self, shard: ShardId) -> None:
        """Follow a shard no more; its buckets are left for the caller to delete."""
        self._write_followed(self.followed - {shard}, {build_adopted_key(shard): None})
        self._state.drop(shard)
        self._hold_again(self.followed - {shard})

    def _write_followed(self, followed: frozenset[ShardId], changes: Changes) -> None:
        changes[FOLLOW_KEY] = encode(tuple(sorted(followed)))
        self.store.kv.write(changes, sync=True)

    def _hold_again(self, followed: frozenset[ShardId]) -> None:
        """Execute pending blocks anew, as other shards' chunks are executed now."""
        view = StateView.from_final(self._state)
        self._final = replace(self._final, followed=followed, view=view)
        for held in self.pending:
            parent = self.get(held.parent_hash)
            # It was judged before it was held.
            processed = self._process(parent, held.block, is_believed=True)
            self._pending.replace(
                build_held(held.block, held.block_bytes, processed, self._executed)
            )

    # ------------------------------------------------------------------- inside

    def load_pending(self) -> None:
        """Hold again what `save_pending` saved; called once, by `open_tree`.

        Raises:
            StoreError: A saved block that is not valid.
        """
        try:
            blocks = [decode_block(data) for data in self.store.iterate_pending()]
            blocks.sort(key=lambda block: block.header.height)
            stale = [block for block in blocks if not self._load_one(block)]
        except (InvalidBlock, MissingBodies) as error:
            raise StoreError(f"a saved block is not valid: {error}") from error
        if stale:
            names = [compute_block_hash(block.header) for block in stale]
            keys = [build_key(b"U", name) for name in names]
            self.store.kv.write(dict.fromkeys(keys), sync=True)

    def _load_one(self, block: Block) -> bool:
        """Hold a saved block; False if nothing that we hold leads to it."""
        try:
            parent = self.get(block.header.parent_hash)
        except UnknownBlock:
            return False
        # It was judged before it was saved.
        processed = self._process(parent, block, is_believed=True)
        held = build_held(block, encode(block), processed, self._executed)
        self._pending.add(held, is_saved=True)
        return True

    def _get_parent(self, block: Block) -> HeldBlock:
        parent_hash = block.header.parent_hash
        try:
            return self.get(parent_hash)
        except UnknownBlock as error:
            is_below = block.header.height <= self.final_height
            if is_below or self.store.get_height(parent_hash) is not None:
                raise InvalidBlock(
                    f"height {block.header.height} on {parent_hash.hex()[:16]} is "
                    f"beside the final chain, which is at {self.final_height}"
                ) from error
            raise MissingParent(parent_hash) from error

    def _validate_root(self, parent: HeldBlock) -> None:
        """Check that the epoch of a block on `parent` has begun."""
        if parent.is_epoch_root and parent.height > self.final_height:
            raise UnfinalParent(parent.block_hash)

    def _process(
        self, parent: HeldBlock, block: Block, *, is_believed: bool
    ) -> Processed:
        header, body = block.header, block.body
        given = SystemInput(
            proposer=header.proposer,
            attendance=body.attendance,
            evidence=body.evidence,
            mix=header.mix,
        )
        branch = self._build_branch(parent)
        court = QUORUMS_WORD if is_believed else self._open_court(branch)
        system = run_system(self.spec, parent, given, self.judge, court)
        processed = process_body(
            self.spec,
            BlockBase(branch, system, header.view, header.proposer, self.follow),
            body,
            self.get_body,
            self._inclusion,
            self._executed,
            self.verified,
            self.executor,
        )
        self._note_strays(processed)
        roots_root = compute_roots_root(processed.view.get_roots())
        if roots_root != header.roots_root:
            raise InvalidBlock("roots_root is not that of the shards' roots")
        if compute_heads_root(processed.heads) != header.heads_root:
            raise InvalidBlock("heads_root is not that of the shards' newest chunks")
        return processed

    def _note_strays(self, processed: Processed) -> None:
        if processed.strayed:
            self.strays.note(self.spec, processed, self.get_body, self.verified)

    def _hold(
        self, block: Block, block_bytes: bytes, processed: Processed
    ) -> HeldBlock:
        held = build_held(block, block_bytes, processed, self._executed)
        self._pending.add(held)
        return held

    def _build_branch(self, tip: HeldBlock) -> Branch:
        pending = tuple(reversed(list(self._pending.walk(tip.block_hash))))
        return Branch(tip, pending, self.final_height, self.store)

    def _open_ledger(self) -> ShardLedger:
        view = self._final.view
        return ShardLedger(lambda key: view.get(ROOT_SHARD, key))

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

    def _validate_old_final(self, proposal: Proposal) -> None:
        if proposal.block_hash == self.final_hash:
            return
        if self.store.get_height(proposal.block_hash) is not None:
            return
        if proposal.height <= self.final_height:
            raise ConflictingFinal(
                f"block {proposal.block_hash.hex()} at height {proposal.height} is "
                f"certified final, but our final chain has another one"
            )
        raise UnknownBlock(proposal.block_hash)


def open_tree(
    spec: ChainSpec,
    kv: KeyValueStore,
    scheme: SignatureScheme,
    follow: Follow = FOLLOW_ALL,
) -> BlockTree:
    """Return the tree over a database, which is created if it is empty.

    Args:
        spec: The chain.
        kv: Its database.
        scheme: Of signatures.
        follow: The shards that we want.  State of others is deleted; state that is
            not here does not come by itself.

    Raises:
        StoreError: The database is of another chain or format, or damaged.
    """
    store = ChainStore(kv)
    levels = spec.params.bucket_levels
    if store.get_tip() is None:
        create_chain(spec, store, FinalState(kv, spec.first_layout.shard_ids, levels))
    check_database(spec, store)
    followed = drop_unfollowed(spec, store, follow)
    shards = store.get_layout().shard_ids
    told = {s: store.get_last_chunk(s).post_root for s in shards if s not in followed}
    state = FinalState(kv, shards, levels, told)
    final = load_final(spec, store, state)
    tree = BlockTree(spec, store, scheme, state, final, VerifiedCache(), follow)
    tree.load_pending()
    return tree
