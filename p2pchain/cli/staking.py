"""Stakes and seats in words, for the commands that show them."""

from typing import Any

from p2pchain.cli.output import format_amount

_ADVICE = {
    "": "`p2pchain wallet stake AMOUNT` asks for a place",
    "DOWN": "it missed too many votes; `p2pchain wallet stake 0` brings it back",
    "TOMBSTONED": "it was convicted of a double vote, and its key never votes again",
}
"""What to do about a key without a seat, by the state of its stake."""


def describe_seat(validator: dict[str, Any], epoch: int) -> str:
    """Return what a validator key counts for in the running `epoch` and after it."""
    index, start = validator["index"], validator["from_epoch"]
    if index is not None:
        text = (
            f"{index}, power {format_amount(validator['power'])} of "
            f"{format_amount(validator['total_power'])}"
        )
    elif start is None:
        status = (validator["stake"] or {}).get("status", "")
        return f"not in the set; {_ADVICE.get(status, _ADVICE[''])}"
    else:
        at_least = " at the earliest" if start > epoch + 1 else ""
        text = f"not in the set yet; from epoch {start} on{at_least}"
    if validator["until_epoch"] is not None:
        text += f"; leaves after epoch {validator['until_epoch']}"
    return text


def describe_stake(stake: dict[str, Any]) -> str:
    """Return a stake in one line: what is bonded, what is on its way back, and when."""
    text = f"{format_amount(stake['bonded'])} bonded, {stake['status'].lower()}"
    if stake["bonded"] == "0":
        text = "nothing bonded"
    for entry in stake["unbonding"]:
        text += (
            f"; {format_amount(entry['amount'])} paid out at the end of epoch "
            f"{entry['due_epoch']}"
        )
    if int(stake["slashed"]):
        text += f"; {format_amount(stake['slashed'])} slashed"
    return text
