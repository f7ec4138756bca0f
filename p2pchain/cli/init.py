"""`p2pchain init`: a new network, or a home that joins one."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command, port, positive
from p2pchain.cli.output import Output
from p2pchain.cli.session import get_home_path, read_passphrase

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

NEW = ""
"""--genesis without a value."""
DEFAULT_VALIDATORS = 4
"""The fewest of which one may fail."""


def add_parser(commands: "Commands") -> None:
    """Add `init`."""
    parser = add_command(
        commands,
        "init",
        run,
        "make a new network, or with --genesis FILE a home that joins one",
    )
    parser.add_argument(
        "--genesis",
        nargs="?",
        const=NEW,
        required=True,
        metavar="FILE",
        help="alone: a new network of several homes; with FILE: one home that joins",
    )
    parser.add_argument(
        "--validators",
        type=positive,
        metavar="N",
        help=f"validators of a new network (default {DEFAULT_VALIDATORS})",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="Hugging Face folder to register (default: the bundled model)",
    )
    parser.add_argument(
        "--devnet",
        action="store_true",
        help="light keystores whose passphrase lies beside them, for trying out",
    )
    parser.add_argument(
        "--p2p-port-base",
        type=port,
        default=None,
        metavar="PORT",
        help="first peer port of a new network; 0 lets the system choose",
    )
    parser.add_argument(
        "--rpc-port-base",
        type=port,
        default=None,
        metavar="PORT",
        help="first RPC port of a new network; 0 lets the system choose",
    )
    parser.add_argument("--name", help="name of a joining node (default: its folder)")
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="P2P://KEY@HOST:PORT",
        help="nodes that a joining home connects to",
    )


def run(args: Namespace, output: Output) -> int | None:
    """Make the files; nothing is overwritten."""
    home = get_home_path(args)
    if args.genesis == NEW:
        return _create(args, output, home)
    return _join(args, output, home)


def _create(args: Namespace, output: Output, home: Path) -> None:
    from p2pchain.node.initialise import create_network

    passphrase = None
    if not args.devnet or args.passphrase_file:
        passphrase = read_passphrase(args, None, confirm=True)
    network = create_network(
        home,
        validators=args.validators or DEFAULT_VALIDATORS,
        model=args.model,
        devnet=args.devnet,
        passphrase=passphrase,
        p2p_port_base=args.p2p_port_base,
        rpc_port_base=args.rpc_port_base,
        report=output.say,
    )
    output.show(network.build_summary(), network.describe())


def _join(args: Namespace, output: Output, home: Path) -> None:
    from p2pchain.node.initialise import join_network

    for option in ("validators", "model", "p2p_port_base", "rpc_port_base"):
        if getattr(args, option) is not None:
            flag = "--" + option.replace("_", "-")
            output.say(f"{flag} is for a new network and has no effect here")
    passphrase = read_passphrase(args, None, confirm=True)
    joined = join_network(
        home,
        Path(args.genesis).expanduser(),
        name=args.name or home.name,
        passphrase=passphrase,
        peers=tuple(args.peers),
        devnet=args.devnet,
    )
    output.show(joined.build_summary(), joined.describe())
