"""
Canonical bytes: one encoding per value, one value per encoding.

Records are MessagePack arrays without field names.  MessagePack alone allows several
spellings of one integer, so decoding re-encodes and compares: what is not byte for
byte what we would have written is refused.  `decode(encode(x)) == x` and
`encode(decode(b)) == b` therefore hold for everything that decodes at all.

Decoding refuses leftovers, missing or extra fields, wrong types, integers out of
their declared range, and input longer than the caller's bound.

Spec: docs/protocol/01-encoding.md
"""

from typing import Any, TypeVar, dataclass_transform

import msgspec

from primitives.errors import DecodeError

T = TypeVar("T")

MAX_DECODE_BYTES = 4 * 1024 * 1024
"""Default bound of one encoded value: a full block, the largest thing we decode."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """Base of everything that is signed, hashed, stored or sent.

    Subclasses list their fields in wire order.  Members of a union carry an integer
    `tag=`, which is encoded first.  Fields are ints with a range from
    `primitives.types`, `bytes`, `str`, `bool`, other records, or tuples of those.
    """


_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a record, union member, tuple or scalar."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes, max_bytes: int = MAX_DECODE_BYTES) -> T:
    """Return the value of type `kind` that `data` is the canonical encoding of.

    Args:
        kind: A record class or a union of tagged record classes.
        data: Untrusted bytes.
        max_bytes: Refuse longer input before looking at it.

    Raises:
        DecodeError: Anything but the one canonical encoding of a `kind`.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"{len(data)} bytes where at most {max_bytes} are allowed")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value: T = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from error
    if _encoder.encode(value) != data:
        raise DecodeError("not the canonical encoding")
    return value
