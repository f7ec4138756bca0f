"""`p2pchain start`: run this node until it is told to stop."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.options import add_command, layer_range, port
from p2pchain.cli.output import Output
from p2pchain.cli.session import open_home, read_passphrase
from p2pchain.node.home.config import Config

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `start`."""
    parser = add_command(commands, "start", run, "run this node until it is stopped")
    parser.add_argument(
        "--validator",
        action="store_true",
        default=None,
        help="vote on blocks with the home's validator key",
    )
    parser.add_argument(
        "--gateway",
        action="store_true",
        default=None,
        help="answer /v1 with a requester worker of our own",
    )
    parser.add_argument(
        "--host-layers",
        type=layer_range,
        dest="layers",
        metavar="START:END",
        help="host and sell these layers, END not included; auto: what fits and is "
        "most needed",
    )
    parser.add_argument(
        "--model",
        metavar="DIR|NAME",
        help="Hugging Face folder, bundled, or a model of the chain to take from peers",
    )
    parser.add_argument(
        "--precision",
        metavar="auto|native|fp32|bf16|fp16|int8|int4",
        help="in which layers are hosted or bought; auto: what this machine does well "
        "and others serve, chosen once",
    )
    parser.add_argument(
        "--device",
        metavar="auto|cpu|cuda[:N]",
        help="where layers compute; auto: a CUDA device where there is one",
    )
    parser.add_argument(
        "--draft-model",
        metavar="DIR",
        help="Hugging Face folder of a small model with which a gateway guesses what "
        "follows; it must have the vocabulary of --model",
    )
    parser.add_argument(
        "--activations",
        choices=("lossless", "int8"),
        help="how hidden states travel in answers that this gateway buys",
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="P2P://KEY@HOST:PORT", help="keep connected to"
    )
    parser.add_argument(
        "--sync",
        choices=("snapshot", "replay"),
        help="from far behind: take a state from peers, or execute every block",
    )
    parser.add_argument(
        "--follow-shards",
        metavar="all|hosted|1,2",
        help="layer shards to hold and execute, besides those of hosted layers",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="EPOCH:ROOT",
        help="a validator set to trust, from somebody you know",
    )
    parser.add_argument("--bls", choices=("native", "reference"))
    parser.add_argument("--log", choices=("plain", "json"), default="plain")
    _add_addresses(parser)
    # A devnet's nodes end when the pipe they inherit closes.
    parser.add_argument("--parent-fd", type=int, help="stop when this pipe closes")


def _add_addresses(parser: ArgumentParser) -> None:
    for name, what in (("rpc", "HTTP: RPC, explorer, /v1"), ("p2p", "peers")):
        parser.add_argument(
            f"--{name}-host", metavar="ADDRESS", help=f"listen here for {what}"
        )
        parser.add_argument(
            f"--{name}-port", type=port, metavar="PORT", help="0 takes any free port"
        )


def run(args: Namespace, output: Output) -> int | None:
    """Run the node; config.toml with the options' changes."""
    # Imported here: the node's packages take a second, which no other command needs.
    from p2pchain.node.run import run_node

    home = open_home(args)
    config = apply_options(home.load_config(), args)
    passphrase = read_passphrase(args, home, confirm=False)
    return run_node(
        home, config, passphrase, parent_fd=args.parent_fd, log_format=args.log
    )


def apply_options(config: Config, args: Namespace) -> Config:
    """Return the settings with those replaced that the command line gives."""
    changes: dict[str, Any] = {}
    for name in Config.__dataclass_fields__:
        value = getattr(args, name, None)
        if value is not None:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return replace(config, **changes)
