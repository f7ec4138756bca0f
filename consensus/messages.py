"""
What validators sign and send to each other.

    Proposal     the subject of Notarize and Finalize votes
    Notarize     this block may follow its parent
    Nullify      this view brings nothing, go on
    Finalize     I saw a quorum notarize this and did not nullify the view
    Certificate  a quorum's votes for one subject as one signature
    Propose      the leader's block, its own vote, and why the parent is the right one

A vote's signed bytes are a hash under the vote's own tag over chain_id and subject, so
a signature of one kind, chain, epoch or view never stands for another.

Spec: docs/protocol/04-consensus.md
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from consensus.validators import MAX_BITMAP_BYTES
from primitives.codec import Record, encode
from primitives.hashing import compute_hash
from primitives.types import U16, BlsSignature, Epoch, Hash32, Height, View

MAX_SKIPPED = 4096
"""Nullified views that a Propose proves by itself, the last ones before its own: more
than a day of them.  Of those before, everybody fetches what it does not hold."""

MAX_JUST = MAX_SKIPPED + 1
"""Certificates in a Propose: those, and one of the parent."""

MAX_PROPOSE_BYTES = 3 * 1024 * 1024
"""A block of 1 MiB, 4,097 certificates of at most 300 bytes, and some room."""

MAX_MESSAGE_BYTES = 4096
"""A vote or a certificate, several times over."""


class Proposal(Record):
    """What is voted on: one block at one place.

    The last block of an epoch may be proposed again in later views, until it is final;
    such a repetition names the block as its own parent.
    """

    epoch: Epoch
    view: View
    """The view of the vote; starts at 1 in every epoch."""
    parent_view: View
    """The view in which the parent was certified; 0 for children of the epoch's root.

    For a repetition: a view in which this very block was certified."""
    parent_hash: Hash32
    """For a repetition the block's own hash."""
    block_hash: Hash32
    height: Height
    """One more than the parent's; for a repetition the block's own."""

    @property
    def is_repeat(self) -> bool:
        """Whether it proposes again what an earlier view certified."""
        return self.parent_hash == self.block_hash


class Notarize(Record, tag=1):
    """A vote for a proposal; at most one per view."""

    proposal: Proposal
    signer: U16
    """Index in the epoch's validator set."""
    signature: BlsSignature


class Nullify(Record, tag=2):
    """A vote to leave the view without a block."""

    epoch: Epoch
    view: View
    signer: U16
    signature: BlsSignature


class Finalize(Record, tag=3):
    """A vote that the proposal be final; excludes Nullify in the same view."""

    proposal: Proposal
    signer: U16
    signature: BlsSignature


class Kind(IntEnum):
    """What a certificate certifies."""

    NOTARIZATION = 1
    NULLIFICATION = 2
    FINALIZATION = 3


class Certificate(Record, tag=4):
    """A quorum's votes for one subject."""

    kind: Kind
    """What the signers voted; other numbers do not decode."""
    proposal: Proposal | None
    """The subject; None for a nullification, whose subject is (epoch, view)."""
    epoch: Epoch
    view: View
    bitmap: Annotated[bytes, Meta(max_length=MAX_BITMAP_BYTES)]
    """Who signed; see consensus.validators."""
    signature: BlsSignature
    """The sum of their signatures."""


class Propose(Record, tag=5):
    """A leader's block with everything needed to judge its place."""

    block: bytes
    """The encoded block; consensus knows its hash only."""
    notarize: Notarize
    """The leader's own vote, which names the proposal."""
    just: Annotated[tuple[Certificate, ...], Meta(max_length=MAX_JUST)]
    """A certificate of the parent, unless that is the epoch's root; then the
    nullification of every view between, in order, or of the last `MAX_SKIPPED`."""


Vote = Notarize | Nullify | Finalize
Message = Notarize | Nullify | Finalize | Certificate | Propose


def compute_notarize_bytes(chain_id: bytes, proposal: Proposal) -> bytes:
    """Return the 32 bytes that a Notarize vote signs."""
    return compute_hash("notarize", chain_id, encode(proposal))


def compute_nullify_bytes(chain_id: bytes, epoch: int, view: int) -> bytes:
    """Return the 32 bytes that a Nullify vote signs."""
    return compute_hash("nullify", chain_id, encode((epoch, view)))


def compute_finalize_bytes(chain_id: bytes, proposal: Proposal) -> bytes:
    """Return the 32 bytes that a Finalize vote signs."""
    return compute_hash("finalize", chain_id, encode(proposal))


def compute_vote_bytes(chain_id: bytes, vote: Vote) -> bytes:
    """Return the 32 bytes that `vote` signs."""
    match vote:
        case Notarize():
            return compute_notarize_bytes(chain_id, vote.proposal)
        case Nullify():
            return compute_nullify_bytes(chain_id, vote.epoch, vote.view)
        case Finalize():
            return compute_finalize_bytes(chain_id, vote.proposal)


def get_view(message: Message) -> tuple[int, int]:
    """Return the (epoch, view) that a message is about."""
    match message:
        case Notarize() | Finalize():
            return message.proposal.epoch, message.proposal.view
        case Propose():
            return message.notarize.proposal.epoch, message.notarize.proposal.view
        case Nullify() | Certificate():
            return message.epoch, message.view
