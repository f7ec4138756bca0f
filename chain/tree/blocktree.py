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
from functools import cached_property

from chain.errors import (
    BodyMismatch,
    ConflictingFinal,
    InvalidBlock,
    MissingBodies,
    MissingParent,
    StoreError,
    UnknownBlock,
)
from chain.execution.held import HeldBlock
from chain.execution.system import SystemInput, run_system
from chain.execution.validity import validate_body, validate_header, validate_proposal
from chain.records.block import (
    Attendance,
    Block,
    compute_heads_root,
    compute_roots_root,
    decode_block,
)
from chain.records.header import compute_block_hash
from chain.rewarding.evidence import QUORUMS_WORD
from chain.state.state import StateView
from chain.storage.index import Changes
from chain.storage.store import (
    FOLLOW_KEY,
    AdoptedAt,
    build_adopted_key,
    build_key,
)
from chain.tree.adoption import Adoption
from chain.tree.building import Picker, build_block, build_chunks
from chain.tree.chunks import TreeChunks
from chain.tree.finality import compute_final_changes, fold_final
from chain.tree.past_chunks import FinalChunk, find_next_chunk
from chain.tree.pending import build_held
from chain.tree.processing import BlockBase, Processed, process_body
from chain.tree.reading import TreeReading
from consensus.messages import Certificate, Proposal
from consensus.randao import compute_mix
from primitives.codec import encode
from primitives.types import ShardId, TimeMs
from shards.certificate import CertifiedChunk


class BlockTree(TreeReading):
    """All blocks that a node holds; see the top of the file."""

    @cached_property
    def chunks(self) -> TreeChunks:
        """Chunks of layer shards on these blocks."""
        return TreeChunks(self, self._inclusion, self._executed)

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
        self.validate_root(parent)
        branch = self.build_branch(parent)
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
        self.validate_root(parent)
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
        branch = self.build_branch(self._final)
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
        branch = self.build_branch(parent)
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
