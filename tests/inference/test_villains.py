"""Hops that lie, each by its own class: what they gain, and who finds out."""

import msgspec
import numpy as np
import pytest
import trio
from session_world import (
    DECODE_UNITS,
    HIDDEN,
    UNIT_PRICE,
    HopNode,
    collect,
    compute_prefill_units,
    open_world,
    run,
)

from chain.records.proof import compute_receipt_message
from inference.protocol.codes import AbortCode
from inference.protocol.errors import (
    HopAborted,
    HopLost,
    ReceiptMismatch,
    SessionError,
    StepTimeout,
    WrongAnswer,
)
from inference.protocol.messages import (
    Abort,
    Accept,
    Data,
    Finish,
    HopTiming,
    Note,
    Progress,
    decode_frame,
)
from inference.session.plan import SessionTimeouts
from inference.session.watch import FIRST_PROBE_US
from primitives.types import EMPTY_HASH

PROMPT = [1, 2, 3]
PREFILL_UNITS = compute_prefill_units(3)
replace = msgspec.structs.replace


class Liar(HopNode):
    """Sends other bytes than it signs for."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.step:
            body = bytes([body[0] ^ 1]) + body[1:]
        return message, body


class NanSender(HopNode):
    """Sends something that is not a number."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.step:
            numbers = np.frombuffer(body, np.float32).copy()
            numbers[HIDDEN // 2] = np.nan
            body = numbers.tobytes()
        return message, body


class Cutter(HopNode):
    """Sends half an answer."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.step:
            body = body[: len(body) // 2]
        return message, body


class Skipper(HopNode):
    """Pretends that its answer is to the next step."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.step:
            message = replace(
                message, step=message.step + 1, position=message.position + 1
            )
        return message, body


class Reshaper(HopNode):
    """Calls the numbers something else."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == self.step:
            message = replace(message, dtype=2, hidden_size=2 * HIDDEN)
        return message, body


def build(kind, step):
    return type(kind.__name__, (kind,), {"step": step})


def assert_found(world, error, index):
    """The error names the villain, and whoever found out has told its node."""
    villain = world.hops[index].key.public_key
    assert isinstance(error, SessionError)
    assert error.peer_id == villain
    told = world.faults + [fault for hop in world.hops for fault in hop.faults]
    assert villain in [peer for peer, _ in told]
    honest = {hop.key.public_key for hop in world.hops} - {villain}
    assert not honest & {peer for peer, _ in told}


def assert_paid_steps(world, steps):
    """Every hop was paid for exactly so many steps."""
    units = PREFILL_UNITS + (steps - 1) * DECODE_UNITS if steps else 0
    assert world.get_sent() == [units * UNIT_PRICE] * 4


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("kind", [NanSender, Cutter, Skipper, Reshaper])
@pytest.mark.parametrize("step", [0, 3])
def test_wrong_answers_are_found_at_once_and_not_paid(index, kind, step):
    async def test():
        async with open_world(villains={index: build(kind, step)}) as world:
            session = world.session(PROMPT, 40)
            with pytest.raises((WrongAnswer, HopAborted)) as caught:
                await collect(session)
            if index == 3:
                assert isinstance(caught.value, WrongAnswer)
            else:
                assert caught.value.code == AbortCode.BAD_DATA
            assert_found(world, caught.value, index)
            assert session.summary.tokens_out == step
            await world.rest()
            assert_paid_steps(world, step)

    run(test)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("step", [0, 7, 16, 20])
def test_liar_is_found_when_the_range_closes(index, step):
    """Nobody signs for bytes that did not come, and the range's last step is free."""

    async def test():
        async with open_world(villains={index: build(Liar, step)}) as world:
            session = world.session(PROMPT, 40)
            with pytest.raises((ReceiptMismatch, HopAborted)) as caught:
                await collect(session)
            if index == 3:
                assert isinstance(caught.value, ReceiptMismatch)
            else:
                assert caught.value.code == AbortCode.BAD_RECEIPT
            assert_found(world, caught.value, index)
            await world.rest()
            closing = 0 if step == 0 else 16 if step <= 16 else 32
            assert_paid_steps(world, closing)
            # The hop after the liar names it as predecessor for no part of the range,
            # and has not computed the step that closes it.
            for hop in world.hops[index + 1 :][:1]:
                linked = [r for r in hop.published if r.previous_hop != EMPTY_HASH]
                covered = sum(receipt.tokens for receipt in linked)
                assert covered == (0 if closing == 0 else 3 + closing - 16)
                assert hop.stage.forwards == closing

    run(test)


def test_lie_in_the_last_range_leaves_the_last_step_unpaid():
    async def test():
        async with open_world(villains={3: build(Liar, 3)}) as world:
            session = world.session(PROMPT, 6)
            assert len(await collect(session)) == 6
            fault = session.summary.fault
            assert isinstance(fault, ReceiptMismatch)
            assert_found(world, fault, 3)
            await world.rest()
            units = PREFILL_UNITS + 5 * DECODE_UNITS
            assert world.get_sent()[:3] == [units * UNIT_PRICE] * 3
            assert world.get_sent()[3] == (units - DECODE_UNITS) * UNIT_PRICE

    run(test)


# Receipts


class ReceiptForger(HopNode):
    """Signs receipts that say something else, to the requester only."""

    change = staticmethod(lambda receipt: {})
    sign_again = True

    def tamper(self, message, body):
        if isinstance(message, Note):
            receipt = replace(message.receipt, **self.change(message.receipt))
            if self.sign_again:
                signature = self.key.sign(compute_receipt_message(receipt))
                receipt = replace(receipt, signature=signature)
            message = Note(receipt)
        return message, body


CHANGES = {
    "price": lambda r: {"price_units": r.price_units + 1},
    "tokens": lambda r: {"tokens": r.tokens + 1},
    "position": lambda r: {"first_position": r.first_position + 1},
    "input": lambda r: {"in_hash": bytes(32)},
    "output": lambda r: {"out_hash": bytes(32)},
    "history": lambda r: {"history_root": bytes(32)},
    "predecessor": lambda r: {"previous_hop": bytes(32)},
    "own trail": lambda r: {"previous_own": b"\1" * 32},
    "client": lambda r: {"client": bytes(32)},
    "session": lambda r: {"session": bytes(32)},
    "channel": lambda r: {"channel_id": bytes(32)},
    "layers": lambda r: {"end": r.end + 1},
    "profile": lambda r: {"profile": bytes(32)},
    "chain": lambda r: {"chain_id": bytes(32)},
    "node": lambda r: {"node": bytes(32)},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("index", [0, 2, 3])
def test_forged_receipts_are_not_paid(name, index):
    change = staticmethod(CHANGES[name])
    kind = type("ReceiptForger", (ReceiptForger,), {"change": change})

    async def test():
        async with open_world(villains={index: kind}) as world:
            with pytest.raises(ReceiptMismatch) as caught:
                await collect(world.session(PROMPT))
            # A forged out_hash may as well be the next hop's forged in_hash, but
            # that one has held its predecessor's real receipt against its input.
            if name != "output" or index == 3:
                assert_found(world, caught.value, index)
            await world.rest()
            assert_paid_steps(world, 0)

    run(test)


def test_receipt_with_a_broken_signature():
    kind = type("ReceiptForger", (ReceiptForger,), {"sign_again": False})
    kind.change = staticmethod(lambda receipt: {"expires_height": 7})

    async def test():
        async with open_world(villains={1: kind}) as world:
            with pytest.raises(ReceiptMismatch, match="signature"):
                await collect(world.session(PROMPT))
            await world.rest()
            assert_paid_steps(world, 0)

    run(test)


def test_missing_receipt_is_not_paid():
    class Secretive(HopNode):
        """Never shows its receipts to the requester."""

        def tamper(self, message, body):
            return None if isinstance(message, Note) else (message, body)

    async def test():
        async with open_world(villains={1: Secretive}) as world:
            with pytest.raises(ReceiptMismatch, match="no receipt from hop1") as caught:
                await collect(world.session(PROMPT))
            assert_found(world, caught.value, 1)
            await world.rest()
            assert_paid_steps(world, 0)

    run(test)


def test_receipt_withheld_from_the_next_hop():
    class Secretive(HopNode):
        """Never shows its receipts to the next hop."""

        def tamper(self, message, body):
            if isinstance(message, Data | Finish):
                message = replace(message, receipt=None)
            return message, body

    async def test():
        async with open_world(villains={1: Secretive}) as world:
            with pytest.raises(HopAborted) as caught:
                await collect(world.session(PROMPT))
            assert caught.value.code == AbortCode.BAD_RECEIPT
            assert_found(world, caught.value, 1)

    run(test)


# Silence


def test_hop_that_falls_silent_is_lost():
    class Silent(HopNode):
        """Says nothing any more after some steps."""

        def tamper(self, message, body):
            if isinstance(message, Data) and message.step == 4:
                self.is_silent = True
            is_silent = getattr(self, "is_silent", False)
            return None if is_silent else (message, body)

    async def test():
        async with open_world(villains={2: Silent}) as world:
            started = trio.current_time()
            session = world.session(PROMPT, 40)
            with pytest.raises(HopLost, match="hop2 does not answer") as caught:
                await collect(session)
            assert caught.value.peer_id == world.hops[2].key.public_key
            # Steps were fast, so it was asked soon.
            bound = FIRST_PROBE_US / 1_000_000 + SessionTimeouts().silence_s
            assert trio.current_time() - started == pytest.approx(bound, abs=1)
            assert session.summary.tokens_out == 4
            await world.rest()

    run(test)


@pytest.mark.parametrize("index", range(4))
def test_slow_hop_is_not_lost(index):
    async def test():
        async with open_world() as world:
            world.hops[index].stage.step_s = 20
            events = await collect(world.session(PROMPT, 4))
            assert [e.token_id for e in events] == world.expect(PROMPT, 4)
            for event in events:
                assert event.hops[index].compute_us == pytest.approx(20e6, rel=0.01)

    run(test)


def test_hop_that_is_too_slow():
    async def test():
        async with open_world() as world:
            world.hops[1].stage.step_s = 55
            timeouts = SessionTimeouts(step_s=30)
            with pytest.raises(StepTimeout, match="too long at hop1") as caught:
                await collect(world.session(PROMPT, timeouts=timeouts))
            assert caught.value.peer_id == world.hops[1].key.public_key
            await world.rest()
            assert_paid_steps(world, 0)

    run(test)


def test_stage_that_hangs():
    async def test():
        async with open_world() as world:
            world.hops[1].stage.step_s = 10_000
            timeouts = SessionTimeouts(step_s=1000)
            with pytest.raises(HopAborted, match="the stage does not answer") as caught:
                await collect(world.session(PROMPT, timeouts=timeouts))
            assert caught.value.code == AbortCode.TIMEOUT
            assert caught.value.peer_id == world.hops[1].key.public_key
            await world.rest()

    run(test)


def test_session_that_is_left_idle_is_ended_by_the_hops():
    async def test():
        async with open_world() as world:

            async def choose(session_id, hidden, tokens, drafts, wanted):
                await trio.sleep_forever()

            world.worker.choose = choose
            timeouts = SessionTimeouts(worker_s=1000)
            with pytest.raises(HopAborted, match="no step for too long"):
                await collect(world.session(PROMPT, timeouts=timeouts))
            await world.rest()

    run(test)


# Stale, repeated and senseless messages


def test_repeated_and_stale_messages_change_nothing():
    class Stutterer(HopNode):
        """Sends every data message twice, and the one before once more."""

        def __init__(self, world, index):
            super().__init__(world, index)
            self.past = {}

        async def serve(self, stream, protocol):
            self.double(stream)
            await super().serve(stream, protocol)

        def double(self, stream):
            send = stream.send

            async def send_twice(frame):
                await send(frame)
                if isinstance(decode_frame(frame)[0], Data):
                    await send(frame)
                    await send(self.past.get(id(stream), frame))
                    self.past[id(stream)] = frame

            stream.send = send_twice

    async def test():
        async with open_world(villains={3: Stutterer}) as world:
            dialer = world.hops[1].service._ports.dialer
            open_stream = dialer.open_stream

            async def open_doubled(peer_id, protocol):
                stream = await open_stream(peer_id, protocol)
                Stutterer.double(world.hops[3], stream)
                return stream

            dialer.open_stream = open_doubled
            session = world.session(PROMPT, 20)
            events = await collect(session)
            assert [e.token_id for e in events] == world.expect(PROMPT, 20)
            await world.rest()
            assert world.get_paid() == world.get_sent()
            assert not world.faults

    run(test)


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize(
    "message",
    [
        Accept(bytes(32), 0),
        Abort(bytes(32), 1, "of another session", None),
        Progress(bytes(32), 0, 1, 0),
        Finish(bytes(32), 0, 0, None, None),
    ],
)
def test_messages_of_another_session(index, message):
    class Confused(HopNode):
        """Answers a session with another one's messages."""

        def tamper(self, sent, body):
            return (message, b"") if isinstance(sent, Note) else (sent, body)

    async def test():
        async with open_world(villains={index: Confused}) as world:
            with pytest.raises(HopLost, match="out of place") as caught:
                await collect(world.session(PROMPT))
            assert_found(world, caught.value, index)
            await world.rest()

    run(test)


def test_wrong_number_of_timings():
    class Chatterbox(HopNode):
        """Reports more hops than there are."""

        def tamper(self, message, body):
            if isinstance(message, Data):
                timings = (*message.timings, HopTiming(1, 1))
                message = replace(message, timings=timings)
            return message, body

    async def test():
        async with open_world(villains={3: Chatterbox}) as world:
            with pytest.raises(WrongAnswer, match="went through 5 hops"):
                await collect(world.session(PROMPT))

    run(test)
