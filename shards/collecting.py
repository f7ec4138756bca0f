"""
The desk's collecting part: endorsements become certificates.

The producer of a chunk collects, and so do the leaders of this view and the next as far
as they know the chunk: whoever has enough first makes the certificate and tells
everybody.  Endorsements of chunks that are not known here are dropped, so memory is
bounded by the chunks, and those by the ranks of their producers.
"""

from consensus.validators import decode_bitmap
from shards.candidates import Candidate, SlotState, Status
from shards.certificate import (
    CertifiedChunk,
    ChunkCertificate,
    build_chunk_certificate,
    validate_chunk_certificate,
)
from shards.chunk import compute_chunk_hash
from shards.desk_state import DeskState
from shards.effects import Broadcast, CertificateReady, Conflict, Reason
from shards.endorsements import EndorsementPool, PooledEndorsement
from shards.errors import InvalidChunk, InvalidChunkCertificate, MissingAnchor
from shards.evidence import Endorsed, build_double_endorsement, get_endorsed
from shards.inclusion import InclusionBase, is_open, validate_inclusion
from shards.messages import Certified, Endorsement
from shards.slots import MAX_PRODUCERS, get_slot


class Collecting:
    """Counts endorsements and keeps certificates."""

    def __init__(self, state: DeskState) -> None:
        self._state = state

    def on_endorsement(self, endorsement: Endorsement, sender: bytes | None) -> None:
        """Somebody endorsed a chunk, or says so."""
        state = self._state
        place = state.open_slot(endorsement.slot, sender)
        if place is None:
            return
        if endorsement.signer not in place.committee:
            state.refuse(sender, Reason.NOT_MEMBER)
            return
        candidate = place.candidates.get(endorsement.chunk_hash)
        if candidate is None:
            state.refuse(sender, Reason.UNKNOWN_CHUNK)
            return
        pooled = PooledEndorsement(endorsement, sender, is_verified=False)
        if self._admit(place, candidate, pooled):
            self.count(place, candidate)

    def on_certified(self, certified: CertifiedChunk, sender: bytes | None) -> None:
        """Somebody has a certificate, or says so."""
        state = self._state
        header, certificate = certified.header, certified.certificate
        place = state.open_slot(get_slot(header), sender)
        if place is None:
            return
        if header.producer not in place.producers:
            state.refuse(sender, Reason.NOT_PRODUCER)
            return
        chunk_hash = compute_chunk_hash(header)
        candidate = place.candidates.get(chunk_hash)
        if candidate is not None and candidate.certificate is not None:
            state.refuse(sender, Reason.DUPLICATE)
            return
        held = [c for c in place.candidates.values() if c.certificate is not None]
        if len(held) >= MAX_PRODUCERS:
            state.refuse(sender, Reason.SURPLUS)
            return
        config = state.config
        try:
            validate_chunk_certificate(
                header,
                certificate,
                place.committee,
                state.roles.validators,
                config.chain_id,
                config.scheme,
            )
        except InvalidChunkCertificate as error:
            state.refuse(sender, Reason.BAD_CERTIFICATE, str(error))
            return
        if candidate is None:
            rank = place.producers.index(header.producer)
            candidate = place.candidates[chunk_hash] = Candidate(
                header, chunk_hash, rank, sender, Status.LIGHT, None, None
            )
        self._accept(place, candidate, certificate)

    def add_own(
        self, place: SlotState, candidate: Candidate, endorsement: Endorsement
    ) -> None:
        """Count our own endorsement."""
        if candidate.certificate is None:
            candidate.pool.add(PooledEndorsement(endorsement, None, is_verified=True))
            self.count(place, candidate)

    def count(self, place: SlotState, candidate: Candidate) -> None:
        """Make the certificate once enough endorsements verify."""
        state, pool = self._state, candidate.pool
        if candidate.certificate is not None:
            return
        if not place.committee.is_enough(pool.signers):
            return
        forged = state.verifier.find_forged(pool.get_doubtful())
        pool.remove(forged)
        for pooled in forged:
            state.refuse(pooled.sender, Reason.BAD_SIGNATURE)
        if not place.committee.is_enough(pool.signers):
            return
        certificate = build_chunk_certificate(
            pool.get_signatures(), state.roles.validators, state.config.scheme
        )
        self._accept(place, candidate, certificate)
        state.emit(Broadcast(Certified(CertifiedChunk(candidate.header, certificate))))

    def offer(self, place: SlotState) -> None:
        """A view began: tell its leaders what they may not know yet."""
        state = self._state
        assert state.base is not None
        for candidate in place.get_ranked():
            header = candidate.header
            if not is_open(header, state.base):
                continue
            if candidate.certificate is not None:
                if header.producer == state.index:
                    chunk = CertifiedChunk(header, candidate.certificate)
                    state.send(state.leaders, Certified(chunk))
                continue
            endorsement = state.get_endorsement(place.slot)
            if endorsement and endorsement.chunk_hash == candidate.chunk_hash:
                state.send({header.producer, *state.leaders}, endorsement)

    def pick(self, base: InclusionBase) -> tuple[CertifiedChunk, ...]:
        """Return the certified chunks that a block may hold, one per shard at most."""
        picked: dict[int, CertifiedChunk] = {}
        for slot in sorted(self._state.slots, key=lambda s: (s.shard, s.created_view)):
            if slot.shard in picked:
                continue
            place = self._state.slots[slot]
            for candidate in place.get_ranked():
                if candidate.certificate is None:
                    continue
                try:
                    validate_inclusion(candidate.header, base, place.producers)
                except (InvalidChunk, MissingAnchor):
                    continue
                picked[slot.shard] = CertifiedChunk(
                    candidate.header, candidate.certificate
                )
                break
        return tuple(picked.values())

    def _admit(
        self, place: SlotState, candidate: Candidate, pooled: PooledEndorsement
    ) -> bool:
        """Pool an endorsement; verify it first where its signer said something else."""
        state, endorsement = self._state, pooled.signed
        if candidate.find_statement(endorsement.signer, state.size) is not None:
            known = candidate.pool.get(endorsement.signer)
            if known is None or known.signed == endorsement or known.is_verified:
                state.refuse(pooled.sender, Reason.DUPLICATE)
                return False
            # Two signatures of one message: at most one of them is genuine.
            if not state.verifier.settle(pooled):
                state.refuse(pooled.sender, Reason.BAD_SIGNATURE)
                return False
            state.refuse(known.sender, Reason.BAD_SIGNATURE)
        if not self._settle_rivals(place, candidate, pooled):
            return False
        if candidate.certificate is not None:
            return False
        candidate.pool.add(pooled)
        return True

    def _settle_rivals(
        self, place: SlotState, candidate: Candidate, pooled: PooledEndorsement
    ) -> bool:
        """Compare with what the signer said of other chunks; False: it is forged."""
        state, signer = self._state, pooled.signed.signer
        for other in place.get_ranked():
            if other is candidate:
                continue
            statement = other.find_statement(signer, state.size)
            if statement is None:
                continue
            if not state.verifier.settle(pooled):
                state.refuse(pooled.sender, Reason.BAD_SIGNATURE)
                return False
            rival = other.pool.get(signer)
            if rival is not None and not state.verifier.settle(rival):
                other.pool.remove([rival])
                state.refuse(rival.sender, Reason.BAD_SIGNATURE)
                continue
            mine = get_endorsed(pooled.signed, state.size)
            self._accuse(place, [signer], mine, statement)
        return True

    def _accept(
        self, place: SlotState, candidate: Candidate, certificate: ChunkCertificate
    ) -> None:
        """Keep a verified certificate, and see whom it convicts."""
        state = self._state
        candidate.certificate = certificate
        key = state.get_key(candidate.header.producer)
        state.absentees.discard(place.slot.shard, key)
        candidate.pool = EndorsementPool()
        candidate.produced = None
        state.emit(CertificateReady(CertifiedChunk(candidate.header, certificate)))
        statement = Endorsed(candidate.chunk_hash, certificate)
        signers = decode_bitmap(certificate.bitmap, state.size) or ()
        for other in place.get_ranked():
            if other is candidate:
                continue
            if other.certificate is not None:
                rivals = decode_bitmap(other.certificate.bitmap, state.size) or ()
                common = [signer for signer in signers if signer in rivals]
                theirs = Endorsed(other.chunk_hash, other.certificate)
                self._accuse(place, common, statement, theirs)
                continue
            for signer in signers:
                rival = other.pool.get(signer)
                if rival is None:
                    continue
                if not state.verifier.settle(rival):
                    other.pool.remove([rival])
                    state.refuse(rival.sender, Reason.BAD_SIGNATURE)
                    continue
                theirs = get_endorsed(rival.signed, state.size)
                self._accuse(place, [signer], statement, theirs)

    def _accuse(
        self, place: SlotState, signers: list[int], first: Endorsed, second: Endorsed
    ) -> None:
        """Give evidence of E4, unless everybody is accused already."""
        if set(signers) <= place.accused:
            return
        place.accused.update(signers)
        evidence = build_double_endorsement(place.slot, first, second)
        self._state.emit(Conflict(evidence))
