"""A session through four hops, from prompt to the last receipt."""

from random import Random

import pytest
import trio
from session_world import (
    DECODE_UNITS,
    UNIT_PRICE,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from chain.records.proof import (
    compute_receipt_hash,
    compute_work_root,
    verify_receipt,
)
from inference.protocol.account import build_work_record
from inference.protocol.errors import HopLost, HopRefused, PaymentFailed
from inference.session.plan import SessionTimeouts, TokenEvent
from primitives.types import EMPTY_HASH


@pytest.mark.parametrize("looks_ahead", [True, False])
@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens"),
    [(1, 1), (3, 2), (3, 17), (3, 18), (127, 1), (128, 33), (129, 5), (300, 40)],
)
def test_answer_payment_and_receipts(prompt_tokens, max_tokens, looks_ahead):
    prompt = [(7 * i + 3) % 97 for i in range(prompt_tokens)]

    async def test():
        async with open_world() as world:
            world.worker.looks_ahead = looks_ahead
            session = world.session(prompt, max_tokens)
            events = await collect(session)
            await world.rest()

            assert [e.token_id for e in events] == world.expect(prompt, max_tokens)
            assert [e.finish_reason for e in events[:-1]] == [None] * (max_tokens - 1)
            assert events[-1].finish_reason == "length"
            assert [e.position for e in events] == [
                prompt_tokens + i for i in range(max_tokens)
            ]

            full, rest = divmod(prompt_tokens, 128)
            units = full * compute_prefill_units(128) + (
                compute_prefill_units(rest) if rest else 0
            )
            units += (max_tokens - 1) * DECODE_UNITS
            assert world.get_paid() == world.get_sent() == [units * UNIT_PRICE] * 4

            decode_steps = max_tokens - 1
            receipts = full + (rest > 0) + decode_steps // 16 + (decode_steps % 16 > 0)
            assert_receipts(world, receipts, prompt_tokens + decode_steps)
            assert_summary(session.summary, world, events, units)
            assert not world.faults
            assert not any(hop.faults for hop in world.hops)

    run(test)


def assert_receipts(world, count, positions):
    """Every hop has attested every position, and the receipts form a chain."""
    for index, hop in enumerate(world.hops):
        (account,) = hop.payee.closed
        assert account.code == 0
        assert account.billed_units == account.claimed_units
        assert hop.published == list(account.receipts)
        assert len(account.receipts) == count
        assert account.tokens_in + account.tokens_out == positions
        assert len(account.decode_us) == account.tokens_out
        position, previous_own = 0, EMPTY_HASH
        for number, receipt in enumerate(account.receipts):
            assert verify_receipt(receipt)
            assert receipt.node == hop.key.public_key
            assert receipt.nonce == number
            assert receipt.first_position == position
            assert receipt.previous_own == previous_own
            assert receipt.expires_height == 1000
            position += receipt.tokens
            previous_own = compute_receipt_hash(receipt)
            if index:
                before = world.hops[index - 1].published[number]
                assert receipt.previous_hop == compute_receipt_hash(before)
                assert receipt.in_hash == before.out_hash
        assert position == positions
        work = build_work_record([account])
        assert work.work_root == compute_work_root(account.receipts)
        assert work.receipts == count
        assert work.price_sum == hop.payee.get_paid(hop.channel_id)
        assert (work.start, work.end) == (index * 2, index * 2 + 2)
        assert hop.payee.standings[hop.channel_id].receipts == count


def assert_summary(summary, world, events, units):
    assert summary.finish_reason == "length"
    assert summary.fault is None
    assert summary.tokens_out == len(events)
    assert summary.price_atoms == 4 * units * UNIT_PRICE
    assert 0 < summary.first_token_us <= summary.total_us
    for hop, done in zip(world.hops, summary.hops, strict=True):
        assert done.plan.node_name == hop.name
        assert done.units == units
        assert done.unpaid_units == 0
        assert done.vouchers >= 1
        assert done.receipts == len(hop.published)
        # A virtual millisecond per step and hop, and nothing else takes time.
        assert done.compute_us == pytest.approx(1000 * done.steps, rel=0.01)
    for event in events:
        assert sum(t.queue_us + t.compute_us for t in event.hops) <= event.elapsed_us


def test_stop_ends_the_answer_early():
    async def test():
        async with open_world() as world:
            world.worker.stop_after = 5
            session = world.session([1, 2, 3], 100)
            events = await collect(session)
            await world.rest()
            assert len(events) == 5
            assert events[-1].finish_reason == "stop"
            assert session.summary.finish_reason == "stop"
            assert world.get_paid() == world.get_sent()

    run(test)


def test_one_hop_is_a_route_too():
    async def test():
        async with open_world(hops=1) as world:
            session = world.session([1, 2, 3], 20)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect([1, 2, 3], 20)

    run(test)


@pytest.mark.parametrize("seed", range(5))
def test_sessions_share_channels(seed):
    """Payments of sessions on one channel overtake each other and all still count."""

    async def test():
        async with open_world() as world:
            world.jitter = Random(seed)
            prompts = [[seed + 1, i + 1, 5] for i in range(6)]
            answers = {}

            async def ask(i):
                events = await collect(world.session(prompts[i], 20 + i))
                answers[i] = [event.token_id for event in events]

            async with trio.open_nursery() as nursery:
                for i in range(6):
                    nursery.start_soon(ask, i)
            await world.rest()
            for i in range(6):
                assert answers[i] == world.expect(prompts[i], 20 + i)
            assert world.get_paid() == world.get_sent()
            for hop in world.hops:
                assert [account.code for account in hop.payee.closed] == [0] * 6
                receipts = [r for a in hop.payee.closed for r in a.receipts]
                assert sorted(r.nonce for r in receipts) == list(range(len(receipts)))
                standing = hop.payee.standings[hop.channel_id]
                paid = hop.payee.get_paid(hop.channel_id)
                assert standing.billed_units * UNIT_PRICE == paid
            assert not any(hop.faults for hop in world.hops)

    run(test)


# The reader goes away


@pytest.mark.parametrize("after_ms", [0, 1, 2, 4, 6, 9, 13, 20, 33, 60])
def test_cancelled_reader_pays_what_was_delivered(after_ms):
    async def test():
        async with open_world() as world:
            session = world.session([1, 2, 3], 1000)
            with trio.move_on_after(after_ms / 1000) as scope:
                await collect(session)
            assert scope.cancelled_caught
            assert session.summary.finish_reason == "cancelled"
            assert session.summary.fault is None
            await world.rest()
            assert world.get_paid() == world.get_sent()
            for hop in world.hops:
                for account in hop.payee.closed:
                    assert account.billed_units == account.claimed_units
            # The channels are as good as before.
            assert await collect(world.session([4], 2))

    run(test)


def test_cancel_without_a_scope():
    async def test():
        async with open_world() as world:
            session = world.session([1, 2, 3], 1000)
            seen = []

            async def emit(event: TokenEvent) -> None:
                seen.append(event)
                if len(seen) == 7:
                    session.cancel()

            summary = await session.run(emit)
            await world.rest()
            assert len(seen) == 7
            assert summary.finish_reason == "cancelled"
            assert world.get_paid() == world.get_sent()

    run(test)


def test_reader_that_raises_is_told_after_the_hops_are_paid():
    async def test():
        async with open_world() as world:

            async def emit(event: TokenEvent) -> None:
                raise OSError("connection reset")

            with pytest.raises(OSError, match="connection reset"):
                await world.session([1, 2, 3], 1000).run(emit)
            await world.rest()
            assert world.get_paid() == world.get_sent()

    run(test)


def test_slow_reader_holds_the_session_and_loses_nothing():
    async def test():
        async with open_world() as world:
            seen = []

            async def emit(event: TokenEvent) -> None:
                await trio.sleep(5)
                seen.append(event.token_id)

            await world.session([1, 2, 3], 40).run(emit)
            assert seen == world.expect([1, 2, 3], 40)

    run(test)


# What keeps a session from beginning


def test_unreachable_hop():
    async def test():
        async with open_world() as world:
            world.hops[2].kill()
            with pytest.raises((HopLost, HopRefused)) as caught:
                await collect(world.session([1, 2, 3]))
            lost = world.hops[2].key.public_key
            before = world.hops[1].key.public_key
            assert caught.value.peer_id in (lost, before)
            await world.rest()
            assert world.get_sent() == [0] * 4

    run(test)


def test_hop_that_never_accepts():
    async def test():
        async with open_world() as world:
            world.hops[1].tamper = lambda message, body: None
            world.hops[1].start_service()
            with pytest.raises(HopLost, match="hop1 did not accept in time"):
                await collect(world.session([1, 2, 3]))
            await world.rest()

    run(test)


def test_worker_without_room_is_busy():
    async def test():
        async with open_world() as world:
            world.hops[3].stage.max_sessions = 0
            with pytest.raises(HopRefused, match="no room"):
                await collect(world.session([1, 2, 3]))
            await world.rest()

    run(test)


def test_own_deposit_is_exhausted():
    async def test():
        async with open_world(hops=2) as world:
            price = (compute_prefill_units(3) + 3 * DECODE_UNITS) * UNIT_PRICE
            world.open_channel(world.hops[1], deposit=price)
            session = world.session([1, 2, 3], 10)
            with pytest.raises(PaymentFailed, match="cannot pay hop1"):
                await collect(session)
            await world.rest()
            assert session.summary.finish_reason == "error"
            assert session.summary.tokens_out == 5
            assert world.get_paid()[1] == price

    run(test)


def test_own_worker_hangs():
    async def test():
        async with open_world() as world:

            async def choose(session_id, hidden, tokens, drafts, wanted):
                await trio.sleep_forever()

            world.worker.choose = choose
            timeouts = SessionTimeouts(worker_s=2.0)
            with pytest.raises(Exception, match="requester worker does not answer"):
                await collect(world.session([1, 2, 3], timeouts=timeouts))
            await world.rest()

    run(test)
