"""
Who may begin a handshake: limits on strangers by address.

Before the handshake an address is all that is known of a peer.  Addresses are shared,
so they are slowed down and never banned.  Loopback is exempt: whoever can use it is on
this machine already, and a network of many nodes on one machine shares it.
"""

from collections import Counter, OrderedDict
from ipaddress import ip_address

from network.budget import TokenBucket
from network.params import NetworkParams

FAILURES = 8
"""Handshakes that may fail in a row from one address."""
FAILURES_PER_S = 0.2
"""And how many per second in the long run."""
MAX_ADDRESSES = 4096
"""Addresses remembered."""


class Admission:
    """Counts handshakes under way and failures, per address."""

    def __init__(self, params: NetworkParams) -> None:
        self._params = params
        self._under_way: Counter[str] = Counter()
        self._failures: OrderedDict[str, TokenBucket] = OrderedDict()

    def enter(self, address: str, now: float) -> bool:
        """Tell whether a handshake may begin; if so, `leave` must follow."""
        if self._under_way.total() >= self._params.max_handshakes:
            return False
        if not is_loopback(address):
            if self._under_way[address] >= self._params.max_handshakes_per_ip:
                return False
            bucket = self._failures.get(address)
            if bucket is not None and bucket.get_level(now) < 1:
                return False
        self._under_way[address] += 1
        return True

    def leave(self, address: str, now: float, *, failed: bool) -> None:
        """A handshake ended."""
        self._under_way[address] -= 1
        if not self._under_way[address]:
            del self._under_way[address]
        if failed:
            bucket = self._failures.pop(address, None)
            if bucket is None:
                bucket = TokenBucket(FAILURES_PER_S, FAILURES)
            bucket.take(1, now)
            self._failures[address] = bucket
            if len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)


def is_loopback(address: str) -> bool:
    """Tell whether `address` is this machine's own; odd addresses are not."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
