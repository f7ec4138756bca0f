"""`p2pchain keys show`: the public halves of a home's keys."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pchain.cli.options import add_command, add_group
from p2pchain.cli.output import Output
from p2pchain.cli.session import open_home
from primitives.address import encode_address
from wallet.keystore import load_keystore

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `keys`."""
    group = add_group(commands, "keys", "show the node's keys")
    add_command(group, "show", run_show, "show public keys; needs no passphrase")


def run_show(args: Namespace, output: Output) -> None:
    """Show account, network identity and validator key."""
    home = open_home(args)
    account = load_keystore(home.account_keystore).public_key
    shown: dict[str, str | None] = {
        "address": encode_address(account),
        "account_key": "0x" + account.hex(),
        "node_id": "0x" + home.load_node_key().public_key.hex(),
        "validator_key": _load_validator_key(home.validator_keystore),
    }
    text = "\n".join(f"{name:14} {value or '(none)'}" for name, value in shown.items())
    output.show(shown, text)


def _load_validator_key(path: Path) -> str | None:
    return "0x" + load_keystore(path).public_key.hex() if path.exists() else None
