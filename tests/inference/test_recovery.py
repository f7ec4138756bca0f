"""A hop dies in mid-answer, another has its layers: the reader notices nothing."""

from contextlib import suppress
from random import Random

import pytest
import trio
from session_world import (
    DECODE_UNITS,
    UNIT_PRICE,
    HopNode,
    StreamOver,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.hop.channel_account import Standing
from inference.hop.ports import HopLimits
from inference.protocol.codes import AbortCode
from inference.protocol.errors import HopLost
from inference.protocol.messages import Accept, Data, Linked, decode_frame
from inference.protocol.steps import Schedule
from inference.session.plan import SessionTimeouts

PROMPT = [1, 2, 3]


class Mortal(HopNode):
    """Dies at one step, in one of several ways."""

    dies_at = -1
    way = "before"

    def tamper(self, message, body):
        if not isinstance(message, Data) or message.position != self.dies_at:
            return message, body
        self.dies_at = -1
        return (message, body) if self.die(self.way) else None


def compute_units(prompt_tokens, first, end):
    """Return what the steps of a session between two positions cost at one hop."""
    units = 0
    for step in draw_steps(prompt_tokens, end):
        if step.position >= first:
            prefill = compute_prefill_units(step.tokens)
            units += prefill if step.is_prefill else DECODE_UNITS
    return units


def draw_steps(prompt_tokens, end):
    """Return the steps of a session that guesses nothing, up to a position."""
    steps, schedule = [], Schedule(prompt_tokens=prompt_tokens, max_positions=10**6)
    while (step := schedule.propose()).position < end:
        steps.append(step)
        schedule = schedule.advance(step)
    return steps


def compute_replay_units(positions):
    """Return what a replacement is paid for positions that it computes anew."""
    full, rest = divmod(positions, 128)
    units = full * compute_prefill_units(128)
    return units + (compute_prefill_units(rest) if rest else 0)


def check_accounts(world):
    """Everybody signed for what it delivered, and no correct peer was blamed."""
    for hop in (*world.hops, *world.spares):
        assert not hop.faults
        for account in hop.payee.closed:
            attested = sum(r.price_units for r in account.receipts)
            assert attested == account.billed_units
    assert not world.faults


def compute_expected(world, prompt_tokens, max_tokens, index, lost_position):
    """Return what the lost hop, the others and the replacement are to be paid."""
    end = prompt_tokens + max_tokens - 1
    base = max(prompt_tokens, lost_position)
    replacement = compute_replay_units(lost_position)
    replacement += compute_units(base, lost_position, end)
    whole = compute_units(prompt_tokens, 0, end)
    units = [whole] * len(world.hops)
    units[index] = compute_units(prompt_tokens, 0, lost_position)
    return [*units, replacement]


def get_units(world, index):
    """Return what was paid to all of the first route and to the replacement."""
    nodes = [*world.hops, world.spares[index]]
    return [world.purse.get(n.channel_id).paid_total // UNIT_PRICE for n in nodes]


def draw_positions(prompt_tokens, max_tokens):
    """Return where the steps of a session begin."""
    steps = draw_steps(prompt_tokens, prompt_tokens + max_tokens - 1)
    return [step.position for step in steps]


async def lose_once(index, way, prompt_tokens, dies_at, seed=None, max_tokens=40):
    """Lose a hop once, and check what everybody got, to the atom."""
    prompt = [(7 * i + 3) % 97 for i in range(prompt_tokens)]
    kind = type("Mortal", (Mortal,), {"dies_at": dies_at, "way": way})
    async with open_world(villains={index: kind}, spares=range(4)) as world:
        if seed is not None:
            world.jitter = Random(seed)
        session = world.session(prompt, max_tokens)
        events = await collect(session)
        assert [e.token_id for e in events] == world.expect(prompt, max_tokens)
        assert [e.position for e in events] == [
            prompt_tokens + i for i in range(max_tokens)
        ]
        await world.rest()
        check_accounts(world)
        summary = session.summary
        positions = [*draw_positions(prompt_tokens, max_tokens), None]
        lost = {dies_at}
        if way in ("after", "stage"):
            # Whether its last answer arrived is a matter of milliseconds.
            lost.add(positions[positions.index(dies_at) + 1])
        if None in lost and not summary.recoveries:
            return
        assert get_units(world, index) in [
            compute_expected(world, prompt_tokens, max_tokens, index, each)
            for each in lost - {None}
        ]
        for node in (*world.hops, world.spares[index]):
            paid = node.payee.get_paid(node.channel_id)
            sent = world.purse.get(node.channel_id).paid_total
            assert paid == sent or (node.index == index and paid < sent)
            if node.index != index:
                (account,) = node.payee.closed
                assert account.billed_units == account.claimed_units
        assert summary.recoveries == 1
        assert (len(summary.hops), summary.route_hops) == (5, 4)
        assert summary.hops[4].plan.node_name == f"hop{index}"
        assert all(hop.unpaid_units == 0 for hop in summary.hops[:4])
        timeouts = SessionTimeouts()
        longest_s = timeouts.probe_s + timeouts.silence_s if way == "silent" else 0
        assert summary.longest_gap_us <= (longest_s + 1) * 1_000_000


@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("way", ["before", "silent"])
@pytest.mark.parametrize(
    ("prompt_tokens", "dies_at"), [(3, 0), (3, 18), (3, 41), (300, 256), (200, 230)]
)
def test_a_lost_step_is_made_again_and_paid_once(index, way, prompt_tokens, dies_at):
    run(lambda: lose_once(index, way, prompt_tokens, dies_at))


def draw_loss(seed):
    """Return a loss of a first, middle or last hop at a first, middle or last step."""
    luck = Random(seed)
    prompt_tokens = luck.choice([1, 3, 127, 128, 129, 200, 300])
    max_tokens = luck.choice([2, 3, 18, 33])
    positions = draw_positions(prompt_tokens, max_tokens)
    dies_at = luck.choice([positions[0], luck.choice(positions), positions[-1]])
    way = luck.choice(["before", "after", "stage", "silent"])
    index = luck.choice([0, luck.choice([1, 2]), 3])
    return lambda: lose_once(index, way, prompt_tokens, dies_at, seed, max_tokens)


@pytest.mark.parametrize("seed", range(16))
def test_losses_of_all_kinds(seed):
    run(draw_loss(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 600))
def test_losses_of_all_kinds_at_length(seed):
    run(draw_loss(seed))


# More than one loss


@pytest.mark.parametrize("dies_at", [3, 20])
@pytest.mark.parametrize("indices", [(0, 1), (1, 2, 3), (0, 2), (0, 1, 2, 3)])
def test_several_at_once(indices, dies_at):
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": dies_at})
        async with open_world(villains={indices[0]: kind}, spares=range(4)) as world:
            first = world.hops[indices[0]]
            kill = first.kill

            def kill_all():
                for index in indices[1:]:
                    world.hops[index].kill()
                kill()

            first.kill = kill_all
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            await world.rest()
            check_accounts(world)
            assert len(session.summary.hops) == 4 + len(indices)

    run(test)


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("other", range(4))
@pytest.mark.parametrize("when", ["opening", "replaying", "linking"])
def test_a_second_loss_in_the_middle_of_mending(index, other, when):
    class Unlucky(HopNode):
        """A replacement in whose time somebody else dies."""

        def tamper(self, message, body):
            moment = {"opening": Accept, "replaying": Data, "linking": Linked}[when]
            if isinstance(message, moment) and not self.world.is_struck:
                self.world.is_struck = True
                victim = self if other == index else self.world.hops[other]
                victim.kill()
                return None if victim is self else (message, body)
            return message, body

    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 140})
        async with open_world(villains={index: kind}, spares=range(4)) as world:
            world.is_struck = False
            world.spares.remove(world.spares[index])
            await world.nursery.start(world.add_spare(index, Unlucky).run)
            await world.nursery.start(world.add_spare(index).run)
            session = world.session(list(range(90)) + list(range(45)), 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(session.plan.prompt, 30)
            assert world.is_struck
            await world.rest()
            check_accounts(world)
            assert all(h.unpaid_units == 0 for h in session.summary.hops[:4])
            assert world.get_sent() == world.get_paid() or len(
                [hop for hop in world.hops if not hop.is_alive]
            )

    run(test)


@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("dies_at", [0, 3, 20])
def test_both_gone_is_a_typed_error_and_what_was_not_delivered_is_not_paid(
    index, dies_at
):
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": dies_at})
        async with open_world(villains={index: kind}, spares=range(4)) as world:
            world.spares[index].kill()
            session = world.session(PROMPT, 40)
            seen = []

            async def emit(event):
                seen.append(event.token_id)

            with pytest.raises(HopLost, match="nobody else has layers") as caught:
                await session.run(emit)
            assert caught.value.peer_id == world.hops[index].key.public_key
            assert seen == world.expect(PROMPT, 40)[: len(seen)]
            await world.rest()
            check_accounts(world)
            units = compute_units(3, 0, dies_at)
            assert world.get_sent() == [units * UNIT_PRICE] * 4

    run(test)


# Slow is not lost


@pytest.mark.parametrize("index", [0, 3])
def test_a_stage_of_five_seconds_a_token_stays_in(index):
    async def test():
        async with open_world(spares=range(4)) as world:
            world.hops[index].stage.step_s = 5
            session = world.session(PROMPT, 20)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 20)
            assert session.summary.recoveries == 0
            assert not world.searches

    run(test)


def test_a_slow_stage_stays_in_while_another_is_replaced():
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 8})
        async with open_world(villains={1: kind}, spares=range(4)) as world:
            for hop in (world.hops[0], world.spares[1]):
                hop.stage.step_s = 5
            session = world.session(PROMPT, 20)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 20)
            assert (session.summary.recoveries, len(session.summary.hops)) == (1, 5)

    run(test)


def test_a_step_may_take_as_long_as_the_hop_says():
    async def test():
        async with open_world(hops=2, spares=range(2)) as world:
            for hop in world.hops:
                hop.limits = HopLimits(compute_s=1000)
                hop.start_service()
            timeouts = SessionTimeouts(step_s=30)
            session = world.session(PROMPT, 6, timeouts=timeouts)

            async def emit(event):
                # From 20 s a token to 50 s: it says so when it is asked.
                world.hops[1].stage.step_s += 10

            world.hops[1].stage.step_s = 20
            await session.run(emit)
            assert session.summary.recoveries == 0

    run(test)


# Leaving


@pytest.mark.parametrize("index", [0, 2, 3])
@pytest.mark.parametrize("at", [0, 1, 16, 17])
def test_whoever_stops_hands_over_and_loses_nothing(index, at):
    async def test():
        async with open_world(spares=range(4)) as world:
            session = world.session(PROMPT, 40)
            seen = []

            async def emit(event):
                seen.append(event.token_id)
                if len(seen) == at + 1:
                    world.hops[index].service.leave()

            await session.run(emit)
            assert seen == world.expect(PROMPT, 40)
            await world.rest()
            check_accounts(world)
            assert session.summary.recoveries == 1
            assert world.get_paid() == world.get_sent()
            (account,) = world.hops[index].payee.closed
            assert account.billed_units == account.claimed_units
            assert account.code == AbortCode.CANCELLED

    run(test)


def test_without_another_it_goes_on_to_the_end():
    async def test():
        async with open_world(spares=range(4)) as world:
            world.spares[2].kill()
            session = world.session(PROMPT, 40)

            async def emit(event):
                if event.step == 5:
                    world.hops[2].service.leave()

            await session.run(emit)
            assert session.summary.tokens_out == 40
            assert len(session.summary.hops) == 4
            await world.rest()
            check_accounts(world)

    run(test)


# The ways between hops


@pytest.mark.parametrize("link", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 3, 16])
def test_hops_that_lose_each_other_are_linked_anew(link, at):
    async def test():
        async with open_world(spares=range(4)) as world:
            before = world.hops[link].key.public_key
            after = world.hops[link + 1]
            session = world.session(PROMPT, 40)

            async def emit(event):
                if session.summary is None and event.position == 3 + at:
                    for stream in after.streams:
                        if stream.peer_id == before and not stream.is_over:
                            stream.abort()

            await session.run(emit)
            await world.rest()
            check_accounts(world)
            assert session.summary.tokens_out == 40
            assert len(session.summary.hops) == 4
            assert session.summary.recoveries == 1
            assert world.get_paid() == world.get_sent()

    run(test)


def test_a_neighbour_out_of_reach_is_replaced():
    class Picky(HopNode):
        """Does not reach the next hop any more."""

        def build_ports(self):
            ports = super().build_ports()
            dialer, open_stream = ports.dialer, ports.dialer.open_stream

            async def refuse(peer_id, protocol):
                if self.is_cut and peer_id == self.world.hops[2].key.public_key:
                    raise StreamOver("no way there")
                return await open_stream(peer_id, protocol)

            self.is_cut = False
            dialer.open_stream = refuse
            return ports

    async def test():
        async with open_world(villains={1: Picky}, spares=range(4)) as world:
            session = world.session(PROMPT, 40)

            async def emit(event):
                if event.step == 5:
                    world.hops[1].is_cut = True
                    for stream in world.hops[2].streams:
                        if stream.peer_id == world.hops[1].key.public_key:
                            stream.abort()

            await session.run(emit)
            await world.rest()
            check_accounts(world)
            assert session.summary.tokens_out == 40
            names = [hop.plan.node_name for hop in session.summary.hops]
            assert names == ["hop0", "hop1", "hop2-2", "hop3", "hop2"]

    run(test)


# What a replacement may say


def test_a_replacement_that_refuses_is_not_the_last():
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 9})
        async with open_world(villains={1: kind}, spares=[0, 1, 2, 3, 1]) as world:
            world.spares[1].stage.max_sessions = 0
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            last = session.summary.hops[1]
            assert last.plan.node_name == world.spares[4].name

    run(test)


def test_a_replacement_that_is_owed_something_is_paid_that_first():
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 9})
        async with open_world(villains={1: kind}, spares=range(4)) as world:
            spare = world.spares[1]
            spare.payee.standings[spare.channel_id] = Standing(7, 0, 0, 7)
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            replacement = next(
                hop for hop in session.summary.hops if hop.plan.node_name == spare.name
            )
            assert replacement.arrears_units == 7
            await world.rest()
            check_accounts(world)

    run(test)


@pytest.mark.parametrize("trust_after", [3, 100])
def test_replacements_that_want_to_be_paid_ahead(trust_after):
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 9})
        async with open_world(villains={1: kind}, spares=range(4)) as world:
            for hop in (*world.hops, *world.spares):
                hop.limits = HopLimits(trust_after=trust_after)
                hop.start_service()
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            await world.rest()
            check_accounts(world)
            expected = compute_expected(world, 3, 30, 1, 9)
            # What a hop was paid ahead for the step in which it died is gone.
            paid = get_units(world, 1)
            assert paid[1] - expected[1] == (DECODE_UNITS if trust_after > 7 else 0)
            del paid[1], expected[1]
            assert paid == expected

    run(test)


def test_whoever_did_not_keep_what_it_sent_is_replaced_as_well():
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 9})
        async with open_world(villains={2: kind}, spares=range(4)) as world:
            world.hops[1].limits = HopLimits(max_kept_bytes=100)
            world.hops[1].start_service()
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            names = [hop.plan.node_name for hop in session.summary.hops]
            assert names == ["hop0", "hop1-1", "hop2-2", "hop3", "hop1", "hop2"]

    run(test)


def test_a_reader_who_leaves_while_the_route_is_mended():
    async def test():
        kind = type("Mortal", (Mortal,), {"dies_at": 9})
        async with open_world(villains={2: kind}, spares=range(4)) as world:

            async def find(wanted):
                session.cancel()
                await trio.sleep_forever()

            world.find = find
            session = world.session(PROMPT, 30)
            summary = await session.run(lambda event: trio.sleep(0))
            assert summary.finish_reason == "cancelled"
            await world.rest()
            assert not world.faults

    run(test)


@pytest.mark.parametrize("seed", range(4))
def test_late_packets_of_an_old_attempt_are_dropped(seed):
    class Stutterer(HopNode):
        """Sends what it sent before once more, much later."""

        def __init__(self, *args):
            super().__init__(*args)
            self.luck = Random(seed)

        async def serve(self, stream, protocol):
            self.world.nursery.start_soon(self.repeat, stream)
            await super().serve(stream, protocol)

        async def repeat(self, stream):
            sent, send = [], stream.send

            async def note(frame):
                if isinstance(decode_frame(frame)[0], Data):
                    sent.append(frame)
                await send(frame)

            stream.send = note
            while not stream.is_over:
                await trio.sleep(self.luck.random() * 0.01)
                if sent and not stream.is_over:
                    with suppress(StreamOver):
                        await send(self.luck.choice(sent))

    async def test():
        kinds = {0: Stutterer, 1: Mortal, 2: Stutterer, 3: Stutterer}
        async with open_world(villains=kinds, spares=range(4)) as world:
            world.hops[1].dies_at = 9
            session = world.session(PROMPT, 30)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            await world.rest()
            check_accounts(world)

    run(test)
