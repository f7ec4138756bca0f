r"""
The desk's producing part: our own chunk, when it is our turn and worth it.

    our turn, the shard has work --Build--> ChunkBuilt --save, persist--> send
                                        \-> NothingBuilt                    |
                             not certified after 2 Delta: send again <------+

A committee that is late is not helped by a second chunk on the same tip.  So we do not
produce while a certified chunk waits for inclusion, nor in the view after one that we
know to be good: its certificate is on its way.
"""

import msgspec

from shards.candidates import Candidate, SlotState, Status
from shards.chunk import compute_chunk_hash
from shards.desk_state import DeskState
from shards.effects import Build, Persist, SaveChunk, SetTimer
from shards.endorsing import Endorsing
from shards.events import ChunkBuilt, NothingBuilt, Timer
from shards.inclusion import is_open
from shards.messages import ProducedChunk, ProducerSignature
from shards.slots import get_slot

PATIENCE_VIEWS = 1
"""Views for which a good chunk without a certificate is waited for."""


class Producing:
    """Asks for chunks, signs one per slot, sends it until it is certified."""

    def __init__(self, state: DeskState, endorsing: Endorsing) -> None:
        self._state = state
        self._endorsing = endorsing

    def consider(self, place: SlotState) -> None:
        """Ask for a chunk if it is our turn in this slot."""
        state = self._state
        if not self._is_our_turn(place) or self._has_open(place):
            return
        assert state.base is not None
        assert state.index is not None
        place.is_building = True
        tip = state.base.heads[place.slot.shard]
        state.emit(
            Build(place.slot, compute_chunk_hash(tip), state.parent, state.index)
        )

    def on_built(self, event: ChunkBuilt) -> None:
        """Our chunk is here: sign it unless it came too late."""
        state, header = self._state, event.produced.header
        slot = get_slot(header)
        place = state.slots.get(slot)
        if place is None or not place.is_building:
            return
        place.is_building = False
        assert header.producer == state.index
        if not state.may_sign(slot) or self._has_produced(place):
            return
        if state.base is None or not is_open(header, state.base):
            return
        signature = state.sign_production(slot, compute_chunk_hash(header))
        produced = msgspec.structs.replace(
            event.produced, signature=signature.signature
        )
        candidate = place.build_candidate(
            produced, signature, None, Status.GOOD, is_saved=True
        )
        state.emit(SaveChunk(produced))
        state.emit(Persist(signature))
        self._send(place, candidate)
        self._endorsing.consider(place)

    def on_nothing(self, event: NothingBuilt) -> None:
        """There is no chunk for this slot, unless a better parent brings work."""
        place = self._state.slots.get(event.slot)
        if place is not None:
            place.is_building, place.is_idle = False, True

    def restore(self, produced: ProducedChunk, signature: ProducerSignature) -> None:
        """We restarted: go on with a chunk that we signed before."""
        place = self._state.get_slot(signature.slot)
        if signature.chunk_hash not in place.candidates:
            candidate = place.build_candidate(
                produced, signature, None, Status.GOOD, is_saved=True
            )
            self._send(place, candidate)

    def on_repeat(self, place: SlotState) -> None:
        """Send our chunk again to those whose endorsement has not come."""
        signature = self._state.get_production(place.slot)
        if signature is None:
            return
        candidate = place.candidates.get(signature.chunk_hash)
        if candidate is not None and candidate.certificate is None:
            self._send(place, candidate)

    def note_silence(self, place: SlotState) -> None:
        """A turn is over; remember whose, if it had no reason to let it pass."""
        state = self._state
        if not self._has_open(place):
            key = state.get_key(place.producers[place.turn])
            state.absentees.add(place.slot.shard, key)

    def _is_our_turn(self, place: SlotState) -> bool:
        state, slot = self._state, place.slot
        base = state.base
        if base is None or state.index not in place.producers:
            return False
        return (
            slot.created_view == state.view
            and place.producers.index(state.index) <= place.turn
            and slot.shard in state.producible
            and slot.shard in base.heads
            and slot.shard not in base.halted
            and not place.is_building
            and not place.is_idle
            and state.may_sign(slot)
            and not self._has_produced(place)
        )

    def _has_produced(self, place: SlotState) -> bool:
        """Tell whether our key signed a chunk of the slot, here or anywhere else."""
        state = self._state
        return state.get_production(place.slot) is not None or (
            state.index is not None and place.find_production(state.index) is not None
        )

    def _has_open(self, place: SlotState) -> bool:
        """Tell whether a chunk on the same tip may still make ours useless."""
        state, shard = self._state, place.slot.shard
        base = state.base
        assert base is not None
        for other in state.slots.values():
            if other.slot.shard != shard:
                continue
            for candidate in other.candidates.values():
                if not is_open(candidate.header, base):
                    continue
                if candidate.certificate is not None:
                    return True
                age = state.view - other.slot.created_view
                if candidate.status is Status.GOOD and age <= PATIENCE_VIEWS:
                    return True
                if other is place and self._is_promising(place, candidate):
                    return True
        return False

    def _is_promising(self, place: SlotState, candidate: Candidate) -> bool:
        """Tell whether a chunk of the slot may be good for all that we know.

        One that no block on our parent can hold, or that came with a witness of no
        use, is as good as none: else its producer could fill slots with them.
        """
        is_useless = candidate.status in (Status.BAD, Status.SPOILT)
        return not is_useless and self._state.is_includable(place, candidate)

    def _send(self, place: SlotState, candidate: Candidate) -> None:
        state, produced = self._state, candidate.produced
        if produced is None or state.base is None:
            return
        if not is_open(candidate.header, state.base):
            return
        heard = {*candidate.pool.signers}
        state.send(({*place.committee.members} | {*place.producers}) - heard, produced)
        delay_ms = 2 * state.config.delta_ms
        state.emit(SetTimer(Timer.REPEAT, place.slot, delay_ms))
