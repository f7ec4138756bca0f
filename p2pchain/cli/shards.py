"""`p2pchain shards`: which there are, and how validators change that."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from p2pchain.cli.options import add_command, add_group, amount, number, positive
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client
from p2pchain.errors import HomeError
from primitives.codec import encode

WAIT_TIMEOUT_S = 60.0
"""The node's own patience for a transaction."""

if TYPE_CHECKING:
    import argparse

    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `shards`."""
    group = add_group(commands, "shards", "the shards, and proposals to change them")
    add_command(group, "list", run_list, "list shards and open proposals")
    split = add_command(
        group,
        "propose-split",
        run_split,
        "propose that a new shard takes a shard's layers from LAYER on",
    )
    split.add_argument("shard", metavar="SHARD", type=positive)
    split.add_argument("layer", metavar="LAYER", type=positive)
    model = add_command(
        group, "propose-model", run_model, "propose that a model joins the chain"
    )
    model.add_argument(
        "model", metavar="FOLDER", help="Hugging Face layout, or `bundled`"
    )
    model.add_argument(
        "--shards", type=positive, default=1, help="new shards; default 1"
    )
    model.add_argument(
        "--min-collateral",
        type=amount,
        help="what every provider of it locks at least; default: as at genesis",
    )
    retire = add_command(
        group, "propose-retire", run_retire, "propose that a model leaves the chain"
    )
    retire.add_argument("model", metavar="MODEL", help="name or id")
    vote = add_command(group, "vote", run_vote, "approve a proposal")
    vote.add_argument("number", metavar="NUMBER", type=number)
    for parser in (split, model, retire, vote):
        _add_wait(parser)


def run_list(args: Namespace, output: Output) -> None:
    """List the shards of this epoch and the next one, and what is proposed."""
    found = open_client(args).call("layout")
    text = f"epoch {found['epoch']}\n{_describe_layout(found['shards'])}"
    if found["next_shards"] != found["shards"]:
        text += f"\n\nfrom epoch {found['epoch'] + 1} on\n"
        text += _describe_layout(found["next_shards"])
    if found["proposals"]:
        text += f"\n\nproposals\n{_describe_proposals(found['proposals'])}"
    output.show(found, text)


def run_split(args: Namespace, output: Output) -> None:
    """Propose a split."""
    _call(
        args, output, "wallet_propose_split", {"shard": args.shard, "layer": args.layer}
    )


def run_model(args: Namespace, output: Output) -> None:
    """Propose a model; its files are hashed and its class is probed here."""
    # Not before it is needed: it reads weights, which takes a while.
    from inference.certification.certify import require_certificate
    from inference.weights.model_info import load_model
    from p2pchain.node.home.initialise import (
        build_model_record,
        get_model_name,
        resolve_model_dir,
    )

    folder = resolve_model_dir(args.model)
    require_certificate(folder)
    record = build_model_record(load_model(folder, get_model_name(args.model)).info)
    if args.min_collateral is not None:
        record = replace(record, min_collateral=args.min_collateral)
    params = {"model": "0x" + encode(record).hex(), "shards": args.shards}
    _call(args, output, "wallet_propose_model", params)


def run_retire(args: Namespace, output: Output) -> None:
    """Propose that a model leaves."""
    found = open_client(args).call("layout")
    model_id = find_model(found["shards"], args.model)
    _call(args, output, "wallet_propose_retire", {"model_id": model_id})


def run_vote(args: Namespace, output: Output) -> None:
    """Approve a proposal."""
    _call(args, output, "wallet_vote", {"number": args.number})


def find_model(shards: list[dict[str, Any]], wanted: str) -> str:
    """Return the id of a model that is named by name or id.

    Raises:
        HomeError: No shard is of it.
    """
    for shard in shards:
        if wanted in (shard["model"], shard["model_id"]):
            return str(shard["model_id"])
    raise HomeError(f"no shard is of a model {wanted[:64]!r}")


def _add_wait(parser: "argparse.ArgumentParser") -> None:
    parser.add_argument(
        "--no-wait", action="store_true", help="do not wait until it is final"
    )


def _call(args: Namespace, output: Output, method: str, params: dict[str, Any]) -> None:
    """Have the node sign and send, and show what is open then."""
    client = open_client(args, WAIT_TIMEOUT_S + 10)
    answer = client.call(method, **params, wait=not args.no_wait)
    text = f"transaction  {answer['tx_ids'][-1]}\n"
    text += f"final        {'block ' + answer['height'] if answer['final'] else 'no'}"
    if answer["proposals"]:
        text += f"\n{_describe_proposals(answer['proposals'])}"
    output.show(answer, text)


def _describe_layout(shards: list[dict[str, Any]]) -> str:
    rows = [(0, "root", "-", "active", "-")]
    rows += [
        (
            shard["shard_id"],
            shard["model"] or shard["model_id"][:18],
            f"{shard['start']}:{shard['end']}",
            shard["phase"],
            shard["last_height"] or "-",
        )
        for shard in shards
    ]
    return format_table(("shard", "model", "layers", "phase", "open until"), rows)


def _describe_proposals(proposals: list[dict[str, Any]]) -> str:
    rows = (
        (
            each["number"],
            _describe_change(each["change"]),
            each["name"] or each["account"],
            f"{format_amount(each['power'])} of {format_amount(each['total_power'])}",
            "approved" if each["approved"] else f"open to epoch {each['last_epoch']}",
        )
        for each in proposals
    )
    return format_table(("number", "change", "by", "power", "state"), rows)


def _describe_change(change: dict[str, Any]) -> str:
    match change["kind"]:
        case "split_shard":
            return f"split shard {change['shard']} at layer {change['layer']}"
        case "add_model":
            return f"add {change['name']} in {change['shards']} shards"
        case "retire_model":
            return f"retire {change['model_id'][:18]}"
        case other:
            return str(other)
