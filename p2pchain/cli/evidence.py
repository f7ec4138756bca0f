"""`p2pchain evidence list` and `submit`: who was convicted, and bringing proof."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consensus.evidence import MAX_EVIDENCE_BYTES
from p2pchain.cli.options import add_command, add_group, positive
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client
from p2pchain.errors import HomeError

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

MAX_FILE_BYTES = 4 * MAX_EVIDENCE_BYTES
"""The longest piece in hex, with line ends."""


def add_parser(commands: "Commands") -> None:
    """Add `evidence`."""
    group = add_group(commands, "evidence", "votes and chunks that nobody honest signs")
    listing = add_command(group, "list", run_list, "list who was convicted of what")
    listing.add_argument(
        "--limit", type=positive, default=25, help="at most 100; default 25"
    )
    submit = add_command(group, "submit", run_submit, "bring a piece of evidence")
    submit.add_argument(
        "evidence", metavar="FILE|HEX", help="encoded evidence, raw or in hex"
    )


def run_list(args: Namespace, output: Output) -> None:
    """List waiting and applied evidence."""
    found = open_client(args).call("evidence_list", limit=args.limit)
    rows = [*map(_describe_waiting, found["waiting"])]
    rows += [*map(_describe_applied, found["evidence"])]
    header = ("block", "epoch", "view", "offence", "who", "taken", "evidence")
    output.show(found, format_table(header, rows))


def run_submit(args: Namespace, output: Output) -> None:
    """Bring a piece of evidence to the node."""
    data = read_evidence(args.evidence)
    verdict = open_client(args).call("broadcast_evidence", evidence="0x" + data.hex())
    who = ", ".join(map(_name, verdict["guilty"]))
    output.show(
        verdict,
        f"{verdict['offence']} in epoch {verdict['epoch']}, view {verdict['view']} "
        f"by {who}; it waits for a block as {verdict['evidence_id']}",
    )


def read_evidence(text: str) -> bytes:
    """Return the bytes that an argument names: hex, or a file of bytes or hex.

    Raises:
        HomeError: Neither, or a file that is too long to be evidence.
    """
    data = _parse_hex(text)
    if data is not None:
        return data
    path = Path(text).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HomeError(f"{text[:64]!r} is neither hex nor a file: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise HomeError(f"{path} is too long to be evidence")
    return _parse_hex(content.decode("ascii", "replace")) or content


def _parse_hex(text: str) -> bytes | None:
    digits = text.strip().removeprefix("0x")
    try:
        return bytes.fromhex(digits) if digits else None
    except ValueError:
        return None


def _describe_waiting(piece: dict[str, Any]) -> tuple[object, ...]:
    who = ", ".join(map(_name, piece["guilty"]))
    return "waits", *_describe(piece), who, "-", piece["evidence_id"][:18]


def _describe_applied(piece: dict[str, Any]) -> tuple[object, ...]:
    who = ", ".join(map(_name, piece["convicted"]))
    taken = format_amount(sum(int(each["amount"]) for each in piece["convicted"]))
    return piece["height"], *_describe(piece), who, taken, piece["evidence_id"][:18]


def _describe(piece: dict[str, Any]) -> tuple[object, ...]:
    return piece["epoch"], piece["view"], piece["offence"]


def _name(who: dict[str, Any]) -> str:
    name = who["name"] or who.get("account") or who.get("public_key") or "?"
    return str(name)[:24]
