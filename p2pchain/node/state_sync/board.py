"""Who fetches which part of a snapshot: a board of work that knows the snapshot."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from chain.snapshots.snapshot import PartPlace
from p2pchain.node.state_sync import work_board
from p2pchain.node.state_sync.work_board import WorkBoard


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(work_board.Progress):
    """How far a snapshot is; its bytes are what the manifest says."""

    height: int
    """Of the snapshot's block."""


class PartBoard(WorkBoard[PartPlace]):
    """What is to be fetched of a snapshot, and from whom.

    Args:
        height: Of the snapshot's block.
        places: All its parts.
        held: Those of them that are here already.
    """

    def __init__(
        self, height: int, places: Sequence[PartPlace], held: Collection[PartPlace]
    ) -> None:
        super().__init__(places, held)
        self._height = height

    def get_progress(self, now: float) -> Progress:
        """Return how far the snapshot is."""
        progress = self.measure(now)
        return Progress(
            height=self._height,
            parts=progress.parts,
            parts_done=progress.parts_done,
            bytes=progress.bytes,
            bytes_done=progress.bytes_done,
            bytes_per_s=progress.bytes_per_s,
            peers=progress.peers,
        )
