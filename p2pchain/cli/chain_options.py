"""
Options that choose a new network's constants.

They end up in its genesis, so that everybody who joins later has the same; a home that
joins cannot choose them.
"""

from argparse import ArgumentParser, Namespace

from p2pchain.cli.options import amount, positive

CHAIN_OPTIONS = {
    "epoch_blocks": (
        positive,
        "N",
        "blocks of an epoch; the validators change with it",
    ),
    "unbonding_epochs": (
        positive,
        "N",
        "epochs until what leaves the stake is paid out",
    ),
    "evidence_epochs": (positive, "N", "epochs that a double vote can be punished"),
    "min_stake": (amount, "AMOUNT", "least stake of a validator"),
    "epoch_reward": (amount, "AMOUNT", "new money for all validators of an epoch"),
    "interval_ms": (positive, "MS", "shortest time from one block to the next"),
}
"""Type, metavar and help by the name of the parameter."""


def add_chain_options(parser: ArgumentParser) -> None:
    """Add an option for every constant that try-outs and tests want to change."""
    group = parser.add_argument_group(
        "constants of a new network (default: a devnet's)"
    )
    for name, (kind, metavar, help_text) in CHAIN_OPTIONS.items():
        group.add_argument(get_flag(name), type=kind, metavar=metavar, help=help_text)


def get_chain_choices(args: Namespace) -> dict[str, int]:
    """Return the constants that the command line gives, by name."""
    given = {name: getattr(args, name) for name in CHAIN_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}


def get_flag(name: str) -> str:
    """Return the option of a parameter."""
    return "--" + name.replace("_", "-")
