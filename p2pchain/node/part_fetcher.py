"""
Fetching the parts of a snapshot from all peers at once, into files.

What is asked of whom, `PartBoard` says; a part is hashed before it is kept, and kept
before it counts.  See p2pchain/node/state_sync.py and p2pchain/node/shard_sync.py for
who wants parts, and of what.
"""

import logging
from collections.abc import Sequence

import trio

from chain.errors import InvalidSnapshot
from chain.snapshot import MAX_PART_BYTES, PartPlace
from chain.snapshot_part import validate_part
from network.errors import NetworkError, RequestTimeout, TooManyStreams
from network.faults import Fault
from network.network import Network
from p2pchain.node.state_sync_ask import request
from p2pchain.node.state_sync_board import PER_PEER, PartBoard
from p2pchain.node.state_sync_files import PartFiles
from p2pchain.node.state_sync_messages import PART, PartRequest, SnapshotName
from primitives.codec import encode

PART_S = 20.0
"""What a peer gets for a part: 8 MiB at 4 Mbit/s."""
STALL_S = 30.0
"""Without a part for so long, another snapshot is tried."""
REPORT_S = 5.0

log = logging.getLogger(__name__)


class PartFetcher:
    """Fetches parts.

    Args:
        network: Where peers are.
        files: Where parts are kept.
    """

    def __init__(self, network: Network, files: PartFiles) -> None:
        self._network = network
        self._files = files

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, board)
            await self._run_workers(nursery, board, name)
            nursery.cancel_scope.cancel()
        return board.is_complete

    async def _run_workers(
        self, nursery: trio.Nursery, board: PartBoard, name: SnapshotName
    ) -> None:
        """Keep every peer busy until all is here or nothing comes any more."""
        working: set[tuple[bytes, int]] = set()
        board.changed_at = trio.current_time()

        async def work(peer_id: bytes, number: int) -> None:
            try:
                await self._work(board, name, peer_id)
            finally:
                working.discard((peer_id, number))

        while not board.is_complete:
            for peer in self._network.peers():
                for number in range(PER_PEER):
                    if (peer.peer_id, number) not in working:
                        working.add((peer.peer_id, number))
                        nursery.start_soon(work, peer.peer_id, number)
            if trio.current_time() > board.changed_at + STALL_S:
                log.warning("no part of block %d comes any more", name.height)
                return
            await trio.sleep(0.05)

    async def _work(self, board: PartBoard, name: SnapshotName, peer_id: bytes) -> None:
        """Ask one peer for parts while there is one to ask for."""
        while (place := board.take(peer_id, trio.current_time())) is not None:
            question = PartRequest(
                name, place.shard, place.levels, place.depth, place.first
            )
            try:
                data = await request(
                    self._network,
                    peer_id,
                    PART,
                    encode(question),
                    PART_S,
                    MAX_PART_BYTES,
                )
                validate_part(place, data)
            except (NetworkError, TooManyStreams) as error:
                log.info("no part from %s: %s", peer_id.hex()[:8], error)
                board.on_failure(peer_id, place, trio.current_time())
                if isinstance(error, RequestTimeout):
                    self._network.penalize(peer_id, Fault.TIMEOUT)
            except InvalidSnapshot as error:
                log.warning("bad part from %s: %s", peer_id.hex()[:8], error)
                board.on_lie(peer_id, place)
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
            else:
                # On disk before it counts: who waits goes on as soon as all of them do.
                self._files.put(place, data)
                board.on_part(peer_id, place, len(data), trio.current_time())

    async def _report(self, board: PartBoard) -> None:
        while True:
            await trio.sleep(REPORT_S)
            progress = board.get_progress(trio.current_time())
            log.info(
                "state of block %d: %d of %d parts, %.1f MB/s from %d peers",
                progress.height,
                progress.parts_done,
                progress.parts,
                progress.bytes_per_s / 1e6,
                progress.peers,
            )
