"""`p2pchain validators` and `stakes`: who votes, how well, and with what."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.options import add_command, number
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `validators` and `stakes`."""
    validators = add_command(
        commands, "validators", run, "list an epoch's validators and their attendance"
    )
    validators.add_argument(
        "epoch", nargs="?", type=number, help="default: the running one"
    )
    add_command(commands, "stakes", run_stakes, "list all stakes")


def run(args: Namespace, output: Output) -> None:
    """List the validators of an epoch."""
    client = open_client(args)
    params = {} if args.epoch is None else {"epoch": args.epoch}
    epoch = client.call("epoch", **params)
    found = client.call("validators", epoch=epoch["epoch"])
    rows = (
        (
            each["index"],
            each["name"] or "-",
            format_amount(each["power"]),
            f"{100 * each['share']:.2f} %",
            format_attendance(each["attendance"]),
            each["status"],
            each["account"] or "-",
        )
        for each in found["validators"]
    )
    header = ("index", "name", "power", "share", "attendance", "status", "account")
    text = f"{describe_epoch(epoch)}\n{format_table(header, rows)}"
    output.show(found, text)


def run_stakes(args: Namespace, output: Output) -> None:
    """List all stakes, the largest first."""
    found = open_client(args).call("stake_list")
    rows = (
        (
            each["name"],
            each["status"],
            format_amount(each["bonded"]),
            format_amount(each["unbonding_total"]),
            format_amount(each["rewarded"]),
            format_amount(each["slashed"]),
            each["account"],
        )
        for each in found["stakes"]
    )
    header = ("name", "status", "bonded", "unbonding", "earned", "slashed", "account")
    output.show(found, format_table(header, rows))


def describe_epoch(epoch: dict[str, Any]) -> str:
    """Return an epoch in one line."""
    blocks = f"blocks {epoch['first_height']} to {epoch['last_height']}"
    to_go = epoch["blocks_to_go"]
    return f"epoch {epoch['epoch']}, {blocks}, {to_go or 'none'} to go"


def format_attendance(attendance: float | None) -> str:
    """Return the share of blocks for which a vote was recorded."""
    return "-" if attendance is None else f"{100 * attendance:.1f} %"
