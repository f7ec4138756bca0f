"""Registration: checks, mirrors in other shards, updates, refusals."""

import msgspec
import pytest
from chain_world import ALICE, BOB, COIN, MODEL, build_genesis
from mini_chain import MiniChain
from test_channels import check_refused

from chain.records.keys import build_mirror_key
from chain.records.registration import Mirror, Register, RegistrationStatus
from chain.records.transfer import Transfer
from genesis.presets import build_layout
from genesis.state import build_chain_spec
from primitives.codec import decode
from shards.packet import PacketKind

ACTIVE, PENDING, REFUSED = (
    RegistrationStatus.ACTIVE,
    RegistrationStatus.PENDING,
    RegistrationStatus.REFUSED,
)


@pytest.fixture
def chain():
    return MiniChain()


def build_offer(start=0, end=4, **changes) -> Register:
    fields = {
        "model_id": MODEL.model_id,
        "profile": bytes(32),
        "start": start,
        "end": end,
        "input_price": 10,
        "output_price": 20,
        "measured_us": 1000,
        "collateral": COIN,
        "payout": ALICE.public_key,
        "node_key": bytes([7]) * 32,
        "addresses": ("p2p://00@127.0.0.1:9000",),
    } | changes
    return Register(**fields)


def get_mirror(chain, person, home=1, shard=2):
    data = chain.state[shard].get(build_mirror_key(home, person.public_key))
    return None if data is None else decode(Mirror, data)


def test_a_range_in_one_shard_is_active_at_once(chain):
    before = chain.balance(1, ALICE)
    outcome = chain.call(ALICE, build_offer())
    assert outcome.ok
    registration = chain.registration(ALICE)
    assert registration.status == ACTIVE
    assert (registration.home, registration.version) == (1, 1)
    assert registration.collateral == COIN
    assert chain.balance(1, ALICE) == before - COIN - outcome.fee
    assert chain.compute_held() == chain.supply


def test_a_range_over_two_shards_waits_for_the_mirror(chain):
    assert chain.call(ALICE, build_offer(2, 6)).ok
    registration = chain.registration(ALICE)
    assert (registration.status, registration.awaiting) == (PENDING, (2,))
    chain.step()
    mirror = get_mirror(chain, ALICE)
    assert (mirror.home, mirror.version, mirror.start, mirror.end) == (1, 1, 2, 6)
    assert chain.registration(ALICE).status == PENDING
    chain.step()
    registration = chain.registration(ALICE)
    assert (registration.status, registration.awaiting) == (ACTIVE, ())
    assert chain.compute_held() == chain.supply


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_id": bytes(32)}, "unknown_model"),
        ({"start": 3, "end": 3}, "bad_range"),
        ({"start": 3, "end": 2}, "bad_range"),
        ({"start": 0, "end": 9}, "bad_range"),
        ({"start": 4, "end": 8}, "wrong_home"),
        ({"addresses": ("http://x",)}, "bad_address"),
        ({"addresses": ("p2p://a b",)}, "bad_address"),
        ({"addresses": ("p2p://ä",)}, "bad_address"),
        ({"collateral": COIN - 1}, "low_collateral"),
        ({"output_price": 10**6, "collateral": 35 * COIN}, "low_collateral"),
        ({"input_price": 10**6, "collateral": 35 * COIN}, "low_collateral"),
        ({"collateral": 101 * COIN}, "insufficient_funds"),
    ],
)
def test_register_refuses(chain, changes, code):
    check_refused(chain, ALICE, build_offer(**changes), code)


def test_collateral_covers_550_dearest_tickets(chain):
    minimum = 10**6 * 4 * 16 * 550
    offer = build_offer(output_price=10**6, collateral=minimum)
    assert chain.call(ALICE, offer).ok


def test_the_root_shard_is_nobodys_home(chain):
    check_refused(chain, ALICE, build_offer(), "wrong_home", shard=0)


def test_an_update_moves_the_difference_of_the_collateral(chain):
    assert chain.call(ALICE, build_offer(collateral=3 * COIN)).ok
    registered = chain.registration(ALICE).registered_height
    chain.step()
    for collateral in (5 * COIN, 2 * COIN):
        before = chain.balance(1, ALICE)
        locked = chain.registration(ALICE).collateral
        outcome = chain.call(ALICE, build_offer(collateral=collateral))
        assert outcome.ok
        assert chain.balance(1, ALICE) == before - outcome.fee - (collateral - locked)
    registration = chain.registration(ALICE)
    assert (registration.version, registration.registered_height) == (3, registered)
    assert registration.updated_height == chain.height
    assert chain.compute_held() == chain.supply


def test_an_update_that_leaves_a_shard_removes_the_mirror(chain):
    assert chain.call(ALICE, build_offer(2, 6)).ok
    chain.step(), chain.step()
    assert chain.call(ALICE, build_offer(2, 4)).ok
    assert chain.registration(ALICE).status == ACTIVE
    chain.step()
    assert get_mirror(chain, ALICE) is None


def test_an_answer_about_an_older_version_is_ignored(chain):
    assert chain.call(ALICE, build_offer(2, 6)).ok
    chain.step()
    assert chain.call(ALICE, build_offer(2, 7)).ok
    assert chain.inbox[1][0].packet.kind == PacketKind.MIRROR_ANSWER
    chain.step()
    assert chain.registration(ALICE).status == PENDING
    assert get_mirror(chain, ALICE).version == 2
    chain.step()
    assert chain.registration(ALICE).status == ACTIVE


def test_a_shard_without_room_refuses_and_the_collateral_comes_back():
    chain = MiniChain(build_chain_spec(build_genesis(shard_mirrors=1)))
    assert chain.call(BOB, build_offer(2, 6)).ok
    chain.step(), chain.step()
    assert chain.registration(BOB).status == ACTIVE
    before = chain.balance(1, ALICE)
    outcome = chain.call(ALICE, build_offer(2, 6))
    assert outcome.ok
    chain.step(), chain.step()
    registration = chain.registration(ALICE)
    assert (registration.status, registration.collateral) == (REFUSED, 0)
    assert chain.balance(1, ALICE) == before - outcome.fee
    assert get_mirror(chain, ALICE) is None
    assert get_mirror(chain, BOB) is not None
    assert chain.compute_held() == chain.supply
    # Registering again starts anew, here in one shard.
    assert chain.call(ALICE, build_offer(2, 4)).ok
    registration = chain.registration(ALICE)
    assert (registration.status, registration.version) == (ACTIVE, 2)
    assert registration.collateral == COIN


def test_a_renewed_mirror_needs_no_more_room():
    chain = MiniChain(build_chain_spec(build_genesis(shard_mirrors=1)))
    for _ in range(2):
        assert chain.call(BOB, build_offer(2, 6)).ok
        chain.step(), chain.step()
        assert chain.registration(BOB).status == ACTIVE
    assert chain.call(BOB, build_offer(2, 4)).ok
    assert chain.call(ALICE, build_offer(2, 6)).ok
    chain.step(), chain.step()
    assert chain.registration(ALICE).status == ACTIVE


def test_three_shards_one_refuses_all_mirrors_go():
    genesis = build_genesis(shard_mirrors=1)
    genesis = msgspec.structs.replace(genesis, layout=build_layout(genesis.models, 4))
    chain = MiniChain(build_chain_spec(genesis))
    assert chain.call(BOB, build_offer(2, 6), 2).ok  # home 2, mirror 3
    chain.step(), chain.step()
    assert chain.call(ALICE, build_offer(0, 6), 1).ok  # mirrors 2 and 3
    chain.step()
    assert get_mirror(chain, ALICE, 1, 2) is not None
    chain.step()
    assert chain.registration(ALICE).status == REFUSED
    chain.step()
    assert get_mirror(chain, ALICE, 1, 2) is None
    assert chain.compute_held() == chain.supply


def test_a_congested_shard_stops_a_registration():
    chain = MiniChain(build_chain_spec(build_genesis(backlog_limit=1)))
    assert chain.call(ALICE, Transfer(BOB.public_key, 2, 1)).ok
    check_refused(chain, ALICE, build_offer(2, 6), "congested")
    assert chain.registration(ALICE) is None
