"""
Numbers and byte strings with names.

Heights, views and amounts are plain integers on the wire, bounded to 64 bits by the
codec; the aliases say what an integer means and let the decoder check its range.
"""

from typing import Annotated

from msgspec import Meta

U8 = Annotated[int, Meta(ge=0, le=2**8 - 1)]
U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""Sixty-three bits: sums of two never leave 64, and every language can hold it."""

Hash32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A BLAKE2b-256 or BLAKE3 digest."""
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""An Ed25519 public key."""
Address = PublicKey
"""An account is named by its Ed25519 public key; shown to people as bech32m."""
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
"""An Ed25519 signature."""
BlsPublicKey = Annotated[bytes, Meta(min_length=48, max_length=48)]
"""A compressed G1 point."""
BlsSignature = Annotated[bytes, Meta(min_length=96, max_length=96)]
"""A compressed G2 point."""

Amount = U63
"""Money in atoms, the smallest unit."""
Height = U63
"""Number of a block in the chain; genesis is 0."""
View = U63
"""One attempt to agree on a block; restarts at 1 in every epoch."""
Epoch = U32
Nonce = U63
"""A sender's transaction counter in one shard."""
ShardId = U16
"""0 is the root shard."""
TimeMs = U63
"""Milliseconds since the Unix epoch."""

EMPTY_HASH = bytes(32)
"""Stands for "no predecessor"; no digest of data is ever all zeros in practice."""

ATOMS_PER_COIN = 10**9
"""One coin (P2P) in atoms."""
