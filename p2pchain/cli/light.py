"""`p2pchain light`: follow a chain and read its state without trusting a node."""

from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from chain.ledger.stake import Stake
from chain.records.keys import build_stake_key
from p2pchain.api.render import to_time
from p2pchain.cli.light_session import (
    add_light_options,
    describe_trust,
    get_trust_path,
    open_light,
)
from p2pchain.cli.options import add_command, add_group
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.errors import TrustError
from p2pchain.light.client import ShownAccount, get_clock_ms
from p2pchain.light.trust_file import load_trust
from primitives.address import decode_address, encode_address
from primitives.codec import decode
from primitives.errors import DecodeError

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `light`."""
    group = add_group(commands, "light", "read the chain without trusting a node")
    sync = add_command(group, "sync", run_sync, "follow the chain to its newest block")
    show = add_command(
        group, "status", run_status, "show what is trusted; asks no node"
    )
    balance = add_command(group, "balance", run_balance, "show a proven balance")
    balance.add_argument("address", metavar="ADDRESS", type=address)
    stake = add_command(group, "stake", run_stake, "show a proven stake")
    stake.add_argument("address", metavar="ADDRESS", type=address)
    state = add_command(group, "state", run_state, "show what a key holds, proven")
    state.add_argument("shard", metavar="SHARD", type=shard)
    state.add_argument("key", metavar="KEY", type=key, help="hex, docs/protocol/03")
    for parser in (sync, show, balance, stake, state):
        add_light_options(parser)


def run_sync(args: Namespace, output: Output) -> None:
    """Follow the chain, and say what is trusted then."""
    with open_light(args, output) as client:
        document, text = describe_trust(client.trust, get_clock_ms())
    path = str(get_trust_path(args))
    output.show(document | {"file": path}, f"{text}\nfile      {path}")


def run_status(args: Namespace, output: Output) -> None:
    """Say what is trusted."""
    path = get_trust_path(args)
    trust = load_trust(path)
    if trust is None:
        raise TrustError(f"{path} is missing; begin with `p2pchain light sync`")
    output.show(*describe_trust(trust, get_clock_ms()))


def run_balance(args: Namespace, output: Output) -> None:
    """Show what an address holds in each shard."""
    with open_light(args, output) as client:
        accounts = client.list_accounts(args.address)
        missing = client.list_missing(accounts)
    show_accounts(args.address, accounts, missing, output)


def show_accounts(
    address: bytes,
    accounts: tuple[ShownAccount, ...],
    missing: tuple[int, ...],
    output: Output,
) -> None:
    """Show proven accounts, in the form of the node's own answer."""
    total = sum(shown.account.balance for shown in accounts)
    document = {
        "address": encode_address(address),
        "total": str(total),
        "proven": True,
        "unknown_shards": list(missing),
        "shards": [
            {
                "shard": shown.shard,
                "balance": str(shown.account.balance),
                "maturing": str(shown.account.maturing_amount),
                "nonce": str(shown.account.nonce),
                "height": str(shown.height),
                "time": to_time(shown.time_ms),
            }
            for shown in accounts
        ],
    }
    rows = (
        (
            shown.shard,
            format_amount(shown.account.balance),
            format_amount(shown.account.maturing_amount),
            shown.account.nonce,
            shown.height,
        )
        for shown in accounts
    )
    header = ("shard", "balance", "maturing", "nonce", "proven at")
    output.show(
        document,
        f"{encode_address(address)}\ntotal     {format_amount(total)}\n"
        + format_table(header, rows)
        + (
            f"\nthe node shows nothing of shards {', '.join(map(str, missing))} just "
            "now; try again, or ask another one (--rpc URL)"
            if missing
            else ""
        ),
    )


def run_stake(args: Namespace, output: Output) -> None:
    """Show a stake, or that there is none."""
    with open_light(args, output) as client:
        shown = client.get(0, build_stake_key(args.address))
    document: dict[str, Any] = {
        "address": encode_address(args.address),
        "height": str(shown.height),
        "stake": None,
    }
    if shown.value is None:
        output.show(document, f"no stake, proven at block {shown.height}")
        return
    document["stake"], text = describe_stake(decode(Stake, shown.value))
    output.show(document, f"{text}\nproven at  {shown.height}")


def describe_stake(stake: Stake) -> tuple[dict[str, str], str]:
    """Return a proven stake as JSON and as text."""
    unbonding = stake.unbonding_amount
    document = {
        "name": stake.name,
        "public_key": "0x" + stake.public_key.hex(),
        "status": stake.status.name.lower(),
        "bonded": str(stake.bonded),
        "unbonding": str(unbonding),
        "rewarded": str(stake.rewarded),
        "slashed": str(stake.slashed),
    }
    return document, (
        f"validator  {stake.name}, {stake.status.name.lower()}\n"
        f"bonded     {format_amount(stake.bonded)}\n"
        f"unbonding  {format_amount(unbonding)}\n"
        f"rewarded   {format_amount(stake.rewarded)}\n"
        f"slashed    {format_amount(stake.slashed)}"
    )


def run_state(args: Namespace, output: Output) -> None:
    """Show the bytes under a key."""
    with open_light(args, output) as client:
        shown = client.get(args.shard, args.key)
    value = None if shown.value is None else "0x" + shown.value.hex()
    document = {
        "shard": args.shard,
        "key": "0x" + args.key.hex(),
        "value": value,
        "height": str(shown.height),
        "time": to_time(shown.time_ms),
    }
    output.show(
        document,
        f"{value or 'no such key'}\nproven at {shown.height}, {document['time']}",
    )


def address(text: str) -> bytes:
    """Parse an address on the command line."""
    try:
        return decode_address(text)
    except DecodeError as error:
        raise ArgumentTypeError(str(error)) from error


def shard(text: str) -> int:
    """Parse a shard on the command line."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= 5
    if not is_number or int(text) >= 2**16:
        raise ArgumentTypeError(f"{text[:80]!r} is no shard, 0 to 65535")
    return int(text)


def key(text: str) -> bytes:
    """Parse a key of the state on the command line."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise ArgumentTypeError(f"{text[:80]!r} is no hex") from error
