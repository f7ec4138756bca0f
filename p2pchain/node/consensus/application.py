"""
What consensus asks of the chain, and nothing more.

Consensus agrees on hashes; an application builds, judges, keeps and finalises the
blocks behind them.  Every method is called from the trio thread and returns within
milliseconds; block validation may take tens of them.
"""

from collections.abc import Callable
from typing import Protocol

from chain.records.block import Attendance
from consensus.book import Tip
from consensus.epoch import EpochConfig
from consensus.messages import Certificate, Proposal, Vote


class Application(Protocol):
    """The blocks behind the hashes."""

    @property
    def final_height(self) -> int:
        """Height of the last final block; 0 for genesis."""

    @property
    def final_hash(self) -> bytes:
        """Its hash."""

    @property
    def tip(self) -> Tip:
        """The last final block; with view 0 and no certificate if it roots an epoch."""

    @property
    def epoch(self) -> EpochConfig:
        """The epoch of the child of the last final block."""

    @property
    def epoch_first_time_ms(self) -> int | None:
        """Time of the first block of `epoch`, Unix milliseconds; None until final."""

    def get_epoch_end(self, epoch: int) -> Certificate | None:
        """Return the finalization of an epoch's boundary block, if that is final."""

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Take two verified statements that exclude each other: evidence."""

    def build_block(
        self,
        *,
        epoch: int,
        view: int,
        parent_hash: bytes,
        parent_view: int,
        proposer: int,
        reveal: bytes,
        attendance: Attendance,
        time_ms: int,
    ) -> tuple[bytes, bytes, int]:
        """Build a block on a held parent and hold it; return hash, bytes, height.

        A child of the epoch's root has `parent_view` 0 and no attendance.
        """

    def fetch_proof(
        self, proof_hash: bytes, first: bytes | None, on_held: Callable[[], None]
    ) -> None:
        """Get a fraud proof that a block names; call `on_held` when it is here."""

    def add_block(
        self, proposal: Proposal, block_bytes: bytes, *, is_decided: bool = False
    ) -> None:
        """Judge a block fully and hold it.

        Raises:
            chain.errors.InvalidBlock: What the hash names is not valid; its leader's
                fault.
            chain.errors.BodyMismatch: The bytes are not what the hash names; the
                sender's fault.
            chain.errors.MissingParent: Its parent is not held.
            chain.errors.MissingBodies: Bodies of its chunks are not held.
        """

    def read_proposal(self, block_bytes: bytes) -> Proposal:
        """Return the proposal that a block's own header gives, without judging it.

        Raises:
            chain.errors.InvalidBlock: Not a block.
        """

    def has_block(self, block_hash: bytes) -> bool:
        """Tell whether a block is held, final or pending."""

    def take_evicted(self) -> tuple[bytes, ...]:
        """Return the blocks that gave way to others since the last call."""

    def get_block_bytes(self, block_hash: bytes) -> bytes | None:
        """Return the bytes of a held block."""

    def save_pending(self, block_hash: bytes) -> None:
        """Make a held block and its ancestors durable before this returns."""

    def get_time_ms(self, block_hash: bytes) -> int:
        """Return the time of a held block, Unix milliseconds."""

    def finalize(self, certificate: Certificate) -> None:
        """Make a held block and its ancestors final in one synced batch.

        An epoch's boundary may be final by a proposal of any view: the block counts.
        """

    def get_final(self, height: int) -> tuple[bytes, Certificate] | None:
        """Return a final block and the finalization of it or a descendant.

        Of a descendant in the same epoch: a boundary has one of its own.
        """
