"""One table of hostile frames, sent to a hop by its neighbour, by its customer, and to
the requester: each is refused with its typed reason, and costs its sender, or is
ignored, and costs nobody."""

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from session_world import HIDDEN, HopNode, collect, open_world, run

from inference.protocol.codes import AbortCode, Activity
from inference.protocol.errors import HopAborted, HopLost, WrongAnswer
from inference.protocol.messages import (
    Abort,
    Accept,
    Data,
    Finish,
    HopTiming,
    Kept,
    Linked,
    Probe,
    Progress,
    decode_frame,
    encode_frame,
)

PROMPT = [1, 2, 3]
STEP = 3
replace = msgspec.structs.replace
BAD_DATA, PROTOCOL = AbortCode.BAD_DATA, AbortCode.PROTOCOL


@dataclass(frozen=True)
class Hostile:
    """A frame instead of the data of step 3."""

    change: object
    """Takes message and body; returns those to be sent."""
    code: int | None = BAD_DATA
    """How a hop refuses it; None where it does not listen."""
    error: type = WrongAnswer
    """How the requester does."""


def change_body(function):
    return lambda message, body: (message, function(body))


def change_data(**changes):
    return lambda message, body: (replace(message, **changes), body)


def put_number(value):
    def put(body):
        numbers = np.frombuffer(body, np.float32).copy()
        numbers[-1] = value
        return numbers.tobytes()

    return change_body(put)


def send_instead(build):
    return lambda message, body: (build(message.session), b"")


ZEROS = bytes(32)
ROW = HIDDEN * 4
FRAMES = {
    # Length
    "no body": Hostile(change_body(lambda body: b"")),
    "a byte too few": Hostile(change_body(lambda body: body[:-1])),
    "a byte too many": Hostile(change_body(lambda body: body + b"\0")),
    "two rows": Hostile(change_body(lambda body: 2 * body)),
    "more than a step ever has": Hostile(
        change_body(lambda body: bytes(1000 * ROW)), PROTOCOL, HopLost
    ),
    # Shape and dtype
    "half the width": Hostile(
        lambda m, b: (replace(m, hidden_size=HIDDEN // 2), b[: len(b) // 2])
    ),
    "another width of the same length": Hostile(
        change_data(hidden_size=2 * HIDDEN, dtype=2)
    ),
    "another dtype": Hostile(lambda m, b: (replace(m, dtype=3), b[: len(b) // 2])),
    "no such dtype": Hostile(change_data(dtype=200)),
    "no tokens": Hostile(lambda m, b: (replace(m, tokens=0), b"")),
    "more tokens than a step carries": Hostile(
        lambda m, b: (replace(m, tokens=17), 17 * b)
    ),
    # Numbers
    "not a number": Hostile(put_number(np.nan)),
    "infinity": Hostile(put_number(np.inf)),
    "minus infinity": Hostile(put_number(-np.inf)),
    # Place
    "a step ahead": Hostile(change_data(step=STEP + 1)),
    "the last step there is": Hostile(change_data(step=2**32 - 1)),
    "a position ahead": Hostile(change_data(position=6)),
    "beyond the end": Hostile(change_data(position=2**32 - 1)),
    "an attempt ahead": Hostile(change_data(attempt=1)),
    "more timings than hops": Hostile(
        change_data(timings=(HopTiming(0, 0),) * 64), BAD_DATA, WrongAnswer
    ),
    # Sessions and messages
    "another session": Hostile(change_data(session=ZEROS), PROTOCOL, HopLost),
    "a session's acceptance": Hostile(
        send_instead(lambda s: Accept(s, 0)), PROTOCOL, HopLost
    ),
    "another session's abort": Hostile(
        send_instead(lambda s: Abort(ZEROS, 1, "", None)), PROTOCOL, HopLost
    ),
    "a question": Hostile(send_instead(lambda s: Probe(s, 0)), PROTOCOL, HopLost),
    "the end, too early": Hostile(
        send_instead(lambda s: Finish(s, 0, 99, None, None)), PROTOCOL, None
    ),
}
"""By name."""

IGNORED = {
    "an old step": change_data(step=STEP - 1),
    "an old step of another place": change_data(step=0, position=77),
    "what nobody asked to be kept": send_instead(lambda s: Kept(s, 0, 0)),
    "a link that nobody asked for": send_instead(lambda s: Linked(s, 0, None)),
    "progress that nobody asked for": send_instead(
        lambda s: Progress(s, 0, Activity.DONE, 0)
    ),
}
"""To the requester, beside the honest frame: heard, and of no consequence."""


class Villain(HopNode):
    """Sends one hostile frame."""

    hostile: Hostile

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == STEP:
            return self.hostile.change(message, body)
        return message, body


def build(name):
    return type("Villain", (Villain,), {"hostile": FRAMES[name]})


@pytest.mark.parametrize("name", FRAMES)
def test_from_a_neighbour(name):
    hostile = FRAMES[name]

    async def test():
        async with open_world(2, {0: build(name)}) as world:
            villain, hop = world.hops
            session = world.session(PROMPT, 8)
            with pytest.raises(HopAborted) as caught:
                await collect(session)
            assert caught.value.code == hostile.code
            assert caught.value.peer_id == villain.key.public_key
            assert [peer for peer, _ in hop.faults] == [villain.key.public_key]
            assert hop.stage.forwards == session.summary.tokens_out == STEP
            assert not world.faults
            await world.rest()

    run(test)


@pytest.mark.parametrize("name", [n for n in FRAMES if n != "a question"])
def test_from_a_customer(name):
    hostile = FRAMES[name]

    async def test():
        async with open_world(2) as world:

            def tamper(message, body):
                if isinstance(message, Data) and message.step == STEP:
                    return hostile.change(message, body)
                return message, body

            world.tamper = tamper
            with pytest.raises((HopAborted, HopLost)) as caught:
                await collect(world.session(PROMPT, 8))
            first, second = world.hops
            assert caught.value.code == hostile.code
            assert caught.value.peer_id == first.key.public_key
            assert [peer for peer, _ in first.faults] == [world.node_key.public_key]
            assert not second.faults
            assert first.stage.forwards == STEP
            await world.rest()

    run(test)


@pytest.mark.parametrize("name", [n for n, f in FRAMES.items() if f.error])
def test_to_the_requester(name):
    hostile = FRAMES[name]

    async def test():
        async with open_world(2, {1: build(name)}) as world:
            session = world.session(PROMPT, 8)
            with pytest.raises(hostile.error) as caught:
                await collect(session)
            villain = world.hops[1].key.public_key
            assert type(caught.value) is hostile.error
            assert caught.value.peer_id == villain
            assert [peer for peer, _ in world.faults] == [villain]
            assert session.summary.tokens_out == STEP
            await world.rest()

    run(test)


@pytest.mark.parametrize("name", IGNORED)
def test_ignored_by_the_requester(name):
    change = IGNORED[name]

    class Chatterbox(HopNode):
        """Says something else before each answer."""

        async def serve(self, stream, protocol):
            send = stream.send

            async def send_more(frame):
                message, body = decode_frame(frame)
                if isinstance(message, Data) and message.step == STEP:
                    await send(encode_frame(*change(message, body)))
                await send(frame)

            stream.send = send_more
            await super().serve(stream, protocol)

    async def test():
        async with open_world(1, {0: Chatterbox}) as world:
            events = await collect(world.session(PROMPT, 8))
            tokens = [event.token_id for event in events]
            assert tokens == world.expect(PROMPT, 8)
            assert not world.faults
            await world.rest()

    run(test)
