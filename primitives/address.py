"""
Addresses for people: bech32m (BIP-350) of a version byte and an Ed25519 public key.

    p2p1...     version 0: an Ed25519 public key, 32 bytes

The checksum finds any four wrong characters; mixed case is refused.
"""

from collections.abc import Iterable

from primitives.errors import DecodeError

PREFIX = "p2p"
VERSION = 0
MAX_LENGTH = 90
"""BIP-173: beyond ninety characters the checksum's guarantee weakens."""

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32M = 0x2BC830A3


def encode_address(public_key: bytes) -> str:
    """Return the bech32m form of a 32-byte Ed25519 public key."""
    words = [VERSION, *_regroup(public_key, 8, 5, pad=True)]
    return encode_bech32m(PREFIX, words)


def decode_address(text: str) -> bytes:
    """Return the public key that `text` names.

    Raises:
        DecodeError: Wrong prefix, version, length, checksum or case.
    """
    prefix, words = decode_bech32m(text)
    if prefix != PREFIX:
        raise DecodeError(f"an address starts with {PREFIX}1, not {prefix[:16]}1")
    if not words or words[0] != VERSION:
        raise DecodeError("address of an unknown version")
    key = bytes(_regroup(words[1:], 5, 8, pad=False))
    if len(key) != 32:
        raise DecodeError(f"an address holds 32 bytes, not {len(key)}")
    return key


def encode_bech32m(prefix: str, words: list[int]) -> str:
    """Return `prefix`, separator, five-bit `words` and checksum."""
    values = _expand(prefix) + words
    polymod = _polymod([*values, 0, 0, 0, 0, 0, 0]) ^ _BECH32M
    checksum = [(polymod >> 5 * (5 - i)) & 31 for i in range(6)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in words + checksum)


def decode_bech32m(text: str) -> tuple[str, list[int]]:
    """Return prefix and five-bit words of a bech32m string.

    Raises:
        DecodeError: Not bech32m; says why.
    """
    if len(text) > MAX_LENGTH:
        raise DecodeError(f"longer than {MAX_LENGTH} characters")
    if text.lower() != text and text.upper() != text:
        raise DecodeError("upper and lower case mixed")
    text = text.lower()
    prefix, separator, data = text.rpartition("1")
    if not separator or not prefix or len(data) < 6:
        raise DecodeError("no prefix or too short")
    if any(not 33 <= ord(c) <= 126 for c in prefix):
        raise DecodeError("prefix with characters that are not printable ASCII")
    if any(c not in _ALPHABET for c in data):
        raise DecodeError("a character that is not in the bech32 alphabet")
    words = [_ALPHABET.index(c) for c in data]
    if _polymod(_expand(prefix) + words) != _BECH32M:
        raise DecodeError("checksum does not match")
    return prefix, words[:-6]


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATOR):
            checksum ^= generator if (top >> i) & 1 else 0
    return checksum


def _expand(prefix: str) -> list[int]:
    return [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]


def _regroup(data: Iterable[int], from_bits: int, to_bits: int, pad: bool) -> list[int]:
    accumulator = bits = 0
    words = []
    for value in data:
        accumulator = (accumulator << from_bits) | value
        bits += from_bits
        while bits >= to_bits:
            bits -= to_bits
            words.append((accumulator >> bits) & ((1 << to_bits) - 1))
        accumulator &= (1 << bits) - 1
    if pad and bits:
        words.append((accumulator << (to_bits - bits)) & ((1 << to_bits) - 1))
    elif not pad and (bits >= from_bits or accumulator):
        raise DecodeError("padding bits that are not zero")
    return words
