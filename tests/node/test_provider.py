"""A provider's life: workers that die or never start, registrations, restarts."""

import pytest
import trio
from node_world import COIN, HALVES, open_network, run

from chain.records.registration import Register, RegistrationStatus
from chain.records.transfer import Transfer
from inference.errors import WorkerLost
from inference.protocol.messages import Accept
from inference.worker.supervisor import WorkerState
from p2pchain.api.errors import NoRoute, StageLost


def list_registers(net, provider):
    return net.list_transactions(provider.account, Register)


def test_a_provider_registers_once_and_serves() -> None:
    async def test() -> None:
        async with open_network() as net:
            provider = net.providers[0]
            registration = provider.registration
            assert registration.status is RegistrationStatus.ACTIVE
            assert (registration.start, registration.end) == (0, 4)
            assert registration.node_key == provider.key.public_key
            assert registration.addresses == (str(provider.endpoint),)
            provider.kill()
            await provider.start()
            # Nothing has changed, so a restart costs nothing.
            assert len(list_registers(net, provider)) == 1
            assert provider.stage.sessions == {}

    run(test)


def test_a_new_price_is_registered_without_a_second_collateral() -> None:
    async def test() -> None:
        async with open_network() as net:
            provider = net.providers[0]
            collateral = provider.registration.collateral
            provider.kill()
            # All that is left is enough for fees, not for another collateral.
            balances = provider.treasury.get_balances()
            for shard, balance in balances.items():
                if balance > 2 * 10**6:
                    await provider.treasury.execute(
                        shard, build_gift(net, balance - 10**6)
                    )
            provider.prices = (500, 1700)
            await provider.start()
            registration = provider.registration
            assert (registration.input_price, registration.output_price) == (500, 1700)
            assert registration.version == 2
            assert registration.collateral == collateral
            answered = await net.gateway.answer()
            assert answered.finished.hops[0].price > answered.finished.hops[1].price

    run(test)


def build_gift(net, amount: int) -> Transfer:
    return Transfer(net.gateway.account.public_key, 0, amount)


def test_a_range_over_two_shards_waits_for_its_mirror() -> None:
    async def test() -> None:
        async with open_network(((0, 3), (3, 6), (6, 8))) as net:
            middle = net.providers[1]
            assert middle.registration.status is RegistrationStatus.ACTIVE
            assert middle.registration.home == 1
            mirrors = net.chain.queries.market.list_mirrors(2)
            assert [each.account for each in mirrors] == [middle.account.public_key]
            answered = await net.gateway.answer(max_tokens=20)
            assert [hop.start for hop in answered.finished.hops] == [0, 3, 6]
            await net.wait_until(net.is_settled)

    run(test)


def test_layers_of_another_shard_are_registered_once() -> None:
    """The old registration stays where it was; routes take the new one."""

    async def test() -> None:
        async with open_network() as net:
            moved = net.providers[0]
            moved.kill()
            moved.layers = (4, 8)
            await moved.start()
            await trio.sleep(60)
            assert len(list_registers(net, moved)) == 2
            with pytest.raises(NoRoute, match=r"\[0, 4\)"):
                net.gateway.gateway.get_route("toy")

    run(test)


def test_refusals_of_the_chain_are_not_paid_for_without_end() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            provider = net.providers[0]
            provider.build()
            # An address that every node refuses.
            provider.endpoint = "http://nowhere"
            await net.nursery.start(provider.run)
            await trio.sleep(600)
            failed = list_registers(net, provider)
            assert not any(found.outcome.ok for found in failed)
            assert 3 < len(failed) < 12

    run(test)


def test_without_a_block_nothing_is_sent() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            net.is_stalled = True
            provider = net.providers[0]
            provider.build()
            await net.nursery.start(provider.run)
            await trio.sleep(600)
            assert len(net.chain.mempool) == 0
            net.is_stalled = False
            await net.wait_until(lambda: provider.provider.is_active)
            assert len(list_registers(net, provider)) == 1

    run(test)


def test_a_worker_that_cannot_start_leaves_the_node_up() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            provider = net.providers[0]
            provider.build()
            provider.stage.starts_ready = False
            await net.nursery.start(provider.run)
            await trio.sleep(1)
            provider.stage.set_state(WorkerState.FAILED, "a weight is missing")
            await trio.sleep(60)
            assert net.chain.height > 50
            assert not provider.provider.is_active
            assert provider.provider.get_offer() is None
            assert provider.stage.status.reason == "a weight is missing"
            assert not list_registers(net, provider)

    run(test)


def test_a_worker_that_dies_while_it_is_measured_is_measured_again() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            provider = net.providers[0]
            provider.build()
            forward, deaths = provider.stage.forward, []

            async def die_once(*args):
                if not deaths:
                    deaths.append(args)
                    raise WorkerLost("killed")
                return await forward(*args)

            provider.stage.forward = die_once
            await net.nursery.start(provider.run)
            await net.wait_until(lambda: provider.provider.is_active)
            assert deaths
            assert provider.stage.sessions == {}

    run(test)


def test_a_worker_that_dies_in_mid_answer_is_a_typed_error() -> None:
    async def test() -> None:
        async with open_network() as net:
            stage = net.providers[1].stage
            forward = stage.forward

            async def die(session, position, *rest):
                if position > 20:
                    stage.is_dead = True
                return await forward(session, position, *rest)

            stage.forward = die
            with pytest.raises(StageLost):
                await net.gateway.answer(max_tokens=50)
            await net.rest()
            stage.is_dead, stage.forward = False, forward
            answered = await net.gateway.answer(max_tokens=10)
            assert len(answered.tokens) == 10

    run(test)


def test_draining_ends_sessions_and_files_them() -> None:
    async def test() -> None:
        async with open_network() as net:
            provider = net.providers[0]
            provider.stage.step_s = 0.5

            async def stop() -> None:
                await trio.sleep(10)
                await provider.provider.drain()
                assert provider.provider.hops.sessions == 0

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                with pytest.raises((StageLost, NoRoute)):
                    await net.gateway.answer(max_tokens=300)
            assert provider.provider.get_offer() is None
            channel = net.channels()[0]
            assert provider.book.get_total(channel.channel_id) > 0
            await net.rest()

    run(test)


def test_restarted_with_an_open_channel_it_goes_on() -> None:
    async def test() -> None:
        async with open_network() as net:
            provider = net.providers[0]
            first = await net.gateway.answer(max_tokens=30)
            provider.kill()
            await provider.start()
            second = await net.gateway.answer(max_tokens=30)
            assert second.tokens == first.tokens
            assert len(net.channels()) == 2
            await net.wait_until(net.is_settled)
            paid = provider.book.get_total(net.channels()[0].channel_id)
            assert paid == sum(a.finished.hops[0].price for a in (first, second))

    run(test)


def test_collateral_covers_the_dearest_ticket() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            provider = net.providers[0]
            provider.prices = (10, 200_000)
            await provider.start()
            params = net.chain.spec.params
            ticket = 200_000 * 4 * params.ticket_tokens
            assert provider.registration.collateral == (
                params.collateral_tickets * ticket
            )
            assert provider.registration.collateral > COIN

    run(test)


def test_a_stage_that_dies_before_the_first_step_costs_no_neighbour() -> None:
    async def test() -> None:
        async with open_network() as net:
            first, second = net.providers

            def die(message, body):
                if isinstance(message, Accept):
                    second.stage.set_state(WorkerState.STARTING, "killed")
                    second.stage.is_dead = True
                return message, body

            second.net.tamper = die
            with pytest.raises(StageLost):
                await net.gateway.answer((1,) * 128, 10)
            await net.rest()
            assert second.net.faults == []
            assert first.net.faults == []
            assert net.gateway.net.faults == []

    run(test)
