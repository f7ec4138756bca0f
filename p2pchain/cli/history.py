"""A wallet's history over all shards: what each transaction moved, in a few words."""

from typing import Any

from p2pchain.cli.output import format_amount, format_table

Json = dict[str, Any]

ADDRESS_CHARS = 14
"""Of an address in a line; enough to tell a few of them apart."""


def describe_history(transactions: list[Json], address: str) -> str:
    """Return an address's transactions as a table, as they come.

    Args:
        transactions: Final ones.
        address: Whose history it is.
    """
    rows = (
        (
            tx["height"],
            tx["shard"],
            tx["kind"],
            describe_content(tx, address),
            "ok" if tx["outcome"]["ok"] else tx["outcome"]["code"],
            format_amount(tx["outcome"]["fee"]) if tx["sender"] == address else "-",
            tx["tx_id"],
        )
        for tx in transactions
    )
    header = ("height", "shard", "kind", "what", "outcome", "fee", "transaction")
    return format_table(header, rows)


def describe_missing(missing: list[Json], first_height: str) -> str:
    """Return a line for each part of the history that the node does not have.

    Args:
        missing: Shards, and the blocks in which the node did not follow them.
        first_height: Where the node's whole history begins.
    """
    lines = []
    if int(first_height):
        lines.append(f"missing: everything before block {first_height}")
    for gap in missing:
        until = "" if gap["until"] is None else f" until block {gap['until']}"
        lines.append(f"missing: shard {gap['shard']} since block {gap['since']}{until}")
    return "".join(f"\n{line}" for line in lines)


def describe_content(tx: Json, address: str) -> str:
    """Return what a transaction means to an address; nothing for kinds without money.

    Moves between shards of one account say so, for its sum does not change.
    """
    payload = tx["payload"]
    if tx["kind"] == "transfer":
        return _describe_transfer(tx, address)
    if tx["kind"] == "open_channels":
        opened = [each for each in payload["openings"] if _concerns(tx, each, address)]
        total = sum(int(each["deposit"]) for each in opened)
        payees = ", ".join(_shorten(each["payee"]) for each in opened)
        return f"deposit {format_amount(total)} for {payees}"
    # The other kinds name one amount, or none.
    amount = sum(
        int(event["amount"])
        for event in tx["outcome"]["events"]
        if address in event["addresses"]
    )
    return format_amount(amount) if amount else "-"


def _describe_transfer(tx: Json, address: str) -> str:
    payload = tx["payload"]
    recipient, shard = payload["recipient"], payload["shard"]
    amount = format_amount(payload["amount"])
    where = "" if shard == tx["shard"] else f" in shard {shard}"
    if tx["sender"] == recipient:
        return f"{amount} moved to shard {shard}"
    if tx["sender"] == address:
        return f"{amount} to {_shorten(recipient)}{where}"
    return f"{amount} from {_shorten(tx['sender'])}{where}"


def _concerns(tx: Json, opening: Json, address: str) -> bool:
    return address in (tx["sender"], opening["payee"])


def _shorten(address: str) -> str:
    return f"{address[:ADDRESS_CHARS]}..."
