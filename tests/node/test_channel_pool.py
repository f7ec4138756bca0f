"""Channels ready before they are needed: opened once, filled, reserved, ended."""

import pytest
import trio
from chain_world import World
from node_world import COIN, HALVES, build_key, open_network, run

from chain.records.channel import (
    ChannelStatus,
    Close,
    OpenChannels,
    Opening,
    RequestClose,
    TopUp,
    Withdraw,
)
from p2pchain.errors import NotReady
from p2pchain.node.money.channel_pool import (
    DEPOSIT_SESSIONS,
    MIN_DEPOSIT,
    UNITS_PER_STEP,
    Need,
    compute_unit_price,
)
from primitives.codec import Record
from primitives.kv import MemoryStore
from wallet.errors import InsufficientFunds

SMALL, LARGE = (100, 500), (10_000, 80_000)
"""Tokens of a prompt and an answer."""


def build_needs(net, size=SMALL):
    return [Need(provider.registration, *size) for provider in net.providers]


async def fill(net, size=SMALL):
    """Fill channels for a session of a size and return them."""
    pool, needs = net.gateway.pool, build_needs(net, size)
    await pool.fill(needs)
    with pool.reserve(needs) as channels:
        return channels


def count(net, kind) -> int:
    return len(net.list_transactions(net.gateway.account, kind))


def compute_fees(net) -> int:
    """Return the atoms that the gateway's transactions have burned."""
    account = net.gateway.account
    return sum(t.outcome.fee for t in net.list_transactions(account, Record))


def test_all_channels_of_a_route_are_opened_together() -> None:
    async def test() -> None:
        async with open_network(((0, 2), (2, 4), (4, 8))) as net:
            channels = await fill(net)
            assert [c.payee for c in channels] == [
                p.account.public_key for p in net.providers
            ]
            # Two of them share a shard and a transaction.
            assert count(net, OpenChannels) == 2
            for channel, need in zip(channels, build_needs(net), strict=True):
                assert channel.unit_price == compute_unit_price(need.registration)
                cost = need.compute_cost(channel.unit_price)
                assert channel.deposit == max(MIN_DEPOSIT, DEPOSIT_SESSIONS * cost)
            # And they are there the next time.
            assert [c.channel_id for c in await fill(net)] == [
                c.channel_id for c in channels
            ]
            assert count(net, OpenChannels) == 2

    run(test)


def test_the_unit_is_a_part_of_a_decode_step() -> None:
    async def test() -> None:
        async with open_network() as net:
            registration = net.providers[0].registration
            step = registration.output_price * 4
            assert compute_unit_price(registration) * UNITS_PER_STEP == step
            net.providers[0].kill()
            net.providers[0].prices = (1, 1)
            await net.providers[0].start()
            assert compute_unit_price(net.providers[0].registration) == 1

    run(test)


def test_concurrent_sessions_open_one_channel() -> None:
    async def test() -> None:
        async with open_network() as net:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(fill, net)
            assert len(net.channels()) == 2
            assert count(net, OpenChannels) == 2

    run(test)


def test_what_is_full_does_not_wait_for_what_is_filled() -> None:
    async def test() -> None:
        async with open_network() as net:
            await fill(net)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill, net, LARGE)
                await trio.testing.wait_all_tasks_blocked()
                started = trio.current_time()
                await fill(net)
                assert trio.current_time() == started

    run(test)


def test_a_channel_is_topped_up_when_a_session_may_need_more() -> None:
    async def test() -> None:
        async with open_network() as net:
            before = await fill(net)
            after = await fill(net, LARGE)
            assert count(net, TopUp) == 2
            for old, new, need in zip(
                before, after, build_needs(net, LARGE), strict=True
            ):
                assert new.channel_id == old.channel_id
                assert new.deposit >= old.deposit + need.compute_cost(new.unit_price)
                held = net.gateway.book.get(new.channel_id)
                assert held.state.deposit == new.deposit

    run(test)


def test_reservations_count_until_they_end() -> None:
    async def test() -> None:
        async with open_network() as net:
            pool, needs = net.gateway.pool, build_needs(net, (100, 5000))
            held = []
            for expected in (0, 0, 0, 0, 2):
                await pool.fill(needs)
                assert count(net, TopUp) == expected
                held.append(pool.reserve(needs))
                held[-1].__enter__()
            for each in held:
                each.__exit__(None, None, None)
            await pool.fill(needs)
            assert count(net, TopUp) == 2
            assert pool._reserved == {}

    run(test)


def test_a_closing_channel_is_opened_again_by_a_top_up() -> None:
    async def test() -> None:
        async with open_network() as net:
            channel = (await fill(net))[0]
            await net.gateway.treasury.execute(
                channel.shard, RequestClose(channel.channel_id)
            )
            assert net.channels()[0].status is ChannelStatus.CLOSING
            again = (await fill(net))[0]
            assert again.status is ChannelStatus.OPEN
            assert again.channel_id == channel.channel_id
            assert len((await net.gateway.answer()).tokens) == 8

    run(test)


def test_a_channel_that_the_payee_closed_is_followed_by_another() -> None:
    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer()
            old = net.channels()[0]
            provider = net.providers[0]
            await provider.treasury.execute(old.shard, provider.book.build_close(old))
            answered = await net.gateway.answer()
            new = answered.finished.hops[0].channel_id
            assert new != old.channel_id
            # The book does not grow with what is over.
            ids = {entry.state.channel_id for entry in net.gateway.book}
            assert old.channel_id not in ids
            assert len(ids) == 2

    run(test)


def test_a_channel_closed_in_mid_session_is_a_typed_end() -> None:
    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer()
            provider = net.providers[0]
            provider.stage.step_s = 0.5

            async def close() -> None:
                await trio.sleep(10)
                channel = net.channels()[0]
                close = Close(channel.channel_id, None, None)
                await provider.treasury.execute(channel.shard, close)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                with pytest.raises(Exception) as ended:
                    await net.gateway.answer(max_tokens=200)
            assert ended.type.__name__ == "StageLost"
            await net.rest()
            provider.stage.step_s = 0.001
            assert len((await net.gateway.answer()).tokens) == 8

    run(test)


def test_what_is_left_comes_back_after_the_grace_window() -> None:
    async def test() -> None:
        async with open_network() as net:
            grace = net.chain.spec.params.grace_blocks
            await net.gateway.answer()
            await net.wait_until(net.is_settled)
            channel = net.channels()[0]
            await net.gateway.treasury.execute(
                channel.shard, RequestClose(channel.channel_id)
            )
            before = sum(net.gateway.treasury.get_balances().values())
            paid = compute_fees(net)
            await trio.sleep(grace - 10)
            assert net.channels()[0].status is ChannelStatus.CLOSING
            assert not net.gateway.pool.is_ripe(net.channels()[0])
            await trio.sleep(60)
            assert count(net, Withdraw) == 1
            after = sum(net.gateway.treasury.get_balances().values())
            rest = channel.deposit - channel.settled
            assert after == before + rest - (compute_fees(net) - paid)
            assert net.channels()[0].status is ChannelStatus.CLOSED
            # The other one is none of its business.
            assert net.channels()[1].status is ChannelStatus.OPEN

    run(test)


def test_a_book_that_was_lost_goes_on_where_the_chain_is() -> None:
    """The keys were restored on another machine: old vouchers would pay nothing."""

    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer(max_tokens=20)
            await net.wait_until(net.is_settled)
            net.gateway.kill()
            net.gateway.store = MemoryStore()
            await net.gateway.start()
            answered = await net.gateway.answer(max_tokens=20)
            assert len(answered.tokens) == 20
            await net.wait_until(net.is_settled)
            assert len(net.channels()) == 2

    run(test)


def test_a_channel_of_another_key_is_not_used() -> None:
    async def test() -> None:
        async with open_network() as net:
            registration = net.providers[0].registration
            signer = build_key("somebody").public_key
            opening = Opening(registration.account, signer, COIN, 800)
            await net.gateway.treasury.execute(
                registration.home, OpenChannels((opening,)), COIN
            )
            with pytest.raises(NotReady, match="another key"):
                await fill(net)

    run(test)


def test_a_hand_made_unit_price_is_reckoned_with() -> None:
    async def test() -> None:
        async with open_network() as net:
            registration = net.providers[0].registration
            opening = net.gateway.pool.build_opening(registration, COIN, 10**6)
            await net.gateway.treasury.execute(
                registration.home, OpenChannels((opening,)), COIN
            )
            channel = (await fill(net, (10, 2000)))[0]
            # Two thousand steps of a unit each are two coins.
            assert channel.deposit >= 2 * COIN

    run(test)


def test_too_little_money_opens_nothing() -> None:
    async def test() -> None:
        async with open_network() as net:
            with pytest.raises(InsufficientFunds):
                await fill(net, (10**9, 10**9))
            assert net.channels() == []

    run(test)


def test_a_channel_that_is_not_there_cannot_be_reserved() -> None:
    async def test() -> None:
        async with open_network() as net:
            pool = net.gateway.pool
            with pytest.raises(NotReady, match="not open yet"):
                pool.reserve(build_needs(net)).__enter__()
            assert pool._reserved == {}

    run(test)


def test_the_book_is_flushed_every_second() -> None:
    async def test() -> None:
        class Store(MemoryStore):
            syncs = 0

            def write(self, changes, *, sync=False):
                self.syncs += sync
                super().write(changes, sync=sync)

        async with open_network(HALVES) as net:
            net.gateway.kill()
            net.gateway.store = store = Store()
            await net.gateway.start()
            await net.gateway.answer(max_tokens=50)
            await trio.sleep(2)
            before = store.syncs
            await trio.sleep(20)
            assert store.syncs == before
            assert not net.gateway.book._shelf._unsynced
            assert isinstance(net.world, World)

    run(test)
