"""
The `p2pchain` command.

Exit codes: 0 done, 1 could not be done (the message says why and what to do), 2 the
command line is wrong.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from p2pchain.cli import (
    channel,
    chat,
    db,
    demo,
    devnet,
    doctor,
    evidence,
    init,
    keys,
    light,
    models,
    rpc,
    shards,
    sim,
    start,
    status,
    testnet,
    validator,
    validators,
    wallet,
)
from p2pchain.cli.options import add_common_options
from p2pchain.cli.output import Output
from p2pchain.version import VERSION
from primitives.errors import P2PChainError

COMMANDS = (
    demo,
    devnet,
    init,
    start,
    status,
    keys,
    wallet,
    light,
    validators,
    validator,
    evidence,
    channel,
    chat,
    models,
    doctor,
    shards,
    rpc,
    db,
    testnet,
    sim,
)
"""Modules with `add_parser(commands)`; the order is that of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    output = Output(as_json=args.json)
    try:
        code: int | None = args.run(args, output)
    except P2PChainError as error:
        output.fail(type(error).__name__, str(error))
        return 1
    except KeyboardInterrupt:
        output.fail("Interrupted", "interrupted")
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has enough; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        output.fail(type(error).__name__, str(error))
        return 1
    return code or 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="p2pchain",
        description="A proof-of-stake chain whose nodes run a language model together.",
    )
    parser.add_argument("--version", action="version", version=f"p2pchain {VERSION}")
    add_common_options(parser, is_top=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_parser(commands)
    version = commands.add_parser("version", help="show the program's version")
    add_common_options(version)
    version.set_defaults(run=show_version)
    return parser


def show_version(args: argparse.Namespace, output: Output) -> None:
    """Say which program this is."""
    output.show({"version": VERSION}, f"p2pchain {VERSION}")


def run() -> None:
    """Entry point of processes: end quietly when the terminal does."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
