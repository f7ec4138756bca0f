"""Sessions whose steps carry guesses: the same text, the right price, any loss."""

from random import Random

import pytest
import trio
from session_world import (
    INPUT_PRICE,
    LAYERS_PER_HOP,
    OUTPUT_PRICE,
    UNIT_PRICE,
    HopNode,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.hop.ports import HopOffer
from inference.protocol.messages import Data, Finish
from inference.protocol.steps import RANGE_STEPS
from inference.sampling.speculation import MAX_GUESSES, Speculation

PROMPT = [3, 1, 4, 1, 5]
TOKENS = 60


def compute_units(tokens):
    """Return what a decode step with so many tokens costs at one hop."""
    price = OUTPUT_PRICE + (tokens - 1) * INPUT_PRICE
    return -(-price * LAYERS_PER_HOP // UNIT_PRICE)


def guess_well(expected, share, seed=0):
    """Return guesses of an answer that is known; some are wrong, by chance."""
    luck = Random(seed)

    def guess(said, wanted):
        right = expected[said : said + wanted]
        return [each if luck.random() < share else (each + 1) % 97 for each in right]

    return guess


async def answer(world, share, tokens=TOKENS, prompt=PROMPT, seed=0, **settings):
    """Run a session that guesses, and check everything that does not depend on it."""
    expected = world.expect(prompt, tokens)
    world.worker.guess = guess_well(expected, share, seed)
    settings = {"speculation": Speculation.NGRAM} | settings
    session = world.session(prompt, tokens, **settings)
    events = await collect(session)
    await world.rest()
    assert [event.token_id for event in events] == expected
    assert [event.position for event in events] == [
        len(prompt) + index for index in range(tokens)
    ]
    assert [event.finish_reason for event in events[:-1]] == [None] * (tokens - 1)
    summary = session.summary
    assert (summary.finish_reason, summary.tokens_out) == ("length", tokens)
    assert 0 <= summary.right_guesses <= summary.guesses
    for hop in (*world.hops, *world.spares):
        assert not hop.faults
        for account in hop.payee.closed:
            attested = sum(receipt.price_units for receipt in account.receipts)
            assert attested == account.billed_units
    assert not world.faults
    return session


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("prompt_tokens", [1, 5, 128, 300])
def test_same_text_for_the_price_of_its_visits(share, prompt_tokens):
    async def test():
        prompt = [(7 * i + 3) % 97 for i in range(prompt_tokens)]
        async with open_world() as world:
            steps = []

            def note(message, body):
                if isinstance(message, Data):
                    steps.append((message.position, message.tokens))
                return message, body

            world.tamper = note
            session = await answer(world, share, prompt=prompt)
            prefill = [tokens for position, tokens in steps if position < prompt_tokens]
            decode = [tokens for position, tokens in steps if position >= prompt_tokens]
            units = sum(map(compute_prefill_units, prefill))
            units += sum(map(compute_units, decode))
            assert world.get_paid() == world.get_sent() == [units * UNIT_PRICE] * 4
            summary = session.summary
            assert sum(decode) - len(decode) == summary.guesses
            assert len(decode) == TOKENS - 1 - summary.right_guesses
            assert max(decode) <= 1 + MAX_GUESSES
            if share == 1.0:
                assert len(decode) < 10
            for hop in world.hops:
                (account,) = hop.payee.closed
                assert account.billed_units == account.claimed_units == units
                assert account.tokens_out == len(decode)
                assert account.tokens_in == sum(prefill) + summary.guesses
                # A receipt for sixteen visits, whatever they carried.
                closed = len(prefill) + len(decode) // RANGE_STEPS
                rest = bool(len(decode) % RANGE_STEPS)
                assert len(account.receipts) == closed + rest

    run(test)


def test_the_worker_need_not_look_ahead():
    async def test():
        async with open_world() as world:
            world.worker.looks_ahead = False
            await answer(world, 0.7)

    run(test)


def test_unasked_it_guesses_where_it_is_faster():
    async def test():
        async with open_world() as world:
            # Every step takes as long; a stage's time does not depend on the tokens.
            session = await answer(world, 0.9, tokens=120, speculation=Speculation.AUTO)
            assert session.summary.right_guesses > 40

    run(test)


@pytest.mark.parametrize("mode", [Speculation.AUTO, Speculation.OFF])
def test_unasked_it_does_not_where_it_is_not(mode):
    class Slow(HopNode):
        """Needs as long for a token in company as for one alone."""

        def __init__(self, world, index):
            super().__init__(world, index)
            forward = self.stage.forward

            async def wait(session_id, position, hidden, tokens):
                await trio.sleep(0.05 * tokens)
                return await forward(session_id, position, hidden, tokens)

            self.stage.forward = wait

    async def test():
        async with open_world(hops=2, villains={1: Slow}) as world:
            session = await answer(world, 0.0, tokens=100, speculation=mode)
            assert session.summary.guesses <= (8 if mode is Speculation.AUTO else 0)

    run(test)


def test_layers_that_cannot_forget_get_no_guesses():
    class Stiff(HopNode):
        """Keeps a state."""

        def get_offer(self):
            offer = super().get_offer()
            fields = {name: getattr(offer, name) for name in offer.__slots__}
            return HopOffer(**fields | {"rolls_back": False})

    async def test():
        async with open_world(villains={2: Stiff}) as world:
            session = await answer(world, 1.0)
            assert session.summary.guesses == 0

    run(test)


@pytest.mark.parametrize("stop_after", [1, 2, 5, 17, 40])
def test_the_answer_ends_in_the_middle_of_right_guesses(stop_after):
    async def test():
        async with open_world() as world:
            expected = world.expect(PROMPT, TOKENS)
            world.worker.guess = guess_well(expected, 1.0)
            world.worker.stop_after = stop_after
            session = world.session(PROMPT, TOKENS, speculation=Speculation.NGRAM)
            events = await collect(session)
            await world.rest()
            assert [event.token_id for event in events] == expected[:stop_after]
            assert events[-1].finish_reason == "stop"
            assert world.get_paid() == world.get_sent()
            assert all(hop.unpaid_units == 0 for hop in session.summary.hops)

    run(test)


@pytest.mark.parametrize("at", [1, 2, 9, 30])
def test_a_reader_leaves_in_the_middle(at):
    async def test():
        async with open_world() as world:
            expected = world.expect(PROMPT, TOKENS)
            world.worker.guess = guess_well(expected, 0.8)
            session = world.session(PROMPT, TOKENS, speculation=Speculation.NGRAM)
            seen = []

            async def emit(event):
                seen.append(event.token_id)
                if len(seen) == at:
                    session.cancel()

            await session.run(emit)
            await world.rest()
            assert seen == expected[: len(seen)]
            assert session.summary.finish_reason == "cancelled"
            assert world.get_paid() == world.get_sent()

    run(test)


# Losses


class Mortal(HopNode):
    """Dies at the n-th message of its own on the data's way."""

    dies_at = -1
    way = "before"
    count = 0

    def tamper(self, message, body):
        if not isinstance(message, Data | Finish):
            return message, body
        self.count += 1
        if self.count != self.dies_at:
            return message, body
        return (message, body) if self.die(self.way) else None


async def lose(index, way, dies_at, share, seed, tokens=40):
    kind = type("Mortal", (Mortal,), {"dies_at": dies_at, "way": way})
    async with open_world(villains={index: kind}, spares=range(4)) as world:
        world.jitter = Random(seed)
        session = await answer(world, share, tokens, seed=seed)
        summary = session.summary
        if summary.fault is not None:
            # In the last lap: nobody is replaced, and the answer is complete.
            assert not summary.recoveries
            return 0
        assert all(h.unpaid_units == 0 for h in summary.hops[: summary.route_hops])
        for node in (*world.hops, *world.spares):
            paid = node.payee.get_paid(node.channel_id)
            sent = world.purse.get(node.channel_id).paid_total
            assert paid == sent or not node.is_alive
            for account in node.payee.closed:
                if node.is_alive:
                    assert account.billed_units == account.claimed_units
        return summary.recoveries


@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("way", ["before", "after", "silent"])
def test_a_loss_at_any_step(index, way):
    async def test():
        recoveries = 0
        for dies_at in range(1, 14):
            recoveries += await lose(index, way, dies_at, 0.7, dies_at)
        assert recoveries >= 11

    run(test)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_losses_at_length(seed):
    async def test():
        luck = Random(seed)
        way = luck.choice(["before", "after", "silent"])
        share = luck.choice([0.2, 0.5, 0.9, 1.0])
        await lose(luck.randrange(4), way, luck.randint(1, 40), share, seed)

    run(test)


@pytest.mark.parametrize("seed", range(3))
def test_many_sessions_on_one_channel(seed):
    async def test():
        async with open_world() as world:
            world.jitter = Random(seed)
            expected = world.expect(PROMPT, TOKENS)
            world.worker.guess = guess_well(expected, 0.7, seed)
            sessions = [
                world.session(PROMPT, TOKENS, speculation=Speculation.NGRAM)
                for _ in range(6)
            ]
            answers = []

            async def ask(session):
                events = await collect(session)
                answers.append([event.token_id for event in events])

            async with trio.open_nursery() as nursery:
                for session in sessions:
                    nursery.start_soon(ask, session)
            await world.rest()
            assert answers == [expected] * 6
            assert world.get_paid() == world.get_sent()

    run(test)
