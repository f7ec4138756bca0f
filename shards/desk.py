r"""
The desk: one node's part in the chunk slots of all shards.

Theory of operation
-------------------
    view entered
       |  our turn in a slot, the shard's state is here
       +--> Build --> SaveChunk, Persist, Send to committee and other producers
       |
       |  a chunk of the slot comes, we are in its committee
       +--> Execute --> SaveChunk, Persist, Send to producer and leaders
       |
       |  enough endorsements of a chunk come
       +--> CertificateReady, Broadcast          `pick`: what a block may hold

What keeps it safe:

- One chunk and one endorsement per slot and key, whatever the fork or the rank.  Each
  is in the log before it is sent, so a crash at any write forgets nothing that anybody
  has seen.
- Nothing is endorsed that we did not re-execute or build ourselves.
- Who endorsed a chunk has body and witness on disk.

What keeps it small: slots of the present view, one ahead and K back; per slot one chunk
of each ranked producer; per chunk one endorsement of each member; 64 MiB of bodies.

What it does not do: it executes nothing, knows no transactions, and never asks for what
is missing; a chunk that stands on a block that we do not hold waits for the view in
which we do.

Like the consensus core, it is a function from events to effects: the shell gives
`Received` for whatever came, carries effects out in order, and owns time and disk.

Spec: docs/protocol/06-shards.md
"""

from collections.abc import Iterable, Mapping

from consensus.records import Floor
from shards.candidates import SlotState
from shards.certificate import CertifiedChunk
from shards.collecting import Collecting
from shards.desk_state import DeskConfig, DeskRecord, DeskState
from shards.effects import Effect, SetTimer
from shards.endorsing import Endorsing
from shards.events import (
    ChunkBuilt,
    EpochBegun,
    Event,
    Executed,
    NothingBuilt,
    Received,
    Timer,
    TimerFired,
    ViewEntered,
)
from shards.inclusion import InclusionBase
from shards.messages import Certified, Endorsement, ProducedChunk, ProducerSignature
from shards.producing import Producing
from shards.roles import Roles
from shards.slots import Slot, get_slot


class Desk:
    """One key's desk, or a listener's; `handle` event after event.

    Args:
        config: Who we are and what we agreed on.
        roles: Of the epoch that we are in.
        records: Our log.
        saved: By chunk hash: chunks that `SaveChunk` kept, of the log's open slots.
        is_muted: Sign nothing until `begin_signing`: the log was lost.
    """

    def __init__(
        self,
        config: DeskConfig,
        roles: Roles,
        records: Iterable[DeskRecord] = (),
        saved: Mapping[bytes, ProducedChunk] | None = None,
        *,
        is_muted: bool = False,
    ) -> None:
        self._state = DeskState(config, roles, records, is_muted)
        self._collecting = Collecting(self._state)
        self._endorsing = Endorsing(self._state, self._collecting)
        self._producing = Producing(self._state, self._endorsing)
        self._saved = dict(saved or {})

    @property
    def index(self) -> int | None:
        """Our place in the epoch's set; None while we only listen."""
        return self._state.index

    @property
    def open_slots(self) -> tuple[Slot, ...]:
        """The slots of which something is remembered."""
        return tuple(self._state.slots)

    @property
    def body_bytes(self) -> int:
        """Memory that waiting bodies and witnesses take."""
        return self._state.body_bytes

    def handle(self, event: Event) -> list[Effect]:
        """Apply one event and return what it makes necessary."""
        match event:
            case Received(message=ProducedChunk() as produced):
                self._endorsing.on_produced(produced, event.sender)
            case Received(message=Endorsement() as endorsement):
                self._collecting.on_endorsement(endorsement, event.sender)
            case Received(message=Certified() as certified):
                self._collecting.on_certified(certified.chunk, event.sender)
            case Executed():
                self._on_executed(event)
            case ChunkBuilt():
                self._producing.on_built(event)
            case NothingBuilt():
                self._producing.on_nothing(event)
            case TimerFired():
                self._on_timer(event)
            case ViewEntered():
                self._on_view(event)
            case EpochBegun():
                if event.roles.epoch > self._state.roles.epoch:
                    self._state.begin_epoch(event.roles)
        return self._state.take_effects()

    def pick(self, base: InclusionBase) -> tuple[CertifiedChunk, ...]:
        """Return what a block on some parent may hold, ascending by shard.

        Args:
            base: Of that block; its view is the block's.
        """
        return self._collecting.pick(base)

    def begin_signing(self) -> Floor:
        """Sign in slots of later views than the present one; log the floor first."""
        state = self._state
        state.floor = max(state.floor, (state.roles.epoch, state.view))
        state.is_muted = False
        return Floor(*state.floor)

    def get_retained_records(self) -> list[DeskRecord]:
        """Return the part of the log that still binds us: all a shorter log needs."""
        return [Floor(*self._state.floor), *self._state.get_records()]

    def _on_view(self, event: ViewEntered) -> None:
        """A new view, or a better parent in the present one."""
        state = self._state
        if event.base.epoch != state.roles.epoch or event.base.view < state.view:
            return
        is_first = state.base is None
        state.base, state.parent = event.base, event.parent
        state.leaders, state.producible = event.leaders, event.producible
        state.forget_closed()
        self._open_turns()
        if is_first:
            self._restore()
        for place in list(state.slots.values()):
            place.is_idle = False
            self._collecting.offer(place)
            self._endorsing.consider(place)
        for place in list(state.slots.values()):
            self._producing.consider(place)

    def _open_turns(self) -> None:
        """Begin the slots of this view, and end those of earlier ones."""
        state = self._state
        for shard in state.roles.shards:
            slot = Slot(state.roles.epoch, shard, state.view)
            place = state.get_slot(slot)
            if place.turn < 0 <= place.last_rank:
                place.turn = 0
                self._set_turn_timer(place)
        for place in state.slots.values():
            if place.slot.created_view < state.view:
                place.turn = place.last_rank

    def _on_executed(self, event: Executed) -> None:
        """A chunk is judged; if it is bad, our own turn may have come."""
        self._endorsing.on_executed(event)
        place = self._state.slots.get(get_slot(event.header))
        if place is not None:
            self._producing.consider(place)

    def _on_timer(self, event: TimerFired) -> None:
        place = self._state.slots.get(event.slot)
        if place is None:
            return
        match event.timer:
            case Timer.REPEAT:
                self._producing.on_repeat(place)
            case Timer.TURN:
                if 0 <= place.turn < place.last_rank:
                    self._producing.note_silence(place)
                    place.turn += 1
                    self._set_turn_timer(place)
                    self._endorsing.consider(place)
                    self._producing.consider(place)

    def _set_turn_timer(self, place: SlotState) -> None:
        if place.turn < place.last_rank:
            state, shard = self._state, place.slot.shard
            key = state.get_key(place.producers[place.turn])
            delay_ms = state.absentees.compute_turn_ms(shard, key)
            state.emit(SetTimer(Timer.TURN, place.slot, delay_ms))

    def _restore(self) -> None:
        """Go on with what we signed before a restart."""
        saved, self._saved = self._saved, {}
        for record in self._state.get_records():
            produced = saved.get(record.chunk_hash)
            if produced is None or not self._is_present(record.slot):
                continue
            if isinstance(record, ProducerSignature):
                self._producing.restore(produced, record)
            else:
                self._endorsing.restore(produced, record)

    def _is_present(self, slot: Slot) -> bool:
        state = self._state
        return state.roles.has_slot(slot) and slot.created_view <= state.view
