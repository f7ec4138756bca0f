"""A gateway: answers, refusals by their names, refusals that it mends, and readers."""

import pytest
import trio
from node_world import (
    COIN,
    HALVES,
    INFO,
    ProviderNode,
    expect_tokens,
    open_network,
    run,
)

from chain.records.channel import OpenChannels, TopUp
from inference.errors import Busy, WorkerLost
from inference.protocol.codes import RefuseCode
from inference.protocol.messages import Data, Note, Refuse
from inference.sampling.params import ChatMessage
from inference.worker.supervisor import WorkerState
from p2pchain.api.errors import (
    InsufficientFunds,
    InvalidParams,
    NoRoute,
    NotReady,
    Overloaded,
    PromptTooLong,
    ShuttingDown,
    StageLost,
    UnknownModel,
)
from primitives.errors import P2PChainError

PROMPT = tuple(range(1, 30))


def test_tokens_are_those_of_one_piece() -> None:
    async def test() -> None:
        async with open_network() as net:
            answered = await net.gateway.answer(PROMPT, 40)
            assert answered.tokens == expect_tokens(list(PROMPT), 40, (0, 4))
            assert answered.started.prompt_tokens == len(PROMPT)
            hops = [p.key.public_key for p in net.providers]
            assert [hop.node_key for hop in answered.started.route] == hops
            finished = answered.finished
            assert (finished.reason, finished.completion_tokens) == ("length", 40)
            assert all(h.steps == 40 and h.price > 0 for h in finished.hops)
            assert finished.lap_us > 0
            await net.wait_until(net.is_settled)

    run(test)


def test_text_and_chats_become_tokens() -> None:
    async def test() -> None:
        async with open_network() as net:
            text = await net.gateway.answer("a bb ccc", 5)
            chat = ChatMessage("user", "a bb ccc")
            chatted = await net.gateway.answer((), 5, messages=(chat,))
            assert text.tokens == chatted.tokens == expect_tokens([1, 2, 3], 5, (0, 4))

    run(test)


@pytest.mark.parametrize(
    ("changes", "error", "param"),
    [
        ({"model": "gpt-9"}, UnknownModel, "model"),
        ({"prompt": ()}, InvalidParams, "prompt"),
        ({"prompt": (INFO.vocab_size,)}, InvalidParams, "prompt"),
        ({"prompt": "\0"}, InvalidParams, "prompt"),
        ({"messages": (ChatMessage("user", "\0"),)}, InvalidParams, "messages"),
        ({"prompt": (1,) * 600}, PromptTooLong, "prompt"),
        ({"prompt": (1,) * 10, "max_tokens": 591}, PromptTooLong, "prompt"),
        (
            {"messages": (ChatMessage("user", "x " * 700),), "max_tokens": None},
            PromptTooLong,
            "messages",
        ),
    ],
)
def test_requests_that_nobody_can_do(changes, error, param) -> None:
    async def test() -> None:
        async with open_network() as net:
            with pytest.raises(error) as refused:
                await net.gateway.answer(**changes)
            assert refused.value.param == param
            assert not net.list_transactions(net.gateway.account, OpenChannels)
            assert net.gateway.worker.sessions == {}

    run(test)


def test_a_model_is_known_by_name_and_id() -> None:
    async def test() -> None:
        async with open_network() as net:
            gateway, model_id = net.gateway.gateway, INFO.model_id.hex()
            for name in (INFO.name, model_id, "0x" + model_id):
                assert len(gateway.get_route(name)) == 2
            answered = await net.gateway.answer(max_tokens=None)
            assert answered.finished.completion_tokens == INFO.max_positions - 3

    run(test)


def test_without_providers_there_is_no_route() -> None:
    async def test() -> None:
        async with open_network(HALVES, is_started=False) as net:
            await net.gateway.start()
            with pytest.raises(NoRoute, match=r"\[0, 8\)"):
                await net.gateway.answer()
            await net.providers[0].start()
            with pytest.raises(NoRoute, match=r"\[4, 8\)"):
                await net.gateway.answer()

    run(test)


def test_a_worker_that_is_not_there_is_a_reason_to_wait() -> None:
    async def test() -> None:
        async with open_network() as net:

            async def fail(*args):
                raise WorkerLost("the worker is starting")

            async def refuse(*args):
                raise Busy("too many calls")

            net.gateway.worker.encode_text = fail
            with pytest.raises(NotReady, match="starting"):
                await net.gateway.answer("x")
            net.gateway.worker.encode_text = refuse
            with pytest.raises(Overloaded):
                await net.gateway.answer("x")
            net.gateway.worker.set_state(WorkerState.FAILED, "no weights")
            assert net.gateway.gateway.worker.status.reason == "no weights"

    run(test)


def test_an_empty_wallet_is_said_before_anything_else() -> None:
    async def test() -> None:
        async with open_network() as net:
            other = type(net.gateway)(net, "poor")
            await other.start()
            with pytest.raises(InsufficientFunds):
                await other.answer()
            assert other.worker.sessions == {}

    run(test)


def test_a_small_wallet_pays_for_one_answer() -> None:
    """A deposit for four does not fit; one for this one does."""

    async def test() -> None:
        async with open_network() as net:
            other = type(net.gateway)(net, "small")
            await net.gateway.treasury.send(other.account.public_key, COIN // 20, 0)
            await other.start()
            answered = await other.answer(PROMPT, 500)
            assert len(answered.tokens) == 500

    run(test)


# What it mends


def test_a_provider_that_has_not_seen_the_channel_yet() -> None:
    """Its last block comes a little later than ours."""

    async def test() -> None:
        async with open_network() as net:
            book = net.providers[1].book
            book._find_channel = _find_later(book._find_channel)
            answered = await net.gateway.answer(PROMPT, 10)
            assert len(answered.tokens) == 10

    run(test)


def test_arrears_at_every_hop_are_paid_once_and_the_answer_comes() -> None:
    async def test() -> None:
        async with open_network(((0, 3), (3, 6), (6, 8))) as net:

            def die(message, body):
                if isinstance(message, Data) and message.step == 20:
                    net.gateway.kill()
                return message, body

            # Every hop has computed the step, and nobody is left to pay it.
            net.providers[-1].net.tamper = die
            with pytest.raises(P2PChainError):
                await net.gateway.answer(PROMPT, 60)
            net.providers[-1].net.tamper = None
            await net.rest()
            await net.gateway.start()
            answered = await net.gateway.answer(PROMPT, 30)
            assert answered.tokens == expect_tokens(list(PROMPT), 30, (0, 3, 6))
            await net.wait_until(net.is_settled)
            for channel in net.channels():
                # Neither too much nor too little was paid.
                assert channel.settled == channel.worked

    run(test)


def refuse(code: RefuseCode, owed: int = 0):
    """Return a tamper that turns acceptances into refusals."""

    def tamper(message, body):
        if type(message).__name__ == "Accept":
            return Refuse(message.session, code, "a villain says so", owed), b""
        return message, body

    return tamper


def test_arrears_have_a_bound() -> None:
    """A villain that asks for a fortune, or again and again, gets nothing."""

    async def test() -> None:
        async with open_network() as net:
            villain = net.providers[0]
            villain.net.tamper = refuse(RefuseCode.UNPAID, 10**9)
            with pytest.raises(NoRoute, match="villain"):
                await net.gateway.answer()
            promised = net.gateway.pool.get_promised
            assert all(promised(c.channel_id) == 0 for c in net.channels())
            villain.net.tamper = refuse(RefuseCode.UNPAID, 2)
            with pytest.raises(NoRoute, match="villain"):
                await net.gateway.answer()
            (first, second) = net.channels()
            assert promised(first.channel_id) == 2 * first.unit_price
            assert promised(second.channel_id) == 0

    run(test)


@pytest.mark.parametrize("code", [*RefuseCode])
def test_every_refusal_ends_and_is_typed(code: RefuseCode) -> None:
    async def test() -> None:
        async with open_network() as net:
            net.providers[1].net.tamper = refuse(code, 1)
            started = trio.current_time()
            kind = Overloaded if code is RefuseCode.BUSY else NoRoute
            with pytest.raises(kind):
                await net.gateway.answer()
            assert trio.current_time() - started < 60
            net.providers[1].net.tamper = None
            assert len((await net.gateway.answer()).tokens) == 8

    run(test)


@pytest.mark.parametrize("trouble", ["dead", "busy", "stale"])
def test_another_provider_is_asked_where_there_is_one(trouble: str) -> None:
    async def test() -> None:
        async with open_network((*HALVES, (0, 4))) as net:
            for provider in net.providers:
                # The cheapest is asked first.
                provider.prices = (300, 1200) if provider is net.providers[0] else (
                    400, 1600)  # fmt: skip
            first, _, other = net.providers
            first.kill()
            await first.start()
            assert net.gateway.gateway.get_route(INFO.name)[0].node_key == (
                first.key.public_key
            )
            if trouble == "dead":
                first.kill()
            elif trouble == "busy":
                first.stage.max_sessions = 0
            else:
                first.provider._is_active = False
            answered = await net.gateway.answer(PROMPT, 10)
            assert answered.started.route[0].node_key == other.key.public_key
            assert len(answered.tokens) == 10

    run(test)


def test_somebody_elses_node_key_in_a_registration_harms_nobody_long() -> None:
    async def test() -> None:
        async with open_network() as net:
            villain = ProviderNode(net, "villain", (0, 4))
            account = villain.account.public_key
            await net.gateway.treasury.send(account, 20 * COIN, 0)
            villain.key = net.providers[0].key
            villain.prices = (1, 1)
            honest = net.hub[net.providers[0].key.public_key]
            villain.build()
            net.hub[net.providers[0].key.public_key] = honest
            await net.nursery.start(villain.run)
            net.hub[net.providers[0].key.public_key] = honest
            await net.wait_until(lambda: villain.provider.is_active)
            answered = await net.gateway.answer(PROMPT, 10)
            assert answered.started.route[0].provider == (
                net.providers[0].account.public_key
            )

    run(test)


# Readers


def test_a_reader_that_leaves_pays_what_it_got_and_frees_everything() -> None:
    async def test() -> None:
        async with open_network() as net:
            stream = net.gateway.ask(PROMPT, 400)
            seen = 0
            async for _ in stream:
                seen += 1
                if seen == 20:
                    break
            await stream.aclose()
            # Closed means closed: nothing is left open behind the reader's back.
            assert net.gateway.worker.sessions == {}
            assert net.gateway.pool._reserved == {}
            await net.rest()
            await net.wait_until(net.is_settled)
            assert net.channels()[0].settled > 0
            assert len((await net.gateway.answer()).tokens) == 8

    run(test)


def test_a_reader_that_is_cancelled_before_the_first_token() -> None:
    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer()
            net.providers[0].stage.step_s = 5
            with trio.move_on_after(1) as leaving:
                await net.gateway.answer(PROMPT, 10)
            assert leaving.cancelled_caught
            assert net.gateway.worker.sessions == {}
            assert net.gateway.pool._reserved == {}
            await net.rest()

    run(test)


def test_a_reader_that_is_slow_loses_nothing() -> None:
    async def test() -> None:
        async with open_network() as net:
            tokens = []
            async for event in net.gateway.ask(PROMPT, 200):
                tokens.append(event)
                if len(tokens) % 20 == 0:
                    await trio.sleep(5)
            assert len(tokens) == 202

    run(test)


def test_many_readers_at_once() -> None:
    async def test() -> None:
        async with open_network() as net:
            answers = []
            for provider in net.providers:
                provider.stage.max_sessions = 100

            async def ask(length: int) -> None:
                prompt = tuple(range(1, length))
                answered = await net.gateway.answer(prompt, 30)
                assert answered.tokens == expect_tokens(list(prompt), 30, (0, 4))
                answers.append(answered)

            async with trio.open_nursery() as nursery:
                for length in range(3, 36):
                    nursery.start_soon(ask, length)
            assert len(answers) == 33
            assert len(net.channels()) == 2
            await net.wait_until(net.is_settled)

    run(test)


def test_channels_are_filled_for_all_sessions_at_once() -> None:
    """Without reservations the later ones would run dry in the middle."""

    async def test() -> None:
        async with open_network() as net:
            for provider in net.providers:
                provider.kill()
                provider.prices = (4000, 16000)
                await provider.start()
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(net.gateway.answer, PROMPT, 570)
            assert net.list_transactions(net.gateway.account, TopUp)
            await net.wait_until(net.is_settled)

    run(test)


def test_a_gateway_that_stops_says_so() -> None:
    async def test() -> None:
        async with open_network() as net:
            net.providers[0].stage.step_s = 2

            async def stop() -> None:
                await trio.sleep(6)
                net.gateway.scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                with pytest.raises(ShuttingDown):
                    await net.gateway.answer(PROMPT, 100)
            await net.rest()

    run(test)


def test_before_it_runs_it_says_so() -> None:
    async def test() -> None:
        async with open_network() as net:
            other = type(net.gateway)(net, "early")
            await net.gateway.treasury.send(other.account.public_key, 20 * COIN, 0)
            other.build()
            with pytest.raises(NotReady, match="starting"):
                await other.answer((1, 2), 3)

    run(test)


def test_a_hop_lost_in_mid_answer_is_a_typed_error() -> None:
    async def test() -> None:
        async with open_network() as net:

            def die(message, body):
                if isinstance(message, Data) and message.step == 12:
                    net.providers[1].kill()
                return message, body

            net.providers[0].net.tamper = die
            tokens = []
            with pytest.raises(StageLost):
                await net.gateway.answer(PROMPT, 100, seen=tokens)
            assert len(tokens) > 5
            assert net.gateway.worker.sessions == {}

    run(test)


def test_who_forges_is_penalised_and_who_is_slow_is_not() -> None:
    async def test() -> None:
        async with open_network() as net:
            villain = net.providers[1]

            def forge(message, body):
                if isinstance(message, Note):
                    receipt = message.receipt
                    forged = type(receipt)(
                        **{n: getattr(receipt, n) for n in receipt.__struct_fields__}
                        | {"price_units": receipt.price_units + 1}
                    )
                    return Note(forged), body
                return message, body

            villain.net.tamper = forge
            with pytest.raises(StageLost):
                await net.gateway.answer(PROMPT, 30)
            assert {peer for peer, _ in net.gateway.net.faults} == {
                villain.key.public_key
            }
            villain.net.tamper = None
            net.gateway.net.faults.clear()
            villain.stage.step_s = 20
            await net.gateway.answer((1, 2), 3)
            assert net.gateway.net.faults == []

    run(test)


def test_the_session_of_started_is_the_one_that_ran() -> None:
    async def test() -> None:
        async with open_network() as net:
            book = net.providers[0].book
            book._find_channel = _find_later(book._find_channel)
            answered = await net.gateway.answer(PROMPT, 20)
            receipts = net.providers[0].feed.get_latest(10)
            assert {r.receipt.session for r in receipts} == {answered.started.session}

    run(test)


def _find_later(find):
    """Return a look at channels that sees nothing at first."""
    asked = []

    def find_later(channel_id):
        asked.append(channel_id)
        return find(channel_id) if len(asked) > 1 else None

    return find_later


@pytest.mark.parametrize(("step_s", "is_cut"), [(0.001, False), (1.0, True)])
def test_draining_lets_short_answers_end_and_cuts_long_ones(step_s, is_cut) -> None:
    async def test() -> None:
        async with open_network() as net:
            await net.gateway.answer()
            net.providers[0].stage.step_s = step_s
            ends = []

            async def ask() -> None:
                try:
                    await net.gateway.answer(PROMPT, 100)
                    ends.append("whole")
                except ShuttingDown:
                    ends.append("cut")

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
                await trio.sleep(0.01)
                await net.gateway.gateway.drain()
                with pytest.raises(ShuttingDown):
                    await net.gateway.answer()
            assert ends == ["cut" if is_cut else "whole"] * 3
            await net.rest()
            # What the readers of cut answers got is paid as well.
            await net.wait_until(net.is_settled)

    run(test)
