"""What a history says of each transaction, to whoever reads it."""

import pytest

from p2pchain.cli.history import describe_content, describe_history, describe_missing
from p2pchain.cli.output import format_amount, parse_amount

ME, YOU = "p2p1qme" + "0" * 50, "p2p1qyou" + "1" * 50
COIN = 10**9


def build_transfer(sender, recipient, shard, to, atoms=5 * COIN // 2):
    return {
        "height": "7",
        "shard": shard,
        "kind": "transfer",
        "sender": sender,
        "payload": {"recipient": recipient, "shard": to, "amount": str(atoms)},
        "outcome": {"ok": True, "code": "", "fee": "3360", "events": []},
        "tx_id": "0x77",
    }


@pytest.mark.parametrize(
    ("transaction", "words"),
    [
        (build_transfer(ME, YOU, 0, 0), "2.5 P2P to p2p1qyou111111..."),
        (build_transfer(ME, YOU, 0, 2), "2.5 P2P to p2p1qyou111111... in shard 2"),
        (build_transfer(YOU, ME, 0, 0), "2.5 P2P from p2p1qyou111111..."),
        (build_transfer(ME, ME, 0, 2), "2.5 P2P moved to shard 2"),
        (build_transfer(ME, YOU, 0, 0, 7), "7 atoms to p2p1qyou111111..."),
    ],
)
def test_a_transfer_says_which_way_it_went(transaction, words):
    assert describe_content(transaction, ME) == words


def test_channels_and_others_say_their_amount():
    events = [{"amount": "9", "addresses": [ME]}, {"amount": "5", "addresses": [YOU]}]
    opened = {
        "kind": "open_channels",
        "sender": ME,
        "payload": {"openings": [{"payee": YOU, "deposit": str(COIN)}]},
    }
    assert describe_content(opened, ME) == "deposit 1 P2P for p2p1qyou111111..."
    settled = {"kind": "settle", "payload": {}, "outcome": {"events": events}}
    assert describe_content(settled, ME) == "9 atoms"
    settled["outcome"]["events"] = []
    assert describe_content(settled, ME) == "-"


def test_what_is_missing_has_a_line():
    gaps = [
        {"shard": 2, "since": "7", "until": None},
        {"shard": 1, "since": "3", "until": "9"},
    ]
    assert describe_missing(gaps, "0").splitlines()[1:] == [
        "missing: shard 2 since block 7",
        "missing: shard 1 since block 3 until block 9",
    ]
    assert describe_missing([], "40") == "\nmissing: everything before block 40"


def test_only_who_sent_pays_the_fee():
    sent, got = build_transfer(ME, YOU, 0, 0), build_transfer(YOU, ME, 0, 0)
    lines = describe_history([sent, got], ME).splitlines()
    assert "3360 atoms" in lines[1]
    assert "3360 atoms" not in lines[2]


def test_amounts_are_signed_and_bounded():
    assert format_amount(-5 * COIN // 2) == "-2.5 P2P"
    assert format_amount(-7) == "-7 atoms"
    assert parse_amount("9223372036.854775807") == 2**63 - 1
    with pytest.raises(ValueError, match="more than an amount can be"):
        parse_amount("9223372036.854775808")
