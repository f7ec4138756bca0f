"""`p2pchain devnet`: a whole network on this machine, in the foreground."""

import json
import secrets
import signal
import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import trio

from p2pchain.cli.chain_options import add_chain_options, get_chain_choices
from p2pchain.cli.options import add_command, positive
from p2pchain.cli.output import Output
from p2pchain.devnet import Devnet, Report, open_devnet
from p2pchain.errors import find_cause

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

Main = Callable[[Namespace, Output], Awaitable[None]]

DEFAULT_VALIDATORS = 4
"""The fewest of which one may fail."""


def add_parser(commands: "Commands") -> None:
    """Add `devnet`."""
    parser = add_command(
        commands, "devnet", run, "run a whole network on this machine until Ctrl-C"
    )
    add_network_options(parser)


def add_network_options(parser: ArgumentParser) -> None:
    """Add what `devnet` and `demo` share; --home is the network's folder."""
    parser.add_argument(
        "--validators",
        type=positive,
        metavar="N",
        default=DEFAULT_VALIDATORS,
        help=f"validators, each with its part of the layers ({DEFAULT_VALIDATORS})",
    )
    parser.add_argument(
        "--replicas",
        type=positive,
        metavar="R",
        default=1,
        help="validators that host the same layers; with 2, one of them may die in the "
        "middle of an answer (1)",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        default="bundled",
        help="Hugging Face folder (default: the bundled model)",
    )
    parser.add_argument(
        "--draft-model",
        metavar="DIR",
        default="",
        help="Hugging Face folder of a small model with which the gateway guesses what "
        "follows; it must have the vocabulary of --model",
    )
    add_chain_options(parser)


def run(args: Namespace, output: Output) -> None:
    """Start the network, print one JSON line when READY, stop on SIGTERM or Ctrl-C."""
    run_until_signal(_run, args, output)


def run_until_signal(main: Main, args: Namespace, output: Output) -> None:
    """Run `main`; SIGTERM and SIGINT end it in order.

    Raises:
        P2PChainError: What went wrong, out of the groups that nurseries make.
    """
    try:
        trio.run(_run_until_signal, main, args, output)
    except BaseExceptionGroup as group:
        raise find_cause(group) from group


async def _run_until_signal(main: Main, args: Namespace, output: Output) -> None:
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await main(args, output)
        nursery.cancel_scope.cancel()


async def _run(args: Namespace, output: Output) -> None:
    async with open_network(args, output.say) as devnet:
        print(json.dumps(devnet.build_summary()), flush=True)
        output.say(f"READY: {devnet.gateway.rpc} (Ctrl-C stops)")
        await trio.sleep_forever()


@asynccontextmanager
async def open_network(args: Namespace, report: Report) -> AsyncIterator[Devnet]:
    """Make the network unless --home has one, and run it inside the block.

    Without --home it is made in a temporary folder, which goes with it; when something
    failed it stays, for its logs.
    """
    if args.home:
        folder = Path(args.home).expanduser().absolute()
        async with _open_network(folder, args, report) as devnet:
            yield devnet
        return
    parent = Path(mkdtemp(prefix="p2pchain-"))
    is_kept = False
    try:
        async with _open_network(parent / "net", args, report) as devnet:
            yield devnet
    except Exception:
        is_kept = any(parent.rglob("node.log"))
        if is_kept:
            report(f"what the nodes logged is in {parent}")
        raise
    finally:
        if not is_kept:
            rmtree(parent, ignore_errors=True)


@asynccontextmanager
async def _open_network(
    folder: Path, args: Namespace, report: Report
) -> AsyncIterator[Devnet]:
    # Imported here: these packages take half a second, which no other command needs.
    from p2pchain.node.home.initialise import create_network

    if (folder / "genesis.json").is_file():
        report(f"the network in {folder} goes on as it is")
    else:
        create_network(
            folder,
            validators=args.validators,
            replicas=args.replicas,
            model=args.model,
            draft_model=args.draft_model,
            passphrase=secrets.token_urlsafe(16),
            time_ms=time.time_ns() // 1_000_000,
            is_devnet=True,
            choices=get_chain_choices(args),
            report=report,
        )
    homes = sorted(path.parent for path in folder.glob("*/config.toml"))
    homes.sort(key=lambda home: (not home.name.startswith("node"), len(home.name)))
    report(f"starting {len(homes)} nodes in {folder}")
    async with open_devnet(homes, report) as devnet:
        yield devnet
