"""
`p2pchain wallet stake` and `unstake` with --light: the owner's key stays where it is.

The account that owns a stake need not be in the validator's home.  Here the home has
the account's keystore only; any node takes the transaction, and what became of it shows
in the stake's record, proven.
"""

from argparse import Namespace
from pathlib import Path

from chain.ledger.stake import Stake
from chain.records.keys import build_stake_key
from chain.records.staking import Bond, Unbond
from chain.records.transaction import Payload
from p2pchain.cli.light import describe_stake
from p2pchain.cli.light_session import open_light, open_public_client
from p2pchain.cli.light_wallet import load_account_key
from p2pchain.cli.output import Output
from p2pchain.cli.validator_proof import load_validator_proof
from p2pchain.errors import HomeError, StakeRefused, TransactionFailed
from p2pchain.light.client import LightClient
from p2pchain.light.spending import LightWallet
from primitives.codec import decode
from primitives.keys import SecretKey
from shards.layout import ROOT_SHARD


def run_light_stake(args: Namespace, output: Output) -> None:
    """Stake behind a key that another home has."""
    if not (args.light and args.validator):
        raise HomeError(
            "--light and --validator go together: the validator's home makes the file "
            "with `p2pchain validator proof ADDRESS`, and this account signs here"
        )
    key = load_account_key(args)
    path = Path(args.validator).expanduser()
    proof = load_validator_proof(path, key.public_key)
    payload = Bond(
        name=proof.name,
        public_key=proof.public_key,
        proof_of_possession=proof.proof,
        amount=args.amount,
    )
    with open_light(args, output) as client:
        _run(args, output, client, key, payload, args.amount)


def run_light_unstake(args: Namespace, output: Output) -> None:
    """Take atoms out of the account's stake."""
    key = load_account_key(args)
    with open_light(args, output) as client:
        stake = _get_stake(client, key)
        if stake is None or not stake.bonded:
            raise StakeRefused(
                "unknown_stake", "this account has nothing bonded to take out"
            )
        amount = stake.bonded if args.amount == "all" else args.amount
        _run(args, output, client, key, Unbond(amount), 0)


def _run(
    args: Namespace,
    output: Output,
    client: LightClient,
    key: SecretKey,
    payload: Payload,
    outflow: int,
) -> None:
    """Send, wait, and show the stake before and after.

    Raises:
        TransactionFailed: It is final and changed nothing.
    """
    before = _get_stake(client, key)
    wallet = LightWallet(client, open_public_client(args), key)
    payment = wallet.execute(payload, outflow)
    tx_id = "0x" + payment.tx_id.hex()
    if args.no_wait:
        document = {"tx_ids": [tx_id], "final": False, "stake": None}
        output.show(document, f"transaction  {tx_id}\nnot final yet")
        return
    settled = wallet.wait_settled(payment)
    after = _get_stake(client, key)
    if after is None or _get_standing(after) == _get_standing(before):
        raise TransactionFailed(
            "refused", f"{tx_id} is final at block {settled.height} and changed nothing"
        )
    stake, text = describe_stake(after)
    document = {
        "tx_ids": [tx_id],
        "final": True,
        "height": str(settled.height),
        "stake": stake,
    }
    output.show(
        document,
        f"transaction  {tx_id}\nfinal        proven at block {settled.height}\n{text}",
    )


def _get_standing(stake: Stake | None) -> tuple[int, int] | None:
    """Return what staking changes; rewards come by themselves."""
    return None if stake is None else (stake.bonded, stake.status)


def _get_stake(client: LightClient, key: SecretKey) -> Stake | None:
    shown = client.get(ROOT_SHARD, build_stake_key(key.public_key))
    return None if shown.value is None else decode(Stake, shown.value)
