"""
Looks now and then whether this node's layers are needed less than others.

    look (at times of its own) --move--> write it down, say so, fetch the weights ahead
    next start                 --------> still better, and no last copy? take it

A node that stopped in mid-session to take other layers would cost its customers a
mended route and itself the wait for its worker, so it goes when it starts anew anyway;
until then others see the old layers served.  What was written down is looked at once
more then: others may have come.

How fast a node is, it says itself.  One that said too much would make a layer seem to
have plenty, and be alone with it when others have left; so nobody counts for more than
a machine can do, or than many times what is usual among those who say something.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from statistics import median

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

MAX_BYTES_PER_S = 10e12
"""Of weights, as every step reads them all: above the memory of any accelerator."""
MAX_TIMES_USUAL = 16
"""What a node may be faster than the median of all, byte for byte: an accelerator
beside processors.  A faster one counts for less than it is, which draws others to its
layers and harms nobody."""

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
    """Return this node and all others, as the chain has registered them.

    What they say of their speed counts as far as it is plausible.
    """
    own: Host | None = None
    others = []
    known = [each for each in registrations if _is_of_place(each, place)]
    said = [_compute_bytes_per_s(each, place) for each in known]
    most = min(MAX_BYTES_PER_S, MAX_TIMES_USUAL * median(said)) if said else 0.0
    for each, bytes_per_s in zip(known, said, strict=True):
        host = Host(
            range(each.start, each.end),
            min(bytes_per_s, most) / _count_bytes(each, place),
            is_joining=each.status is RegistrationStatus.PENDING,
        )
        if each.account != account:
            others.append(host)
        elif (each.start, each.end) == place.layers:
            own = host
    return own, others


def _is_of_place(each: Registration, place: Place) -> bool:
    is_same = each.model_id == place.record.model_id
    is_refused = each.status is RegistrationStatus.REFUSED
    return is_same and each.profile == place.profile and not is_refused


def _compute_bytes_per_s(each: Registration, place: Place) -> float:
    return _count_bytes(each, place) * 1e6 / max(1, each.measured_us)


def _count_bytes(each: Registration, place: Place) -> int:
    return max(1, sum(place.sizes[each.start : each.end]))


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
