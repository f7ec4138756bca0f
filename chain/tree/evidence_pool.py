"""
The evidence pool: what is proven and waits for a block.

Theory of operation
-------------------
A piece is taken only if it convicts somebody whom neither the final state nor another
piece of the pool convicts already.  So the pool is never longer than the list of those
who can still be convicted (twice that at the turn of an epoch), whatever a cheat signs:
its second piece is old news, and that is found out before any signature is verified.

Everything is judged against the final state.  It knows the set of the next epoch too,
whose evidence waits: others may have entered that epoch a moment before us.  A leader
picks against the state of the block it builds on, which may be ahead.  After every
final block `revalidate` drops what was applied or grew too old.

It is a memory only; who owns it keeps the pieces on disk, so that nobody gets away
because everybody restarted (p2pchain/node/chain/evidence_desk.py).

Pure: no clock, no task; the state is an argument.
"""

from dataclasses import dataclass

from chain.errors import UselessEvidence
from chain.ledger.ledger import Ledger, ShardLedger
from chain.ledger.roster import get_epoch_record, get_validators
from chain.records.block import MAX_EVIDENCE
from chain.rewarding.evidence import (
    NO_COURT,
    Accusation,
    Court,
    EvidenceJudge,
    Verdict,
    is_timely,
)
from chain.rewarding.slashing import find_targets, list_targets
from chain.tree.building import ReadState

MAX_POOL = 256
"""Pieces: one against every stake that there can be, at most 256 KiB."""


@dataclass(frozen=True, slots=True)
class PooledEvidence:
    """A piece that waits, with what it proves."""

    data: bytes
    """Encoded."""
    verdict: Verdict


class EvidencePool:
    """Verified evidence that no final block holds yet.

    Args:
        judge: Shared with the block tree, so that each piece is verified once.
        evidence_epochs: Of the chain's parameters.
    """

    def __init__(self, judge: EvidenceJudge, evidence_epochs: int) -> None:
        self._judge = judge
        self._evidence_epochs = evidence_epochs
        self._pieces: dict[bytes, PooledEvidence] = {}

    def __len__(self) -> int:
        return len(self._pieces)

    def __contains__(self, evidence_id: bytes) -> bool:
        return evidence_id in self._pieces

    def list_pieces(self) -> tuple[PooledEvidence, ...]:
        """Return what waits, the oldest first."""
        return tuple(self._pieces.values())

    def add(self, data: bytes, read: ReadState, court: Court = NO_COURT) -> Verdict:
        """Verify a piece and keep it.

        Args:
            data: Untrusted.
            read: The root shard's final state.
            court: Judges frauds on the final chain.

        Raises:
            InvalidEvidence: It proves nothing; no correct node sends it.
            UselessEvidence: Too old, of an epoch that we have not reached, or against
                nobody who is not convicted yet; nobody's fault.
            MissingFraudProof: Fetch it first.
            UnjudgedFraud: From before our history.
        """
        ledger = ShardLedger(read)
        accusation = self._judge.read(data, lambda epoch: get_validators(ledger, epoch))
        self._validate_use(ledger, accusation)
        verdict = self._judge.judge(accusation, court)
        self._pieces[verdict.evidence_id] = PooledEvidence(data, verdict)
        return verdict

    def pick(self, read: ReadState, court: Court = NO_COURT) -> tuple[bytes, ...]:
        """Return what a block may hold, the piece that convicts most first.

        Args:
            read: The root shard's state at the parent block.
            court: Judges frauds on the parent's branch.  One that it cannot judge
                stays out: a chunk that no block of its epoch took is nobody's once
                the epoch is over.
        """
        ledger = ShardLedger(read)
        now = get_epoch_record(ledger).epoch
        picked: list[bytes] = []
        convicted: set[bytes] = set()
        pieces = sorted(
            self._pieces.values(),
            key=lambda piece: (-len(piece.verdict.guilty), piece.verdict.evidence_id),
        )
        for piece in pieces:
            if not is_timely(piece.verdict, now, self._evidence_epochs):
                continue
            targets = find_targets(ledger, piece.verdict) - convicted
            if targets and self._is_for(court, ledger, piece):
                picked.append(piece.data)
                convicted |= targets
            if len(picked) == MAX_EVIDENCE:
                break
        return tuple(picked)

    def revalidate(self, read: ReadState) -> tuple[bytes, ...]:
        """Drop what a final block applied and what grew too old; return its ids.

        Args:
            read: The root shard's final state.
        """
        ledger = ShardLedger(read)
        now = get_epoch_record(ledger).epoch
        pieces = sorted(self._pieces.values(), key=lambda p: p.verdict.epoch > now)
        before, self._pieces = self._pieces, {}
        for piece in pieces:
            if not self._is_near(piece.verdict, now):
                continue
            targets = find_targets(ledger, piece.verdict)
            if not targets <= self._get_convicted(max(now, piece.verdict.epoch)):
                self._pieces[piece.verdict.evidence_id] = piece
        return tuple(name for name in before if name not in self._pieces)

    def _is_for(self, court: Court, ledger: Ledger, piece: PooledEvidence) -> bool:
        accusation = self._judge.read(
            piece.data, lambda epoch: get_validators(ledger, epoch)
        )
        try:
            self._judge.judge(accusation, court)
        except UselessEvidence:
            return False
        return True

    def _validate_use(self, ledger: Ledger, accusation: Accusation) -> None:
        now = get_epoch_record(ledger).epoch
        if not self._is_near(accusation, now):
            raise UselessEvidence(f"of epoch {accusation.epoch}, now it is {now}")
        targets = find_targets(ledger, accusation)
        if not targets:
            raise UselessEvidence("against nobody who could still be convicted")
        # What has to wait for its epoch spares nobody until then.
        if targets <= self._get_convicted(max(now, accusation.epoch)):
            raise UselessEvidence("waiting evidence convicts the same already")
        if len(self._pieces) >= MAX_POOL:
            raise UselessEvidence(f"{MAX_POOL} pieces wait already")

    def _get_convicted(self, epoch: int) -> set[bytes]:
        """Return what a block of `epoch` could convict and halt by what waits."""
        return {
            target
            for piece in self._pieces.values()
            if piece.verdict.epoch <= epoch
            for target in list_targets(piece.verdict)
        }

    def _is_near(self, found: Accusation | Verdict, now: int) -> bool:
        """Tell whether a block may hold evidence now or one epoch later."""
        is_next = found.epoch == now + 1
        return is_next or is_timely(found, now, self._evidence_epochs)
