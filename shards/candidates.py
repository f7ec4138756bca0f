"""
What the desk remembers of one slot: the chunks that compete for it.
"""

from dataclasses import dataclass, field
from enum import Enum

from consensus.validators import decode_bitmap
from shards.certificate import ChunkCertificate
from shards.chunk import ChunkHeader
from shards.committee import Committee
from shards.endorsements import EndorsementPool
from shards.evidence import Endorsed, get_endorsed
from shards.messages import Endorsement, ProducedChunk, ProducerSignature
from shards.slots import Slot


class Status(Enum):
    """How far we are with a chunk."""

    LIGHT = "we do not judge it: not a member, or it is certified"
    WAITING = "not its turn, or its parents are not here"
    EXECUTING = "being re-executed"
    GOOD = "re-executed, or our own"
    SPOILT = "its witness was no good: another copy is wanted"
    BAD = "its header is not what executing it gives"


@dataclass(slots=True)
class Candidate:
    """One chunk of a slot."""

    header: ChunkHeader
    chunk_hash: bytes
    rank: int
    """Place of its producer in the slot."""
    sender: bytes | None
    """Who brought it; None for our own."""
    status: Status
    signature: ProducerSignature | None
    """The producer's; None while only a certificate came."""
    produced: ProducedChunk | None
    """Body and witness, as long as they are needed in memory."""
    is_saved: bool = False
    """Whether body and witness are on disk already."""
    pool: EndorsementPool = field(default_factory=EndorsementPool)
    certificate: ChunkCertificate | None = None
    spoilers: set[bytes | None] = field(default_factory=set)
    """Who brought copies whose witness was no good; each is heard once."""

    @property
    def body_bytes(self) -> int:
        """Memory that body and witness take."""
        if self.produced is None:
            return 0
        return self.header.bytes + len(self.produced.witness)

    def find_statement(self, signer: int, size: int) -> Endorsed | None:
        """Return an endorsement of this chunk by a signer, or a certificate with it.

        Args:
            signer: Index in the set.
            size: Validators in the set.
        """
        if self.certificate is not None:
            if signer in (decode_bitmap(self.certificate.bitmap, size) or ()):
                return Endorsed(self.chunk_hash, self.certificate)
            return None
        pooled = self.pool.get(signer)
        return None if pooled is None else get_endorsed(pooled.signed, size)


class SlotState:
    """One slot.

    Args:
        slot: Which.
        producers: Who may fill it, first the first.
        committee: Who may endorse.
        turn: Rank of the last producer whose turn has come; -1 before its view.
    """

    def __init__(
        self, slot: Slot, producers: tuple[int, ...], committee: Committee, turn: int
    ) -> None:
        self.slot = slot
        self.producers = producers
        self.committee = committee
        self.turn = turn
        self.is_building = False
        """We asked for our chunk and have not got it."""
        self.is_idle = False
        """We asked for our chunk and there was nothing to do."""
        self.candidates: dict[bytes, Candidate] = {}
        """By chunk hash."""
        self.accused: set[int] = set()
        """Endorsers of whom evidence was given; once is enough."""
        self.rival_producers: set[int] = set()
        """Producers, likewise."""

    @property
    def last_rank(self) -> int:
        """Of the last producer in rank; -1 if there is none."""
        return len(self.producers) - 1

    @property
    def is_certified(self) -> bool:
        """Whether some chunk of the slot has a certificate."""
        return any(c.certificate is not None for c in self.candidates.values())

    def get_ranked(self) -> list[Candidate]:
        """Return all chunks, first the one whose producer is first."""
        return sorted(self.candidates.values(), key=lambda c: (c.rank, c.chunk_hash))

    def find_production(self, producer: int) -> ProducerSignature | None:
        """Return the signature under the chunk that a producer gave us."""
        for candidate in self.candidates.values():
            signature = candidate.signature
            if signature is not None and signature.signer == producer:
                return signature
        return None

    def build_candidate(
        self,
        produced: ProducedChunk,
        signature: ProducerSignature,
        sender: bytes | None,
        status: Status,
        *,
        is_saved: bool = False,
    ) -> Candidate:
        """Add a chunk whose signature and body are checked."""
        rank = self.producers.index(produced.header.producer)
        candidate = Candidate(
            produced.header,
            signature.chunk_hash,
            rank,
            sender,
            status,
            signature,
            None if status is Status.LIGHT else produced,
            is_saved,
        )
        self.candidates[candidate.chunk_hash] = candidate
        return candidate


def is_about(endorsement: Endorsement | None, candidate: Candidate) -> bool:
    """Tell whether an endorsement is of this chunk."""
    return endorsement is not None and endorsement.chunk_hash == candidate.chunk_hash
