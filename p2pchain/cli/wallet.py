"""`p2pchain wallet`: keys on disk, and the money of a running node's wallet."""

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from p2pchain.cli.history import describe_history, describe_missing
from p2pchain.cli.light_staking import run_light_stake, run_light_unstake
from p2pchain.cli.light_wallet import (
    add_light,
    run_light_balance,
    run_light_send,
)
from p2pchain.cli.options import (
    add_command,
    add_group,
    amount,
    amount_or_all,
    positive,
)
from p2pchain.cli.output import Output, format_amount, format_table
from p2pchain.cli.session import get_home_path, open_client, read_passphrase
from p2pchain.cli.staking import describe_seat, describe_stake
from p2pchain.cli.words import load_words, wrap_words
from p2pchain.errors import HomeError
from p2pchain.node.home.home import Home
from primitives.address import encode_address
from wallet.derivation import derive_account_key, get_account_path
from wallet.errors import CorruptKeystore
from wallet.keystore import (
    DEFAULT_COST,
    LIGHT_COST,
    encrypt_account_key,
    load_keystore,
    save_keystore,
)
from wallet.mnemonic import build_mnemonic, compute_seed

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands

WAIT_TIMEOUT_S = 60.0
"""A payment from several shards is final after a few blocks of a second."""


def add_parser(commands: "Commands") -> None:
    """Add `wallet`."""
    group = add_group(commands, "wallet", "make keys, show and send money")
    new = add_command(group, "new", run_new, "make a key, or restore one from 24 words")
    new.add_argument("--light", action="store_true", help="weak and quick, for devnets")
    new.add_argument(
        "--restore",
        metavar="FILE",
        help="take the 24 words in FILE instead of new ones",
    )
    new.add_argument("--account", type=int, default=0, help="number of the account")
    add_command(group, "address", run_address, "show the home's address")
    add_command(group, "list", run_list, "list the home's keystores")
    balance = add_command(group, "balance", run_balance, "show a balance by shard")
    balance.add_argument("address", nargs="?", help="default: the node's wallet")
    send = add_command(group, "send", run_send, "pay; gathers funds from other shards")
    send.add_argument("recipient", metavar="ADDRESS")
    send.add_argument("amount", type=amount, help="2.5 (coins) or 2500atoms")
    send.add_argument("--shard", type=int, default=0, help="where to deliver (root: 0)")
    send.add_argument("--no-wait", action="store_true", help="do not wait for finality")
    stake = add_command(
        group, "stake", run_stake, "put money behind the node's validator key"
    )
    stake.add_argument(
        "amount", type=amount, help="2.5 (coins) or 2500atoms; 0 ends a time out"
    )
    stake.add_argument(
        "--validator",
        metavar="FILE",
        help="stake behind the key of another home, which made FILE with `validator "
        "proof ADDRESS`; needs --light",
    )
    unstake = add_command(
        group, "unstake", run_unstake, "take money out of the stake, or all of it"
    )
    unstake.add_argument("amount", type=amount_or_all, help="as for stake, or `all`")
    for parser in (stake, unstake):
        parser.add_argument(
            "--no-wait", action="store_true", help="do not wait for finality"
        )
    for parser in (balance, send, stake, unstake):
        add_light(parser)
    history = add_command(group, "history", run_history, "list transactions")
    history.add_argument("address", nargs="?", help="default: the node's wallet")
    history.add_argument("--limit", type=positive, default=25)
    history.add_argument("--after", metavar="CURSOR", help="continue a list")


def run_new(args: Namespace, output: Output) -> None:
    """Write a keystore; the words are shown once."""
    home = Home(get_home_path(args))
    words = load_words(args.restore) if args.restore else build_mnemonic()
    key = derive_account_key(compute_seed(words), args.account)
    passphrase = read_passphrase(args, home, confirm=True)
    for folder in (home.path, home.account_keystore.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keystore = encrypt_account_key(
        key,
        passphrase,
        path=get_account_path(args.account),
        cost=LIGHT_COST if args.light else DEFAULT_COST,
    )
    save_keystore(home.account_keystore, keystore)
    address = encode_address(key.public_key)
    shown: dict[str, Any] = {"address": address, "file": str(home.account_keystore)}
    text = f"address   {address}\nkeystore  {home.account_keystore}"
    if not args.restore:
        shown["mnemonic"] = words
        text += (
            "\n\nWrite these 24 words down; they restore the key and are shown only"
            f" now:\n\n{wrap_words(words)}"
        )
    output.show(shown, text)


def run_address(args: Namespace, output: Output) -> None:
    """Show the address of the home's account; works without a node."""
    path = Home(get_home_path(args)).account_keystore
    if not path.is_file():
        raise HomeError(f"{path} is missing; make a key with `p2pchain wallet new`")
    address = encode_address(load_keystore(path).public_key)
    output.show({"address": address}, address)


def run_list(args: Namespace, output: Output) -> None:
    """List the keystores of the home."""
    folder = Home(get_home_path(args)).account_keystore.parent
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            keystore = load_keystore(path)
        except CorruptKeystore as error:
            output.say(f"{path}: {error}")
            continue
        key = keystore.public_key
        name = encode_address(key) if len(key) == 32 else "0x" + key.hex()
        found.append(
            {"file": path.name, "key": name, "description": keystore.description}
        )
    rows = ((row["file"], row["key"], row["description"]) for row in found)
    output.show({"keystores": found}, format_table(("file", "key", "what"), rows))


def run_balance(args: Namespace, output: Output) -> None:
    """Show what an address holds in each shard."""
    if args.light:
        run_light_balance(args, output)
        return
    client = open_client(args)
    if args.address:
        account = client.call("account", address=args.address)
    else:
        account = client.call("wallet_balance")
    rows = (
        (
            shard["shard"],
            format_amount(shard["balance"]),
            format_amount(shard["maturing"]),
            shard["nonce"],
        )
        for shard in account["shards"]
    )
    text = (
        f"{account['address']}\ntotal     {format_amount(account['total'])}\n"
        + (
            f"channels  {format_amount(account['in_channels'])}\n"
            if int(account.get("in_channels", 0))
            else ""
        )
        + (
            f"stake     {describe_stake(account['stake'])}\n"
            if account["stake"]
            else ""
        )
        + format_table(("shard", "balance", "maturing", "nonce"), rows)
        + _describe_unknown(account["unknown_shards"])
    )
    output.show(account, text)


def _describe_unknown(shards: list[int]) -> str:
    if not shards:
        return ""
    listed = ", ".join(map(str, shards))
    return (
        f"\nthe node does not follow shards {listed}, and nobody shows it what is there"
        " just now; try again, or ask one that does (--rpc URL)"
    )


def run_send(args: Namespace, output: Output) -> None:
    """Pay, and wait until it is final."""
    if args.light:
        run_light_send(args, output)
        return
    client = open_client(args, WAIT_TIMEOUT_S + 10)
    result = client.call(
        "wallet_send",
        recipient=args.recipient,
        amount=str(args.amount),
        shard=args.shard,
        wait=not args.no_wait,
    )
    final = result["final"]
    text = "\n".join(f"transaction  {tx_id}" for tx_id in result["tx_ids"])
    text += f"\nfinal in block {result['height']}" if final else "\nnot final yet"
    sent = result.get("transactions", [])
    if any(each["shard"] != args.shard for each in sent):
        # As a packet.
        text += f", arrives in shard {args.shard} with one of its next chunks"
    if unclear := [each for each in sent if each["ok"] is None]:
        listed = ", ".join(str(each["shard"]) for each in unclear)
        text += (
            f"\nthe node does not follow shards {listed}: nobody showed it whether what"
            " is final there was paid, or refused for a fee"
        )
    output.show(result, text)


def run_stake(args: Namespace, output: Output) -> None:
    """Stake, and say from when on it counts."""
    if args.light or args.validator:
        run_light_stake(args, output)
        return
    _run_staking(args, output, "wallet_stake", str(args.amount))


def run_unstake(args: Namespace, output: Output) -> None:
    """Take out, and say when it is paid."""
    if args.light:
        run_light_unstake(args, output)
        return
    _run_staking(args, output, "wallet_unstake", str(args.amount))


def _run_staking(args: Namespace, output: Output, method: str, amount: str) -> None:
    client = open_client(args, WAIT_TIMEOUT_S + 10)
    result = client.call(method, amount=amount, wait=not args.no_wait)
    lines = [f"transaction  {tx_id}" for tx_id in result["tx_ids"]]
    if result["final"]:
        lines.append(f"final in block {result['height']}, epoch {result['epoch']}")
        if result["stake"]:
            lines.append(f"stake        {describe_stake(result['stake'])}")
        status = client.call("status")
        if validator := status["validator"]:
            running = status["epoch"]["number"]
            lines.append(f"validator    {describe_seat(validator, running)}")
    else:
        lines.append("not final yet")
    output.show(result, "\n".join(lines))


def run_history(args: Namespace, output: Output) -> None:
    """List an address's transactions, newest first."""
    client = open_client(args)
    address = args.address or client.call("wallet_address")["address"]
    params = {"address": address, "limit": args.limit}
    if args.after:
        params["after"] = args.after
    history = client.call("account_txs", **params)
    text = describe_history(history["transactions"], address)
    text += describe_missing(history["missing"], history["first_height"])
    if history["next"]:
        text += f"\nmore: --after {history['next']}"
    output.show(history, text)
