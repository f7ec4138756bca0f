"""
What is offered and what is asked: the numbers that a route is chosen by.

All integers: money in atoms, time in microseconds.  A hop's price depends on the tokens
of the whole request; its time is that of one decode step, the wait that a person sees
between two tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

PREFILL_TOKENS = 128
"""Longest prefill step; a longer prompt takes several steps."""
UNKNOWN_LINK_US = 150_000
"""One way between peers that nobody measured: a slow path around the world, so that
measured peers win and unknown ones are not excluded."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider's layers, prices and speed."""

    node: bytes
    """Node key: the provider's network identity."""
    start: int
    """First layer, at least 0."""
    end: int
    """One past the last layer, greater than `start`."""
    input_price: int
    """Atoms per layer and token of prefill."""
    output_price: int
    """Atoms per layer and token of decode."""
    fixed_us: int
    """Time of a step that does not depend on the layers."""
    slope_us: int
    """Time of a step per layer."""
    queue_us: int = 0
    """Expected wait before a step: queue length times service time."""
    divisible: bool = True
    """Serves any part of its range; otherwise only the whole."""

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.end
        assert min(self.input_price, self.output_price) >= 0
        assert min(self.fixed_us, self.slope_us, self.queue_us) >= 0

    @classmethod
    def from_measurement(
        cls,
        node: bytes,
        layers: tuple[int, int],
        prices: tuple[int, int],
        measured_us: int,
        *,
        queue_us: int = 0,
        divisible: bool = True,
    ) -> "Offer":
        """Return the offer of a registration, which knows one time for its range.

        Args:
            node: Node key.
            layers: The range [start, end).
            prices: Atoms per layer and token, input and output.
            measured_us: Of one decode step over the range; divided by the layers, up.
            queue_us: Expected wait before a step.
            divisible: Serves any part of its range.
        """
        start, end = layers
        slope_us = -(-measured_us // (end - start))
        return cls(
            node, start, end, *prices, 0, slope_us, queue_us, divisible=divisible
        )


@dataclass(frozen=True, slots=True)
class Link:
    """A measured way between two peers."""

    latency_us: int
    """One way: half of the round trip."""
    bytes_per_ms: int = 0
    """Bandwidth; 0 when unknown, which then costs nothing."""

    def compute_transfer_us(self, step_bytes: int) -> int:
        """Return the time for one step's activations, rounded up."""
        if self.bytes_per_ms == 0:
            return self.latency_us
        return self.latency_us + -(-step_bytes * 1000 // self.bytes_per_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants computed, and what it is worth to them."""

    layers: int
    """Layers of the model; a route covers [0, layers)."""
    input_tokens: int
    """Tokens of the prompt."""
    output_tokens: int
    """Tokens expected in the answer."""
    step_bytes: int = 0
    """Bytes of one token's activations between two hops."""
    atoms_per_ms: int = 0
    """The value of time (lambda): what a millisecond less is worth."""
    max_price_atoms: int | None = None
    """Bound for the whole request."""
    max_step_us: int | None = None
    """Bound for one decode step over the whole route."""
    client: bytes = b""
    """Node key of the requester: both ends of the route."""
    links: Mapping[tuple[bytes, bytes], Link] = field(default_factory=dict)
    """Measured ways, from and to; a pair that is absent costs `unknown_link_us`."""
    unknown_link_us: int = UNKNOWN_LINK_US

    def __post_init__(self) -> None:
        assert self.layers > 0
        assert min(self.input_tokens, self.output_tokens, self.atoms_per_ms) >= 0

    @property
    def steps(self) -> int:
        """Steps of the request: prefill in parts, then one per further token."""
        return -(-self.input_tokens // PREFILL_TOKENS) + max(0, self.output_tokens - 1)

    def compute_layer_price(self, offer: Offer) -> int:
        """Return the atoms that one layer costs for the whole request."""
        full, rest = divmod(self.input_tokens, PREFILL_TOKENS)
        # No step costs less than an output token.
        prompt = full * max(PREFILL_TOKENS * offer.input_price, offer.output_price)
        prompt += max(rest * offer.input_price, offer.output_price) if rest else 0
        return prompt + max(0, self.output_tokens - 1) * offer.output_price
