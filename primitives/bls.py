"""
BLS signatures over BLS12-381: 48-byte public keys, 96-byte signatures.

The ciphersuite is BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_: signatures of one
message add up to one signature, which the sum of the public keys verifies.  That is
sound only if everybody proved possession of the secret key, or somebody could choose a
public key that cancels the others out; so registration verifies a proof and everything
after it may add keys freely.

This file refuses what libraries let through: the point at infinity as a public key,
encodings that are not the one canonical encoding, secrets that are 0 or not below the
group order, empty lists.  `verify*` functions return False for all of that and never
raise; `aggregate` and `validate_public_key` raise InvalidPoint.

Two backends compute the same bytes: `native` (default) and `reference`, which needs
about a second per verification and exists to be compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Literal

from primitives import bls_native
from primitives.errors import LocalError, RemoteError

ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
"""Number of elements of the groups; a secret key is in [1, ORDER)."""

SECRET_BYTES = 32
PUBLIC_KEY_BYTES = 48
SIGNATURE_BYTES = 96

_backend: ModuleType = bls_native


class InvalidPoint(RemoteError):
    """Bytes that are not the canonical encoding of a point we accept."""


class InvalidSecretKey(LocalError):
    """A secret key that is not 32 bytes in [1, ORDER)."""


def select_backend(name: Literal["native", "reference"]) -> None:
    """Choose who computes, for the whole process.

    Args:
        name: "native" for work; "reference" (py_ecc, a thousand times slower) to
            compare with.
    """
    global _backend
    _backend = import_module(f"primitives.bls_{name}")


@dataclass(frozen=True, slots=True)
class BlsSecretKey:
    """A BLS secret key; never shown by repr, never encoded by the codec.

    Raises:
        InvalidSecretKey: Not 32 big-endian bytes in [1, ORDER).
    """

    secret: bytes = field(repr=False)
    """32 bytes, big-endian."""
    public_key: bytes = field(init=False)
    """48 bytes."""

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES or not 0 < self._number < ORDER:
            raise InvalidSecretKey("a secret key is 32 bytes in [1, group order)")
        public_key = _backend.compute_public_key(self._number)
        object.__setattr__(self, "public_key", public_key)

    @property
    def _number(self) -> int:
        return int.from_bytes(self.secret, "big")

    def sign(self, message: bytes) -> bytes:
        """Return the 96-byte signature of `message`."""
        signature: bytes = _backend.sign(self._number, message)
        return signature

    def prove_possession(self, owner: bytes = b"") -> bytes:
        """Return the 96-byte proof that this secret belongs to `public_key`.

        Args:
            owner: Whoever may use the proof, so that nobody else can.
        """
        proof: bytes = _backend.prove_possession(self._number, owner)
        return proof


def validate_public_key(public_key: bytes) -> None:
    """Check that `public_key` is a point in its one encoding, and not infinity.

    Raises:
        InvalidPoint: It is not.
    """
    try:
        _backend.decode_public_key(public_key)
    except ValueError as error:
        raise InvalidPoint(str(error)) from error


def validate_signature(signature: bytes) -> None:
    """Check that `signature` is a point of the right group in its one encoding.

    Raises:
        InvalidPoint: It is not.
    """
    try:
        _backend.decode_signature(signature)
    except ValueError as error:
        raise InvalidPoint(str(error)) from error


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is `public_key`'s over `message`."""
    return fast_aggregate_verify((public_key,), message, signature)


def verify_possession(public_key: bytes, proof: bytes, owner: bytes = b"") -> bool:
    """Tell whether somebody who knows the secret of `public_key` proved it to `owner`.

    Args:
        public_key: Of any origin.
        proof: Likewise.
        owner: What `prove_possession` was given.
    """
    try:
        return bool(_backend.verify_possession(public_key, proof, owner))
    except ValueError:
        return False


def aggregate(signatures: Sequence[bytes]) -> bytes:
    """Return the 96-byte sum of `signatures`.

    Raises:
        InvalidPoint: The list is empty or one of them is not a signature.
    """
    if not signatures:
        raise InvalidPoint("nothing to aggregate")
    try:
        total: bytes = _backend.aggregate(signatures)
    except ValueError as error:
        raise InvalidPoint(str(error)) from error
    return total


def fast_aggregate_verify(
    public_keys: Sequence[bytes], message: bytes, signature: bytes
) -> bool:
    """Tell whether every one of `public_keys` signed the same `message`.

    Sound only for keys whose possession was proven.  An empty list is never valid.
    """
    if not public_keys:
        return False
    try:
        return bool(_backend.fast_aggregate_verify(public_keys, message, signature))
    except ValueError:
        return False


def aggregate_verify(
    public_keys: Sequence[bytes], messages: Sequence[bytes], signature: bytes
) -> bool:
    """Tell whether key i signed message i, for each i; empty lists never."""
    if not public_keys or len(public_keys) != len(messages):
        return False
    try:
        return bool(_backend.aggregate_verify(public_keys, messages, signature))
    except ValueError:
        return False


def verify_batch(items: Sequence[tuple[Sequence[bytes], bytes, bytes]]) -> bool:
    """Tell whether every item would pass `fast_aggregate_verify`; never for none.

    Three quarters of the cost of single checks at four items, two thirds at eight;
    says nothing about which one fails.

    An item holds iff e(keys, H(message)) = e(G1, signature), a statement in a group of
    prime order r.  What is checked is the product of all of them, each to the power of
    a weight of 128 bits.  If some item does not hold, its error has a discrete
    logarithm other than 0, and for fixed other weights at most one value of its own
    weight makes the sum of all errors 0.  Weights are drawn from the hash of all items,
    so whoever chooses items does not choose weights: each try succeeds with a
    probability of at most 2^-127.  (One weight may stay 1: an error in that item alone
    does not vanish, and with an error elsewhere the argument is about that one.)
    Points outside of the subgroups would break it; decoding refuses them.

    So two nodes agree on each item, whatever else was in their batches.

    Args:
        items: Public keys whose possession was proven, what all of them signed, and the
            sum of their signatures.
    """
    if not items or not all(public_keys for public_keys, _, _ in items):
        return False
    try:
        return bool(_backend.verify_batch(items))
    except ValueError:
        return False
