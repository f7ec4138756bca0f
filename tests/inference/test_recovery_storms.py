"""Answers while providers die, hang and stop all the time, three for every layer."""

from dataclasses import replace
from random import Random

import pytest
import trio
from msgspec.structs import replace as replace_fields
from session_world import SumSampler, build_sampling, is_owing, open_world, run

from inference.protocol.errors import SessionError
from inference.sampling.speculation import Speculation
from inference.session.driver import RequesterSession

SESSIONS = 4
TOKENS = 40
TRIES = 30
"""Of an answer that has not begun; a gateway chooses another route then, too."""


class Guesser(SumSampler):
    """Guesses what each answer will be; right as often as its share says."""

    def __init__(self, world, share, luck):
        super().__init__()
        self.world, self.share, self.luck = world, share, luck
        self.answers = {}

    async def open(self, session_id, sampling, prompt_tokens):
        await super().open(session_id, sampling, prompt_tokens)
        self.answers[session_id] = self.world.expect(prompt_tokens, TOKENS)

    async def choose(self, session_id, hidden, tokens, drafts, wanted):
        expected = self.answers[session_id]
        self.guess = lambda said, wanted: [
            each if self.luck.random() < self.share else (each + 1) % 97
            for each in expected[said : said + wanted]
        ]
        return await super().choose(session_id, hidden, tokens, drafts, wanted)


class LossStorm:
    """Sessions and accidents, all drawn from one seed."""

    def __init__(self, world, seed, share=None):
        self.world = world
        self.luck = Random(seed)
        self.sampling = build_sampling(TOKENS)
        if share is not None:
            world.worker = Guesser(world, share, Random(seed))
            self.sampling = replace_fields(self.sampling, speculation=Speculation.NGRAM)
        self.right_guesses = 0
        self.nodes = [*world.hops, *world.spares]
        self.recoveries = 0
        self.complete = 0

    async def run(self):
        self.world.jitter = Random(self.luck.random())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cause_accidents)
            async with trio.open_nursery() as sessions:
                for _ in range(SESSIONS):
                    sessions.start_soon(self.ask)
            nursery.cancel_scope.cancel()
        for node in self.nodes:
            if not node.is_alive:
                node.revive()
            node.stage.is_dead = False

    async def ask(self):
        """Ask until the answer begins; then it must be right to its end."""
        size = self.luck.choice([1, 3, 130])
        prompt = [self.luck.randrange(97) for _ in range(size)]
        expected = self.world.expect(prompt, TOKENS)
        arrears = {}
        for _ in range(TRIES):
            seen = []

            async def emit(event, seen=seen):
                seen.append(event.token_id)

            session, failure = self.build_session(prompt, arrears), None
            try:
                await session.run(emit)
            except SessionError as error:
                failure = error
            if failure is not None and is_owing(failure):
                arrears[failure.peer_id] = failure.owed_units
            # Only without anybody else an answer that has begun may break off.
            assert failure is None or not seen or "nobody else" in str(failure)
            self.recoveries += session.summary.recoveries
            self.right_guesses += session.summary.right_guesses
            assert seen == expected[: len(seen)]
            if seen:
                self.complete += seen == expected
                return
            await trio.sleep(0.2)

    def build_session(self, prompt, arrears):
        """Return a session over providers that seem to be up, as a gateway does."""
        route = []
        for index in range(4):
            hosts = [n for n in self.nodes if n.index == index]
            able = [n for n in hosts if n.is_alive and not n.stage.is_dead] or hosts
            route.append(self.luck.choice(able))
        plan = self.world.plan(prompt, TOKENS)
        keys = [node.key.public_key for node in route]
        hops = [
            self.world.plan_hop(node, arrears.pop(key, 0))
            for node, key in zip(route, keys, strict=True)
        ]
        plan = replace(plan, hops=tuple(hops))
        return RequesterSession(self.world.ports, plan, self.sampling)

    async def cause_accidents(self):
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.luck.random() * 0.4)
                node = self.luck.choice(self.nodes)
                kind = self.luck.choice(["kill", "kill", "stage", "slow", "cut"])
                nursery.start_soon(self.strike, node, kind)

    async def strike(self, node, kind):
        match kind:
            case "kill" if node.is_alive:
                node.kill()
                await trio.sleep(0.5)
                node.revive()
            case "stage":
                stage = node.stage
                stage.is_dead = True
                await trio.sleep(0.5)
                stage.is_dead = False
            case "slow":
                stage = node.stage
                stage.step_s = 2
                await trio.sleep(0.1)
                stage.step_s = 0.001
            case "cut":
                for stream in node.streams[-2:]:
                    stream.abort()


async def weather(seed, share=None):
    """Run a storm; `share` of the guesses are right, or nobody guesses."""
    async with open_world(spares=[0, 1, 2, 3] * 2) as world:
        storm = LossStorm(world, seed, share)
        with trio.fail_after(2000):
            await storm.run()
        await trio.sleep(1)
        await world.rest()
        for node in storm.nodes:
            paid = node.payee.get_paid(node.channel_id)
            assert paid <= world.purse.get(node.channel_id).paid_total
            for account in node.payee.closed:
                attested = sum(r.price_units for r in account.receipts)
                assert attested == account.billed_units
            # A peer that was only unlucky is never blamed.
            assert not node.faults
        assert not world.faults
        return storm


def test_whatever_happens_what_was_shown_is_right():
    storms = []

    async def test():
        storms.append(await weather(len(storms)))

    for _ in range(4):
        run(test)
    # One of them alone may have no luck at all.
    assert sum(storm.recoveries for storm in storms)
    assert sum(storm.complete for storm in storms)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 180))
def test_whatever_happens_at_length(seed):
    async def test():
        await weather(seed)

    run(test)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_whatever_happens_to_guesses(share):
    async def test():
        storm = await weather(7, share)
        assert storm.right_guesses

    run(test)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 300))
def test_whatever_happens_to_guesses_at_length(seed):
    async def test():
        await weather(seed, Random(seed).choice([0.0, 0.3, 0.7, 0.9, 1.0]))

    run(test)
