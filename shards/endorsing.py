"""
The desk's endorsing part: of the chunks of a slot, re-execute and endorse one.

    comes --signature, body--> WAITING --its turn, includable--> EXECUTING
                                  ^                               |  |  |
                                  +-- UNKNOWN, another copy came -+  | BAD
                                                                   GOOD
                     save body, persist endorsement, send  <---------+

A chunk of rank r is not looked at before its turn, r Delta after we entered the view,
or whoever comes last in rank could win by sending first.  After that the first in rank
counts.  What is not includable on the parent that we hold may be so on a better one and
waits; who produced it is not to blame for what we lack.

A header does not bind a witness, so anybody could spoil a chunk on its way.  Then the
copy counts for nothing, and one from somebody else is taken.  Whoever brought it need
not have spoilt it: who is not in the committee passes on what it cannot judge.
"""

from shards.candidates import Candidate, SlotState, Status, is_about
from shards.certificate import compute_producer_bytes
from shards.chunk import compute_chunk_hash
from shards.collecting import Collecting
from shards.desk_state import MAX_BODY_MEMORY_BYTES, DeskState
from shards.effects import Conflict, Execute, Persist, Reason, SaveChunk
from shards.errors import InvalidChunk
from shards.events import Executed, Judgement
from shards.evidence import build_double_production
from shards.messages import (
    Endorsement,
    ProducedChunk,
    ProducerSignature,
    validate_body,
)
from shards.slots import get_slot


class Endorsing:
    """Takes chunks in, judges them in order, endorses one per slot."""

    def __init__(self, state: DeskState, collecting: Collecting) -> None:
        self._state = state
        self._collecting = collecting

    def on_produced(self, produced: ProducedChunk, sender: bytes | None) -> None:
        """A chunk came, perhaps again."""
        state, header = self._state, produced.header
        place = state.open_slot(get_slot(header), sender)
        if place is None:
            return
        if header.producer not in place.producers:
            state.refuse(sender, Reason.NOT_PRODUCER)
            return
        known = place.candidates.get(compute_chunk_hash(header))
        if known is not None and known.status is Status.SPOILT:
            self._replace(place, known, produced, sender)
            return
        if known is not None and known.signature is not None:
            state.refuse(sender, Reason.DUPLICATE)
            self._repeat(place, known)
            return
        signature = self._check(place, produced, sender)
        if signature is None:
            return
        if known is not None:
            # Its certificate came first, and nothing is left to be done about it.
            known.signature = signature
            return
        is_judge = state.index is not None and state.index in place.committee
        if is_judge and not self._make_room(produced):
            state.refuse(sender, Reason.SURPLUS)
            return
        status = Status.WAITING if is_judge else Status.LIGHT
        candidate = place.build_candidate(produced, signature, sender, status)
        self._recall(place, candidate)
        self.consider(place)

    def consider(self, place: SlotState) -> None:
        """Go on with the first chunk in rank whose turn has come."""
        state = self._state
        if state.base is None or place.is_certified or not self._may_endorse(place):
            return
        ranked = place.get_ranked()
        if any(c.status is Status.EXECUTING for c in ranked):
            return
        for candidate in ranked:
            if candidate.rank > place.turn:
                return
            if candidate.status not in (Status.WAITING, Status.GOOD):
                continue
            if not state.is_includable(place, candidate):
                continue
            if candidate.status is Status.GOOD:
                self._endorse(place, candidate)
            else:
                assert candidate.produced is not None
                candidate.status = Status.EXECUTING
                state.emit(Execute(candidate.produced))
            return

    def on_executed(self, event: Executed) -> None:
        """A chunk is judged."""
        state = self._state
        place = state.slots.get(get_slot(event.header))
        if place is None:
            return
        candidate = place.candidates.get(compute_chunk_hash(event.header))
        if candidate is None or candidate.status is not Status.EXECUTING:
            return
        match event.judgement:
            case Judgement.GOOD:
                candidate.status = Status.GOOD
            case Judgement.UNKNOWN:
                # Asked again when a view begins: another parent may bring it.
                candidate.status = Status.WAITING
                return
            case Judgement.SPOILT:
                candidate.status = Status.SPOILT
                candidate.produced = None
                candidate.spoilers.add(candidate.sender)
                state.refuse(candidate.sender, Reason.BAD_WITNESS, event.detail)
            case Judgement.BAD:
                candidate.status = Status.BAD
                candidate.produced = None
                state.refuse(candidate.sender, Reason.BAD_CHUNK, event.detail)
        self.consider(place)

    def restore(self, produced: ProducedChunk, endorsement: Endorsement) -> None:
        """We restarted: remember a chunk that we endorsed before."""
        place = self._state.get_slot(endorsement.slot)
        candidate = place.candidates.get(endorsement.chunk_hash)
        if candidate is None:
            signature = ProducerSignature(
                endorsement.slot,
                endorsement.chunk_hash,
                produced.header.producer,
                produced.signature,
            )
            candidate = place.build_candidate(produced, signature, None, Status.LIGHT)
        self._collecting.add_own(place, candidate, endorsement)

    def _may_endorse(self, place: SlotState) -> bool:
        state = self._state
        return (
            state.index in place.committee.members
            and state.may_sign(place.slot)
            and state.get_endorsement(place.slot) is None
        )

    def _endorse(self, place: SlotState, candidate: Candidate) -> None:
        """Promise: the body first, then the word, then the message."""
        state = self._state
        assert candidate.produced is not None
        if not candidate.is_saved:
            state.emit(SaveChunk(candidate.produced))
        endorsement = state.sign_endorsement(place.slot, candidate.chunk_hash)
        state.emit(Persist(endorsement))
        state.send({candidate.header.producer, *state.leaders}, endorsement)
        if candidate.header.producer != state.index:
            candidate.produced = None
        self._collecting.add_own(place, candidate, endorsement)

    def _repeat(self, place: SlotState, candidate: Candidate) -> None:
        """The producer sent its chunk again: our endorsement may have been lost."""
        endorsement = self._state.get_endorsement(place.slot)
        if endorsement is not None and is_about(endorsement, candidate):
            self._state.send([candidate.header.producer], endorsement)

    def _replace(
        self,
        place: SlotState,
        candidate: Candidate,
        produced: ProducedChunk,
        sender: bytes | None,
    ) -> None:
        """Another copy of a chunk whose first one had a witness of no use."""
        state = self._state
        assert candidate.signature is not None
        if sender in candidate.spoilers:
            state.refuse(sender, Reason.DUPLICATE)
            return
        try:
            validate_body(produced)
        except InvalidChunk as error:
            state.refuse(sender, Reason.BAD_BODY, str(error))
            return
        if produced.signature != candidate.signature.signature:
            state.refuse(sender, Reason.BAD_SIGNATURE)
            return
        if not self._make_room(produced):
            state.refuse(sender, Reason.SURPLUS)
            return
        candidate.status, candidate.sender = Status.WAITING, sender
        candidate.produced = produced
        self.consider(place)

    def _recall(self, place: SlotState, candidate: Candidate) -> None:
        """A chunk that we endorsed before a restart came again."""
        endorsement = self._state.get_endorsement(place.slot)
        if endorsement is None or not is_about(endorsement, candidate):
            return
        candidate.status, candidate.produced = Status.GOOD, None
        self._state.send([candidate.header.producer], endorsement)
        self._collecting.add_own(place, candidate, endorsement)

    def _check(
        self, place: SlotState, produced: ProducedChunk, sender: bytes | None
    ) -> ProducerSignature | None:
        """Return the producer's signature of a sound chunk, its first in the slot."""
        state, header = self._state, produced.header
        try:
            validate_body(produced)
        except InvalidChunk as error:
            state.refuse(sender, Reason.BAD_BODY, str(error))
            return None
        signature = ProducerSignature(
            place.slot, compute_chunk_hash(header), header.producer, produced.signature
        )
        message = compute_producer_bytes(
            state.config.chain_id, place.slot, signature.chunk_hash
        )
        key = state.roles.validators.validators[header.producer].public_key
        if not state.config.scheme.verify(key, message, produced.signature):
            state.refuse(sender, Reason.BAD_SIGNATURE)
            return None
        rival = place.find_production(header.producer)
        if rival is not None:
            state.refuse(sender, Reason.SURPLUS)
            if header.producer not in place.rival_producers:
                place.rival_producers.add(header.producer)
                state.emit(Conflict(build_double_production(rival, signature)))
            return None
        return signature

    def _make_room(self, produced: ProducedChunk) -> bool:
        """Tell whether a body fits; what cannot be included now goes first."""
        state = self._state
        wanted = produced.header.bytes + len(produced.witness)
        if state.body_bytes + wanted <= MAX_BODY_MEMORY_BYTES:
            return True
        for place in state.slots.values():
            for candidate in list(place.candidates.values()):
                is_stuck = candidate.status is Status.WAITING
                if is_stuck and not state.is_includable(place, candidate):
                    del place.candidates[candidate.chunk_hash]
        return state.body_bytes + wanted <= MAX_BODY_MEMORY_BYTES
