"""
Fetching the parts of something large from all peers at once.

What is asked of whom, a `WorkBoard` says; how a part is asked for, judged and kept, a
`PartSource`.  A part is compared with its name before it is kept, and kept before it
counts.  Snapshots and weights are fetched this way.
"""

import logging
from collections.abc import Callable, Collection, Container
from typing import Protocol, TypeVar

import trio

from network.errors import NetworkError, RequestTimeout, TooManyStreams
from network.faults import Fault
from network.network import Network
from p2pchain.node.state_sync.work_board import PER_PEER, Sized, WorkBoard
from p2pchain.progress_bar import draw_bar
from primitives.errors import RemoteError

LOOK_S = 0.05
"""How often it is looked whether a peer is new, or idle and has something to do."""
REPORT_S = 5.0

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Sized)
P_contra = TypeVar("P_contra", bound=Sized, contravariant=True)


class PartSource(Protocol[P_contra]):
    """How parts of one thing are had."""

    @property
    def label(self) -> str:
        """What is fetched, for the log."""

    async def ask(self, peer_id: bytes, place: P_contra) -> bytes:
        """Return a peer's answer; raises NetworkError or TooManyStreams."""

    async def keep(self, place: P_contra, data: bytes) -> None:
        """Compare what came with the part, and keep it.

        Raises:
            RemoteError: It is not the part.
            LocalError: The disk does not take it.
        """


class BoardFetcher:
    """Keeps every peer busy until a board is complete.

    Args:
        network: Where peers are.
        get_peers: Whom to ask; all connected peers if not given.
    """

    def __init__(
        self, network: Network, get_peers: Callable[[], Collection[bytes]] | None = None
    ) -> None:
        self._network = network
        self._get_peers = get_peers or self._list_connected

    async def fetch(
        self,
        board: WorkBoard[P],
        source: PartSource[P],
        stall_s: float,
        offers: Callable[[bytes], Container[P] | None] = lambda peer_id: None,
    ) -> bool:
        """Fetch what is not done; False when no part comes any more.

        Args:
            board: Of the parts.
            source: How they are had.
            stall_s: Without a part for so long, it gives up.
            offers: What a peer has; None: everything.

        Raises:
            LocalError: The disk does not take them.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, board, source)
            await self._run_workers(nursery, board, source, stall_s, offers)
            nursery.cancel_scope.cancel()
        return board.is_complete

    def _list_connected(self) -> Collection[bytes]:
        return [peer.peer_id for peer in self._network.peers()]

    async def _run_workers(
        self,
        nursery: trio.Nursery,
        board: WorkBoard[P],
        source: PartSource[P],
        stall_s: float,
        offers: Callable[[bytes], Container[P] | None],
    ) -> None:
        working: set[tuple[bytes, int]] = set()
        board.changed_at = trio.current_time()

        async def work(peer_id: bytes, number: int) -> None:
            try:
                await self._work(board, source, peer_id, offers)
            finally:
                working.discard((peer_id, number))

        while not board.is_complete:
            for peer_id in self._get_peers():
                for number in range(PER_PEER):
                    if (peer_id, number) not in working:
                        working.add((peer_id, number))
                        nursery.start_soon(work, peer_id, number)
            if trio.current_time() > board.changed_at + stall_s:
                log.warning("no part of %s comes any more", source.label)
                return
            await trio.sleep(LOOK_S)

    async def _work(
        self,
        board: WorkBoard[P],
        source: PartSource[P],
        peer_id: bytes,
        offers: Callable[[bytes], Container[P] | None],
    ) -> None:
        """Ask one peer for parts while there is one to ask for."""
        while True:
            place = board.take(peer_id, trio.current_time(), offers(peer_id))
            if place is None:
                return
            try:
                data = await source.ask(peer_id, place)
            except (NetworkError, TooManyStreams) as error:
                log.info("no part from %s: %s", peer_id.hex()[:8], error)
                board.on_failure(peer_id, place, trio.current_time())
                if isinstance(error, RequestTimeout):
                    self._network.penalize(peer_id, Fault.TIMEOUT)
                continue
            try:
                # On disk before it counts: who waits goes on as soon as all of them do.
                await source.keep(place, data)
            except RemoteError as error:
                log.warning("bad part from %s: %s", peer_id.hex()[:8], error)
                board.on_lie(peer_id, place)
                self._network.penalize(peer_id, Fault.BAD_MESSAGE)
            else:
                board.on_part(peer_id, place, len(data), trio.current_time())

    async def _report(self, board: WorkBoard[P], source: PartSource[P]) -> None:
        while True:
            await trio.sleep(REPORT_S)
            progress = board.measure(trio.current_time())
            log.info(
                "%s: [%s] %d of %d parts, %.1f of %.1f MB, %.1f MB/s from %d peers%s",
                source.label,
                draw_bar(progress.bytes_done, progress.bytes),
                progress.parts_done,
                progress.parts,
                progress.bytes_done / 1e6,
                progress.bytes / 1e6,
                progress.bytes_per_s / 1e6,
                progress.peers,
                "" if progress.eta_s is None else f", {progress.eta_s:.0f} s to go",
            )
