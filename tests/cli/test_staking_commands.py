"""Staking from the command line, and how a seat and a stake are put into words."""

import json

import pytest
from chain_backend import ChainNode
from chain_world import build_genesis

from p2pchain.cli.main import main
from p2pchain.cli.staking import describe_seat, describe_stake

COIN = 10**9
L = 6


@pytest.fixture
def node():
    return ChainNode(build_genesis(epoch_blocks=L, epoch_reward=4 * COIN))


def build_seat(**changes):
    return {
        "index": None,
        "power": "0",
        "total_power": str(400 * COIN),
        "from_epoch": None,
        "until_epoch": None,
        "stake": None,
    } | changes


def build_stake(**changes):
    return {
        "bonded": str(5 * COIN),
        "status": "ACTIVE",
        "unbonding": [],
        "slashed": "0",
    } | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "`p2pchain wallet stake AMOUNT` asks for a place"),
        ({"stake": build_stake(status="DOWN")}, "`p2pchain wallet stake 0`"),
        ({"stake": build_stake(status="TOMBSTONED")}, "never votes again"),
        ({"from_epoch": 8}, "not in the set yet; from epoch 8 on"),
        ({"from_epoch": 9}, "from epoch 9 on at the earliest"),
        ({"index": 3, "power": str(COIN), "from_epoch": 7}, "3, power 1 P2P of 400"),
        ({"index": 3, "from_epoch": 7, "until_epoch": 8}, "; leaves after epoch 8"),
    ],
)
def test_a_seat_in_words_in_epoch_seven(changes, words):
    assert words in describe_seat(build_seat(**changes), 7)


def test_only_a_plan_is_called_one():
    assert "at the earliest" not in describe_seat(build_seat(from_epoch=8), 7)


def test_a_stake_in_words():
    assert describe_stake(build_stake()) == "5 P2P bonded, active"
    waiting = [{"amount": str(2 * COIN), "due_epoch": 27}]
    text = describe_stake(build_stake(bonded="0", unbonding=waiting))
    assert text == "nothing bonded; 2 P2P paid out at the end of epoch 27"
    text = describe_stake(build_stake(status="TOMBSTONED", slashed=str(COIN)))
    assert text == "5 P2P bonded, tombstoned; 1 P2P slashed"


def test_stake_and_unstake(run, node):
    said = run("wallet", "stake", "50").out
    assert "final in block" in said
    assert "50 P2P bonded, active" in said
    assert "50 P2P bonded" in run("wallet", "balance").out
    assert "alice" in run("stakes").out
    out = json.loads(run("wallet", "unstake", "20", "--json").out)
    assert out["stake"]["bonded"] == str(30 * COIN)
    assert "nothing bonded" in run("wallet", "unstake", "all").out
    assert "not final yet" in run("wallet", "stake", "40", "--no-wait").out


def test_validators_of_any_epoch(run, node):
    node.world.advance(blocks=3)
    text = run("validators").out
    assert text.startswith(f"epoch 0, blocks 1 to {L}, {L - 3} to go")
    assert text.count("100.0 %") == 4
    node.world.advance(blocks=L)
    assert run("validators", "0").out.startswith(f"epoch 0, blocks 1 to {L}, none")
    found = json.loads(run("validators", "--json").out)
    assert (found["epoch"], len(found["validators"])) == (1, 4)
    assert "epoch      0, blocks 1 to 60" in run("status").out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("wallet", "stake", "5atoms"), "5 bonded < 1000000000"),
        (("wallet", "stake", "9000000000"), "needed"),
        (("wallet", "unstake", "all"), "nothing bonded"),
        (("validators", "9"), "no epoch 9 yet"),
    ],
)
def test_a_refusal_says_why(run, words, complaint):
    said = run(*words, "--json", code=1)
    assert complaint in said.err or complaint in said.out


@pytest.mark.parametrize(
    "words",
    [
        ("wallet", "stake"),
        ("wallet", "stake", "all"),
        ("wallet", "unstake", "most"),
        ("validators", "-1"),
        ("validators", "x"),
        ("init", "--genesis", "--epoch-blocks", "0"),
        ("demo", "--epoch-reward", "much"),
    ],
)
def test_a_wrong_command_line(words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
