"""The interlock: nobody works twice for nothing, nobody pays for nothing."""

import pytest
import trio
from session_world import (
    DECODE_UNITS,
    UNIT_PRICE,
    HopNode,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.errors import WorkerLost
from inference.hop.ports import HopLimits
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.errors import HopAborted, HopLost, HopRefused
from inference.protocol.messages import Data, Finish, Pay

PREFILL_UNITS = compute_prefill_units(3)
PROMPT = [1, 2, 3]


def get_risk(world):
    """Return the units that each hop has delivered and not been paid."""
    return [
        hop.payee.standings[hop.channel_id].billed_units
        - hop.payee.get_paid(hop.channel_id) // UNIT_PRICE
        for hop in world.hops
    ]


class NonPayer:
    """A client that never sends a payment."""

    def __call__(self, message, body):
        return None if isinstance(message, Pay) else (message, body)


class Quitter:
    """A client that pays so many times and then no more."""

    def __init__(self, payments):
        self.payments = payments

    def __call__(self, message, body):
        if isinstance(message, Pay):
            self.payments -= 1
            if self.payments < 0:
                return None
        return message, body


class Replayer:
    """A client that sends the first payment again and again."""

    def __init__(self):
        self.first = {}

    def __call__(self, message, body):
        if isinstance(message, Pay):
            voucher = message.payment.voucher
            if voucher is not None:
                self.channel_id = voucher.channel_id
                self.first.setdefault(self.channel_id, message)
            message = self.first[self.channel_id]
        return message, body


class ShortPayer:
    """A payer that releases one unit less than it says."""

    def __init__(self, payer):
        self._payer = payer
        self.forget = payer.forget

    def pay(self, session_id, channel_id, units):
        return self._payer.pay(session_id, channel_id, units - 1)


def test_hop_stops_when_a_step_is_not_paid():
    async def test():
        async with open_world() as world:
            world.tamper = NonPayer()
            started = trio.current_time()
            with pytest.raises(HopAborted, match="waits for its payment") as caught:
                await collect(world.session(PROMPT))
            assert caught.value.code == AbortCode.UNPAID
            await world.rest()
            # Step 0 was computed everywhere, step 1 was held by the first hop.
            assert [hop.stage.forwards for hop in world.hops] == [1, 1, 1, 1]
            assert get_risk(world) == [PREFILL_UNITS] * 4
            waited = trio.current_time() - started
            assert waited == pytest.approx(HopLimits().payment_s, abs=1)

    run(test)


@pytest.mark.parametrize("steps", [1, 2, 5, 17])
def test_risk_is_one_step_wherever_the_client_stops(steps):
    async def test():
        async with open_world() as world:
            world.tamper = Quitter(4 * steps)
            with pytest.raises(HopAborted):
                await collect(world.session(PROMPT, 100))
            await world.rest()
            assert get_risk(world) == [DECODE_UNITS] * 4
            assert [hop.stage.forwards for hop in world.hops] == [steps + 1] * 4

    run(test)


def test_short_payment_is_no_payment():
    async def test():
        async with open_world() as world:
            world.payer = ShortPayer(world.payer)
            with pytest.raises(HopAborted) as caught:
                await collect(world.session(PROMPT))
            assert caught.value.code == AbortCode.UNPAID
            await world.rest()
            assert get_risk(world) == [1] * 4
            assert [hop.stage.forwards for hop in world.hops] == [1] * 4

    run(test)


def test_replayed_preimage_ends_the_session():
    async def test():
        async with open_world(hops=1) as world:
            world.tamper = Replayer()
            with pytest.raises(HopAborted) as caught:
                await collect(world.session(PROMPT))
            assert caught.value.code == AbortCode.BAD_PAYMENT
            await world.rest()
            assert get_risk(world) == [DECODE_UNITS]
            client = world.node_key.public_key
            assert [peer for peer, _ in world.hops[0].faults] == [client]

    run(test)


def test_forged_payment_ends_the_session():
    async def test():
        async with open_world(hops=1) as world:
            hop = world.hops[0]

            def tamper(message, body):
                if isinstance(message, Pay) and message.payment.voucher is None:
                    payment = type(message.payment)(None, 5, bytes(32))
                    fields = (message.session, message.step, message.units, payment)
                    return Pay(*fields), body
                return message, body

            world.tamper = tamper
            with pytest.raises(HopAborted) as caught:
                await collect(world.session(PROMPT, 30))
            assert caught.value.code == AbortCode.BAD_PAYMENT
            await world.rest()
            assert hop.faults

    run(test)


# Arrears


def test_arrears_block_the_channel_until_they_are_paid():
    async def test():
        async with open_world() as world:
            world.tamper = Quitter(4)
            with pytest.raises(HopAborted):
                await collect(world.session(PROMPT, 100))
            await world.rest()
            world.tamper = lambda message, body: (message, body)

            # The client believes that it has paid; its next payment will tell.
            session = world.session(PROMPT, 5)
            with pytest.raises(HopRefused) as caught:
                await collect(session)
            assert caught.value.code == RefuseCode.UNPAID
            assert caught.value.owed_units == DECODE_UNITS
            await world.rest()
            forwards = [hop.stage.forwards for hop in world.hops]
            assert forwards == [2] * 4

            arrears = [DECODE_UNITS] * 4
            session = world.session(PROMPT, 5, arrears=arrears)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 5)
            assert [h.arrears_units for h in session.summary.hops] == arrears
            await world.rest()
            # A dropped payment is folded into the next one: nothing is lost.
            assert all(risk <= 0 for risk in get_risk(world))
            assert world.get_paid() == world.get_sent()

    run(test)


def test_arrears_survive_a_restart_of_the_provider():
    async def test():
        async with open_world(hops=2) as world:
            world.tamper = NonPayer()
            with pytest.raises(HopAborted):
                await collect(world.session(PROMPT, 100))
            world.tamper = lambda message, body: (message, body)
            for hop in world.hops:
                hop.kill()
                hop.revive()
            await trio.sleep(0.1)
            with pytest.raises(HopRefused) as caught:
                await collect(world.session(PROMPT))
            assert caught.value.owed_units == PREFILL_UNITS
            arrears = [PREFILL_UNITS] * 2
            assert await collect(world.session(PROMPT, arrears=arrears))

    run(test)


def test_another_channel_is_not_blocked():
    async def test():
        async with open_world(hops=2) as world:
            world.tamper = NonPayer()
            with pytest.raises(HopAborted):
                await collect(world.session(PROMPT))
            world.tamper = lambda message, body: (message, body)
            for hop in world.hops:
                world.open_channel(hop)
            assert await collect(world.session(PROMPT))

    run(test)


# Paying ahead


@pytest.mark.parametrize("trust_after", [1, 3, 20, 100])
def test_young_channels_pay_ahead(trust_after):
    async def test():
        async with open_world() as world:
            for hop in world.hops[1:]:
                hop.limits = HopLimits(trust_after=trust_after)
                hop.start_service()
            events = await collect(world.session(PROMPT, 30))
            assert [e.token_id for e in events] == world.expect(PROMPT, 30)
            await world.rest()
            assert world.get_paid() == world.get_sent()
            assert len(set(world.get_paid())) == 1
            assert get_risk(world) == [0] * 4
            for hop in world.hops:
                assert hop.payee.standings[hop.channel_id].paid_steps == 30
            # The steps of the first session count in the second.
            assert await collect(world.session(PROMPT, 5))

    run(test)


def test_non_payer_gets_nothing_from_a_young_channel():
    async def test():
        async with open_world() as world:
            for hop in world.hops:
                hop.limits = HopLimits(trust_after=10)
                hop.start_service()
            world.tamper = NonPayer()
            with pytest.raises(HopAborted):
                await collect(world.session(PROMPT))
            await world.rest()
            assert [hop.stage.forwards for hop in world.hops] == [0] * 4
            # Nothing was delivered, so nothing is owed.
            world.tamper = lambda message, body: (message, body)
            assert await collect(world.session(PROMPT))

    run(test)


def test_what_was_paid_ahead_for_nothing_counts_next_time():
    async def test():
        async with open_world() as world:
            for hop in world.hops:
                hop.limits = HopLimits(trust_after=100)
                hop.start_service()
            world.hops[2].stage.is_dead = True

            async def open_anyway(session_id, max_positions, keys=()):
                world.hops[2].stage.sessions[session_id] = 0
                return 0

            world.hops[2].stage.open = open_anyway
            with pytest.raises(HopAborted) as caught:
                await collect(world.session(PROMPT))
            assert caught.value.code == AbortCode.STAGE_LOST
            await world.rest()
            assert get_risk(world)[2:] == [-PREFILL_UNITS] * 2
            world.hops[2].stage.is_dead = False
            # Hops 0 and 1 delivered and were paid; 2 and 3 hold the change.
            assert await collect(world.session(PROMPT, 3))
            await world.rest()
            assert get_risk(world)[2:] == [-PREFILL_UNITS] * 2

    run(test)


def test_client_limits_what_it_pays_ahead():
    async def test():
        async with open_world() as world:
            world.hops[1].limits = HopLimits(trust_after=5000)
            world.hops[1].start_service()
            with pytest.raises(HopRefused, match="5000 steps ahead"):
                await collect(world.session(PROMPT))
            await world.rest()
            assert world.get_sent() == [0] * 4

    run(test)


# Lost hops


class DyingHop(HopNode):
    """Its process dies just before it would send the answer to a step."""

    dies_at = 4

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.dies_at:
            self.kill()
            return None
        return message, body


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("step", [0, 1, 4, 16, 17])
def test_hop_that_dies_in_mid_answer_costs_one_step(index, step):
    kind = type("DyingHop", (DyingHop,), {"dies_at": step})

    async def test():
        async with open_world(villains={index: kind}) as world:
            session = world.session(PROMPT, 100)
            with pytest.raises(HopLost) as caught:
                await collect(session)
            dead = world.hops[index]
            assert caught.value.peer_id == dead.key.public_key
            assert session.summary.tokens_out == step
            assert session.summary.finish_reason == "error"
            await world.rest()

            units = DECODE_UNITS if step else PREFILL_UNITS
            # Whoever delivered the step is owed exactly it; nobody else is.
            assert get_risk(world)[: index + 1] == [units] * (index + 1)
            standings = [hop.payee.standings for hop in world.hops[index + 1 :]]
            if step:
                assert get_risk(world)[index + 1 :] == [0] * len(standings)
            assert [h.unpaid_units for h in session.summary.hops] == [units] * 4
            for hop in world.hops:
                for account in hop.payee.closed:
                    attested = sum(r.price_units for r in account.receipts)
                    assert attested == account.billed_units

            dead.dies_at = -1
            dead.revive()
            await trio.sleep(0.1)
            # What was under way when it died is its own loss.
            arrears = [units] * index + [0] * (4 - index)
            events = await collect(world.session(PROMPT, 4, arrears=arrears))
            assert [e.token_id for e in events] == world.expect(PROMPT, 4)

    run(test)


@pytest.mark.parametrize("index", range(4))
def test_stage_that_dies_in_mid_answer(index):
    async def test():
        async with open_world() as world:
            stage = world.hops[index].stage

            async def emit(event):
                if event.step == 5:
                    stage.is_dead = True

            session = world.session(PROMPT, 100)
            with pytest.raises(HopAborted, match="the stage is dead") as caught:
                await session.run(emit)
            assert caught.value.code == AbortCode.STAGE_LOST
            assert caught.value.peer_id == world.hops[index].key.public_key
            await world.rest()
            assert all(0 <= risk <= DECODE_UNITS for risk in get_risk(world))
            assert get_risk(world)[index:] == [0] * (4 - index)

    run(test)


def test_client_that_dies_frees_every_stage():
    async def test():
        async with open_world() as world:

            async def emit(event):
                if event.step == 9:
                    for hop in world.hops:
                        for stream in hop.streams:
                            if stream.peer_id == world.node_key.public_key:
                                stream.abort()

            with pytest.raises(HopLost):
                await world.session(PROMPT, 100).run(emit)
            await world.rest()
            assert all(0 <= risk <= DECODE_UNITS for risk in get_risk(world))
            for hop in world.hops:
                (account,) = hop.payee.closed
                attested = sum(r.price_units for r in account.receipts)
                assert attested == account.billed_units

    run(test)


def test_node_that_stops_tells_the_client():
    async def test():
        async with open_world() as world:

            async def emit(event):
                if event.step == 3:
                    world.hops[2].service.stop()

            with pytest.raises(HopAborted, match="shuts down") as caught:
                await world.session(PROMPT, 100).run(emit)
            assert caught.value.code == AbortCode.STOPPING
            await world.rest()
            # Some were computing when the client told them that it was over.
            owed = [h.payee.standings[h.channel_id].arrears_units for h in world.hops]
            with pytest.raises(HopRefused, match="shuts down"):
                await collect(world.session(PROMPT, arrears=owed))

    run(test)


def test_a_payment_that_crosses_the_end_is_not_asked_for_again():
    async def test():
        async with open_world() as world:
            pays = 0

            def tamper(message, body):
                nonlocal pays
                if isinstance(message, Pay):
                    pays += 1
                    if pays == 4 * 3 + 2:
                        # Heard before the payment that is on its way.
                        for hop in world.hops:
                            hop.service.stop()
                return message, body

            world.tamper = tamper
            with pytest.raises(HopAborted, match="shuts down"):
                await collect(world.session(PROMPT, 100))
            await world.rest()
            assert world.get_paid() == world.get_sent()
            assert get_risk(world) == [0] * 4
            standings = [hop.payee.standings[hop.channel_id] for hop in world.hops]
            assert not any(standing.arrears_units for standing in standings)

    run(test)


def test_handler_that_is_cancelled_says_goodbye():
    async def test():
        async with open_world() as world:

            async def emit(event):
                if event.step == 3:
                    world.hops[1].scope.cancel()

            with pytest.raises((HopAborted, HopLost)) as caught:
                await world.session(PROMPT, 100).run(emit)
            assert caught.value.peer_id == world.hops[1].key.public_key
            with trio.fail_after(30):
                while any(hop.stage.sessions for hop in world.hops):
                    await trio.sleep(0.1)

    run(test)


def test_lap_that_never_ends_does_not_take_the_answer_back():
    class Forgetful(HopNode):
        """Forgets to pass Finish on."""

        def tamper(self, message, body):
            return None if isinstance(message, Finish) else (message, body)

    async def test():
        async with open_world(villains={1: Forgetful}) as world:
            session = world.session(PROMPT, 6)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 6)
            assert session.summary.fault is not None
            await world.rest()
            # The hops that attested their last range are paid, the others are not.
            # Those that the lap did not reach have signed alone, and were paid.
            assert get_risk(world) == [0, 0, 0, 0]

    run(test)


def test_requester_worker_that_dies():
    async def test():
        async with open_world() as world:
            world.worker.looks_ahead = False

            async def embed(session_id, position, token_ids):
                raise WorkerLost("the requester worker died")

            async def emit(event):
                if event.step == 3:
                    world.worker.embed = embed

            with pytest.raises(WorkerLost):
                await world.session(PROMPT, 100).run(emit)
            await world.rest()
            assert get_risk(world) == [0] * 4

    run(test)
