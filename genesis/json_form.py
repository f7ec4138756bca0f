"""
Records as JSON for people, and back.

    record           object with a member per field, in wire order, none missing
    tuple            array
    integer          number; a decimal string where more than 53 bits are allowed
    bytes            0x and lower-case hex
    account address  bech32m

The form is exact: what is read back encodes to the same bytes, and anything else, an
unknown member too, is refused with the path to it.
"""

from typing import Any

import msgspec

from genesis.errors import CorruptGenesis
from primitives.address import decode_address, encode_address
from primitives.codec import Record
from primitives.errors import DecodeError

ADDRESS_FIELDS = frozenset({"account", "address"})
"""Fields of 32 bytes that name an account."""

_MAX_JSON_NUMBER = 2**53
"""Larger ones lose digits in JSON readers that use floating point."""


def to_json(value: Any, field: str = "") -> Any:
    """Return the JSON form of a record, or of a field's value."""
    return _render(msgspec.inspect.type_info(type(value)), value, field)


def from_json(kind: type[Record], data: Any) -> Any:
    """Return the record of type `kind` whose JSON form `data` is.

    Raises:
        CorruptGenesis: It is not; the message names the place.
    """
    value = _parse(msgspec.inspect.type_info(kind), data, "", "genesis")
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise CorruptGenesis(str(error)) from error


def _render(info: Any, value: Any, field: str) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return {
                member.name: _render(
                    member.type, getattr(value, member.name), member.name
                )
                for member in info.fields
            }
        case msgspec.inspect.VarTupleType():
            return [_render(info.item_type, item, field) for item in value]
        case msgspec.inspect.BytesType():
            if field in ADDRESS_FIELDS:
                return encode_address(value)
            return "0x" + value.hex()
        case msgspec.inspect.IntType():
            return str(value) if _is_wide(info) else value
        case _:
            return value


def _parse(info: Any, data: Any, field: str, path: str) -> Any:
    """Return plain lists, ints, strs and bytes that `msgspec.convert` takes."""
    match info:
        case msgspec.inspect.StructType():
            return _parse_object(info, data, path)
        case msgspec.inspect.VarTupleType():
            if not isinstance(data, list):
                raise CorruptGenesis(f"{path}: not a list")
            return [
                _parse(info.item_type, item, field, f"{path}[{i}]")
                for i, item in enumerate(data)
            ]
        case msgspec.inspect.BytesType():
            return _parse_bytes(data, field, path)
        case msgspec.inspect.IntType():
            return _parse_int(info, data, path)
        case _:
            return data


def _parse_object(info: Any, data: Any, path: str) -> list[Any]:
    if not isinstance(data, dict):
        raise CorruptGenesis(f"{path}: not an object")
    names = [member.name for member in info.fields]
    for name in data:
        if name not in names:
            raise CorruptGenesis(f"{path}.{name}: no such member")
    values = []
    for member in info.fields:
        place = f"{path}.{member.name}"
        if member.name not in data:
            raise CorruptGenesis(f"{place}: missing")
        values.append(_parse(member.type, data[member.name], member.name, place))
    return values


def _parse_bytes(data: Any, field: str, path: str) -> bytes:
    if not isinstance(data, str):
        raise CorruptGenesis(f"{path}: not a string")
    try:
        if field in ADDRESS_FIELDS:
            return decode_address(data)
        if not data.startswith("0x") or data != data.lower():
            raise CorruptGenesis(f"{path}: not 0x and lower-case hex")
        return bytes.fromhex(data[2:])
    except (DecodeError, ValueError) as error:
        raise CorruptGenesis(f"{path}: {error}") from error


def _parse_int(info: Any, data: Any, path: str) -> int:
    if not _is_wide(info):
        if isinstance(data, bool) or not isinstance(data, int):
            raise CorruptGenesis(f"{path}: not an integer")
        return data
    if not isinstance(data, str) or not data.isdecimal() or str(int(data)) != data:
        raise CorruptGenesis(f"{path}: not a decimal string")
    return int(data)


def _is_wide(info: Any) -> bool:
    return info.le is None or info.le > _MAX_JSON_NUMBER
