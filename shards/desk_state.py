"""
What the parts of a desk share: where we are, what is open, what we signed, what to do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.records import Floor
from consensus.scheme import SignatureScheme, Signer
from primitives.types import Epoch, ShardId, View
from shards.absentees import Absentees
from shards.candidates import Candidate, SlotState
from shards.certificate import compute_endorsement_bytes, compute_producer_bytes
from shards.effects import Effect, Reason, Refuse, Send, SignedRecord
from shards.endorsements import EndorsementVerifier
from shards.errors import InvalidChunk, MissingAnchor
from shards.inclusion import INCLUSION_VIEWS, InclusionBase, validate_inclusion
from shards.messages import Endorsement, Message, ProducerSignature
from shards.roles import Roles
from shards.slots import Slot

VIEWS_AHEAD = 1
"""Chunks are taken for the next view, which faster producers may have entered."""

MAX_BODY_MEMORY_BYTES = 64 * 1024 * 1024
"""Bodies and witnesses that wait for their turn: sixteen of the largest."""

DeskRecord = Endorsement | ProducerSignature | Floor
"""What the log keeps: what we signed, and up to where we may have forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskConfig:
    """What never changes while a desk lives."""

    chain_id: bytes
    delta_ms: int
    """Delta: how long a message takes at most while the network is well."""
    brief_turn_ms: int
    """How long a producer is awaited that was silent: see `Absentees`."""
    scheme: SignatureScheme
    signer: Signer | None
    """Our key; None for a node that only listens."""


class DeskState:
    """A desk's memory; the rules that change it are in its parts."""

    def __init__(
        self,
        config: DeskConfig,
        roles: Roles,
        records: Iterable[DeskRecord],
        is_muted: bool,
    ) -> None:
        self.config = config
        self.is_muted = is_muted
        self.floor: tuple[Epoch, View] = (0, 0)
        self.slots: dict[Slot, SlotState] = {}
        self.base: InclusionBase | None = None
        self.parent = b""
        self.leaders: tuple[int, ...] = ()
        self.producible: frozenset[ShardId] = frozenset()
        self.absentees = Absentees(config.delta_ms, config.brief_turn_ms)
        self._productions: dict[Slot, ProducerSignature] = {}
        self._endorsements: dict[Slot, Endorsement] = {}
        self._effects: list[Effect] = []
        for record in records:
            match record:
                case Floor():
                    self.floor = max(self.floor, (record.epoch, record.view))
                case ProducerSignature():
                    self._productions[record.slot] = record
                case Endorsement():
                    self._endorsements[record.slot] = record
        self.begin_epoch(roles)

    # Where we are

    @property
    def view(self) -> View:
        """The view we are in; 0 before the epoch's first."""
        return 0 if self.base is None else self.base.view

    @property
    def size(self) -> int:
        """Validators in the set."""
        return len(self.roles.validators)

    def begin_epoch(self, roles: Roles) -> None:
        """Forget the slots of the epoch before."""
        config = self.config
        self.roles = roles
        self.verifier = EndorsementVerifier(
            config.chain_id, roles.validators, config.scheme
        )
        signer = config.signer
        self.index = (
            None if signer is None else roles.validators.find_index(signer.public_key)
        )
        self.base = None
        self.slots.clear()
        keys = (each.public_key for each in roles.validators.validators)
        self.absentees.retain(roles.shards, keys)

    def open_slot(self, slot: Slot, sender: bytes | None) -> SlotState | None:
        """Return what we remember of a slot, or refuse what came about it."""
        reason = self._find_refusal(slot)
        if reason is not None:
            self.refuse(sender, reason)
            return None
        return self.get_slot(slot)

    def _find_refusal(self, slot: Slot) -> Reason | None:
        if slot.epoch != self.roles.epoch:
            return Reason.OTHER_EPOCH
        if not self.roles.has_slot(slot):
            return Reason.UNKNOWN_SHARD
        if self.base is None or slot.created_view > self.view + VIEWS_AHEAD:
            return Reason.EARLY
        if slot.created_view + INCLUSION_VIEWS < self.view:
            return Reason.STALE
        return None

    def get_slot(self, slot: Slot) -> SlotState:
        """Return what we remember of an open slot; nothing at first."""
        place = self.slots.get(slot)
        if place is None:
            producers = self.roles.get_producers(slot)
            is_over = slot.created_view < self.view
            place = self.slots[slot] = SlotState(
                slot,
                producers,
                self.roles.get_committee(slot),
                len(producers) - 1 if is_over else -1,
            )
        return place

    def forget_closed(self) -> None:
        """Drop the slots, and what we signed in them, that no block can use."""
        oldest = self.view - INCLUSION_VIEWS
        epoch = self.roles.epoch
        for slot in [s for s in self.slots if s.created_view < oldest]:
            del self.slots[slot]
        # Nothing is signed in a slot below the floor, so it stands for the records.
        self.floor = max(self.floor, (epoch, max(oldest - 1, 0)))
        for records in (self._productions, self._endorsements):
            for slot in [s for s in records if _get_place(s) <= self.floor]:
                del records[slot]

    # What we know

    def get_key(self, producer: int) -> bytes:
        """Return a validator's public key."""
        return self.roles.validators.validators[producer].public_key

    def is_includable(self, place: SlotState, candidate: Candidate) -> bool:
        """Tell whether a block of this view on our parent may hold the chunk."""
        assert self.base is not None
        try:
            validate_inclusion(candidate.header, self.base, place.producers)
        except (InvalidChunk, MissingAnchor):
            return False
        return True

    @property
    def body_bytes(self) -> int:
        """Memory that waiting bodies and witnesses take."""
        return sum(
            candidate.body_bytes
            for place in self.slots.values()
            for candidate in place.candidates.values()
        )

    # What we sign

    def get_production(self, slot: Slot) -> ProducerSignature | None:
        """Return our signature of a chunk of the slot."""
        return self._productions.get(slot)

    def get_endorsement(self, slot: Slot) -> Endorsement | None:
        """Return our endorsement in the slot."""
        return self._endorsements.get(slot)

    def get_records(self) -> list[SignedRecord]:
        """Return what we signed in open slots, oldest slot first."""
        records: list[SignedRecord] = [
            *self._productions.values(),
            *self._endorsements.values(),
        ]
        return sorted(records, key=lambda record: _get_place(record.slot))

    def may_sign(self, slot: Slot) -> bool:
        """Tell whether we have a voice and cannot have forgotten one in this slot."""
        return (
            self.index is not None
            and not self.is_muted
            and _get_place(slot) > self.floor
        )

    def sign_production(self, slot: Slot, chunk_hash: bytes) -> ProducerSignature:
        """Sign our one chunk of a slot; the caller persists it before it is sent."""
        assert self.may_sign(slot)
        assert slot not in self._productions
        message = compute_producer_bytes(self.config.chain_id, slot, chunk_hash)
        record = ProducerSignature(slot, chunk_hash, *self._sign(message))
        self._productions[slot] = record
        return record

    def sign_endorsement(self, slot: Slot, chunk_hash: bytes) -> Endorsement:
        """Sign our one endorsement in a slot; likewise."""
        assert self.may_sign(slot)
        assert slot not in self._endorsements
        message = compute_endorsement_bytes(self.config.chain_id, slot, chunk_hash)
        record = Endorsement(slot, chunk_hash, *self._sign(message))
        self._endorsements[slot] = record
        return record

    def _sign(self, message: bytes) -> tuple[int, bytes]:
        signer = self.config.signer
        assert signer is not None
        assert self.index is not None
        return self.index, signer.sign(message)

    # What is to be done

    def emit(self, effect: Effect) -> None:
        """Want something done, after what was wanted before."""
        self._effects.append(effect)

    def send(self, recipients: Iterable[int], message: Message) -> None:
        """Send to others; to nobody if nobody else is among them."""
        others = tuple(sorted(set(recipients) - {self.index}))
        if others:
            self.emit(Send(others, message))

    def refuse(self, sender: bytes | None, reason: Reason, detail: str = "") -> None:
        """Say why a message is not taken."""
        self.emit(Refuse(sender, reason, detail))

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, once."""
        effects, self._effects = self._effects, []
        return effects


def _get_place(slot: Slot) -> tuple[Epoch, View]:
    return slot.epoch, slot.created_view
