"""Many sessions while hops die, come back and hang, and readers leave: from a seed."""

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

from inference.protocol.errors import SessionError

SESSIONS = 24
LONGEST_S = 200
"""No session takes longer, whatever happens to it: virtual seconds."""


class Storm:
    """Sessions and accidents, all drawn from one seed."""

    def __init__(self, world, seed):
        self.world = world
        self.luck = Random(seed)
        self.ends = {}

    async def run(self):
        self.world.jitter = Random(self.luck.random())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cause_accidents, nursery.cancel_scope)
            async with trio.open_nursery() as sessions:
                for number in range(SESSIONS):
                    sessions.start_soon(self.ask, number)
                    await trio.sleep(self.luck.random() * 0.5)
            nursery.cancel_scope.cancel()

    async def ask(self, number):
        world = self.world
        prompt = [self.luck.randrange(97) for _ in range(self.luck.choice([1, 3, 140]))]
        tokens = self.luck.choice([1, 5, 30, 60])
        patience_s = self.luck.choice([0.05, 0.5, 2, 1000])
        session = world.session(prompt, tokens)
        started = trio.current_time()
        answer = []

        async def emit(event):
            answer.append(event.token_id)

        with trio.move_on_after(patience_s):
            try:
                await session.run(emit)
            except SessionError:
                assert session.summary.finish_reason == "error"
        assert trio.current_time() - started < LONGEST_S
        # Whatever was shown is right.
        assert answer == world.expect(prompt, tokens)[: len(answer)]
        self.ends[number] = session.summary.finish_reason

    async def cause_accidents(self, scope):
        while True:
            await trio.sleep(self.luck.random() * 3)
            hop = self.luck.choice(self.world.hops)
            match self.luck.choice(["kill", "stage", "slow", "nothing"]):
                case "kill" if hop.is_alive:
                    hop.kill()
                    await trio.sleep(self.luck.random())
                    hop.revive()
                    await trio.sleep(0.1)
                case "stage":
                    hop.stage.is_dead = True
                    await trio.sleep(self.luck.random() * 0.2)
                    hop.stage.is_dead = False
                case "slow":
                    hop.stage.step_s = 5
                    await trio.sleep(self.luck.random())
                    hop.stage.step_s = 0.001


@pytest.mark.parametrize("seed", range(12))
def test_nothing_hangs_leaks_or_is_paid_twice(seed):
    async def test():
        async with open_world() as world:
            storm = Storm(world, seed)
            await storm.run()
            assert len(storm.ends) == SESSIONS
            await world.rest()
            dearest = max(DECODE_UNITS, compute_prefill_units(128))
            for hop in world.hops:
                paid = hop.payee.get_paid(hop.channel_id)
                # Payments that a dead hop did not get are folded into the next one.
                assert paid <= world.purse.get(hop.channel_id).paid_total
                standing = hop.payee.standings.get(hop.channel_id)
                billed = standing.billed_units if standing else 0
                risk = billed - paid // UNIT_PRICE
                assert risk <= dearest * 8  # one step per session of a channel
                # A peer that was only unlucky is never blamed.
                assert not hop.faults
            assert not world.faults

    run(test)


def test_storms_let_some_answers_through():
    async def test():
        async with open_world() as world:
            storm = Storm(world, 3)
            await storm.run()
            assert {"length", "error", "cancelled"} <= set(storm.ends.values())
            for hop in world.hops:
                if not hop.is_alive:
                    hop.revive()
                world.open_channel(hop)
            await trio.sleep(5)
            assert await collect(world.session([1, 2], 3))

    run(test)
