"""Hops that do wrong in the middle of an answer are replaced; the reader reads on."""

import msgspec
import numpy as np
import pytest
import trio
from session_world import (
    DECODE_UNITS,
    HIDDEN,
    UNIT_PRICE,
    HopNode,
    RunningStage,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from inference.hop.events import Side
from inference.protocol.codes import AbortCode
from inference.protocol.errors import (
    HopAborted,
    ReceiptMismatch,
    SessionError,
    WrongAnswer,
)
from inference.protocol.messages import (
    Abort,
    Accept,
    Data,
    Finish,
    HopTiming,
    Note,
    Unlinked,
    encode_frame,
)
from inference.protocol.receipts import compute_receipt_message
from inference.session.verdicts import MAX_FAULTS

PROMPT = [5, 6, 7]
PREFILL_UNITS = compute_prefill_units(len(PROMPT))
TOKENS = 24
replace = msgspec.structs.replace


class Villain(HopNode):
    """Does wrong in one step, again and again."""

    step = 0

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step >= self.step:
            return self.spoil(message, body)
        return message, body

    def spoil(self, message, body):
        raise NotImplementedError


class NanSender(Villain):
    def spoil(self, message, body):
        numbers = np.frombuffer(body, np.float32).copy()
        numbers[HIDDEN // 2] = np.nan
        return message, numbers.tobytes()


class InfinitySender(Villain):
    def spoil(self, message, body):
        return message, body[:-4] + np.float32(np.inf).tobytes()


class Cutter(Villain):
    def spoil(self, message, body):
        return message, body[: len(body) // 2]


class Skipper(Villain):
    def spoil(self, message, body):
        return replace(message, step=message.step + 1), body


class Reshaper(Villain):
    def spoil(self, message, body):
        return replace(message, dtype=2, hidden_size=2 * HIDDEN), body


class Receiptless(Villain):
    """Sends what nobody can attribute, in the step that closes a range."""

    def spoil(self, message, body):
        return replace(message, receipt=None), body


class Quitter(Villain):
    """Ends the session and says that it is our fault."""

    code = AbortCode.BAD_PAYMENT

    def spoil(self, message, body):
        abort = Abort(
            message.session, self.code, "no more", self.world.node_key.public_key
        )
        return abort, b""


class Forger(HopNode):
    """Signs for another history than its own."""

    def tamper(self, message, body):
        if isinstance(message, Note):
            units = message.receipt.price_units + 1
            receipt = replace(
                message.receipt, history_root=bytes(32), price_units=units
            )
            signature = self.key.sign(compute_receipt_message(receipt))
            message = Note(replace(receipt, signature=signature))
        return message, body


def build(kind, step):
    return type(kind.__name__, (kind,), {"step": step})


def get_paid(world, hop):
    """Return the units that the client has paid to a hop."""
    return world.purse.get(hop.channel_id).paid_total // UNIT_PRICE


def compute_units(steps):
    """Return what so many steps from the beginning cost."""
    return PREFILL_UNITS + (steps - 1) * DECODE_UNITS if steps else 0


def get_blamed(world):
    told = [*world.faults]
    for hop in (*world.hops, *world.spares):
        told += hop.faults
    return {peer for peer, _ in told}


async def check_replaced(world, index, steps):
    """Ask; the answer is right, and the villain is paid for `steps` steps only."""
    session = world.session(PROMPT, TOKENS)
    events = await collect(session)
    assert [event.token_id for event in events] == world.expect(PROMPT, TOKENS)
    assert session.summary.finish_reason == "length"
    assert session.summary.fault is None
    assert session.summary.recoveries == 1
    await world.rest()
    villain, spare = world.hops[index], world.spares[0]
    assert get_paid(world, villain) == compute_units(steps)
    assert get_blamed(world) == {villain.key.public_key}
    for hop in world.hops:
        if hop is not villain:
            assert get_paid(world, hop) == compute_units(TOKENS)
            assert hop.service.sessions == 0
    # What it computes again costs the input price.
    assert get_paid(world, spare) > 0
    return session


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("kind", [NanSender, InfinitySender, Cutter, Skipper, Reshaper])
@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_wrong_answer_is_made_by_somebody_else(index, kind, step):
    async def test():
        villains = {index: build(kind, step)}
        async with open_world(3, villains, spares=[index]) as world:
            await check_replaced(world, index, step)

    run(test)


@pytest.mark.parametrize("index", range(2))
def test_a_receipt_withheld_from_the_next_hop_in_the_prompt(index):
    async def test():
        async with open_world(3, {index: Receiptless}, spares=[index]) as world:
            await check_replaced(world, index, 0)

    run(test)


@pytest.mark.parametrize("index", range(3))
def test_a_forged_receipt_is_not_paid_and_its_hop_goes(index):
    async def test():
        async with open_world(3, {index: Forger}, spares=[index]) as world:
            await check_replaced(world, index, 0)

    run(test)


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(
    "code",
    [
        AbortCode.CANCELLED,
        AbortCode.UNPAID,
        AbortCode.BAD_PAYMENT,
        AbortCode.BAD_DATA,
        AbortCode.PROTOCOL,
        200,
    ],
)
def test_who_refuses_to_go_on_is_replaced(index, code):
    async def test():
        kind = build(Quitter, 5)
        kind.code = code
        async with open_world(3, {index: kind}, spares=[index]) as world:
            session = world.session(PROMPT, TOKENS)

            # Its words go to us, wherever its answers go.
            villain = world.hops[index]
            stream_of = {}
            serve = villain.service.serve_hop

            async def serve_hop(stream):
                stream_of["requester"] = stream
                await serve(stream)

            villain.service.serve_hop = serve_hop
            spoil = villain.spoil

            def tell(message, body):
                abort, _ = spoil(message, body)
                stream = stream_of["requester"]
                stream.tamper = None
                world.nursery.start_soon(send_last, stream, abort)
                return

            villain.spoil = tell
            events = await collect(session)
            tokens = [event.token_id for event in events]
            assert tokens == world.expect(PROMPT, TOKENS)
            assert session.summary.recoveries == 1
            await world.rest()
            assert get_paid(world, villain) <= compute_units(5)

    run(test)


async def send_last(stream, message):
    await stream.send(encode_frame(message))


class Liar(Villain):
    """Sends other bytes than it signs for."""

    def spoil(self, message, body):
        if message.step == self.step:
            body = bytes([body[0] ^ 1]) + body[1:]
        return message, body


@pytest.mark.parametrize("index", range(2))
def test_a_lie_in_the_prompt_is_found_in_time(index):
    """A prompt's step closes its range, before anything was chosen from it."""

    async def test():
        async with open_world(3, {index: build(Liar, 0)}, spares=[index]) as world:
            await check_replaced(world, index, 0)

    run(test)


@pytest.mark.parametrize(("index", "step"), [(0, 3), (1, 9), (2, 0), (2, 9)])
def test_a_lie_that_was_shown_is_not_glossed_over(index, step):
    """Tokens were chosen from bytes that nobody has signed for: that is said."""

    async def test():
        async with open_world(3, {index: build(Liar, step)}, spares=[index]) as world:
            session = world.session(PROMPT, TOKENS)
            with pytest.raises((ReceiptMismatch, HopAborted)) as caught:
                await collect(session)
            villain = world.hops[index]
            assert caught.value.peer_id == villain.key.public_key
            assert get_blamed(world) == {villain.key.public_key}
            await world.rest()
            closing = 0 if step == 0 else 16
            assert get_paid(world, villain) == compute_units(closing)

    run(test)


def test_a_replacement_that_does_wrong_is_replaced_as_well():
    async def test():
        villains = {1: build(NanSender, 4)}
        async with open_world(3, villains, spares=[]) as world:
            use_spares(world)
            for kind in (build(Cutter, 0), build(InfinitySender, 0), HopNode):
                await world.nursery.start(world.add_spare(1, kind).run)
            session = world.session(PROMPT, TOKENS)
            events = await collect(session)
            tokens = [event.token_id for event in events]
            assert tokens == world.expect(PROMPT, TOKENS)
            await world.rest()
            wrong = {world.hops[1], *world.spares[:2]}
            assert get_blamed(world) == {hop.key.public_key for hop in wrong}
            assert [get_paid(world, hop) for hop in world.spares[:2]] == [0, 0]

    run(test)


def test_when_everybody_does_wrong_it_is_said_in_time():
    async def test():
        async with open_world(2, {0: build(NanSender, 3)}) as world:
            use_spares(world)
            for _ in range(MAX_FAULTS + 3):
                spare = world.add_spare(0, build(NanSender, 0))
                await world.nursery.start(spare.run)
            session = world.session(PROMPT, TOKENS)
            with pytest.raises((WrongAnswer, HopAborted)):
                await collect(session)
            assert session.summary.tokens_out == 3
            asked = [hop for hop in world.spares if hop.stage.forwards]
            assert len(asked) == MAX_FAULTS
            await world.rest()
            assert sum(get_paid(world, hop) for hop in world.spares) == 0

    run(test)


def test_without_another_provider_the_fault_is_the_error():
    async def test():
        async with open_world(3, {1: build(NanSender, 4)}) as world:
            use_spares(world)
            session = world.session(PROMPT, TOKENS)
            with pytest.raises(HopAborted) as caught:
                await collect(session)
            assert caught.value.code == AbortCode.BAD_DATA
            assert caught.value.peer_id == world.hops[1].key.public_key
            assert session.summary.tokens_out == 4
            await world.rest()

    run(test)


class Slanderer(HopNode):
    """Says of an honest neighbour, in every attempt, that it did wrong."""

    victim = "previous"

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step >= 4:
            terms = next(iter(self.service._drivers.values())).session.terms
            peer = getattr(terms, self.victim) or bytes(32)
            message = Unlinked(
                message.session, message.attempt, peer, AbortCode.BAD_DATA, "nonsense"
            )
            requester = next(iter(self.service._drivers.values()))
            self.world.nursery.start_soon(self.tell, requester, message)
            return None
        return message, body

    async def tell(self, driver, message):
        await driver._send(Side.REQUESTER, message, b"")


class Complainer(HopNode):
    """Says instead of every answer that its honest neighbour is lost."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.position >= len(PROMPT) + 4:
            driver = next(iter(self.service._drivers.values()))
            peer = driver.session.terms.next
            message = Unlinked(message.session, message.attempt, peer)
            self.world.nursery.start_soon(self.tell, driver, message)
            return None
        return message, body

    async def tell(self, driver, message):
        await driver._send(Side.REQUESTER, message, b"")


def test_who_loses_its_neighbour_again_and_again_is_replaced():
    async def test():
        async with open_world(3, {1: Complainer}, spares=[0, 1, 2]) as world:
            session = world.session(PROMPT, TOKENS)
            with trio.fail_after(100):
                events = await collect(session)
            tokens = [event.token_id for event in events]
            assert tokens == world.expect(PROMPT, TOKENS)
            retired = {hop.plan.node_name for hop in session.summary.hops[3:]}
            assert retired == {world.hops[1].name}
            assert not world.faults
            await world.rest()
            # What came again as it was is not owed.
            hop = world.hops[0]
            assert not hop.payee.standings[hop.channel_id].arrears_units

    run(test)


def test_who_accuses_everybody_goes_itself():
    async def test():
        async with open_world(3, {1: Slanderer}, spares=[0, 0, 1]) as world:
            session = world.session(PROMPT, TOKENS)
            events = await collect(session)
            tokens = [event.token_id for event in events]
            assert tokens == world.expect(PROMPT, TOKENS)
            # Its word counts once: one neighbour is replaced, then it.
            assert session.summary.recoveries == 2
            retired = {hop.plan.node_name for hop in session.summary.hops[3:]}
            assert retired == {world.hops[0].name, world.hops[1].name}
            # One's word against the other's is nobody's fault at our node.
            assert not world.faults
            await world.rest()

    run(test)


def use_spares(world):
    """Let a world without spares at the start recover, with stages that remember."""
    world.can_recover, world.stage_class = True, RunningStage
    for hop in world.hops:
        hop.stage = RunningStage(hop.index)
        hop.start_service()


# The last lap


class LapVillain(HopNode):
    """Does wrong when the answer is complete."""

    way = "swallows"

    def tamper(self, message, body):
        is_last = isinstance(message, Note) and message.receipt.first_position > 3
        if isinstance(message, Finish):
            match self.way:
                case "swallows":
                    return None
                case "dies":
                    self.kill()
                    return None
                case "aborts":
                    message = Abort(message.session, AbortCode.INTERNAL, "no", None)
                case "talks":
                    message = Unlinked(message.session, 0, bytes(32))
        elif is_last and self.way == "forges":
            return Forger.tamper(self, message, body)
        elif is_last and self.way == "signs nothing":
            return None
        return message, body


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    "way", ["swallows", "dies", "aborts", "talks", "forges", "signs nothing"]
)
def test_who_breaks_the_last_lap_harms_nobody(way, index):
    async def test():
        kind = type("Lap", (LapVillain,), {"way": way})
        async with open_world(4, {index: kind}) as world:
            session = world.session(PROMPT, 8)
            tokens = [event.token_id for event in await collect(session)]
            assert tokens == world.expect(PROMPT, 8)
            assert session.summary.finish_reason == "length"
            await world.rest()
            for hop in world.hops[:index] + world.hops[index + 1 :]:
                standing = hop.payee.standings[hop.channel_id]
                assert not standing.arrears_units
                (account,) = hop.payee.closed
                assert account.claimed_units == account.billed_units
                attested = sum(r.price_units for r in account.receipts)
                assert attested == account.billed_units
                assert hop.payee.get_paid(hop.channel_id) == UNIT_PRICE * (
                    compute_units(8)
                )
                villain = world.hops[index].key.public_key
                assert {peer for peer, _ in hop.faults} <= {villain}

    run(test)


class EarlyVillain(HopNode):
    """Does wrong while the session opens."""

    way = ""

    def tamper(self, message, body):
        if isinstance(message, Accept):
            session = message.session
            match self.way:
                case "aborts":
                    message = Abort(session, AbortCode.INTERNAL, "no", None)
                case "accuses":
                    peer = self.world.hops[0].key.public_key
                    code = AbortCode.BAD_DATA
                    message = Unlinked(session, 0, peer, code, "it does wrong")
                case "has what nobody named":
                    message = replace(message, cached=16)
                case "answers":
                    message = Data(
                        session, 0, 0, 0, 1, HIDDEN, 1, (HopTiming(0, 0),), None, None
                    )
                    body = bytes(4 * HIDDEN)
        return message, body


@pytest.mark.parametrize(
    "way", ["aborts", "accuses", "has what nobody named", "answers"]
)
@pytest.mark.parametrize("index", [1, 2])
def test_who_does_wrong_at_the_opening_is_named(way, index):
    """Nothing was computed or paid: whoever asked takes another route."""

    async def test():
        kind = type("Early", (EarlyVillain,), {"way": way})
        async with open_world(3, {index: kind}, spares=[0, 1, 2]) as world:
            session = world.session(PROMPT, 8)
            with pytest.raises(SessionError) as caught:
                await collect(session)
            assert caught.value.peer_id == world.hops[index].key.public_key
            assert not any(hop.units for hop in session.summary.hops)

    run(test)
