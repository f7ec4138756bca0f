"""A gateway whose providers die: others take over, and the reader notices nothing."""

import pytest
import trio
from node_world import HALVES, expect_tokens, open_network, run

from chain.records.channel import OpenChannels
from p2pchain.api.errors import StageLost

PROMPT = tuple(range(1, 30))
TWICE = HALVES * 2


def get_worker(net, index):
    """Return the provider that a session uses now for one of the two ranges."""
    return next(
        p for p in net.providers if p.layers == HALVES[index] and p.stage.sessions
    )


async def break_in_mid_answer(net, break_it, at=10, max_tokens=40):
    """Ask, break something after some tokens, and return what the reader got."""
    seen = []
    net.nursery.start_soon(break_after, net, seen, at, break_it)
    return await net.gateway.answer(PROMPT, max_tokens, seen)


async def break_after(net, seen, at, break_it):
    for provider in net.providers:
        provider.stage.step_s = 0.05
    while len(seen) < at:
        await trio.sleep(0.01)
    break_it()


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("way", ["process", "stage", "leave"])
def test_another_provider_takes_over(index, way) -> None:
    async def test() -> None:
        async with open_network(TWICE) as net:
            lost = []

            def break_it():
                provider = get_worker(net, index)
                lost.append(provider)
                match way:
                    case "process":
                        provider.kill()
                    case "stage":
                        provider.stage.is_dead = True
                    case "leave":
                        net.nursery.start_soon(provider.provider.drain)

            answered = await break_in_mid_answer(net, break_it)
            assert answered.tokens == expect_tokens(list(PROMPT), 40, (0, 4))
            hops = answered.finished.hops
            assert [(h.start, h.end) for h in hops] == [*HALVES, HALVES[index]]
            assert hops[2].node_key == lost[0].key.public_key
            assert hops[index].node_key != hops[2].node_key
            assert all(hop.price > 0 and hop.step_us > 0 for hop in hops)
            assert answered.finished.completion_tokens == 40
            net.providers.remove(lost[0])
            await net.rest()
            assert not net.gateway.net.faults
            # The next one goes to those that are there, at once.
            again = await net.gateway.answer(PROMPT, 5)
            assert again.tokens == answered.tokens[:5]
            assert len(again.finished.hops) == 2

    run(test)


def test_both_providers_gone_is_a_typed_error() -> None:
    async def test() -> None:
        async with open_network(TWICE) as net:

            def break_it():
                for provider in net.providers:
                    if provider.layers == HALVES[1]:
                        provider.kill()

            with pytest.raises(StageLost):
                await break_in_mid_answer(net, break_it)

    run(test)


def test_channels_to_replacements_are_opened_ahead() -> None:
    async def test() -> None:
        async with open_network(TWICE) as net:
            await net.gateway.answer(PROMPT, 5)
            await net.wait_until(lambda: len(net.channels()) == 4)
            before = len(net.list_transactions(net.gateway.account, OpenChannels))
            answered = await break_in_mid_answer(net, lambda: get_worker(net, 0).kill())
            assert answered.tokens == expect_tokens(list(PROMPT), 40, (0, 4))
            after = len(net.list_transactions(net.gateway.account, OpenChannels))
            assert after == before

    run(test)


def test_without_others_no_channel_is_opened_ahead() -> None:
    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer(PROMPT, 5)
            await trio.sleep(20)
            assert len(net.channels()) == 2

    run(test)
