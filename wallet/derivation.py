"""
From one seed to every key: SLIP-10 for Ed25519, EIP-2333 for BLS12-381.

    seed --SLIP-10--> m / 44' / COIN' / account'             account key
                      m / 44' / COIN' / account' / 1'        node key (network identity)
         --EIP-2333-> m / 12381 / COIN / validator / 0 / 0   validator key

Ed25519 has only hardened children; every EIP-2333 child is hardened by construction.
So a child that leaks does not give its parent or its siblings away.

Spec: SLIP-0010, EIP-2333, EIP-2334
"""

import hashlib
import hmac

from primitives.keys import SecretKey
from wallet.errors import InvalidPath

COIN = 0x703270
"""The letters "p2p"; not taken in SLIP-44, so no other coin derives our keys."""
HARDENED = 1 << 31
MIN_SEED_BYTES = 32
"""EIP-2333 refuses less; BIP-39 seeds have 64."""
CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
"""Order r of the BLS12-381 groups."""
_LAMPORT_CHUNKS = 255
MAX_DEPTH = 16
"""Longest path we follow; ours have five steps."""


def get_account_path(account: int) -> str:
    """Return the path of account number `account`."""
    return f"m/44'/{COIN}'/{account}'"


def get_node_path(account: int) -> str:
    """Return the path of the network identity beside account number `account`."""
    return f"m/44'/{COIN}'/{account}'/1'"


def get_validator_path(validator: int) -> str:
    """Return the path of validator number `validator`'s BLS key."""
    return f"m/12381/{COIN}/{validator}/0/0"


def derive_account_key(seed: bytes, account: int = 0) -> SecretKey:
    """Return account number `account`."""
    return derive_ed25519(seed, get_account_path(account))


def derive_node_key(seed: bytes, account: int = 0) -> SecretKey:
    """Return the network identity beside account number `account`."""
    return derive_ed25519(seed, get_node_path(account))


def derive_validator_secret(seed: bytes, validator: int = 0) -> bytes:
    """Return validator number `validator`'s BLS secret, 32 bytes big-endian."""
    return derive_bls(seed, get_validator_path(validator))


def derive_ed25519(seed: bytes, path: str) -> SecretKey:
    """Return the SLIP-10 Ed25519 key at `path`.

    Raises:
        InvalidPath: Malformed, or a step that is not hardened.
    """
    node = _hmac512(b"ed25519 seed", seed)
    for index in parse_path(path):
        if index < HARDENED:
            raise InvalidPath(f"{path}: Ed25519 keys have hardened children only (')")
        data = b"\0" + node[:32] + index.to_bytes(4, "big")
        node = _hmac512(node[32:], data)
    return SecretKey(node[:32])


def derive_bls(seed: bytes, path: str) -> bytes:
    """Return the EIP-2333 secret at `path`, 32 bytes big-endian.

    Raises:
        InvalidPath: Malformed, a hardened step, or a seed shorter than 32 bytes.
    """
    if len(seed) < MIN_SEED_BYTES:
        raise InvalidPath(f"a seed of {len(seed)} bytes, at least 32 are needed")
    secret = _hkdf_mod_r(seed)
    for index in parse_path(path):
        if "'" in path:
            raise InvalidPath(f"{path}: EIP-2333 knows no hardened marks (')")
        secret = _hkdf_mod_r(_compute_lamport_key(secret, index))
    return secret.to_bytes(32, "big")


def parse_path(path: str) -> tuple[int, ...]:
    """Return the steps of "m/44'/0'/7" as 32-bit numbers, hardened ones with bit 31.

    Raises:
        InvalidPath: Not such a path.
    """
    root, *steps = path.split("/")
    if root != "m" or len(steps) > MAX_DEPTH:
        raise InvalidPath(f"{path[:80]!r} is not a path of at most {MAX_DEPTH} steps")
    return tuple(_parse_step(path, step) for step in steps)


def _parse_step(path: str, step: str) -> int:
    digits = step.removesuffix("'")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10):
        raise InvalidPath(f"{path[:80]!r} has a step that is not a number")
    # EIP-2333 counts to 2^32; with a mark only 31 bits are left for the number.
    bound = HARDENED if step != digits else 2 * HARDENED
    if int(digits) >= bound:
        raise InvalidPath(f"{path[:80]!r} has a step of more than 32 bits")
    return int(digits) + (HARDENED if step != digits else 0)


def _compute_lamport_key(parent: int, index: int) -> bytes:
    """EIP-2333 parent_SK_to_lamport_PK: the compressed one-time key of a child."""
    salt = index.to_bytes(4, "big")
    ikm = parent.to_bytes(32, "big")
    flipped = bytes(byte ^ 0xFF for byte in ikm)
    chunks = _expand_lamport(ikm, salt) + _expand_lamport(flipped, salt)
    return _sha256(b"".join(_sha256(chunk) for chunk in chunks))


def _expand_lamport(ikm: bytes, salt: bytes) -> list[bytes]:
    okm = _hkdf_expand(_hkdf_extract(salt, ikm), b"", 32 * _LAMPORT_CHUNKS)
    return [okm[i : i + 32] for i in range(0, len(okm), 32)]


def _hkdf_mod_r(ikm: bytes) -> int:
    """EIP-2333 hkdf_mod_r with an empty key_info: a secret that is never zero."""
    salt = b"BLS-SIG-KEYGEN-SALT-"
    secret = 0
    while secret == 0:
        salt = _sha256(salt)
        prk = _hkdf_extract(salt, ikm + b"\0")
        okm = _hkdf_expand(prk, (48).to_bytes(2, "big"), 48)
        secret = int.from_bytes(okm, "big") % CURVE_ORDER
    return secret


def _hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, ikm, "sha256")


def _hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 expand; `length` stays below its limit of 255 blocks."""
    okm = block = b""
    counter = 0
    while len(okm) < length:
        counter += 1
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        okm += block
    return okm[:length]


def _hmac512(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha512")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
