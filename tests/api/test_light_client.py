"""A light client against a real server over a real chain, honest and not."""

import json

import msgspec
import pytest
from chain_world import ALICE, BOB, COIN, START_MS
from epoch_world import BALANCE, PEOPLE
from light_node import Liar, LightNode, serve_bytes
from serving import serve

from chain.errors import InvalidProof, LightError, OtherEpoch, StaleAnswer
from chain.light.client import EpochProof, LightBlock
from chain.records.keys import build_account_key
from chain.state.proofs import StateProof
from consensus.validators import ValidatorSet
from genesis.genesis import compute_chain_id
from p2pchain.client import NodeUnreachable, OversizedAnswer, RpcClient, RpcError
from p2pchain.errors import BadAnswer, NotReady, TrustError
from p2pchain.light.client import LightClient, load_checkpoint
from p2pchain.light.spending import LightWallet
from p2pchain.light.trust import Age, Trust
from p2pchain.light.trust_file import load_trust, save_trust
from primitives.codec import decode, encode
from primitives.errors import MissingError, P2PChainError, RemoteError
from wallet.errors import InsufficientFunds

replace = msgspec.structs.replace
NEWCOMER = PEOPLE[7]


@pytest.fixture(scope="module")
def still() -> LightNode:
    """Fifteen epochs, in the fourth of which a validator joins; nobody adds to them."""
    node = LightNode()
    node.make_epochs(3)
    assert node.world.bond(NEWCOMER).ok
    node.make_epochs(12)
    node.world.step()
    return node


@pytest.fixture(scope="module")
def still_url(still):
    with serve(still) as server:
        yield server.url


@pytest.fixture
def liar(still_url) -> Liar:
    return Liar(still_url)


def build_client(node, rpc, now_ms: int | None = None) -> LightClient:
    clock = (lambda: node.world.now_ms) if now_ms is None else lambda: now_ms
    trust = Trust.from_genesis(node.genesis)
    return LightClient(rpc, trust, clock=clock, pause=lambda _: None)


@pytest.fixture
def client(still, liar) -> LightClient:
    return build_client(still, liar)


def read(client: LightClient) -> None:
    client.sync()
    client.get(0, b"a")


# --------------------------------------------------------------------- honestly


def test_it_follows_the_chain_and_reads_accounts(still, client):
    client.sync()
    assert client.trust.newest == still.tree.final.header
    assert client.trust.validators == still.tree.epoch.validators
    for shown in client.list_accounts(NEWCOMER.address):
        found = still.queries.get_account(shown.shard, NEWCOMER.address)
        assert (shown.account.balance, shown.account.nonce) == (
            found.balance,
            found.nonce,
        )
        assert shown.height == still.tree.final_height
    assert client.get_account(1, bytes(32)).account.balance == 0


def test_few_questions(client, liar):
    client.sync()
    assert len(liar.calls) < 12
    del liar.calls[:]
    client.sync()
    assert liar.calls == ["light_block"]


def test_the_methods_say_more_for_people(still, still_url):
    rpc = RpcClient(still_url)
    block = rpc.call("light_block", height=9)
    assert (block["height"], block["epoch"]) == ("9", 2)
    page = rpc.call("epoch_proofs", from_epoch=0, limit=5)
    assert (len(page["epoch_proofs"]), page["next"]) == (5, 5)
    last = rpc.call("epoch_proofs", from_epoch=14)
    assert (len(last["epoch_proofs"]), last["next"]) == (1, None)
    assert rpc.call("epoch_proofs", from_epoch=10**9)["epoch_proofs"] == []
    assert RpcClient(still_url).get("/light_block?height=9")["result"] == block
    for height in ("0", "9999"):
        with pytest.raises(RpcError) as refused:
            rpc.call("light_block", height=height)
        assert refused.value.code == -32001


def test_an_epoch_ends_between_two_questions():
    node = LightNode()
    node.world.step()
    with serve(node) as server:
        client = build_client(node, RpcClient(server.url))
        client.sync()
        node.make_epochs(3)
        shown = client.get_account(0, PEOPLE[9].address)
    assert shown.account.balance == BALANCE * COIN
    assert client.trust.epoch == 2


# ---------------------------------------------------------------------- lies


MALFORMED = [
    None,
    [],
    "0x00",
    7,
    {},
    {"light_block": None, "epoch_proofs": None, "proof": None},
    {"light_block": 5, "epoch_proofs": 5, "proof": 5},
    {"light_block": "", "epoch_proofs": [""], "proof": ""},
    {"light_block": "0xzz", "epoch_proofs": ["0xzz"], "proof": "0xzz"},
    {"light_block": "0x90", "epoch_proofs": ["0x90"], "proof": "0x90"},
    {"light_block": "00" * 10**6, "epoch_proofs": ["00" * 10**6], "proof": "0" * 10**7},
    {"light_block": {"a": 1}, "epoch_proofs": [None], "proof": [1]},
]


@pytest.mark.parametrize("answer", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("method", ["light_block", "epoch_proofs", "state_proof"])
def test_answers_that_are_none(client, liar, method, answer):
    if method == "state_proof":
        client.sync()
    liar.lies[method] = lambda *_: answer
    before = client.trust
    with pytest.raises(BadAnswer):
        read(client)
    if method == "light_block":
        assert client.trust == before


def test_damaged_records(client, liar):
    """Every cut and every lengthened record is refused before it is believed."""
    client.sync()
    fields = {
        "light_block": "light_block",
        "state_proof": "proof",
    }
    for method, field in fields.items():
        for damage in (
            lambda text: text[:-2],
            lambda text: text + "00",
            lambda text: text[:-2] + ("00" if text[-2:] != "00" else "01"),
            lambda text: "0x" + text[4:],
        ):
            liar.lies[method] = lambda answer, _, f=field, d=damage: (
                answer | {f: d(answer[f])}
            )
            with pytest.raises((BadAnswer, LightError)):
                read(client)
        del liar.lies[method]
    client.get(0, b"a")


def test_a_node_that_is_behind(still, client, liar):
    client.sync()
    newest = client.trust
    old = RpcClient(liar.url).call("light_block", height=still.tree.final_height - 1)
    liar.lies["light_block"] = old
    with pytest.raises(StaleAnswer):
        client.sync()
    assert client.trust == newest


def test_an_old_state_as_the_newest(still, client, liar):
    """The proof holds, and says what was; but a newer block is known."""
    node = LightNode()
    node.world.step()
    with serve(node) as server:
        rpc = Liar(server.url)
        client = build_client(node, rpc)
        client.sync()
        old = RpcClient(server.url).call("state_proof", shard=0, key="0x61")
        node.world.step()
        client.sync()
        rpc.lies["state_proof"] = old
        with pytest.raises(StaleAnswer):
            client.get(0, b"a")


def test_a_node_that_is_a_block_behind():
    """As when a witness was a moment ahead: the next answer is new enough."""
    node = LightNode()
    node.world.step()
    with serve(node) as server:
        rpc = Liar(server.url)
        client = build_client(node, rpc)
        old = RpcClient(server.url).call("state_proof", shard=0, key="0x61")
        node.world.step()
        client.sync()
        answers = [old]
        rpc.lies["state_proof"] = lambda answer, _: answers.pop() if answers else answer
        assert client.get(0, b"a").height == 2


def test_a_state_of_another_epoch_for_ever(still, client, liar):
    """Blocks of one epoch and states of a later one: asked again, but not for ever."""
    proof = RpcClient(liar.url).call("state_proof", shard=0, key="0x61")
    early = RpcClient(liar.url).call("light_block", height=3)
    liar.lies |= {"state_proof": proof, "light_block": early}
    with pytest.raises(BadAnswer, match="another epoch"):
        client.get(0, b"a")
    assert len(liar.calls) < 12


def test_a_state_of_an_epoch_that_is_over(still, client, liar):
    node = LightNode()
    node.world.step()
    with serve(node) as server:
        old = RpcClient(server.url).call("state_proof", shard=0, key="0x61")
    client.sync()
    liar.lies["state_proof"] = old
    with pytest.raises(OtherEpoch):
        client.get(0, b"a")


def test_another_key_or_shard(client, liar):
    client.sync()
    rich = RpcClient(liar.url).call(
        "state_proof", shard=0, key=build_account_key(PEOPLE[9].address).hex()
    )
    liar.lies["state_proof"] = rich
    assert client.get_account(0, PEOPLE[9].address).account.balance > 0
    for shard, person in [(0, PEOPLE[8]), (1, PEOPLE[9])]:
        with pytest.raises(InvalidProof, match="another key"):
            client.get_account(shard, person.address)


def test_a_value_that_the_proof_does_not_hold(client, liar):
    def enrich(answer, _):
        proof = decode(StateProof, bytes.fromhex(answer["proof"][2:]))
        return {"proof": encode(replace(proof, value=b"\x93\x01\x01\x90")).hex()}

    client.sync()
    liar.lies["state_proof"] = enrich
    with pytest.raises(InvalidProof, match="does not belong"):
        client.get_account(0, PEOPLE[9].address)


def test_other_validators_on_the_second_page(client, liar, still):
    """An honest answer first, then one with a set of the liar's own."""
    proofs = []

    def lie(answer, params):
        proofs.append(params["from_epoch"])
        texts = answer["epoch_proofs"]
        proof = decode(EpochProof, bytes.fromhex(texts[-1][2:]))
        forged = replace(
            proof, validators=ValidatorSet(proof.validators.validators[:2])
        )
        return {"epoch_proofs": [*texts[:-1], encode(forged).hex()]}

    liar.lies["epoch_proofs"] = lie
    with pytest.raises(InvalidProof):
        client.sync()
    assert proofs
    # What was proven before the lie is kept, and it is the chain's.
    trust = client.trust
    assert trust.epoch < still.tree.final.header.epoch
    liar.lies.clear()
    client.sync()
    assert client.trust.newest == still.tree.final.header


def test_a_block_from_the_future(still, liar):
    client = build_client(still, liar, now_ms=START_MS)
    with pytest.raises(InvalidProof, match="future"):
        client.sync()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 100,
        b"<html>",
        b"[1, 2",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"error": "no"}',
        b'{"error": {"message": 7}}',
        b'{"error": {"code": [], "message": null}}',
        b'{"result": "' + b"0" * 2_000_000 + b'"}',
        b'{"result": NaN}',
    ],
    ids=range(13),
)
def test_answers_that_are_no_json_rpc(still, body):
    with serve_bytes(body) as url:
        client = build_client(still, RpcClient(url))
        with pytest.raises((RpcError, BadAnswer)):
            client.sync()


def test_an_answer_without_end(still):
    with serve_bytes(b" " * 100, pieces=0.05) as url:
        client = build_client(still, RpcClient(url, timeout_s=0.2))
        with pytest.raises(OversizedAnswer, match="not said all"):
            client.sync()


def test_nobody_there(still):
    with pytest.raises(NodeUnreachable):
        build_client(still, RpcClient("http://127.0.0.1:1")).sync()


# ---------------------------------------------------------------- trust and age


def test_trust_on_disk(client, tmp_path):
    path = tmp_path / "deep" / "light.json"
    assert load_trust(path) is None
    client.sync()
    save_trust(client.trust, path)
    assert load_trust(path) == client.trust
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["epoch"] == client.trust.epoch


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text[:-100],
        lambda text: text.replace('"version": 2', '"version": 1'),
        lambda text: text.replace('"record": "', '"record": "00'),
        lambda text: text.replace('"hash": "', '"hash": "0'),
        lambda text: text.replace('"record"', '"else"'),
        lambda text: "[" * 100_000,
        lambda text: text.replace("9", "8"),
    ],
)
def test_a_damaged_file(client, tmp_path, damage):
    path = tmp_path / "light.json"
    save_trust(client.trust, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(TrustError):
        load_trust(path)


def test_age(still):
    trust = Trust.from_genesis(still.genesis)
    epoch_ms = 4 * 1000
    assert (trust.evidence_ms, trust.unbonding_ms) == (epoch_ms, 6 * epoch_ms)
    assert trust.judge(trust.evidence_ms) is Age.FRESH
    assert trust.judge(trust.evidence_ms + 1) is Age.FADING
    assert trust.judge(trust.unbonding_ms + 1) is Age.STALE
    assert trust.compute_age_ms(START_MS + 5000) == 5000
    assert trust.compute_age_ms(START_MS - 5000) == 0


def test_what_was_bridged_is_remembered(still, client):
    client.sync()
    bridged = client.trust.bridged_ms
    assert bridged == still.tree.final.header.time_ms - START_MS
    assert client.trust.judge(bridged) is Age.STALE
    client.sync()
    assert client.trust.bridged_ms == bridged


def test_a_checkpoint(still, client, liar):
    epoch = 9
    root = still.queries.light.build_block(epoch * 4 + 1).validators.compute_root()
    trust = load_checkpoint(client, epoch, root)
    assert (trust.epoch, trust.bridged_ms) == (epoch, 0)
    after = LightClient(liar, trust, clock=lambda: still.world.now_ms)
    after.sync()
    assert after.trust.newest == still.tree.final.header
    assert after.trust.bridged_ms == 0


def test_checkpoints_that_are_none(still, client, liar):
    with pytest.raises(InvalidProof, match="vouched for"):
        load_checkpoint(client, 9, bytes(32))
    with pytest.raises(RpcError, match="not final"):
        load_checkpoint(client, 999, bytes(32))
    # The set is the right one, but what comes with it is not signed by it.
    block = still.queries.light.build_block(9 * 4 + 1)
    forged = replace(block, headers=(replace(block.header, mix=bytes(32)),))
    liar.lies["light_block"] = {"light_block": encode(forged).hex()}
    with pytest.raises(InvalidProof):
        load_checkpoint(client, 9, block.validators.compute_root())
    # A block of another epoch with the very same set.
    other = still.queries.light.build_block(10 * 4 + 1)
    assert other.validators == block.validators
    liar.lies["light_block"] = {"light_block": encode(other).hex()}
    with pytest.raises(OtherEpoch):
        load_checkpoint(client, 9, block.validators.compute_root())


def test_another_network(still, liar):
    other = replace(still.genesis, network="other")
    assert compute_chain_id(other) != compute_chain_id(still.genesis)
    client = LightClient(liar, Trust.from_genesis(other))
    with pytest.raises(InvalidProof, match="another chain"):
        client.sync()


def test_a_block_that_is_too_long_is_no_light_block():
    header = LightNode().tree.final.header
    assert len(encode(header)) < 600
    assert LightBlock.__struct_fields__ == ("headers", "certificate", "validators")


# -------------------------------------------------------------------- spending


@pytest.fixture
def node() -> LightNode:
    node = LightNode()
    node.world.step()
    return node


@pytest.fixture
def rpc(node):
    with serve(node) as server:
        yield Liar(server.url)


SENDER = PEOPLE[9]


def build_wallet(node, rpc, key=SENDER.account, wait=None) -> LightWallet:
    client = build_client(node, rpc)
    client.sync()
    return LightWallet(client, rpc, key, wait=wait or node.make_block)


def test_a_payment(node, rpc):
    wallet = build_wallet(node, rpc)
    for round_ in range(1, 3):
        (payment,) = wallet.send(BOB.public_key, 5 * COIN, 0)
        settled = wallet.wait_settled(payment)
        assert settled.is_paid
        found = node.queries.get_transaction(payment.tx_id)
        assert found.outcome.ok
        assert node.queries.get_account(0, BOB.public_key).balance == 5 * COIN * round_
    assert not {call for call in rpc.calls if call.startswith("wallet")}


def test_a_payment_out_of_several_shards(node, rpc):
    wallet = build_wallet(node, rpc)
    (first,) = wallet.send(ALICE.public_key, 3 * COIN, 1)
    wallet.wait_settled(first)
    node.make_block()
    (second,) = wallet.send(ALICE.public_key, 3 * COIN, 2)
    wallet.wait_settled(second)
    node.make_block()
    alice = build_wallet(node, rpc, ALICE)
    payments = alice.send(BOB.public_key, 5 * COIN, 0)
    assert {p.signed.transaction.shard for p in payments} == {1, 2}
    assert all(alice.wait_settled(payment).is_paid for payment in payments)
    node.make_block()
    assert node.queries.get_account(0, BOB.public_key).balance == 5 * COIN


def test_too_little(node, rpc):
    wallet = build_wallet(node, rpc, BOB)
    with pytest.raises(InsufficientFunds):
        wallet.send(ALICE.public_key, COIN, 0)
    assert "broadcast_tx_sync" not in rpc.calls


def test_a_node_that_keeps_it_to_itself(node, rpc):
    rpc.lies["broadcast_tx_sync"] = {"tx_id": "0x" + "00" * 32}
    wallet = build_wallet(node, rpc, wait=lambda: node.world.step())
    (payment,) = wallet.send(BOB.public_key, COIN, 0)
    with pytest.raises(NotReady, match="nothing was paid"):
        wallet.wait_settled(payment)


def test_a_chain_that_stands_still(node, rpc):
    ticks = iter(range(0, 10_000, 25))
    client = build_client(node, rpc)
    client.sync()
    wallet = LightWallet(
        client, rpc, SENDER.account, wait=lambda: None, timer=lambda: next(ticks)
    )
    (payment,) = wallet.send(BOB.public_key, COIN, 0)
    with pytest.raises(NotReady, match="not final yet"):
        wallet.wait_settled(payment)


def test_a_refusal_by_the_node(node, rpc):
    wallet = build_wallet(node, rpc)
    wallet.send(BOB.public_key, COIN, 0)
    # The proven nonce does not count what still waits.
    with pytest.raises(RpcError, match="which waits"):
        wallet.send(BOB.public_key, 2 * COIN, 0)


def test_money_that_comes_in_at_the_same_time(node, rpc):
    """Then the balance alone does not say that it paid, and nothing claims it."""
    wallet = build_wallet(node, rpc)
    (payment,) = wallet.send(BOB.public_key, COIN, 0)
    other = build_wallet(node, rpc, PEOPLE[8].account)
    other.send(SENDER.address, 50 * COIN, 0)
    settled = wallet.wait_settled(payment)
    assert not settled.is_paid
    assert node.queries.get_transaction(payment.tx_id).outcome.ok


def test_what_a_lie_costs_the_wallet(node, rpc):
    wallet = build_wallet(node, rpc)
    (payment,) = wallet.send(BOB.public_key, COIN, 0)
    old = RpcClient(rpc.url).call(
        "state_proof", shard=0, key=build_account_key(SENDER.address).hex()
    )
    wallet.wait_settled(payment)
    # An old proof would let the same nonce be used again.
    rpc.lies["state_proof"] = old
    with pytest.raises((RemoteError, MissingError)) as refused:
        wallet.send(BOB.public_key, COIN, 0)
    assert isinstance(refused.value, P2PChainError)
