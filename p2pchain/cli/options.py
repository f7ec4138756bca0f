"""
Options that every command takes, before or after its name.

    p2pchain --home H status        p2pchain status --home H
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from p2pchain.cli.output import Output, parse_amount

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Run = Callable[[argparse.Namespace, Output], int | None]


def add_common_options(
    parser: argparse.ArgumentParser, *, is_top: bool = False
) -> None:
    """Add --home, --json, --passphrase-file and --rpc to a parser.

    On a subcommand they have no default, or it would undo what stands before it.
    """
    default = None if is_top else argparse.SUPPRESS
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--home",
        metavar="DIR",
        default=default,
        help="the node's folder (default: $P2PCHAIN_HOME or ~/.p2pchain)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=False if is_top else argparse.SUPPRESS,
        help="print one JSON document",
    )
    group.add_argument(
        "--passphrase-file",
        metavar="FILE",
        default=default,
        help="read the keystore's passphrase from FILE",
    )
    group.add_argument(
        "--rpc", metavar="URL", default=default, help="ask this node, not the home's"
    )


def add_command(
    commands: "Commands", name: str, run: Run, help_text: str
) -> argparse.ArgumentParser:
    """Add a command with the common options."""
    parser = commands.add_parser(name, help=help_text, description=help_text)
    add_common_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_group(commands: "Commands", name: str, help_text: str) -> "Commands":
    """Add a command that has commands of its own, such as `wallet`."""
    parser = commands.add_parser(name, help=help_text, description=help_text)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def amount(text: str) -> int:
    """Parse an amount on the command line."""
    try:
        return parse_amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def amount_or_all(text: str) -> int | str:
    """Parse an amount, or the word `all`."""
    return text if text == "all" else amount(text)


def port(text: str) -> int:
    """Parse a port; 0 lets the system choose."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def number(text: str) -> int:
    """Parse an integer of at least 0."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or more")
    return int(text)


def layer_range(text: str) -> str:
    """Check start:end or `auto`, and keep it as text, as the settings have it."""
    if text == "auto":
        return text
    start, separator, end = text.partition(":")
    numbers = start.isdecimal() and end.isdecimal()
    if not separator or not numbers or int(start) >= int(end):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no layer range, such as 0:4, nor auto"
        )
    return f"{int(start)}:{int(end)}"
