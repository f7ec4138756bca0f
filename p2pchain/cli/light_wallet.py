"""
`p2pchain wallet --light`: the wallet against a node that is not trusted.

Keys stay here: the node gets signed transactions and never a token.
"""

from argparse import ArgumentParser, Namespace

from p2pchain.cli.light import show_accounts
from p2pchain.cli.light_session import (
    add_light_options,
    open_light,
    open_public_client,
)
from p2pchain.cli.output import Output, format_amount
from p2pchain.cli.session import get_home_path, read_passphrase
from p2pchain.errors import HomeError
from p2pchain.light.spending import LightWallet
from p2pchain.node.home.home import Home
from primitives.address import decode_address
from primitives.errors import DecodeError
from primitives.keys import SecretKey
from wallet.keystore import Keystore, decrypt_account_key, load_keystore


def add_light(parser: ArgumentParser) -> None:
    """Add --light and what goes with it."""
    parser.add_argument(
        "--light",
        action="store_true",
        help="believe only what is proven; sign with the home's keystore",
    )
    add_light_options(parser)


def run_light_balance(args: Namespace, output: Output) -> None:
    """Show a proven balance, by default of the home's account."""
    named = args.address
    owner = _decode_address(named) if named else _load_keystore(args).public_key
    with open_light(args, output) as client:
        accounts = client.list_accounts(owner)
        missing = client.list_missing(accounts)
    show_accounts(owner, accounts, missing, output)


def run_light_send(args: Namespace, output: Output) -> None:
    """Pay from the home's account, and wait until the chain proves it."""
    recipient = _decode_address(args.recipient)
    key = load_account_key(args)
    with open_light(args, output) as client:
        wallet = LightWallet(client, open_public_client(args), key)
        payments = wallet.send(recipient, args.amount, args.shard)
        settled = [] if args.no_wait else [wallet.wait_settled(p) for p in payments]
    fee_limit = sum(p.signed.transaction.fee_limit for p in payments)
    document = {
        "tx_ids": ["0x" + payment.tx_id.hex() for payment in payments],
        "fee_limit": str(fee_limit),
        "final": bool(settled),
        "height": str(settled[-1].height) if settled else None,
        "paid": all(each.is_paid for each in settled) if settled else None,
    }
    lines = [f"transaction  0x{payment.tx_id.hex()}" for payment in payments]
    lines.append(f"fees         at most {format_amount(fee_limit)}")
    for each in settled:
        if each.is_paid:
            lines.append(f"paid         proven at block {each.height}")
        else:
            lines.append(
                f"final        proven at block {each.height}; that it paid is not: "
                "money came in at the same time, or the rules refused it"
            )
    if not settled:
        lines.append("not final yet")
    output.show(document, "\n".join(lines))


def load_account_key(args: Namespace) -> SecretKey:
    """Return the key of the home's account, which needs no node in it."""
    keystore = _load_keystore(args)
    passphrase = read_passphrase(args, Home(get_home_path(args)), confirm=False)
    return decrypt_account_key(keystore, passphrase)


def _decode_address(text: str) -> bytes:
    try:
        return decode_address(text)
    except DecodeError as error:
        raise DecodeError(f"{text[:80]!r} is no address: {error}") from error


def _load_keystore(args: Namespace) -> Keystore:
    path = Home(get_home_path(args)).account_keystore
    if not path.is_file():
        raise HomeError(f"{path} is missing; make a key with `p2pchain wallet new`")
    return load_keystore(path)
