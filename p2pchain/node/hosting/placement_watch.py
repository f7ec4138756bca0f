"""
Looks now and then whether this node's layers are needed less than others.

    look (at times of its own) --move--> write it down, say so, fetch the weights ahead
    next start                 --------> still better, and no last copy? take it

A node that stopped in mid-session to take other layers would cost its customers a
mended route and itself the wait for its worker, so it goes when it starts anew anyway;
until then others see the old layers served.  What was written down is looked at once
more then: others may have come.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

import trio

from chain.records.model import ModelRecord
from chain.records.registration import Registration, RegistrationStatus
from inference.capacity.moving import COOL_DOWN_S, Chances, Host, Move, consider_move
from p2pchain.node.weights.fetcher import Share
from wallet.files import write_atomically

NEXT_FILE = "next-layers.json"
LOOK_S = 3600.0
"""Between two looks, in the mean; nodes look at different moments."""
LOAD_S = 60.0
FETCH_BYTES_PER_S = 10_000_000
"""What a move is thought to take, beside the bytes: from peers
they came at 11 to 12 MB/s (docs/adr/0033-weights-from-peers.md)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a node hosts, and could."""

    record: ModelRecord
    profile: bytes
    layers: tuple[int, int]
    sizes: tuple[int, ...]
    """Bytes of each layer's weights."""
    room_bytes: int


def list_hosts(
    place: Place, registrations: Iterable[Registration], account: bytes
) -> tuple[Host | None, list[Host]]:
    """Return this node and all others, as the chain has registered them."""
    own: Host | None = None
    others = []
    for each in registrations:
        is_same = each.model_id == place.record.model_id
        is_refused = each.status is RegistrationStatus.REFUSED
        if not is_same or each.profile != place.profile or is_refused:
            continue
        host = Host(
            range(each.start, each.end),
            1e6 / max(1, each.measured_us),
            is_joining=each.status is RegistrationStatus.PENDING,
        )
        if each.account != account:
            others.append(host)
        elif (each.start, each.end) == place.layers:
            own = host
    return own, others


class PlacementWatch:
    """One node's looks.

    Args:
        place: What it hosts.
        list_registrations: Those of the chain, now.
        account: Ours.
        is_behind: Whether blocks are still to be caught up with.
        folder: Where a move is written down.
        prefetch: Fetches weights ahead; None where a folder has them all.
        random: Draws moments and chances.
    """

    def __init__(
        self,
        place: Place,
        list_registrations: Callable[[], Sequence[Registration]],
        account: bytes,
        is_behind: Callable[[], bool],
        folder: Path,
        prefetch: Callable[[Share], Awaitable[None]] | None,
        random: Random | None = None,
    ) -> None:
        self._place = place
        self._list_registrations = list_registrations
        self._account = account
        self._is_behind = is_behind
        self._folder = folder
        self._prefetch = prefetch
        self._random = random or SystemRandom()

    async def run(self) -> None:
        """Look until cancelled, or until a move is written down."""
        await trio.sleep(COOL_DOWN_S)
        while True:
            await trio.sleep(self._random.expovariate(1 / LOOK_S))
            if await self.look() is not None:
                return

    async def look(self) -> Move | None:
        """Look once; a move is written down, said, and fetched ahead."""
        place = self._place
        own, others = list_hosts(place, self._list_registrations(), self._account)
        if self._is_behind() or own is None:
            return None
        size = sum(place.sizes[layer] for layer in own.layers)
        move = consider_move(
            own,
            others,
            place.sizes,
            place.room_bytes,
            Chances(self._random.random(), self._random.random()),
            pause_s=LOAD_S + size / FETCH_BYTES_PER_S,
        )
        if move is None:
            return None
        layers = move.layers.start, move.layers.stop
        save_next(self._folder, place.record, layers)
        log.info(
            "layers [%d, %d) are needed more than [%d, %d): %d %% more to earn there; "
            "they are taken at the next start",
            *layers,
            *place.layers,
            round(100 * move.gain),
        )
        if self._prefetch is not None:
            await self._prefetch(Share(place.record, move.layers, False, ""))
        return move


def save_next(folder: Path, record: ModelRecord, layers: tuple[int, int]) -> None:
    """Write down where to go at the next start."""
    start, end = layers
    document = {"model_id": record.model_id.hex(), "start": start, "end": end}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / NEXT_FILE, json.dumps(document) + "\n", 0o600)


def take_next(folder: Path, record: ModelRecord) -> tuple[int, int] | None:
    """Return what was written down and forget it; None where nothing was."""
    try:
        saved = json.loads((folder / NEXT_FILE).read_text())
        (folder / NEXT_FILE).unlink()
        start, end = int(saved["start"]), int(saved["end"])
        is_same = saved["model_id"] == record.model_id.hex()
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return (start, end) if is_same and 0 <= start < end <= record.layers else None
