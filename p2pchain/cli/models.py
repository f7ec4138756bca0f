"""`p2pchain models` and `route`: what the network serves, and through whom."""

from argparse import Namespace
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `models` and `route`."""
    add_command(commands, "models", run_models, "list the chain's models")
    route = add_command(commands, "route", run_route, "show whom a request would visit")
    route.add_argument("model", nargs="?", help="default: the first one that is served")


def run_models(args: Namespace, output: Output) -> None:
    """List the models of the chain."""
    result = open_client(args).call("model_list")
    rows = (
        (
            model["name"],
            model["layers"],
            model["context_length"],
            "yes" if model["servable"] else model["reason"],
            model["model_id"],
        )
        for model in result["models"]
    )
    header = ("name", "layers", "context", "servable", "id")
    output.show(result, format_table(header, rows))


def run_route(args: Namespace, output: Output) -> None:
    """Show the route that a request would take now."""
    client = open_client(args)
    params = {"model": args.model} if args.model else {}
    result = client.call("route", **params)
    rows = (
        (
            hop["name"],
            f"[{hop['start']}, {hop['end']})",
            format_amount(hop["input_price"]),
            format_amount(hop["output_price"]),
            "-" if hop["latency_us"] is None else f"{hop['latency_us'] / 1000:.2f}",
            f"{hop['measured_us'] / 1000:.2f}",
            hop["provider"],
        )
        for hop in result["hops"]
    )
    header = (
        "node",
        "layers",
        "in / layer-token",
        "out / layer-token",
        "rtt ms",
        "step ms",
        "provider",
    )
    output.show(result, format_table(header, rows))
