"""
Parameters: from JSON values or query strings to what the code works with.

Every kind accepts its JSON form and the same as text, so that a call by POST and a
read by GET share one table.  The JSON Schema beside each kind goes into the OpenRPC
document.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from p2pchain.api.errors import InvalidParams
from primitives.address import decode_address
from primitives.errors import DecodeError

Json = dict[str, Any]

MAX_U63 = 2**63 - 1
MAX_TEXT_CHARS = 256
REQUIRED = object()
"""Default of a parameter that must be given."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of parameter is read and described."""

    parse: Callable[[Any], Any]
    """Raises ValueError with what was expected."""
    schema: Json


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a method."""

    name: str
    kind: Kind
    summary: str
    default: Any = REQUIRED

    @property
    def is_required(self) -> bool:
        """True when there is no default."""
        return self.default is REQUIRED

    def read(self, value: Any) -> Any:
        """Return the parsed value.

        Raises:
            InvalidParams: Names the parameter and what was expected.
        """
        try:
            return self.kind.parse(value)
        except (ValueError, DecodeError) as error:
            raise InvalidParams(f"{self.name}: {error}", param=self.name) from error


def bind(params: tuple[Param, ...], given: list[Any] | Json) -> Json:
    """Return the arguments of a method by name, defaults filled in.

    Args:
        params: What the method takes.
        given: By position or by name, unparsed.

    Raises:
        InvalidParams: Too many, unknown, missing or malformed.
    """
    if isinstance(given, list):
        if len(given) > len(params):
            raise InvalidParams(f"{len(given)} parameters, at most {len(params)} taken")
        given = {p.name: v for p, v in zip(params, given, strict=False)}
    known = {param.name for param in params}
    if unknown := sorted(given.keys() - known):
        names = ", ".join(sorted(known)) or "none"
        raise InvalidParams(
            f"unknown parameter {unknown[0][:64]!r}; known: {names}",
            param=unknown[0][:64],
        )
    bound = {}
    for param in params:
        value = given.get(param.name)
        if value is not None:
            bound[param.name] = param.read(value)
        elif param.is_required:
            raise InvalidParams(f"{param.name} is missing", param=param.name)
        else:
            bound[param.name] = param.default
    return bound


def parse_integer(value: Any, most: int = MAX_U63) -> int:
    """Return a non-negative integer given as number or decimal string."""
    # At most twenty digits are looked at, so a megabyte of them costs nothing.
    if isinstance(value, str) and len(value) <= 20 and value.isascii():
        value = int(value) if value.isdecimal() else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"expected an integer from 0 to {most}")
    return value


def parse_bytes(value: Any, length: int | None = None) -> bytes:
    """Return bytes given as hex, with or without 0x."""
    if isinstance(value, str):
        digits = value.removeprefix("0x").removeprefix("0X")
        if not digits or (digits.isascii() and digits.isalnum()):
            try:
                data = bytes.fromhex(digits)
            except ValueError:
                pass
            else:
                if length is None or len(data) == length:
                    return data
    wanted = "hex" if length is None else f"{length} bytes in hex"
    raise ValueError(f"expected {wanted} with 0x")


def parse_text(value: Any) -> str:
    """Return a short text."""
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT_CHARS:
        raise ValueError(f"expected text of at most {MAX_TEXT_CHARS} characters")
    return value


def parse_account(value: Any) -> bytes:
    """Return the public key that a bech32m address names."""
    if not isinstance(value, str):
        raise ValueError("expected an address, p2p1...")
    return decode_address(value)


def parse_flag(value: Any) -> bool:
    """Return a boolean given as such or as text."""
    if isinstance(value, bool):
        return value
    if value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise ValueError("expected true or false")


def parse_amount_or_all(value: Any) -> int | None:
    """Return atoms, or None for the word `all`."""
    if value == "all":
        return None
    try:
        return parse_integer(value)
    except ValueError as error:
        raise ValueError(f"{error}, or all") from None


def parse_block_reference(value: Any) -> int | bytes:
    """Return a height, or a block hash."""
    if isinstance(value, str) and len(value.removeprefix("0x")) == 64:
        return parse_bytes(value, 32)
    try:
        return parse_integer(value)
    except ValueError:
        raise ValueError("expected a height or a block hash") from None


_INTEGER_SCHEMA = {"type": ["string", "integer"], "pattern": "^[0-9]{1,19}$"}
_HASH_SCHEMA = {"type": "string", "pattern": "^0x[0-9a-f]{64}$"}

HEIGHT = Kind(parse_integer, _INTEGER_SCHEMA | {"title": "height"})
EPOCH = Kind(
    lambda value: parse_integer(value, 2**32 - 1),
    {"type": ["integer", "string"], "minimum": 0, "maximum": 2**32 - 1},
)
AMOUNT = Kind(parse_integer, _INTEGER_SCHEMA | {"title": "atoms"})
AMOUNT_OR_ALL = Kind(
    parse_amount_or_all,
    {"anyOf": [_INTEGER_SCHEMA, {"const": "all"}], "title": "atoms"},
)
SHARD = Kind(
    lambda value: parse_integer(value, 2**16 - 1),
    {"type": ["integer", "string"], "minimum": 0, "maximum": 2**16 - 1},
)
LAYER = SHARD
"""A layer's number has as many bits."""
COUNT = Kind(
    lambda value: parse_integer(value, 2**32 - 1),
    {"type": ["integer", "string"], "minimum": 0, "maximum": 2**32 - 1},
)
LIMIT = Kind(
    lambda value: min(100, max(1, parse_integer(value))),
    {"type": ["integer", "string"], "minimum": 1, "maximum": 100},
)
HASH = Kind(lambda value: parse_bytes(value, 32), _HASH_SCHEMA)
BYTES = Kind(parse_bytes, {"type": "string", "pattern": "^0x([0-9a-f]{2})*$"})
ADDRESS = Kind(parse_account, {"type": "string", "pattern": "^p2p1[02-9ac-hj-np-z]+$"})
TEXT = Kind(parse_text, {"type": "string", "maxLength": MAX_TEXT_CHARS})
FLAG = Kind(parse_flag, {"type": "boolean"})
BLOCK = Kind(
    parse_block_reference, {"anyOf": [_INTEGER_SCHEMA, _HASH_SCHEMA], "title": "block"}
)
