"""
Bytes as an enemy sends them: random, valid but damaged, nested, lying about lengths.

    @given(data=mangled(valid))             # valid: a strategy of valid encodings
    def test(data):
        judge(decode, encode, Refused, data)

    values_of(Header)                       # a strategy of records, from their types
    for data in HOSTILE.values():           # what takes memory or stack, not luck
        with bounded_memory(len(data)): ...
"""

import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

from hypothesis import reject, settings
from hypothesis import strategies as st
from msgspec import inspect

# Heads of MessagePack that promise more than follows, or nothing of the kind.
HEADS = (
    b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x9f", b"\x90", b"\xc6\xff\xff\xff\xff",
    b"\xc5\xff\xff", b"\xc4\xff", b"\xc4\x00", b"\xdb\xff\xff\xff\xff", b"\xda\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\x8f", b"\x80", b"\xc0", b"\xc1", b"\xc3", b"\xff",
    b"\x00",
    b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcd\x00\x05", b"\xcc\x05",
    b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf0" + bytes(6), b"\xc9\xff\xff\xff\xff\x01",
    b"\xd8" + bytes(17), b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff",
)  # fmt: skip

many = settings(max_examples=2 * settings().max_examples)
"""For properties that take well below a millisecond."""

DAMAGES = (
    "bit", "byte", "cut", "insert", "drop", "repeat", "head", "head", "swap", "nest"
)  # fmt: skip

MEGABYTE = 1024 * 1024

HOSTILE = {
    "deep arrays": b"\x91" * MEGABYTE,
    "deep maps": b"\x81" * MEGABYTE,
    "a long promise": b"\xdd\xff\xff\xff\xff",
    "many long promises": b"\xdd\x00\x0f\xff\xff" * (MEGABYTE // 5),
    "pairs of long promises": b"\x92" + b"\xdd\x00\x07\xff\xff" * (MEGABYTE // 5),
    "bytes without end": b"\xc6\xff\xff\xff\xff" + bytes(64),
    "empty arrays": b"\xdd\x00\x0f\xff\xfb" + b"\x90" * (MEGABYTE - 5),
    "empty bytes": b"\xdd\x00\x07\xff\xf0" + b"\xc4\x00" * (MEGABYTE // 2),
    "zeros": bytes(MEGABYTE),
    "ones": b"\xff" * MEGABYTE,
}
"""By name, what costs a careless decoder its memory or its stack."""


@st.composite
def mangled(draw: Callable[..., Any], valid: st.SearchStrategy[bytes]) -> bytes:
    """Return valid bytes after one to three damages, or bytes of no origin."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        data = _damage(draw, data, valid)
    return data


def _damage(
    draw: Callable[..., Any], data: bytes, valid: st.SearchStrategy[bytes]
) -> bytes:
    at = draw(st.integers(0, max(0, len(data) - 1)))
    # Damage near the front hits heads and lengths, which is where decoders are wrong.
    if draw(st.booleans()):
        at = min(at, draw(st.integers(0, 40)))
    rest = data[at:]
    match draw(st.sampled_from(DAMAGES)):
        case "bit":
            flipped = bytearray(data or b"\0")
            flipped[at] ^= 1 << draw(st.integers(0, 7))
            return bytes(flipped)
        case "byte":
            return data[:at] + bytes([draw(st.integers(0, 255))]) + rest[1:]
        case "cut":
            return data[:at]
        case "insert":
            return data[:at] + draw(st.binary(min_size=1, max_size=9)) + rest
        case "drop":
            return data[:at] + rest[draw(st.integers(1, 40)) :]
        case "repeat":
            length = draw(st.integers(1, 120))
            return data[:at] + rest[:length] * draw(st.integers(2, 4)) + rest[length:]
        case "head":
            head = draw(st.sampled_from(HEADS))
            return data[:at] + head + rest[draw(st.sampled_from([0, 1, len(head)])) :]
        case "swap":
            return data[:at] + draw(valid)[at:]
        case _:
            return b"\x91" * draw(st.sampled_from([1, 40, 2000])) + data


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of the values of a record class or a union of them."""
    return _build(inspect.type_info(kind))


def _build(info: Any) -> st.SearchStrategy[Any]:
    match info:
        case inspect.StructType():
            fields = {field.name: _build(field.type) for field in info.fields}
            return st.builds(partial(_make, info.cls), **fields)
        case inspect.UnionType():
            return st.one_of([_build(member) for member in info.types])
        case inspect.IntType():
            return _build_numbers(info.ge, info.le)
        case inspect.BytesType():
            low, high = _get_lengths(info)
            return st.binary(min_size=low, max_size=min(high, low + 40))
        case inspect.StrType():
            low, high = _get_lengths(info)
            return st.text(min_size=low, max_size=min(high, low + 20))
        case inspect.VarTupleType():
            low, high = _get_lengths(info)
            most = min(high, low + 2)
            items = _build(info.item_type)
            return st.lists(items, min_size=low, max_size=most).map(tuple)
        case inspect.TupleType():
            return st.tuples(*[_build(item) for item in info.item_types])
        case inspect.EnumType():
            return st.sampled_from(info.cls)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.FloatType():
            low = info.gt if info.ge is None else info.ge
            return st.floats(low, info.le, allow_nan=False)
    raise TypeError(f"no values for {info}")


def _make(kind: type, /, **fields: Any) -> Any:
    try:
        return kind(**fields)
    except ValueError:  # fields that each are right and do not fit together
        reject()


def _build_numbers(low: int | None, high: int | None) -> st.SearchStrategy[int]:
    low = -(2**63) if low is None else low
    high = 2**64 - 1 if high is None else high
    # Where the encoding changes its length, and the ends of the range.
    edges = {low, high, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32}
    near = [edge for edge in sorted(edges) if low <= edge <= high]
    return st.one_of(st.sampled_from(near), st.integers(low, min(high, low + 200)))


def _get_lengths(info: Any) -> tuple[int, int]:
    high = 2**32 if info.max_length is None else info.max_length
    return info.min_length or 0, high


def judge(
    decode: Callable[[bytes], Any],
    encode: Callable[[Any], bytes],
    error: type[Exception] | tuple[type[Exception], ...],
    data: bytes,
) -> Any:
    """Decode; the documented error or the one value of these very bytes, else fail.

    Returns:
        The value, or None when the bytes were refused.
    """
    try:
        value = decode(data)
    except error:
        return None
    assert encode(value) == data
    return value


@contextmanager
def bounded_memory(size: int, factor: int = 24, floor: int = 2 * MEGABYTE):
    """Fail when the block's peak of memory is out of proportion to its input.

    Args:
        size: Bytes of input.
        factor: What one byte may become: an object of its own takes 16 and more.
        floor: Allowed in any case.
    """
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    assert peak - before <= floor + factor * size
