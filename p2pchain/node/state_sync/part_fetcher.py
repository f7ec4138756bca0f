"""
Fetching the parts of a snapshot from all peers at once, into files.

See p2pchain/node/state_sync/state_sync.py and p2pchain/node/state_sync/shard_sync.py
for who wants parts, and of what, and p2pchain/node/state_sync/board_fetcher.py for how
they are asked for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from chain.snapshots.part import validate_part
from chain.snapshots.snapshot import MAX_PART_BYTES, PartPlace
from network.network import Network
from p2pchain.node.state_sync.ask import request
from p2pchain.node.state_sync.board import PartBoard
from p2pchain.node.state_sync.board_fetcher import BoardFetcher
from p2pchain.node.state_sync.files import PartFiles
from p2pchain.node.state_sync.messages import PART, PartRequest, SnapshotName
from primitives.codec import encode

PART_S = 20.0
"""What a peer gets for a part: 8 MiB at 4 Mbit/s."""
STALL_S = 30.0
"""Without a part for so long, another snapshot is tried."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _SnapshotSource:
    """Parts of one snapshot."""

    network: Network
    files: PartFiles
    name: SnapshotName

    @property
    def label(self) -> str:
        return f"state of block {self.name.height}"

    async def ask(self, peer_id: bytes, place: PartPlace) -> bytes:
        question = PartRequest(
            self.name, place.shard, place.levels, place.depth, place.first
        )
        return await request(
            self.network, peer_id, PART, encode(question), PART_S, MAX_PART_BYTES
        )

    async def keep(self, place: PartPlace, data: bytes) -> None:
        validate_part(place, data)
        self.files.put(place, data)


class PartFetcher:
    """Fetches parts.

    Args:
        network: Where peers are.
        files: Where parts are kept.
    """

    def __init__(self, network: Network, files: PartFiles) -> None:
        self._network = network
        self._files = files
        self._fetcher = BoardFetcher(network)

    async def open_board(
        self, name: SnapshotName, places: Sequence[PartPlace]
    ) -> PartBoard:
        """Return the board of a snapshot, on which the parts in the files are done."""
        held = []
        for place in places:
            if self._files.is_held(place):
                held.append(place)
            await trio.sleep(0)
        log.info(
            "taking the state at block %d: %d parts, %d here already",
            name.height,
            len(places),
            len(held),
        )
        return PartBoard(name.height, places, held)

    async def fetch(self, name: SnapshotName, board: PartBoard) -> bool:
        """Fetch what is not done; False when no part comes any more.

        Raises:
            StoreError: The disk does not take them.
        """
        source = _SnapshotSource(self._network, self._files, name)
        return await self._fetcher.fetch(board, source, STALL_S)
