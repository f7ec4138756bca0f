"""`p2pchain init`: a new network, or a home that joins one."""

import secrets
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pchain.cli.chain_options import (
    CHAIN_OPTIONS,
    add_chain_options,
    get_chain_choices,
    get_flag,
)
from p2pchain.cli.options import add_command, port, positive
from p2pchain.cli.output import Output
from p2pchain.cli.session import get_home_path, read_passphrase
from p2pchain.errors import ConfigError
from p2pchain.node.home.config import build_config

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands
    from p2pchain.node.home.initialise import NewHome, NewNetwork

NEW = ""
"""--genesis without a value."""
DEFAULT_VALIDATORS = 4
"""The fewest of which one may fail."""
_NEW_ONLY = ("validators", "port_base", "devnet", *CHAIN_OPTIONS)


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
        default="bundled",
        help="Hugging Face folder (default: the bundled model)",
    )
    parser.add_argument(
        "--devnet",
        action="store_true",
        help="keys that guard nothing: cheap keystores, the passphrase beside them",
    )
    parser.add_argument(
        "--port-base",
        type=port,
        metavar="PORT",
        help="first port of a new network; 0 takes any free ones",
    )
    add_chain_options(parser)
    joining = parser.add_argument_group("a home that joins")
    joining.add_argument("--name", help="the node's name (default: its folder's)")
    joining.add_argument("--peers", nargs="+", metavar="P2P://KEY@HOST:PORT")
    joining.add_argument("--restore", metavar="FILE", help="keys from these 24 words")


def run(args: Namespace, output: Output) -> int | None:
    """Make the files; nothing is overwritten."""
    if args.genesis == NEW:
        _create(args, output, get_home_path(args))
    else:
        _join(args, output, get_home_path(args))
    return None


def _create(args: Namespace, output: Output, folder: Path) -> None:
    # Imported here: these packages take half a second, which no other command needs.
    from p2pchain.node.home.initialise import DEFAULT_PORT_BASE, create_network

    for option in ("name", "peers", "restore"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} needs --genesis FILE: it is for one home")
    if args.devnet and not args.passphrase_file:
        passphrase = secrets.token_urlsafe(16)
    else:
        passphrase = read_passphrase(args, None, confirm=True)
    base = DEFAULT_PORT_BASE if args.port_base is None else args.port_base
    network = create_network(
        folder,
        validators=args.validators or DEFAULT_VALIDATORS,
        model=args.model,
        passphrase=passphrase,
        time_ms=time.time_ns() // 1_000_000,
        is_devnet=args.devnet,
        port_base=base or None,
        choices=get_chain_choices(args),
        report=output.say,
    )
    output.show(_summarise(network), _describe(network, folder))


def _join(args: Namespace, output: Output, folder: Path) -> None:
    from p2pchain.cli.words import load_words
    from p2pchain.node.home.initialise import create_home

    for option in _NEW_ONLY:
        if getattr(args, option) not in (None, False):
            raise ConfigError(
                f"{get_flag(option)} is for a new network: leave it or the FILE out"
            )
    # Its key votes as soon as it is in the set; until then it has nothing to sign.
    settings: dict[str, object] = {"name": args.name or folder.name, "validator": True}
    if args.peers:
        settings["peers"] = list(args.peers)
    settings["model"] = args.model
    config = build_config(settings, "the command line")
    home = create_home(
        folder,
        Path(args.genesis).expanduser(),
        config,
        read_passphrase(args, None, confirm=True),
        load_words(args.restore) if args.restore else None,
    )
    text = f"home  {home.path}\n\n{_explain_phrases([home])}"
    output.show(_summarise_home(home), text)


def _summarise(network: "NewNetwork") -> dict[str, Any]:
    return {
        "chain_id": "0x" + network.chain_id.hex(),
        "genesis": str(network.genesis),
        "homes": [_summarise_home(home) for home in network.homes],
    }


def _summarise_home(home: "NewHome") -> dict[str, str]:
    return {"name": home.name, "path": str(home.path), "mnemonic": home.phrase}


def _describe(network: "NewNetwork", folder: Path) -> str:
    lines = [f"chain    0x{network.chain_id.hex()}", f"genesis  {network.genesis}"]
    lines += [f"home     {home.path}" for home in network.homes]
    lines += ["", "start every node, each in a terminal of its own:"]
    lines += [f"  p2pchain --home {home.path} start" for home in network.homes]
    return "\n".join([*lines, "", _explain_phrases(list(network.homes))])


def _explain_phrases(homes: list["NewHome"]) -> str:
    lines = ["Write these words down; they restore the keys and are shown only now:"]
    lines += [f"  {home.name}: {home.phrase}" for home in homes]
    return "\n".join(lines)
