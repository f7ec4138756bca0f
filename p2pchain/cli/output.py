"""
What commands say: one result on stdout, everything else on stderr.

With `--json` the result is one JSON document and errors are too, so that a program can
always parse stdout; without it the result is text for people.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from primitives.amounts import format_amount as format_amount
from primitives.types import ATOMS_PER_COIN

MAX_ATOMS = 2**63 - 1
"""As amounts are on the chain."""


class Output:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, value: Any, text: str) -> None:
        """Say the result: `value` as JSON or `text`."""
        print(json.dumps(value, indent=2) if self.as_json else text, flush=True)

    def say(self, line: str) -> None:
        """Say how it goes, on stderr."""
        print(line, file=sys.stderr, flush=True)

    def fail(self, kind: str, message: str) -> None:
        """Say what went wrong."""
        print(f"p2pchain: {message}", file=sys.stderr, flush=True)
        if self.as_json:
            document = {"error": {"type": kind, "message": message}}
            print(json.dumps(document, indent=2), flush=True)


def format_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return aligned columns; numbers to the right."""
    table = [[*header], *([str(cell) for cell in row] for row in rows)]
    if len(table) == 1:
        return "(none)"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = [
        all(cell.replace(".", "").isdigit() or cell == "-" for cell in column[1:])
        for column in zip(*table, strict=True)
    ]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def parse_amount(text: str) -> int:
    """Return the atoms that `2.5` (coins) or `2500atoms` mean.

    Raises:
        ValueError: Neither, or more digits than an atom has.
    """
    number = text.lower().replace("_", "").removesuffix("p2p").strip()
    if number.endswith("atoms"):
        whole, fraction, scale = number.removesuffix("atoms").strip(), "", 1
    else:
        whole, _, fraction = number.partition(".")
        scale = ATOMS_PER_COIN
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise ValueError(f"{text!r} is no amount: 2.5 (coins) or 2500atoms")
    if len(fraction) > 9:
        raise ValueError(f"{text!r} has more than nine digits after the point")
    atoms = int(whole or "0") * scale + int(fraction.ljust(9, "0") if fraction else "0")
    if atoms > MAX_ATOMS:
        raise ValueError(
            f"{text!r} is more than an amount can be, {format_amount(MAX_ATOMS)}"
        )
    return atoms
