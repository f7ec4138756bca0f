"""Cashing: once, whole, never for nothing, and across any crash."""

import pytest
import trio
from node_world import COIN, HALVES, OUTPUT_PRICE, open_network, run

from chain.records.channel import (
    ChannelStatus,
    Close,
    Settle,
    compute_total,
)
from chain.records.transfer import Transfer
from inference.protocol.messages import Data
from p2pchain.api.errors import StageLost
from primitives.errors import P2PChainError
from wallet.transactions import DEFAULT_LIFETIME_BLOCKS, estimate_fee

PROMPT = tuple(range(1, 40))


def list_settles(net, provider):
    return net.list_transactions(provider.account, Settle)


def kill_at_step(provider, victim, step: int) -> None:
    """Kill a node when `provider` sends its answer to a step."""

    def kill(message, body):
        if isinstance(message, Data) and message.step == step:
            victim.kill()
        return message, body

    provider.net.tamper = kill


def is_sent(net, kind) -> bool:
    """Tell whether a transaction of that kind waits for a block."""
    waiting = net.chain.mempool.list_waiting(10)
    return any(isinstance(w.signed.transaction.payload, kind) for w in waiting)


def test_an_answer_is_settled_once_by_every_hop() -> None:
    async def test() -> None:
        async with open_network() as net:
            answered = await net.gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            await trio.sleep(30)
            for hop, provider in zip(
                answered.finished.hops, net.providers, strict=True
            ):
                (settle,) = list_settles(net, provider)
                assert settle.outcome.ok
                payload = settle.signed.transaction.payload
                assert compute_total(payload.claim) == hop.price
                # One prefill, nineteen decoded: 16 and the rest, three receipts.
                assert payload.work.receipts == 3
                assert payload.work.price_sum == hop.price
                assert (payload.work.tokens_in, payload.work.tokens_out) == (39, 19)
                assert not provider.book.load_sessions(hop.channel_id)
                assert provider.book.get_settling(hop.channel_id) is None

    run(test)


def test_all_channels_are_settled_in_one_block() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            await net.gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            # A second customer comes, and both have something new at once.
            other = type(net.gateway)(net, "other")
            await net.gateway.treasury.send(other.account.public_key, 10 * COIN, 0)
            await other.start()
            before = len(list_settles(net, provider))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(net.gateway.answer, PROMPT, 20)
                nursery.start_soon(other.answer, PROMPT, 20)
            await net.wait_until(lambda: len(list_settles(net, provider)) > before)
            first, *_ = list_settles(net, provider)[before:]
            after = list_settles(net, provider)[before:]
            assert len(after) in (1, 2)
            await trio.sleep(10)
            assert len(list_settles(net, provider)) == before + 2
            assert first.outcome.ok

    run(test)


def test_less_than_its_fee_waits_for_more() -> None:
    async def test() -> None:
        async with open_network() as net:
            for provider in net.providers:
                provider.kill()
                provider.prices = (1, 8)
                await provider.start()
            await net.gateway.answer((1,), 2)
            await trio.sleep(60)
            assert not net.is_settled()
            assert not any(list_settles(net, p) for p in net.providers)
            while not net.is_settled():
                await net.gateway.answer(PROMPT, 200)
                await trio.sleep(5)
            for provider in net.providers:
                settle = list_settles(net, provider)[0].signed.transaction.payload
                assert settle.work.tokens_in > 1
                fee = estimate_fee(net.chain.spec.params, settle)
                assert compute_total(settle.claim) > fee

    run(test)


def test_a_killed_provider_is_paid_for_what_its_receipts_say() -> None:
    """Steps after the last receipt are lost with the process, and nothing else."""

    async def test() -> None:
        async with open_network() as net:
            provider, other = net.providers
            kill_at_step(provider, provider, 40)
            with pytest.raises(StageLost):
                await net.gateway.answer(PROMPT, 100)
            await provider.start()
            channel = net.channels()[0]
            assert channel.payee == provider.account.public_key
            await net.wait_until(lambda: len(list_settles(net, provider)) == 1)
            (settle,) = list_settles(net, provider)
            work = settle.signed.transaction.payload.work
            assert settle.outcome.ok
            # The prompt and two full ranges of sixteen.
            assert (work.tokens_in, work.tokens_out, work.receipts) == (39, 32, 3)
            held = provider.book.get_total(channel.channel_id)
            assert work.price_sum < held
            settled = net.chain.queries.market.get_channel(channel.channel_id).settled
            assert settled == work.price_sum

            # What follows is cashed as well: the gap blocks nothing.
            answered = await net.gateway.answer(PROMPT, 40)
            await net.wait_until(lambda: len(list_settles(net, provider)) == 2)
            after = net.chain.queries.market.get_channel(channel.channel_id)
            assert after.settled - settled == answered.finished.hops[0].price
            assert len(list_settles(net, other)) >= 1

    run(test)


@pytest.mark.parametrize("crash", ["before the block", "after the block"])
def test_a_crash_around_a_settlement_posts_no_work_twice(crash: str) -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            await net.gateway.answer(PROMPT, 20)
            await net.wait_until(lambda: is_sent(net, Settle))
            net.is_stalled = True
            if crash == "after the block":
                # Final, but the process dies before it can note it.
                provider.scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                net.is_stalled = False
                await trio.sleep(3)
            provider.kill()
            net.is_stalled = False
            await provider.start()
            second = await net.gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            first, other = list_settles(net, provider)
            works = [t.signed.transaction.payload.work for t in (first, other)]
            assert [w.price_sum for w in works] == [second.finished.hops[0].price] * 2
            assert works[0].work_root != works[1].work_root
            (channel,) = net.channels()
            assert channel.worked == channel.settled

    run(test)


def test_a_settlement_that_was_lost_is_sent_again() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            await net.gateway.answer(PROMPT, 20)
            await net.wait_until(lambda: is_sent(net, Settle))
            net.is_stalled = True
            provider.kill()
            # Nobody kept the transaction.
            net.chain.mempool._queues.clear()
            net.chain.mempool._by_id.clear()
            net.is_stalled = False
            await provider.start()
            height = net.chain.height
            await trio.sleep(DEFAULT_LIFETIME_BLOCKS - 20)
            assert not list_settles(net, provider)
            await net.wait_until(net.is_settled)
            assert net.chain.height - height < DEFAULT_LIFETIME_BLOCKS + 30
            assert not provider.book.load_sessions(net.channels()[0].channel_id)

    run(test)


def test_a_refused_settlement_keeps_its_sessions() -> None:
    """The account cannot pay a fee: nothing is lost, and it goes on when it can."""

    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            treasury = provider.treasury
            for shard, balance in treasury.get_balances().items():
                if balance > 10_000:
                    gone = Transfer(net.gateway.account.public_key, 0, balance - 10_000)
                    await treasury.execute(shard, gone)
            await net.gateway.answer(PROMPT, 2)
            channel = net.channels()[0]
            await trio.sleep(60)
            assert not list_settles(net, provider)
            assert len(provider.book.load_sessions(channel.channel_id)) == 1
            await net.gateway.treasury.send(provider.account.public_key, COIN, 0)
            await net.wait_until(net.is_settled)
            assert not provider.book.load_sessions(channel.channel_id)

    run(test)


def test_arrears_are_cashed_when_they_are_paid() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            gateway = net.gateway
            kill_at_step(provider, gateway, 20)
            with pytest.raises(P2PChainError):
                await gateway.answer(PROMPT, 50)
            provider.net.tamper = None
            await net.rest()
            channel = net.channels()[0]
            # What was paid is settled; the step under way is owed.
            await net.wait_until(
                lambda: (
                    net.channels()[0].settled
                    == provider.book.get_total(channel.channel_id)
                )
            )
            before = net.channels()[0]
            assert 0 < before.worked - before.settled <= 8 * OUTPUT_PRICE
            await gateway.start()
            answered = await gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            after = net.channels()[0]
            owed = before.worked - before.settled
            assert after.settled - before.settled == (
                owed + answered.finished.hops[0].price
            )
            assert after.worked == after.settled

    run(test)


def test_closing_by_hand_takes_everything_that_is_earned() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            answered = await net.gateway.answer(PROMPT, 20)
            channel = net.channels()[0]
            close = provider.book.build_close(channel)
            await provider.treasury.execute(channel.shard, close)
            after = net.channels()[0]
            assert after.status is ChannelStatus.CLOSED
            assert after.settled == answered.finished.hops[0].price
            # The book forgets it.
            await net.wait_until(lambda: not provider.book.list_channels())
            assert not list(provider.store.iterate(b"book/"))

    run(test)


def test_closing_with_nothing_new_brings_no_claim() -> None:
    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            await net.gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            channel = net.channels()[0]
            assert provider.book.build_close(channel) == Close(
                channel.channel_id, None, None
            )

    run(test)


def test_an_overpaid_claim_is_cut_to_the_work() -> None:
    """A customer that pays a unit too much does not block its channel for ever."""

    async def test() -> None:
        async with open_network(((0, 8),)) as net:
            (provider,) = net.providers
            answered = await net.gateway.answer(PROMPT, 20)
            await net.wait_until(net.is_settled)
            channel = net.channels()[0]
            payment = net.gateway.book.pay(channel.channel_id, 3)
            provider.book.accept_payment(channel.channel_id, payment)
            second = await net.gateway.answer(PROMPT, 20)
            await net.wait_until(lambda: len(list_settles(net, provider)) == 2)
            after = net.channels()[0]
            assert after.settled == (
                answered.finished.hops[0].price + second.finished.hops[0].price
            )

    run(test)


def test_transfers_are_none_of_settlements_business() -> None:
    async def test() -> None:
        async with open_network(HALVES) as net:
            await trio.sleep(30)
            for provider in net.providers:
                assert not list_settles(net, provider)
                assert len(net.list_transactions(provider.account, Transfer)) <= 1

    run(test)
