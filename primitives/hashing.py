"""
Hashes with a purpose: BLAKE2b-256 whose person parameter names what is hashed.

Two hashes of different things never collide by accident of equal bytes, because the
tag is part of the hash function itself.  Tensors and weights use BLAKE3, which is ten
times faster on long input.
"""

from hashlib import blake2b

from blake3 import blake3

MAX_TAG_BYTES = 16
"""BLAKE2b's person parameter."""

_prototypes: dict[str, blake2b] = {}
# An untouched hash per tag; a copy costs a third of making one.  Tags are constants of
# the code, a few dozen.


def compute_hash(tag: str, *parts: bytes) -> bytes:
    """Return the 32-byte digest of the concatenated `parts` under `tag`.

    Callers pass fixed-length parts or one canonical encoding, so that concatenation
    cannot be read in two ways.
    """
    prototype = _prototypes.get(tag)
    if prototype is None:
        prototype = _add_prototype(tag)
    digest = prototype.copy()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _add_prototype(tag: str) -> blake2b:
    person = tag.encode()
    assert len(person) <= MAX_TAG_BYTES
    prototype = _prototypes[tag] = blake2b(digest_size=32, person=person)
    return prototype


def compute_blob_hash(data: bytes | memoryview) -> bytes:
    """Return the 32-byte BLAKE3 digest of a tensor's or a weight piece's bytes."""
    return blake3(data).digest()
