"""`p2pchain validator proof`: let an account elsewhere stake behind this home's key."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from p2pchain.cli.light import address
from p2pchain.cli.options import add_command, add_group
from p2pchain.cli.output import Output
from p2pchain.cli.session import open_home, read_passphrase
from p2pchain.cli.validator_proof import ValidatorProof
from p2pchain.errors import HomeError
from primitives.bls import BlsSecretKey
from wallet.keystore import decrypt_secret, load_keystore

if TYPE_CHECKING:
    from p2pchain.cli.options import Commands


def add_parser(commands: "Commands") -> None:
    """Add `validator`."""
    group = add_group(commands, "validator", "use the home's validator key")
    proof = add_command(
        group, "proof", run_proof, "print what an account needs to stake behind the key"
    )
    proof.add_argument("address", metavar="ADDRESS", type=address, help="who stakes")


def run_proof(args: Namespace, output: Output) -> None:
    """Print key and proof of possession for one owner; asks no node."""
    home = open_home(args)
    if not home.validator_keystore.exists():
        raise HomeError(f"{home.validator_keystore} is missing: this home has no key")
    passphrase = read_passphrase(args, home, confirm=False)
    secret = decrypt_secret(load_keystore(home.validator_keystore), passphrase)
    key = BlsSecretKey(secret)
    proof = ValidatorProof(
        name=home.load_config().name,
        owner=args.address,
        public_key=key.public_key,
        proof=key.prove_possession(args.address),
    )
    document = proof.to_dict()
    output.show(document, json.dumps(document, indent=2))
