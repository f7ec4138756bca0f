"""
The court: whether a chunk that was endorsed is wrong, on one branch.

Theory of operation
-------------------
    notice --proof here?--> header, certificate, body, witness
       anchor on the branch?  history here?        context of the chunk, at its anchor
       of this epoch: its committee                or of the last one: in a final block
       --> execute from the witness: another header, or none at all?   guilty

What a chunk's execution gives follows from its body, its witness under `pre_root`, and
its anchor; so whoever has the anchor on its branch comes to the same verdict, and the
dear part of it is remembered by the proof's name.  Whether the branch may judge the
chunk at all is asked each time.

A node that began with a snapshot cannot judge what is older.  It does not vote for such
a block, and follows when the quorum made it final.

Spec: docs/protocol/06-shards.md
"""

from collections import OrderedDict

from chain.errors import (
    MissingFraudProof,
    PastChunk,
    UnjudgedFraud,
    UselessEvidence,
)
from chain.execution.chunk import ChunkBody, ExecutedChunk
from chain.execution.executor import ChunkExecutor, JudgeTask
from chain.execution.verified import VerifiedCache
from chain.ledger.context import Context
from chain.ledger.epochs import compute_first_height
from chain.records.spec import ChainSpec
from chain.storage.fraud_store import FraudStore
from chain.tree.branch import Branch
from chain.tree.past_chunks import build_past_context
from chain.tree.processing import build_claim, validate_sources
from consensus.scheme import SignatureScheme
from consensus.validators import ValidatorSet
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.committee import Committee
from shards.errors import InvalidShardEvidence
from shards.evidence import Endorsed, validate_endorsed
from shards.fraud import (
    FraudNotice,
    Reexecution,
    judge_fraud,
    validate_notice,
)
from shards.messages import ProducedChunk
from shards.slots import get_slot

MAX_JUDGED = 256
"""Proofs remembered as true; 32 bytes each."""


class Judged:
    """Names of proofs that were judged true; the newest ones."""

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, proof_hash: bytes) -> bool:
        return proof_hash in self._names

    def add(self, proof_hash: bytes) -> None:
        """Remember one."""
        self._names[proof_hash] = None
        if len(self._names) > MAX_JUDGED:
            self._names.popitem(last=False)


class BranchCourt:
    """Judges frauds for a block on a branch's tip.

    Args:
        spec: The chain.
        branch: Up to the block's parent.
        proofs: Held here; true ones are kept.
        judged: Shared by all courts of a node.
        scheme: Verifies.
        verified: Signatures of transactions checked before.
        executor: Runs the chunk.
    """

    def __init__(
        self,
        spec: ChainSpec,
        branch: Branch,
        proofs: FraudStore,
        judged: Judged,
        scheme: SignatureScheme,
        verified: VerifiedCache,
        executor: ChunkExecutor,
    ) -> None:
        self._spec = spec
        self._branch = branch
        self._proofs = proofs
        self._judged = judged
        self._scheme = scheme
        self._verified = verified
        self._executor = executor

    def judge(self, notice: FraudNotice, validators: ValidatorSet) -> None:
        """Check that a notice is true; see `chain.rewarding.evidence.Court`.

        Raises:
            InvalidShardEvidence: It is not.
            UselessEvidence: The chunk does not stand on this branch.
            MissingFraudProof: The proof is not here.
            UnjudgedFraud: The chunk stands on what is before our history.
        """
        proof = self._proofs.get(notice.proof_hash)
        if proof is None:
            raise MissingFraudProof(notice.proof_hash)
        validate_notice(notice, proof, validators)
        header = proof.header
        if notice.proof_hash not in self._judged:
            # First of all, so that who holds no validator's key cannot send proofs that
            # are merely of no use here.
            validate_endorsed(
                Endorsed(notice.chunk_hash, proof.certificate),
                notice.slot,
                validators,
                self._spec.chain_id,
                self._scheme,
            )
        self._validate_history(header)
        self._validate_anchor(header)
        committee = self._find_committee(header)
        context = self._build_context(header)
        if notice.proof_hash in self._judged:
            return
        judge_fraud(
            proof,
            committee,
            validators,
            self._spec.chain_id,
            self._scheme,
            lambda produced: self._execute(produced, context),
        )
        self._judged.add(notice.proof_hash)
        self._proofs.keep(proof)

    def execute(self, produced: ProducedChunk) -> ExecutedChunk:
        """Execute a final chunk of this branch from its witness.

        Args:
            produced: Its header is that of a chunk in a block, its body the header's.

        Raises:
            InvalidWitness: The witness is not the chunk's.
            InvalidChunk: It is not what its header says.
            UselessEvidence: It stands on what the state has forgotten.
        """
        self._validate_anchor(produced.header)
        return self._run(produced, self._build_context(produced.header))

    def _compute_root_height(self, header: ChunkHeader) -> int:
        blocks = self._spec.params.epoch_blocks
        return compute_first_height(header.epoch, blocks) - 1

    def _validate_history(self, header: ChunkHeader) -> None:
        first = self._branch.store.get_first_height()
        if self._compute_root_height(header) < first:
            raise UnjudgedFraud(
                f"of epoch {header.epoch}; our history begins at {first}"
            )

    def _validate_anchor(self, header: ChunkHeader) -> None:
        """Check that a block could ever hold the chunk on its anchor."""
        anchor = self._branch.find_anchor(header.anchor)
        root = self._compute_root_height(header)
        end = root + self._spec.params.epoch_blocks
        if anchor is None or not root <= anchor.height < end:
            raise UselessEvidence("the chunk does not stand on this branch")

    def _find_committee(self, header: ChunkHeader) -> Committee | None:
        """Return who may have endorsed the chunk; None: a final block vouches."""
        roles = self._branch.tip.child_epoch.roles
        slot = get_slot(header)
        if header.epoch == roles.epoch:
            if not roles.has_slot(slot):
                raise InvalidShardEvidence(f"shard {header.shard} has no slots")
            return roles.get_committee(slot)
        if self._branch.store.find_chunk(compute_chunk_hash(header)) is None:
            raise UselessEvidence("of an epoch that is over, and in no block of it")
        return None

    def _build_context(self, header: ChunkHeader) -> Context:
        """Return what the chunk's rules may know, as its endorsers had it."""
        try:
            return build_past_context(self._spec, self._branch, header)
        except PastChunk as error:
            raise UselessEvidence(str(error)) from error

    def _execute(self, produced: ProducedChunk, context: Context) -> Reexecution:
        """Execute a chunk as its endorsers should have."""
        self._run(produced, context)
        return Reexecution(produced.header)

    def _run(self, produced: ProducedChunk, context: Context) -> ExecutedChunk:
        validate_sources(produced.packets, self._branch)
        header = produced.header
        task = JudgeTask(
            context,
            header,
            ChunkBody(produced.packets, produced.transactions),
            produced.witness,
            build_claim(self._spec.params, header),
        )
        return self._executor.judge(task, self._verified)
