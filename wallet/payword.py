"""
PayWord: a hash chain whose links are worth one unit each.

    seed = x_N --H--> x_(N-1) --H--> ... --H--> x_1 --H--> x_0 = root

The payer signs the root once and then releases x_1, x_2, ... one by one; who holds x_k
holds k units, because nobody can walk the arrows backwards.

Spec: docs/protocol/05-channels.md; Rivest and Shamir, PayWord and MicroMint, 1996
"""

from dataclasses import dataclass, field

from chain.records.channel import MAX_UNITS
from primitives.hashing import compute_hash

_WORD = 32


@dataclass(frozen=True, slots=True)
class PayWordChain:
    """All links of one chain: 33 kB at most, made once in about a millisecond."""

    units: int
    """Links that can be released."""
    _words: bytes = field(repr=False)
    """x_0, x_1, ..., x_N without gaps."""

    @classmethod
    def from_seed(cls, seed: bytes, units: int) -> "PayWordChain":
        """Return the chain of `units` links whose last word is `seed`."""
        assert 0 <= units <= MAX_UNITS
        words = [seed]
        for _ in range(units):
            words.append(compute_hash("payword", words[-1]))
        words.reverse()
        return cls(units, b"".join(words))

    @property
    def root(self) -> bytes:
        """What the voucher names."""
        return self.get_preimage(0)

    def get_preimage(self, used: int) -> bytes:
        """Return x with H^used(x) = root; releasing it pays `used` units in all."""
        assert 0 <= used <= self.units
        return self._words[used * _WORD : (used + 1) * _WORD]
