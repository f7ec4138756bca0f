"""Genesis: files there and back, and everything that cannot start a chain."""

import json

import msgspec
import pytest

from chain.ledger.ledger import MAX_AMOUNT
from chain.records.model import ModelRecord, compute_model_id
from genesis.errors import CorruptGenesis
from genesis.files import dump_genesis, load_genesis, parse_genesis, save_genesis
from genesis.genesis import Allocation, Genesis, GenesisValidator, compute_chain_id
from genesis.presets import DEVNET_PARAMS, build_devnet_genesis
from genesis.state import build_chain_spec, build_genesis_state
from genesis.validation import validate_genesis
from primitives.bls import BlsSecretKey
from primitives.codec import decode, encode
from primitives.keys import SecretKey
from shards.layout import Layout, ShardSpec

COIN = 10**9
replace = msgspec.structs.replace


def build_model(name="toy", layers=8, seed=1) -> ModelRecord:
    roots = bytes([seed]) * 32, bytes([seed + 1]) * 32
    model_id = compute_model_id(*roots)
    return ModelRecord(
        model_id, name, "llama", layers, 128, 1024, "float32", *roots, COIN
    )


def build_validator(number: int, power=1000 * COIN) -> GenesisValidator:
    key = BlsSecretKey((number + 1).to_bytes(32, "big"))
    account = SecretKey(bytes([number + 1]) * 32)
    return GenesisValidator(
        f"validator-{number}",
        account.public_key,
        key.public_key,
        key.prove_possession(),
        power,
    )


VALIDATORS = [build_validator(number) for number in range(4)]
PERSON = SecretKey(bytes([77]) * 32).public_key
GENESIS = build_devnet_genesis(
    validators=VALIDATORS,
    models=[build_model()],
    balances={PERSON: 5 * COIN},
    shard_balances={(PERSON, 1): COIN},
    time_ms=1_700_000_000_123,
)


def test_the_devnet_is_what_the_design_says():
    params = GENESIS.params
    assert params == DEVNET_PARAMS
    consensus = params.consensus
    times = (consensus.interval_ms, consensus.delta_ms, consensus.build_ms)
    assert times == (1000, 500, 500)
    assert params.chain.backlog_limit == 1024
    assert params.chain.grace_blocks == 900
    assert params.chain.maturity_blocks == 0
    assert 4**params.chain.bucket_levels == 2**18
    cuts = [(spec.start, spec.end) for spec in GENESIS.layout.shards]
    assert cuts == [(0, 4), (4, 8)]


def test_models_with_few_layers_and_several_models():
    genesis = build_devnet_genesis(
        validators=VALIDATORS,
        models=[build_model("one", 1, 1), build_model("seven", 7, 5)],
        balances={},
        time_ms=1,
    )
    validate_genesis(genesis)
    cuts = [(spec.shard_id, spec.start, spec.end) for spec in genesis.layout.shards]
    assert cuts == [(1, 0, 1), (2, 0, 4), (3, 4, 7)]


def test_files_round_trip_exactly(tmp_path):
    path = tmp_path / "genesis.json"
    save_genesis(GENESIS, path)
    loaded = load_genesis(path)
    assert loaded == GENESIS
    assert compute_chain_id(loaded) == compute_chain_id(GENESIS)
    assert decode(Genesis, encode(GENESIS)) == GENESIS


def test_the_file_is_for_people():
    data = json.loads(dump_genesis(GENESIS))
    assert data["allocations"][0]["address"].startswith("p2p1")
    assert data["allocations"][0]["amount"] == "5000000000"
    assert data["validators"][0]["public_key"].startswith("0x97f1")
    assert data["params"]["consensus"]["interval_ms"] == 1000


def test_anything_different_is_another_chain():
    ids = {
        compute_chain_id(genesis)
        for genesis in [
            GENESIS,
            replace(GENESIS, network="other"),
            replace(GENESIS, time_ms=1),
            replace(GENESIS, allocations=()),
            replace(GENESIS, validators=GENESIS.validators[::-1]),
        ]
    }
    assert len(ids) == 5


def test_the_first_state():
    state = build_genesis_state(GENESIS)
    assert state.keys() == {0, 1, 2}
    # Accounts; stakes and keys; totals, model; roster, epoch; two sets, layouts and
    # tables of producers.
    assert len(state[0]) == 1 + 2 * 4 + 2 + 8
    assert len(state[1]) == 2
    spec = build_chain_spec(GENESIS)
    assert spec.first_validators.total_power == 4000 * COIN
    assert spec.chain_id == compute_chain_id(GENESIS)


def with_chain(**changes) -> Genesis:
    chain = replace(GENESIS.params.chain, **changes)
    return replace(GENESIS, params=replace(GENESIS.params, chain=chain))


def with_validator(**changes) -> Genesis:
    first = replace(GENESIS.validators[0], **changes)
    return replace(GENESIS, validators=(first, *GENESIS.validators[1:]))


def with_model(**changes) -> Genesis:
    return replace(GENESIS, models=(replace(GENESIS.models[0], **changes),))


def with_layout(*specs) -> Genesis:
    model_id = GENESIS.models[0].model_id
    shards = tuple(
        ShardSpec(i, model_id, start, end, 0, False) for i, start, end in specs
    )
    return replace(GENESIS, layout=Layout(shards))


OTHER_MODEL = build_model(seed=9)

BAD = {
    "no levels": (with_chain(bucket_levels=0), "bucket_levels"),
    "too many levels": (with_chain(bucket_levels=10), "bucket_levels"),
    "small blocks": (with_chain(block_bytes=1000), "block_bytes"),
    "large blocks": (with_chain(block_bytes=2**21), "block_bytes"),
    "no work": (with_chain(block_work=0), "block_work"),
    "no transactions": (with_chain(chunk_transactions=0), "chunk_transactions"),
    "no packets": (with_chain(chunk_packets=0), "chunk_packets"),
    "no backlog": (with_chain(backlog_limit=0), "backlog_limit"),
    "no validity": (with_chain(validity_blocks=0), "validity_blocks"),
    "an epoch of one block": (with_chain(epoch_blocks=1), "epoch_blocks"),
    "no epochs": (with_chain(epoch_blocks=0), "epoch_blocks"),
    "no evidence": (with_chain(evidence_epochs=0), "evidence_epochs"),
    "evidence for ever": (
        with_chain(evidence_epochs=65, unbonding_epochs=1000),
        "evidence_epochs",
    ),
    "paid before evidence comes": (
        with_chain(evidence_epochs=10, unbonding_epochs=14),
        "unbonding_epochs",
    ),
    "no stake": (with_chain(min_stake=0), "min_stake"),
    "a stake that nobody can have": (with_chain(min_stake=2**56), "min_stake"),
    "too little stake": (with_chain(min_stake=1001 * COIN), "stakes"),
    "account twice": (
        with_validator(account=GENESIS.validators[1].account),
        "validator account twice",
    ),
    "nobody": (replace(GENESIS, validators=()), "0 validators"),
    "a whale": (with_validator(power=1500 * COIN), "a third or more"),
    "false possession": (
        with_validator(proof_of_possession=GENESIS.validators[1].proof_of_possession),
        "proof of possession",
    ),
    "no point": (with_validator(public_key=b"\xff" * 48), "proof of possession"),
    "infinity": (
        with_validator(public_key=b"\xc0" + bytes(47)),
        "proof of possession",
    ),
    "name twice": (with_validator(name="validator-1"), "validator name twice"),
    "key twice": (
        replace(GENESIS, validators=(*GENESIS.validators[:3], *VALIDATORS[:1])),
        "twice",
    ),
    "wrong model id": (with_model(model_id=bytes(32)), "model_id"),
    "no layers": (with_model(layers=0), "no layers"),
    "too few shards": (with_model(layers=9), "its shards hold 8"),
    "too many shards": (with_model(layers=7), "its shards hold 8"),
    "a gap": (with_layout((1, 0, 3), (2, 4, 8)), "layout"),
    "no shards": (with_layout(), "its shards hold 0"),
    "model twice": (replace(GENESIS, models=GENESIS.models * 2), "twice"),
    "model name twice": (
        replace(GENESIS, models=(*GENESIS.models, OTHER_MODEL)),
        "model name twice",
    ),
    "unknown model": (replace(GENESIS, models=()), "unknown model"),
    "unknown shard": (
        replace(GENESIS, allocations=(Allocation(PERSON, 3, 1),)),
        "shard 3",
    ),
    "allocation twice": (
        replace(GENESIS, allocations=GENESIS.allocations * 2),
        "allocation twice",
    ),
    "too much money": (
        replace(GENESIS, allocations=(Allocation(PERSON, 0, MAX_AMOUNT),)),
        "62 bits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_genesis_that_cannot_start(name):
    genesis, match = BAD[name]
    with pytest.raises(CorruptGenesis, match=match):
        validate_genesis(genesis)
    with pytest.raises(CorruptGenesis):
        build_chain_spec(genesis)
    with pytest.raises(CorruptGenesis):
        parse_genesis(dump_genesis(genesis))


def mangle(path, value):
    data = json.loads(dump_genesis(GENESIS))
    place = data
    for name in path[:-1]:
        place = place[name]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


ADDRESS = json.loads(dump_genesis(GENESIS))["allocations"][0]["address"]


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("network",), "", "network|length"),
        (("network",), 5, "str"),
        (("network",), ..., r"genesis\.network: missing"),
        (("extra",), 1, r"genesis\.extra: no such member"),
        (("time_ms",), 5, "decimal string"),
        (("time_ms",), "05", "decimal string"),
        (("time_ms",), "-5", "decimal string"),
        (("time_ms",), "1e5", "decimal string"),
        (("time_ms",), str(2**63), "int"),
        (("params",), [], "not an object"),
        (("params", "chain", "block_bytes"), "5", "not an integer"),
        (("params", "chain", "block_bytes"), True, "not an integer"),
        (("params", "chain", "block_bytes"), 1.5, "not an integer"),
        (("params", "consensus", "delta_ms"), 0, "int"),
        (("models",), {}, "not a list"),
        (("models", 0, "weights_root"), "0x00", "length"),
        (("models", 0, "weights_root"), "00" * 32, "0x"),
        (("models", 0, "weights_root"), "0x" + "AA" * 32, "lower-case"),
        (("models", 0, "weights_root"), "0x" + "zz" * 32, "hex"),
        (("models", 0, "weights_root"), 7, "not a string"),
        (("allocations", 0, "address"), ADDRESS[:-1] + "q", "checksum"),
        (("allocations", 0, "address"), "0x" + "00" * 32, "bech32|prefix|p2p1"),
        (("validators", 0, "public_key"), "0x" + "00" * 32, "length"),
    ],
)
def test_files_that_are_wrong_say_where(path, value, match):
    with pytest.raises(CorruptGenesis, match=match):
        parse_genesis(mangle(path, value))


@pytest.mark.parametrize("text", ["", "[", "[]", "5", "null", '{"a": 1}', "[" * 10**5])
def test_texts_that_are_no_genesis(text):
    with pytest.raises(CorruptGenesis):
        parse_genesis(text)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CorruptGenesis, match="cannot read"):
        load_genesis(tmp_path / "missing.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorruptGenesis, match="cannot read"):
        load_genesis(tmp_path / "binary")
    (tmp_path / "long").write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(CorruptGenesis, match="longer"):
        load_genesis(tmp_path / "long")
