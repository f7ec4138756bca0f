"""Validators, epochs and stakes over a real chain of short epochs."""

import chain_world
import pytest
from chain_backend import KEY, ChainNode
from chain_world import ALICE, BOB, COIN, STAKERS, World, build_genesis
from serving import TOKEN, serve

from primitives.address import encode_address

L = 6
REWARD = 4_000_000
ALICE_, BOB_ = encode_address(ALICE.public_key), encode_address(BOB.public_key)
STAKERS_ = [encode_address(key.public_key) for key in STAKERS]


@pytest.fixture
def node():
    return ChainNode(build_genesis(epoch_blocks=L, epoch_reward=REWARD))


@pytest.fixture
def server(node):
    with serve(node) as running:
        yield running


def get(server, path, status=200):
    answer = server.request("/api/v1" + path)
    assert answer.status == status, answer.body
    return answer.json


def advance_without(world: World, absent: int, blocks: int) -> None:
    """Make blocks whose attendance lacks one validator."""
    for _ in range(blocks):
        signers = [i for i in range(len(world.keys())) if i != absent]
        world.finalize(world.build(signers=signers))


# -- validators ------------------------------------------------------------------------


def test_validators_of_the_first_epoch(server):
    answer = server.result("validators")
    assert answer["epoch"] == 0
    assert answer["counted_blocks"] == 0
    assert answer["total_power"] == str(4000 * COIN)
    assert [v["index"] for v in answer["validators"]] == [0, 1, 2, 3]
    first = answer["validators"][0]
    assert first["name"] == "validator-0"
    assert first["account"] == STAKERS_[0]
    assert (first["power"], first["share"]) == (str(1000 * COIN), 0.25)
    assert (first["status"], first["seen"], first["attendance"]) == ("ACTIVE", 0, None)


def test_attendance_is_what_blocks_have_recorded(server, node):
    advance_without(node.world, 3, blocks=4)
    answer = get(server, "/validators")
    assert answer["counted_blocks"] == 3
    assert [v["seen"] for v in answer["validators"]] == [3, 3, 3, 0]
    assert [v["attendance"] for v in answer["validators"]] == [1, 1, 1, 0]


def test_attendance_begins_anew_with_the_epoch(server, node):
    node.world.advance(blocks=L)
    answer = server.result("validators")
    assert (answer["epoch"], answer["counted_blocks"]) == (1, 0)
    assert {v["attendance"] for v in answer["validators"]} == {None}
    before = server.result("validators", epoch=0)
    assert {v["seen"] for v in before["validators"]} == {None}
    node.world.advance(blocks=2)
    assert {v["attendance"] for v in server.result("validators")["validators"]} == {1}


@pytest.mark.parametrize("epoch", [2, 7, 2**32 - 1])
def test_a_set_far_ahead_is_not_known(server, epoch):
    error = server.error("validators", epoch=epoch)
    assert error["code"] == -32001
    assert "the running one is 0" in error["message"]
    get(server, f"/validators?epoch={epoch}", 404)


@pytest.mark.parametrize("epoch", [-1, "x", 2**32, [], "1.5"])
def test_what_is_no_epoch(server, epoch):
    assert server.error("validators", epoch=epoch)["code"] == -32602
    assert server.error("epoch", epoch=epoch)["code"] == -32602


# -- epochs ----------------------------------------------------------------------------


def test_the_running_epoch_and_the_next(server, node):
    node.world.advance(blocks=2)
    epoch = server.result("epoch")
    assert (epoch["epoch"], epoch["state"]) == (0, "RUNNING")
    assert (epoch["first_height"], epoch["last_height"]) == ("1", str(L))
    assert (epoch["blocks"], epoch["blocks_to_go"]) == (2, L - 2)
    assert epoch["validators"] == 4
    assert epoch["reward"] == str(REWARD)
    assert epoch["rewarded"] is None
    assert epoch["events"] == []
    assert get(server, "/epochs/running")["seed"] == epoch["seed"]
    following = get(server, "/epochs/1")
    assert (following["state"], following["blocks"]) == ("NEXT", 0)
    assert following["validators_root"] == epoch["next_validators_root"]
    assert following["next_validators_root"] is None
    assert following["seed"] == epoch["seed"]


def test_what_the_end_of_an_epoch_brings(server, node):
    node.world.advance(blocks=L + 1)
    epoch = get(server, "/epochs/0")
    assert (epoch["state"], epoch["blocks_to_go"]) == ("OVER", 0)
    assert epoch["rewarded"] == str(REWARD)
    assert {event["kind"] for event in epoch["events"]} == {"rewarded"}
    assert sorted(event["names"][0] for event in epoch["events"]) == [
        f"validator-{i}" for i in range(4)
    ]
    block = get(server, f"/block/{L}")
    assert block["epoch"] == 0
    assert block["events"] == epoch["events"]
    assert get(server, f"/block/{L + 1}")["events"] == []
    assert get(server, f"/block/{L + 1}")["epoch"] == 1
    header = server.result("header", height=L + 1)["header"]
    assert get(server, "/epochs/1")["validators_root"] == header["valset_root"]


def test_seeds_come_from_the_boundary_two_epochs_before(server, node):
    node.world.advance(blocks=2 * L)
    seeds = [server.result("epoch", epoch=e)["seed"] for e in range(4)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    record = node.queries.stakes.record
    assert record.epoch == 2
    assert seeds[2:] == ["0x" + record.seed.hex(), "0x" + record.next_seed.hex()]


def test_old_epochs_are_not_forgotten():
    node = ChainNode(
        build_genesis(
            epoch_blocks=2, evidence_epochs=1, unbonding_epochs=6, epoch_reward=REWARD
        )
    )
    node.world.advance(blocks=12)
    with serve(node) as server:
        epoch = server.result("epoch", epoch=0)
        assert epoch["validators"] == 4
        assert epoch["rewarded"] == str(REWARD)
        for number in range(7):
            found = server.result("validators", epoch=number)["validators"]
            assert [v["name"] for v in found] == [f"validator-{i}" for i in range(4)]
        signers = server.result("commit", height=1)["certificate"]["signers"]
        assert [s["name"] for s in signers] == [f"validator-{i}" for i in range(4)]


# -- stakes ----------------------------------------------------------------------------


def test_stakes_the_largest_first(server):
    server.result("wallet_stake", token=TOKEN, amount=2 * COIN, wait=True)
    answer = get(server, "/stakes")
    assert [s["name"] for s in answer["stakes"]][-1] == "alice"
    assert answer["bonded"] == str(4002 * COIN)
    assert answer["unbonding"] == "0"
    amounts = [int(stake["bonded"]) for stake in answer["stakes"]]
    assert amounts == sorted(amounts, reverse=True)


def test_an_account_without_a_stake(server):
    assert server.error("stake", address=BOB_)["code"] == -32001
    get(server, f"/stakes/{BOB_}", 404)
    assert get(server, f"/address/{BOB_}")["stake"] is None


def test_a_stake_from_bond_to_unbonding(server, node):
    done = server.result("wallet_stake", token=TOKEN, amount=2 * COIN, wait=True)
    assert done["final"]
    assert done["epoch"] == 0
    assert done["stake"]["bonded"] == str(2 * COIN)
    stake = get(server, f"/stakes/{ALICE_}")
    assert stake["public_key"] == "0x" + KEY.public_key.hex()
    assert (stake["status"], stake["power"], stake["next_power"]) == (
        "ACTIVE",
        "0",
        "0",
    )
    assert (stake["rewarded"], stake["slashed"], stake["offence"]) == ("0", "0", None)
    node.world.advance(blocks=L)
    stake = server.result("stake", address=ALICE_)
    assert (stake["power"], stake["next_power"]) == ("0", str(2 * COIN))
    following = server.result("validators", epoch=2)["validators"]
    assert [v["name"] for v in following][-1] == "alice"
    done = server.result("wallet_unstake", token=TOKEN, amount=COIN, wait=True)
    due = 1 + node.tree.spec.params.unbonding_epochs
    assert done["stake"]["unbonding"] == [{"amount": str(COIN), "due_epoch": due}]
    done = server.result("wallet_unstake", token=TOKEN, amount="all", wait=True)
    assert done["stake"]["bonded"] == "0"
    assert done["stake"]["unbonding_total"] == str(2 * COIN)
    balance = server.result("wallet_balance", token=TOKEN)
    assert balance["stake"] == done["stake"]


def test_a_newcomer_votes_earns_and_misses_votes(server, node, monkeypatch):
    monkeypatch.setitem(chain_world.KEYS, KEY.public_key, KEY)
    server.result("wallet_stake", token=TOKEN, amount=50 * COIN, wait=True)
    node.world.advance(blocks=2 * L - 1)
    node.world.advance(blocks=2)
    alice = server.result("validators")["validators"][4]
    assert (alice["name"], alice["account"]) == ("alice", ALICE_)
    assert (alice["power"], alice["attendance"]) == (str(50 * COIN), 1)
    node.world.advance(blocks=L - 2)
    advance_without(node.world, 4, blocks=L)
    stake = server.result("stake", address=ALICE_)
    assert int(stake["rewarded"]) == REWARD * 50 // 4050
    assert (stake["status"], stake["next_power"]) == ("DOWN", "0")
    assert stake["power"] == str(50 * COIN)
    events = server.result("epoch", epoch=3)["events"]
    down = [event for event in events if event["kind"] == "validator_down"]
    assert [event["names"] for event in down] == [["alice"]]
    server.result("wallet_stake", token=TOKEN, amount=0, wait=True)
    assert server.result("stake", address=ALICE_)["status"] == "ACTIVE"


def test_rewards_are_paid_into_the_account(server, node):
    address = STAKERS_[0]
    assert get(server, f"/address/{address}")["total"] == "0"
    node.world.advance(blocks=L)
    account = get(server, f"/address/{address}")
    assert account["name"] == "validator-0"
    assert account["total"] == account["stake"]["rewarded"] == str(REWARD // 4)
    supply = get(server, "/supply")
    assert supply["held"] == supply["created"]


@pytest.mark.parametrize(
    ("method", "amount", "code"),
    [
        ("wallet_stake", "much", -32602),
        ("wallet_stake", -1, -32602),
        ("wallet_stake", "all", -32602),
        ("wallet_unstake", "most", -32602),
        ("wallet_unstake", None, -32602),
        ("wallet_unstake", 1, -32003),
    ],
)
def test_stakes_that_cannot_be(server, method, amount, code):
    assert server.error(method, token=TOKEN, amount=amount)["code"] == code


def test_a_rule_refuses_a_stake_that_is_too_small(server):
    error = server.error("wallet_stake", token=TOKEN, amount=5, wait=True)
    assert error["data"]["reason"] == "below_minimum"


def test_staking_needs_the_token(server):
    for method in ("wallet_stake", "wallet_unstake"):
        assert server.error(method, amount=1)["code"] == 4100
        assert server.request(f"/{method}?amount=1").status == 404


def test_a_validator_is_found_by_its_name(server):
    server.result("wallet_stake", token=TOKEN, amount=2 * COIN, wait=True)
    results = get(server, "/search?q=ali")["results"]
    assert {"kind": "validator", "id": ALICE_, "name": "alice"} in results


# -- documents -------------------------------------------------------------------------


def test_the_documents_know_all_of_it(server):
    methods = {m["name"]: m for m in server.result("rpc.discover")["methods"]}
    assert {"validators", "epoch", "stake", "stake_list"} <= methods.keys()
    assert methods["wallet_unstake"]["params"][0]["schema"]["anyOf"]
    paths = get(server, "/openapi.json")["paths"]
    for path in ("/validators", "/epochs/{number}", "/epochs/running", "/stakes"):
        assert paths[path]["get"]["summary"], path


# -- names and certificates ------------------------------------------------------------


def test_blocks_are_signed_by_names(server, node):
    advance_without(node.world, 2, blocks=2)
    commit = server.result("commit", height=2)["certificate"]
    assert [s["name"] for s in commit["signers"]] == [
        f"validator-{i}" for i in range(4)
    ]
    assert commit["epoch"] == 0
