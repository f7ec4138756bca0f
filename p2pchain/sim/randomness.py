"""
How far colluding leaders steer the next seed: the bias of the randomness, measured.

The seed of epoch e + 2 is a hash of the mix after epoch e, and each block mixes its
leader's reveal in.  Nobody chooses a reveal, but a leader may drop its block.  Dropping
one in the middle of an epoch changes the mix blindly: honest reveals follow that nobody
knows yet.  Only who leads the last k views in a row knows both outcomes of each choice,
and picks among the mixes of 2^k combinations of blocks shown and withheld.

A dropped view is not a lost block: the next leader proposes it.  So dropping also
changes who leads last, and the tail of an epoch is a little game.  What is measured:

    tail      how often the coalition leads the last k views of an epoch
    options   among how many seeds it may choose, on average
    steered   how often it gets one given honest leader of the next epoch replaced by
              one of its own, compared with the luck of somebody who chooses nothing

The game is played for the coalition's best outcome: in every view of its tail it looks
at both futures.  Once an honest leader is next, its reveal is unknown, and that future
counts as one seed drawn by luck.
"""

import random
from dataclasses import asdict, dataclass
from functools import cache

from primitives.hashing import compute_hash

EPOCH_BLOCKS = 60
SAMPLES = 20_000
MAX_TAIL = 10
"""Views of a tail that the game looks ahead; longer ones are one in a thousand at a
third of the power, and their two thousand futures change the average by nothing."""
SHARES = (0.10, 0.20, 1 / 3)


@dataclass(frozen=True, slots=True)
class Bias:
    """What a coalition of a given share of the power can do."""

    share: float
    tails: tuple[float, ...]
    """Share of epochs in which it leads the last 1, 2, 3, 4 or more views."""
    options: float
    """Average number of seeds among which it chooses."""
    fair: float
    """Chance to lead a given view without any choice: the share."""
    steered: float
    """Chance to lead one view of the next epoch that it cares most about."""
    leads: float
    """Share of the views of an epoch that it leads if it chooses for that."""

    def to_dict(self) -> dict[str, object]:
        """Return the numbers by name."""
        return asdict(self)


def measure_bias(samples: int = SAMPLES, seed: int = 0) -> list[Bias]:
    """Return one row per coalition share."""
    return [
        _measure(share, samples, random.Random(f"{seed} {share}")) for share in SHARES
    ]


def format_bias(rows: list[Bias]) -> str:
    """Return the table for people."""
    lines = [
        "share  leads the last k views of an epoch   seeds to     leads a    leads of",
        "         k=1     k=2     k=3     k>=4      choose from  chosen view  an epoch",
    ]
    for row in rows:
        tails = "  ".join(f"{100 * tail:5.2f}%" for tail in row.tails)
        lines.append(
            f"{100 * row.share:4.0f}%  {tails}      {row.options:5.2f}"
            f"        {100 * row.steered:5.1f}%        {100 * row.leads:5.1f}%"
        )
    return "\n".join(lines)


def _measure(share: float, samples: int, luck: random.Random) -> Bias:
    counts = [0, 0, 0, 0]
    options = steered = leads = 0.0
    for _ in range(samples):
        tail = _draw_tail(share, luck)
        if tail:
            counts[min(tail, 4) - 1] += 1
        found = _collect_options(tail, share, luck)
        options += len(found)
        steered += any(_is_led(seed, 0, share) for seed in found)
        leads += max(_count_led(seed, share) for seed in found) / EPOCH_BLOCKS
    return Bias(
        share=share,
        tails=tuple(count / samples for count in counts),
        options=options / samples,
        fair=share,
        steered=steered / samples,
        leads=leads / samples,
    )


def _draw_tail(share: float, luck: random.Random) -> int:
    """Return how many views before the boundary's the coalition leads in a row."""
    tail = 0
    while tail < MAX_TAIL and luck.random() < share:
        tail += 1
    return tail


def _collect_options(tail: int, share: float, luck: random.Random) -> list[bytes]:
    """Return the seeds that the coalition can bring about.

    `tail` views are left before the boundary is certified by a view of its own; each
    block shown takes one of the blocks that are missing, each one withheld moves the
    boundary to a later view, which the coalition leads by luck.
    """
    found: list[bytes] = []

    def play(mix: bytes, views: int, missing: int, depth: int) -> None:
        if missing == 0:
            found.append(compute_hash("seed", mix))
            return
        if views == 0:
            if depth < MAX_TAIL and luck.random() < share:
                views = 1
            else:
                # An honest leader shows its block: one seed, unknown beforehand.
                found.append(luck.randbytes(32))
                return
        shown = compute_hash("mix", mix, luck.randbytes(8))
        play(shown, views - 1, missing - 1, depth + 1)
        play(mix, views - 1, missing, depth + 1)

    play(luck.randbytes(32), tail, max(tail, 1), 0)
    return found


@cache
def _threshold(share: float) -> int:
    return int(share * 2**32)


def _is_led(seed: bytes, view: int, share: float) -> bool:
    draw = compute_hash("draw", seed, view.to_bytes(8, "big"))
    return int.from_bytes(draw[:4], "big") < _threshold(share)


def _count_led(seed: bytes, share: float) -> int:
    return sum(_is_led(seed, view, share) for view in range(EPOCH_BLOCKS))
