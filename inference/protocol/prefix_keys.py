"""
Names for beginnings: what a session may share with another one.

Theory of operation
-------------------
Only the requester knows the tokens; hops see hidden states.  So the requester names the
beginnings of its sequences, block by block, and hops compare names:

    name i = H(secret, name i-1 | tokens of block i)        the requester's
    key i  = H(client, signer, profile, layers, scope, name i)      a hop's

- The names depend on a secret of the requester, so nobody can find out by trying
  whether a sequence begins with some text.
- A hop looks only among the keys of the account and the signer that its terms name.
  Whoever lies about a name spoils what itself will read, and nobody can learn from a
  fast answer what others have asked.
- What is in a hop's pages came through the hops before it.  The scope is a hash of
  them, made by the requester, so that a hop that computes wrongly spoils nothing that
  is later read behind another one.

Equal keys mean equal tokens at equal positions, computed by the same layers in the
same precision.

Spec: docs/protocol/07-inference.md, docs/adr/0036-prefix-cache.md
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from inference.device.memory import PAGE_TOKENS
from primitives.hashing import compute_hash

MAX_PREFIX_KEYS = 256
"""Names of one sequence: 4,096 positions in 8 KiB.  What is behind is computed."""


def name_beginnings(secret: bytes, token_ids: Sequence[int]) -> tuple[bytes, ...]:
    """Return the names of a sequence's beginnings, one per full page, 32 bytes each.

    Args:
        secret: Of the requester, at most 64 bytes; none gives no names.
        token_ids: From position 0 on.
    """
    if not secret:
        return ()
    pages = min(len(token_ids) // PAGE_TOKENS, MAX_PREFIX_KEYS)
    names = []
    name = b""
    for page in range(pages):
        block = token_ids[page * PAGE_TOKENS : (page + 1) * PAGE_TOKENS]
        hashed = blake2b(name, digest_size=32, key=secret, person=b"prefix-name")
        hashed.update(b"".join(token.to_bytes(4, "big") for token in block))
        name = hashed.digest()
        names.append(name)
    return tuple(names)


def name_scope(secret: bytes, before: Iterable[tuple[bytes, bytes, int, int]]) -> bytes:
    """Return what a hop's names are valid behind.

    Args:
        secret: Of the requester.
        before: Node key, profile and layers of the hops before it, in order.
    """
    hashed = blake2b(digest_size=32, key=secret, person=b"prefix-scope")
    for node_key, profile, start, end in before:
        hashed.update(node_key + profile + start.to_bytes(2, "big"))
        hashed.update(end.to_bytes(2, "big"))
    return hashed.digest()


def derive_secret(secret: bytes, salt: str) -> bytes:
    """Return the secret of those who share a salt; another one shares nothing."""
    return compute_hash("prefix-salt", secret, salt.encode()) if salt else secret
