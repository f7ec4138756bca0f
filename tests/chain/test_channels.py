"""Every channel rule: what it does, and everything it refuses."""

import pytest
from chain_world import ALICE, BOB, CAROL, COIN, SPEC, build_genesis
from channel_helpers import (
    PRICE,
    build_claim,
    build_opening,
    build_work,
    open_one,
    sign_voucher,
)
from mini_chain import MiniChain

from chain.records.channel import (
    Channel,
    ChannelStatus,
    Claim,
    Close,
    OpenChannels,
    RequestClose,
    Settle,
    TopUp,
    Withdraw,
)
from chain.records.proof import WorkEntry
from genesis.state import build_chain_spec

GRACE = SPEC.params.grace_blocks


@pytest.fixture
def chain():
    return MiniChain()


@pytest.fixture
def channel_id(chain):
    return open_one(chain)


def check_refused(chain: MiniChain, sender, payload, code: str, shard: int = 1):
    """Check that a rule refuses with `code` and leaves only fee and nonce behind."""
    before = {place: dict(pairs) for place, pairs in chain.state.items()}
    account = chain.account(shard, sender)
    outcome = chain.call(sender, payload, shard)
    assert not outcome.ok
    assert outcome.code == code, outcome
    assert outcome.message
    assert outcome.events == ()
    after = chain.account(shard, sender)
    assert after.balance == account.balance - outcome.fee
    assert after.nonce == account.nonce + 1
    assert chain.totals(shard).burned > 0
    changed = {
        key
        for key in before[shard].keys() | chain.state[shard].keys()
        if before[shard].get(key) != chain.state[shard].get(key)
    }
    assert changed <= {b"a" + sender.public_key, b"t"}
    return outcome


# ------------------------------------------------------------------------- open


def test_open_locks_the_deposit(chain):
    before = chain.balance(1, ALICE)
    channel_id = open_one(chain, deposit=3 * COIN)
    channel = chain.channel(channel_id)
    assert channel.status == ChannelStatus.OPEN
    assert (channel.payer, channel.payee) == (ALICE.public_key, BOB.public_key)
    assert (channel.deposit, channel.settled) == (3 * COIN, 0)
    assert before - chain.balance(1, ALICE) - 3 * COIN == chain.totals(1).burned
    assert chain.compute_held() == chain.supply


def test_open_batch_opens_all_with_different_names(chain):
    openings = (build_opening(BOB), build_opening(CAROL, signer=BOB))
    assert chain.call(ALICE, OpenChannels(openings)).ok
    assert len({channel.channel_id for channel in chain.channels()}) == 2


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        ({"deposit": 0}, "zero_amount"),
        ({"unit_price": 0}, "zero_price"),
        ({"payee": ALICE}, "own_channel"),
        ({"deposit": 1000 * COIN}, "insufficient_funds"),
    ],
)
def test_open_refuses(chain, opening, code):
    check_refused(chain, ALICE, OpenChannels((build_opening(**opening),)), code)


def test_open_batch_is_all_or_nothing(chain):
    openings = (build_opening(CAROL), build_opening(BOB, deposit=1000 * COIN))
    check_refused(chain, ALICE, OpenChannels(openings), "insufficient_funds")
    assert chain.channels() == []


def test_open_refuses_a_second_channel_of_the_pair(chain, channel_id):
    opening = OpenChannels((build_opening(),))
    outcome = check_refused(chain, ALICE, opening, "channel_exists")
    assert channel_id.hex()[:16] in outcome.message
    twice = OpenChannels((build_opening(CAROL), build_opening(CAROL)))
    check_refused(chain, ALICE, twice, "channel_exists")


def test_the_pair_may_have_one_channel_per_shard_and_direction(chain, channel_id):
    open_one(chain, shard=2)
    open_one(chain, payer=BOB, payee=ALICE)
    assert len(chain.channels()) == 3


def test_a_reopened_channel_has_another_name_and_refuses_old_vouchers(
    chain, channel_id
):
    old = build_claim(channel_id)
    assert chain.call(BOB, Close(channel_id, None, None)).ok
    again = open_one(chain)
    assert again != channel_id
    check_refused(chain, BOB, Settle(again, old, build_work()), "voucher_other_channel")
    check_refused(chain, BOB, Settle(channel_id, old, build_work()), "unknown_channel")


# ----------------------------------------------------------------------- top up


def test_top_up_adds_and_reopens(chain, channel_id):
    assert chain.call(ALICE, RequestClose(channel_id)).ok
    assert chain.call(ALICE, TopUp(channel_id, 5)).ok
    channel = chain.channel(channel_id)
    assert (channel.status, channel.close_height) == (ChannelStatus.OPEN, 0)
    assert channel.deposit == COIN + 5
    assert chain.compute_held() == chain.supply


@pytest.mark.parametrize(
    ("sender", "amount", "code"),
    [
        (ALICE, 0, "zero_amount"),
        (ALICE, 1000 * COIN, "insufficient_funds"),
        (BOB, 1, "not_payer"),
        (CAROL, 1, "not_payer"),
    ],
)
def test_top_up_refuses(chain, channel_id, sender, amount, code):
    check_refused(chain, sender, TopUp(channel_id, amount), code)


@pytest.mark.parametrize(
    "payload",
    [
        TopUp(bytes(32), 1),
        Settle(bytes(32), build_claim(bytes(32)), build_work()),
        Close(bytes(32), None, None),
        RequestClose(bytes(32)),
        Withdraw(bytes(32)),
    ],
)
def test_unknown_channel(chain, payload):
    check_refused(chain, ALICE, payload, "unknown_channel")


def test_a_channel_is_unknown_in_another_shard(chain, channel_id):
    check_refused(chain, ALICE, RequestClose(channel_id), "unknown_channel", shard=2)


# ----------------------------------------------------------------------- settle


def test_settle_moves_the_claim_and_posts_the_work(chain, channel_id):
    before = chain.balance(1, BOB)
    work = build_work(price_sum=10 * PRICE)
    outcome = chain.call(BOB, Settle(channel_id, build_claim(channel_id, 10), work))
    assert outcome.ok
    assert chain.balance(1, BOB) == before + 10 * PRICE - outcome.fee
    channel = chain.channel(channel_id)
    assert (channel.settled, channel.settlements) == (10 * PRICE, 1)
    entry = chain.archived[-1]
    assert isinstance(entry, WorkEntry)
    assert (entry.paid, entry.work, entry.number) == (10 * PRICE, work, 0)
    assert chain.compute_held() == chain.supply


def test_settle_pays_only_what_is_new(chain, channel_id):
    for used in (10, 30):
        claim = build_claim(channel_id, used)
        assert chain.call(BOB, Settle(channel_id, claim, build_work())).ok
    assert chain.channel(channel_id).settled == 30 * PRICE
    folded = build_claim(channel_id, 5, cumulative=30 * PRICE)
    assert chain.call(BOB, Settle(channel_id, folded, build_work())).ok
    assert chain.channel(channel_id).settled == 35 * PRICE
    assert [entry.paid for entry in chain.archived] == [10000, 20000, 5000]


def test_settle_the_whole_deposit(chain, channel_id):
    claim = build_claim(channel_id, 0, cumulative=COIN)
    assert chain.call(BOB, Settle(channel_id, claim, build_work())).ok
    assert chain.channel(channel_id).settled == COIN


@pytest.mark.parametrize(
    ("voucher", "used", "code"),
    [
        ({"cumulative": COIN - 10 * PRICE + 1}, 10, "voucher_above_deposit"),
        ({"cumulative": 2**62}, 1, "voucher_above_deposit"),
        ({"unit_price": PRICE + 1}, 10, "voucher_wrong_price"),
        ({"units": 5}, 5, None),
        ({"signer": ALICE}, 10, "voucher_bad_signature"),
        ({"chain_id": bytes(32)}, 10, "voucher_bad_signature"),
        ({}, 0, "nothing_to_settle"),
    ],
)
def test_settle_judges_the_voucher(chain, channel_id, voucher, used, code):
    payload = Settle(channel_id, build_claim(channel_id, used, **voucher), build_work())
    if code is None:
        assert chain.call(BOB, payload).ok
    else:
        check_refused(chain, BOB, payload, code)


def test_settle_refuses_a_smaller_voucher(chain, channel_id):
    big = build_claim(channel_id, 50)
    assert chain.call(BOB, Settle(channel_id, big, build_work())).ok
    small = Settle(channel_id, build_claim(channel_id, 49), build_work())
    outcome = check_refused(chain, BOB, small, "voucher_smaller")
    assert "49000 < 50000" in outcome.message
    same = Settle(channel_id, big, build_work())
    check_refused(chain, BOB, same, "nothing_to_settle")


def test_settle_refuses_a_voucher_of_another_channel(chain, channel_id):
    other = open_one(chain, payee=CAROL)
    payload = Settle(channel_id, build_claim(other), build_work())
    check_refused(chain, BOB, payload, "voucher_other_channel")


def test_settle_refuses_units_beyond_the_voucher(chain, channel_id):
    voucher = sign_voucher(channel_id, units=5)
    payload = Settle(channel_id, Claim(voucher, 6, bytes(32)), build_work())
    check_refused(chain, BOB, payload, "voucher_units")


def test_settle_refuses_a_preimage_that_releases_fewer_units(chain, channel_id):
    good = build_claim(channel_id, 10)
    greedy = Claim(good.voucher, 11, good.preimage)
    check_refused(chain, BOB, Settle(channel_id, greedy, build_work()), "bad_preimage")
    forged = Claim(good.voucher, 10, bytes(32))
    check_refused(chain, BOB, Settle(channel_id, forged, build_work()), "bad_preimage")


@pytest.mark.parametrize("sender", [ALICE, CAROL])
def test_settle_is_the_payees(chain, channel_id, sender):
    payload = Settle(channel_id, build_claim(channel_id), build_work())
    check_refused(chain, sender, payload, "not_payee")


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ({"price_sum": 10 * PRICE - 1}, "work_below_claim"),
        ({"start": 5, "end": 4}, "bad_work_record"),
        ({"start": 4, "end": 4}, "bad_work_record"),
    ],
)
def test_settle_judges_the_work_record(chain, channel_id, work, code):
    claim = build_claim(channel_id, 10)
    check_refused(chain, BOB, Settle(channel_id, claim, build_work(**work)), code)


def test_arrears_are_paid_out_of_work_that_was_posted_before(chain, channel_id):
    """The last step of a session is recorded with it and paid with the next one."""
    work = build_work(price_sum=11 * PRICE)
    assert chain.call(BOB, Settle(channel_id, build_claim(channel_id, 10), work)).ok
    work = build_work(price_sum=9 * PRICE)
    claim = build_claim(channel_id, 21)
    check_refused(chain, BOB, Settle(channel_id, claim, work), "work_below_claim")
    claim = build_claim(channel_id, 20)
    assert chain.call(BOB, Settle(channel_id, claim, work)).ok
    channel = chain.channel(channel_id)
    assert (channel.settled, channel.worked) == (20 * PRICE, 20 * PRICE)


def test_work_without_receipts_needs_no_layers(chain, channel_id):
    work = build_work(receipts=0, start=0, end=0)
    assert chain.call(BOB, Settle(channel_id, build_claim(channel_id), work)).ok


def test_settled_amounts_mature():
    spec = build_chain_spec(build_genesis(maturity_blocks=32))
    chain = MiniChain(spec)
    channel_id = open_one(chain)
    before = chain.balance(1, BOB)
    claim = build_claim(channel_id, 10, chain_id=spec.chain_id)
    outcome = chain.call(BOB, Settle(channel_id, claim, build_work()))
    assert outcome.ok
    account = chain.account(1, BOB)
    assert account.balance == before - outcome.fee
    assert account.maturing_amount == 10 * PRICE
    assert chain.compute_held() == chain.supply
    chain.step(34)
    assert chain.call(BOB, Close(channel_id, None, None)).ok
    assert chain.account(1, BOB).maturing == ()
    assert chain.compute_held() == chain.supply


# ------------------------------------------------------------------------ close


def test_close_settles_and_refunds(chain, channel_id):
    alice, bob = chain.balance(1, ALICE), chain.balance(1, BOB)
    claim = build_claim(channel_id, 20)
    outcome = chain.call(BOB, Close(channel_id, claim, build_work()))
    assert outcome.ok
    assert chain.balance(1, BOB) == bob + 20 * PRICE - outcome.fee
    assert chain.balance(1, ALICE) == alice + COIN - 20 * PRICE
    assert chain.channel(channel_id) is None
    closed = chain.archived[-1]
    assert isinstance(closed, Channel)
    assert (closed.status, closed.settled) == (ChannelStatus.CLOSED, 20 * PRICE)


def test_close_takes_a_claim_that_was_settled_before(chain, channel_id):
    claim = build_claim(channel_id, 20)
    assert chain.call(BOB, Settle(channel_id, claim, build_work())).ok
    assert chain.call(BOB, Close(channel_id, claim, build_work())).ok
    assert chain.compute_held() == chain.supply


def test_close_without_claim_refunds_everything(chain, channel_id):
    alice = chain.balance(1, ALICE)
    assert chain.call(BOB, Close(channel_id, None, None)).ok
    assert chain.balance(1, ALICE) == alice + COIN


def test_close_refuses(chain, channel_id):
    close = Close(channel_id, None, None)
    check_refused(chain, ALICE, close, "not_payee")
    claim = build_claim(channel_id)
    check_refused(chain, BOB, Close(channel_id, claim, None), "bad_work_record")
    check_refused(chain, BOB, Close(channel_id, None, build_work()), "bad_work_record")
    above = build_claim(channel_id, 1, cumulative=COIN)
    payload = Close(channel_id, above, build_work())
    check_refused(chain, BOB, payload, "voucher_above_deposit")
    low = Close(channel_id, claim, build_work(price_sum=1))
    check_refused(chain, BOB, low, "work_below_claim")
    assert chain.channel(channel_id).settled == 0


def test_nothing_after_close(chain, channel_id):
    assert chain.call(BOB, Close(channel_id, None, None)).ok
    check_refused(chain, BOB, Close(channel_id, None, None), "unknown_channel")
    check_refused(chain, ALICE, TopUp(channel_id, 1), "unknown_channel")
    check_refused(chain, ALICE, Withdraw(channel_id), "unknown_channel")


# ------------------------------------------------------- request close, withdraw


def test_payer_gets_the_rest_after_the_grace_window(chain, channel_id):
    assert chain.call(BOB, Settle(channel_id, build_claim(channel_id), build_work())).ok
    assert chain.call(ALICE, RequestClose(channel_id)).ok
    check_refused(chain, ALICE, RequestClose(channel_id), "already_closing")
    chain.step(GRACE - 1)
    outcome = check_refused(chain, ALICE, Withdraw(channel_id), "grace_window")
    assert str(chain.height + 1) in outcome.message
    chain.step()
    before = chain.balance(1, ALICE)
    outcome = chain.call(ALICE, Withdraw(channel_id))
    assert outcome.ok
    rest = COIN - 10 * PRICE
    assert chain.balance(1, ALICE) == before + rest - outcome.fee
    assert chain.channel(channel_id) is None
    assert chain.compute_held() == chain.supply


def test_payee_can_settle_and_close_within_the_window(chain, channel_id):
    assert chain.call(ALICE, RequestClose(channel_id)).ok
    assert chain.call(BOB, Settle(channel_id, build_claim(channel_id), build_work())).ok
    assert chain.channel(channel_id).status == ChannelStatus.CLOSING
    assert chain.call(BOB, Close(channel_id, None, None)).ok


def test_request_and_withdraw_are_the_payers(chain, channel_id):
    check_refused(chain, BOB, RequestClose(channel_id), "not_payer")
    check_refused(chain, ALICE, Withdraw(channel_id), "not_closing")
    assert chain.call(ALICE, RequestClose(channel_id)).ok
    chain.step(GRACE)
    check_refused(chain, BOB, Withdraw(channel_id), "not_payer")
    check_refused(chain, CAROL, Withdraw(channel_id), "not_payer")
