"""`p2pchain channel`: open, close and list payment channels."""

from argparse import Namespace
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command, add_group, amount
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import open_client

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

WAIT_TIMEOUT_S = 60.0


def add_parser(commands: "Commands") -> None:
    """Add `channel`."""
    group = add_group(commands, "channel", "open, close and list payment channels")
    opening = add_command(group, "open", run_open, "lock a deposit for a provider")
    opening.add_argument("payee", metavar="PROVIDER", help="the provider's address")
    opening.add_argument("deposit", type=amount, help="2.5 (coins) or 2500atoms")
    opening.add_argument(
        "--unit-price",
        type=amount,
        metavar="AMOUNT",
        help="fixed for the channel's life (default: from the provider's price)",
    )
    closing = add_command(
        group,
        "close",
        run_close,
        "close as payee; as payer request it, and withdraw after the grace window",
    )
    closing.add_argument("channel_id", metavar="CHANNEL_ID")
    for parser in (opening, closing):
        parser.add_argument(
            "--no-wait", action="store_true", help="do not wait for finality"
        )
    add_command(group, "list", run_list, "list the wallet's channels")


def run_open(args: Namespace, output: Output) -> None:
    """Open a channel and wait until it is final."""
    params = {
        "payee": args.payee,
        "deposit": str(args.deposit),
        "wait": not args.no_wait,
    }
    if args.unit_price is not None:
        params["unit_price"] = str(args.unit_price)
    client = open_client(args, WAIT_TIMEOUT_S + 10)
    result = client.call("wallet_channel_open", **params)
    state = (
        f"open since block {result['height']}" if result["final"] else "not final yet"
    )
    output.show(result, f"channel  {result['channel_id']}\n{state}")


def run_close(args: Namespace, output: Output) -> None:
    """Close a channel."""
    client = open_client(args, WAIT_TIMEOUT_S + 10)
    result = client.call(
        "wallet_channel_close", channel_id=args.channel_id, wait=not args.no_wait
    )
    text = "\n".join(f"transaction  {tx_id}" for tx_id in result["tx_ids"])
    text += (
        f"\nfinal in block {result['height']}" if result["final"] else "\nnot final yet"
    )
    output.show(result, text)


def run_list(args: Namespace, output: Output) -> None:
    """List the wallet's channels, open ones first."""
    result = open_client(args).call("wallet_channel_list")
    rows = (
        (
            own["role"],
            own["status"] + (f" ({own['blocked']})" if own["blocked"] else ""),
            own["shard"],
            format_amount(own["deposit"]),
            format_amount(own["promised"]),
            format_amount(own["settled"]),
            own["channel_id"],
        )
        for own in result["channels"]
    )
    header = ("role", "status", "shard", "deposit", "promised", "settled", "channel")
    output.show(result, format_table(header, rows))
