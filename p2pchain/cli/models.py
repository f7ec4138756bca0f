"""`p2pchain models` and `route`: what is served, through whom, and what can be."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client
from p2pchain.errors import ConfigError

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `models` and `route`."""
    models = add_command(commands, "models", run_models, "list the chain's models")
    certify = add_command(
        models.add_subparsers(metavar="COMMAND"),
        "certify",
        run_certify,
        "probe whether a model, divided, computes what it computes undivided",
    )
    certify.add_argument(
        "model",
        nargs="?",
        metavar="NAME|DIR",
        help="Hugging Face folder, `bundled`, or a model type such as llama",
    )
    certify.add_argument(
        "--all", action="store_true", help="every model type that the library knows"
    )
    certify.add_argument(
        "--markdown", action="store_true", help="as the table of docs/architectures.md"
    )
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


def run_certify(args: Namespace, output: Output) -> int:
    """Probe models and show their certificates; 1 when any is refused."""
    # Imported here: hashing and the wire take a moment that the list does not need.
    from inference.certification.architectures import (
        build_document,
        build_markdown,
        describe,
        list_model_types,
    )
    from inference.certification.certify import run_probe, run_sweep

    if args.all == bool(args.model):
        raise ConfigError("certify takes one model, or --all")
    if args.all:
        types = list_model_types()
        output.say(f"probing {len(types)} model types, a second or more each")
        certificates = list(run_sweep(types))
    else:
        certificates = [run_probe(*_get_subject(args.model))]
    documents = [build_document(certificate) for certificate in certificates]
    if args.markdown:
        text = build_markdown(certificates).rstrip("\n")
    else:
        text = "\n\n".join(map(describe, certificates))
    output.show(documents if args.all else documents[0], text)
    # A sweep is a table; one model is a question.
    return int(not args.all and not certificates[0].is_exact)


def _get_subject(name: str) -> tuple[str, str]:
    """Return the probe's option for a model that a person names."""
    from inference.bundled.paths import model_dir

    if name == "bundled":
        return "--model", str(model_dir())
    path = Path(name).expanduser()
    if path.is_dir():
        return "--model", str(path.absolute())
    if "/" in name:
        raise ConfigError(f"{name}: no such folder")
    return "--type", name


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
