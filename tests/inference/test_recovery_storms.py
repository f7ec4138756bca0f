"""Answers while providers die, hang and stop all the time, three for every layer."""

from dataclasses import replace
from random import Random

import pytest
import trio
from session_world import build_sampling, is_owing, open_world, run

from inference.protocol.errors import SessionError
from inference.session.driver import RequesterSession

SESSIONS = 4
TOKENS = 40
TRIES = 30
"""Of an answer that has not begun; a gateway chooses another route then, too."""


class LossStorm:
    """Sessions and accidents, all drawn from one seed."""

    def __init__(self, world, seed):
        self.world = world
        self.luck = Random(seed)
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
        return RequesterSession(self.world.ports, plan, build_sampling(TOKENS))

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


async def weather(seed):
    async with open_world(spares=[0, 1, 2, 3] * 2) as world:
        storm = LossStorm(world, seed)
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
