"""
The honest law of scaling, T = r n / c, as numbers and as a picture.

    r   chunks' transactions that one validator checks per second
    n   validators
    c   of them in a committee

A transaction is checked by a committee and not by everybody, so a network of n checks
n / c times as many as one of its validators.  With up to 192 validators a committee has
two thirds of them, and the law stands still at 1.5 r; above, it has at most 96 members,
and T grows with n.

    python -m p2pchain.bench.scaling RATE FILE.svg     draws it for a measured r
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pchain.bench.report import format_number
from shards.committee import draw_committee

WIDTH, HEIGHT = 640, 360
LEFT, TOP, RIGHT, BOTTOM = 70, 20, 20, 50
"""Room around the axes, in the picture's units."""
COUNTS = (4, 8, 16, 32, 64, 128, 192, 193, 256, 400, 600, 1000)
"""Validators; the kind of committee changes between two of them."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size of a network of equal stakes."""

    validators: int
    members: int
    """Different validators in a committee."""
    rate: float
    """Transactions per second inside of shards, over all of them."""


def compute_point(rate: float, validators: int) -> Point:
    """Return what the law says of a network.

    Args:
        rate: What one validator checks per second.
        validators: How many, of equal stake.
    """
    members = len(draw_committee(bytes(32), 1, 1, [1] * validators).members)
    return Point(validators, members, rate * validators / members)


def draw(points: Sequence[Point], rate: float) -> str:
    """Return the picture as SVG, both axes logarithmic.

    Args:
        points: By ascending number of validators.
        rate: Of one validator: the lower edge.
    """
    top = 10 ** math.ceil(math.log10(points[-1].rate))
    edge = 10 ** math.floor(math.log10(rate))
    counts = [10**i for i in range(4)]
    rates = [edge * 10**i for i in range(round(math.log10(top / edge)) + 1)]

    def get_x(validators: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(validators) / 3

    def get_y(value: float) -> float:
        share = math.log10(value / edge) / math.log10(top / edge)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    path = " ".join(f"{get_x(p.validators):.1f},{get_y(p.rate):.1f}" for p in points)
    one = get_y(rate)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            *_draw_grid(counts, rates, get_x, get_y),
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{one:.1f}" y2="{one:.1f}" '
            'stroke="gray" stroke-dasharray="4"/>',
            f'<text x="{LEFT + 6}" y="{one + 16:.1f}" fill="gray">'
            f"r = {format_number(rate)}, measured: what one validator checks</text>",
            f'<polyline points="{path}" fill="none" stroke="black" stroke-width="2"/>',
            *(_draw_mark(p, get_x(p.validators), get_y(p.rate)) for p in points),
            f'<text x="{WIDTH // 2}" y="{HEIGHT - 8}" text-anchor="middle">validators '
            "n</text>",
            f'<text transform="translate(14 {HEIGHT // 2}) rotate(-90)" '
            'text-anchor="middle">transactions per second, T = r n / c</text>',
            "</svg>\n",
        ]
    )


def _draw_grid(
    counts: Sequence[int],
    rates: Sequence[float],
    get_x: Callable[[float], float],
    get_y: Callable[[float], float],
) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for count in counts:
        x = get_x(count)
        yield f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="lightgray"/>'
        yield (
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{count:,}</text>'
        )
    for value in rates:
        y = get_y(value)
        yield f'<path d="M{LEFT} {y:.1f}H{right}" stroke="lightgray"/>'
        yield (
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{format_number(value)}</text>"
        )


def _draw_mark(point: Point, x: float, y: float) -> str:
    title = f"n {point.validators}, c {point.members}: {format_number(point.rate)}/s"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="white" stroke="black">'
        f"<title>{title}</title></circle>"
    )


def main() -> int:
    """Draw the law; see the top of the file."""
    parser = argparse.ArgumentParser(prog="python -m p2pchain.bench.scaling")
    parser.add_argument("rate", type=float, metavar="RATE")
    parser.add_argument("file", type=Path, metavar="FILE.svg")
    options = parser.parse_args()
    if not 1 <= options.rate < 1e9:
        parser.error(f"{options.rate} transactions per second make no picture")
    points = [compute_point(options.rate, count) for count in COUNTS]
    options.file.write_text(draw(points, options.rate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
