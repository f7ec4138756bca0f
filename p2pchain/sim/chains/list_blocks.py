"""The blocks of a list chain, and the database that they lie in."""

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from chain.errors import InvalidBlock
from consensus.messages import Certificate, Proposal
from consensus.validators import ValidatorSet
from primitives.codec import Record, decode
from primitives.errors import DecodeError
from primitives.hashing import compute_hash
from primitives.types import U16, BlsSignature, Epoch, Hash32, Height, TimeMs, View

if TYPE_CHECKING:
    pass


CHAIN_ID = compute_hash("sim-chain")
GENESIS = compute_hash("sim-genesis")
GENESIS_TIME_MS = 1_700_000_000_000

INVALID = b"invalid"
"""A payload that makes a block invalid by its content."""


class ListBlock(Record):
    """A block."""

    epoch: Epoch
    view: View
    parent_view: View
    parent_hash: Hash32
    height: Height
    time_ms: TimeMs
    proposer: U16
    reveal: BlsSignature
    mix: Hash32
    bitmap: bytes
    """Attendance, as in real blocks."""
    signature: bytes
    payload: Annotated[bytes, Meta(max_length=64)]
    """Who built it, and how often that one has built: no two blocks are the same."""


def hash_block(data: bytes) -> bytes:
    """Return the name of a block."""
    return compute_hash("sim-block", data)


@dataclass(slots=True)
class ListStore:
    """The database."""

    blocks: dict[bytes, bytes] = field(default_factory=dict)
    """Final and saved ones."""
    final: list[bytes] = field(default_factory=lambda: [GENESIS])
    roots: list[bytes] = field(default_factory=lambda: [GENESIS])
    certificates: dict[int, Certificate] = field(default_factory=dict)
    sets: list[ValidatorSet] = field(default_factory=list)
    """By epoch, known one epoch ahead."""
    seeds: list[bytes] = field(default_factory=list)
    first_times: dict[int, int] = field(default_factory=dict)
    """Time of the first block, by epoch."""

    def tear(self, luck: random.Random) -> None:
        """Nothing is lost: everything was synced."""


def decode_list_block(data: bytes) -> ListBlock:
    try:
        return decode(ListBlock, data)
    except DecodeError as error:
        raise InvalidBlock(str(error)) from error


def build_list_proposal(block: ListBlock, block_hash: bytes) -> Proposal:
    return Proposal(
        epoch=block.epoch,
        view=block.view,
        parent_view=block.parent_view,
        parent_hash=block.parent_hash,
        block_hash=block_hash,
        height=block.height,
    )
