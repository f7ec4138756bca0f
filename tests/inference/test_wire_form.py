"""Hidden states in bytes of eight bits: asked for, stated, bounded in error."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from session_world import (
    HIDDEN,
    VOCABULARY,
    AffineStage,
    HopNode,
    build_sampling,
    choose,
    collect,
    embed,
    open_world,
    run,
)

from inference.protocol.activations import Dtype
from inference.protocol.codec import CODEC_OF_NAME, Codec
from inference.protocol.codes import AbortCode, RefuseCode
from inference.protocol.errors import HopAborted, HopRefused, WrongAnswer
from inference.protocol.messages import Data
from inference.protocol.wire_form import (
    BLOCK,
    PART_NUMBERS,
    WireForm,
    _read_floats,
    _write_floats,
)
from inference.session.driver import RequesterSession

PROMPT = [3, 1, 4, 1, 5]
replace = msgspec.structs.replace

dtypes = st.sampled_from(list(Dtype))
floats = st.floats(-60_000, 60_000, width=32)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 150))


def write(rows: np.ndarray, dtype: int) -> bytes:
    """Return numbers as a hop computes them, by another way than the code's."""
    if dtype == Dtype.FLOAT32:
        return rows.astype("<f4").tobytes()
    if dtype == Dtype.FLOAT16:
        return rows.astype("<f2").tobytes()
    tensor = torch.from_numpy(rows.astype(np.float32)).to(torch.bfloat16)
    return tensor.view(torch.int16).numpy().tobytes()


@given(st.data(), dtypes, shapes)
def test_every_number_is_off_by_half_a_scale_at_most(data, dtype, shape):
    tokens, hidden = shape
    size = tokens * hidden
    numbers = data.draw(st.lists(floats, min_size=size, max_size=size))
    raw = write(np.array(numbers, np.float32).reshape(shape), dtype)
    form = WireForm(hidden, dtype, Codec.INT8)
    body = form.encode(raw)
    assert len(body) == form.compute_size(tokens)
    assert form.is_finite(body)
    back = form.decode(body)
    assert len(back) == len(raw) == form.compute_raw_size(tokens)
    given_rows = _read_floats(raw, dtype).reshape(shape)
    found = _read_floats(back, dtype).reshape(shape)
    digits = {Dtype.FLOAT32: 23, Dtype.FLOAT16: 10, Dtype.BFLOAT16: 7}[dtype]
    for first in range(0, hidden, BLOCK):
        block = given_rows[:, first : first + BLOCK]
        greatest = np.abs(block).max(axis=1, keepdims=True)
        off = np.abs(found[:, first : first + BLOCK] - block)
        # And what the dtype itself rounds.
        assert (off <= greatest * (1 / 253 + 2.0**-digits) + 1e-6).all()
    # The same bytes everywhere, again and again.
    assert form.encode(raw) == body


@pytest.mark.parametrize("hidden", [1, 63, 1000, 4096, PART_NUMBERS + 1])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_parts_are_the_whole(hidden, dtype):
    """Rows know nothing of each other, however many are coded at once."""
    form = WireForm(hidden, dtype, Codec.INT8)
    tokens = max(3, 2 * PART_NUMBERS // hidden + 1) if hidden > 999 else 3
    numbers = np.random.default_rng(hidden).standard_normal(tokens * hidden)
    raw = _write_floats(numbers.astype(np.float32), dtype)
    body = form.encode(raw)
    assert len(body) == form.compute_size(tokens)
    row = form.compute_raw_size(1)
    rows = [form.encode(raw[i * row : (i + 1) * row]) for i in range(tokens)]
    assert body == b"".join(rows)
    assert form.decode(body) == b"".join(map(form.decode, rows))


def test_lossless_touches_nothing():
    form = WireForm(5, Dtype.BFLOAT16)
    raw = bytes(range(20))
    assert form.encode(raw) is raw
    assert form.decode(raw) is raw
    assert form.compute_size(2) == form.compute_raw_size(2) == 20


@pytest.mark.parametrize("dtype", list(Dtype))
def test_zeros_and_the_greatest_numbers(dtype):
    form = WireForm(3, dtype, Codec.INT8)
    greatest = {Dtype.FLOAT32: 3.4e38, Dtype.FLOAT16: 65504, Dtype.BFLOAT16: 3.38e38}
    for rows in ([0, 0, 0], [greatest[dtype], 0, -greatest[dtype]], [1e-30, 0, 0]):
        raw = write(np.array([rows], np.float32), dtype)
        body = form.encode(raw)
        assert form.is_finite(body)
        found = _read_floats(form.decode(body), dtype)
        assert np.isfinite(found).all()
        assert np.allclose(found, _read_floats(raw, dtype), rtol=0.01)


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 3e38])
def test_hostile_scales_are_no_numbers(dtype, scale):
    form = WireForm(100, dtype, Codec.INT8)
    good = np.array([0.5, 0.5], "<f4").tobytes() + bytes(100)
    bad = np.array([0.5, scale], "<f4").tobytes() + bytes(100)
    assert form.is_finite(good + good)
    assert not form.is_finite(good + bad)


@given(st.binary(min_size=2 * 8, max_size=2 * 8), dtypes)
def test_whatever_passes_decodes_to_finite_numbers(body, dtype):
    form = WireForm(4, dtype, Codec.INT8)
    if form.is_finite(body):
        assert WireForm(4, dtype).is_finite(form.decode(body))


def test_words_and_sizes():
    assert CODEC_OF_NAME == {"lossless": Codec.RAW, "int8": Codec.INT8}
    form = WireForm(4096, Dtype.BFLOAT16, Codec.INT8)
    assert form.compute_raw_size(1) / form.compute_size(1) == pytest.approx(1.88, 0.01)


# Sessions


def expect(world, count):
    """Return the answer of stages whose inputs and outputs travel in eight bits."""
    form = WireForm(HIDDEN, Dtype.FLOAT32, Codec.INT8)

    def travel(row):
        return np.frombuffer(form.round_trip(row.tobytes()), np.float32)

    tokens, answer = list(PROMPT), []
    for _ in range(count):
        row = travel(embed(len(tokens) - 1, tokens[-1:])[0])
        for hop in world.hops:
            row = travel(AffineStage(hop.index).compute(row))
        answer.append(choose(row))
        assert answer[-1] < VOCABULARY
        tokens.append(answer[-1])
    return answer


def build_session(world, tokens, codec=Codec.INT8):
    plan = dataclasses.replace(world.plan(PROMPT, tokens), codec=codec)
    return RequesterSession(world.ports, plan, build_sampling(tokens))


def test_sessions_in_eight_bits_are_paid_and_attested():
    async def test():
        async with open_world(3) as world:
            forms = set()

            def tamper(message, body):
                if isinstance(message, Data):
                    forms.add((message.codec, len(body) // message.tokens))
                return message, body

            world.tamper = tamper
            session = build_session(world, 24)
            events = await collect(session)
            assert [event.token_id for event in events] == expect(world, 24)
            assert forms == {(Codec.INT8, HIDDEN + 4)}
            assert session.summary.fault is None
            assert all(hop.receipts for hop in session.summary.hops)
            await world.rest()
            assert world.get_paid() == world.get_sent()

    run(test)


def test_a_replacement_gets_what_the_lost_one_got():
    """Bytes that were kept are sent on as they are: nothing is rounded twice."""

    async def test():
        answers = []
        for kills in (False, True):
            async with open_world(3, spares=[1]) as world:
                session = build_session(world, 24)
                seen = []

                async def emit(event, seen=seen, kills=kills, world=world):
                    seen.append(event.token_id)
                    if kills and len(seen) == 9:
                        world.hops[1].kill()

                await session.run(emit)
                assert session.summary.recoveries == kills
                answers.append(seen)
        assert answers[0] == answers[1]

    run(test)


def test_an_unknown_form_is_refused():
    async def test():
        async with open_world(1) as world:
            with pytest.raises(HopRefused, match="unknown form") as caught:
                await collect(build_session(world, 4, codec=9))
            assert caught.value.code == RefuseCode.TERMS

    run(test)


class Switcher(HopNode):
    """Falls back to another form than was agreed."""

    def tamper(self, message, body):
        if isinstance(message, Data) and message.step == 2:
            form = WireForm(HIDDEN, message.dtype, Codec.INT8)
            if message.codec == Codec.RAW:
                return replace(message, codec=Codec.INT8), form.encode(body)
            return replace(message, codec=Codec.RAW), form.decode(body)
        return message, body


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("index", [0, 1])
def test_nobody_changes_the_form_in_silence(codec, index):
    async def test():
        async with open_world(2, {index: Switcher}) as world:
            session = build_session(world, 8, codec=codec)
            with pytest.raises((HopAborted, WrongAnswer)) as caught:
                await collect(session)
            assert caught.value.peer_id == world.hops[index].key.public_key
            if index == 0:
                assert caught.value.code == AbortCode.BAD_DATA
            assert session.summary.tokens_out == 2

    run(test)
