"""Consensus parameters: constant for a network, part of its genesis."""

from typing import Annotated

from msgspec import Meta

from primitives.codec import Record

Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]

MAX_BACKOFF = 16
"""A view waits for up to 16 Delta: a network slower than that is not one."""


class ConsensusParams(Record):
    """The times that the rules wait for."""

    interval_ms: Milliseconds
    """I: a block's time is at least this much after its parent's."""
    delta_ms: Milliseconds
    """Delta: how long a message takes at most while the network is well."""
    build_ms: Milliseconds
    """Beta: how long building a block and verifying it take at most."""

    def compute_leader_timeout_ms(self, factor: int = 1) -> int:
        """Return t_L: from entering a view until we no longer wait for its proposal.

        Args:
            factor: Of Delta: see `compute_backoff`.
        """
        return self.interval_ms + 2 * factor * self.delta_ms + self.build_ms

    def compute_advance_timeout_ms(self, factor: int = 1) -> int:
        """Return t_A: from entering a view until we no longer wait for a certificate.

        Args:
            factor: Of Delta: see `compute_backoff`.
        """
        return self.interval_ms + 3 * factor * self.delta_ms + self.build_ms

    @property
    def rebroadcast_ms(self) -> int:
        """How often a view that is stuck says again what it said: one round trip."""
        return 2 * self.delta_ms


DEVNET = ConsensusParams(interval_ms=1000, delta_ms=500, build_ms=500)
"""One block per second, final before the next one is proposed."""


def compute_backoff(nullified: int) -> int:
    """Return the factor of Delta after that many nullified views in a row (R8)."""
    return min(1 << min(nullified, MAX_BACKOFF), MAX_BACKOFF)
