"""
Allowances: how much each of many may have in the long run, and how much at once.

A bucket per name fills at a steady rate and holds so much at most; who asks takes out
of it, or is refused.  A name that was not seen before has a full bucket, so what is
remembered can be bounded: names that were forgotten are as good as new ones, and those
cost nothing either.

Pure: time comes with the question.
"""

from collections import OrderedDict

MAX_NAMES = 1024
"""Whose buckets are remembered; many times what is connected at once."""


class Allowances:
    """Buckets by name.

    Args:
        per_s: What flows into each per second.
        burst: What each holds.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        """What was left, and when, in microseconds."""

    def __len__(self) -> int:
        return len(self._left)

    def take(self, name: bytes, amount: float, now_us: int) -> bool:
        """Take something out of a bucket; False, and nothing, where it has less.

        Args:
            name: Whose bucket.
            amount: At most the burst, or it is never there.
            now_us: Never earlier than at the last call.
        """
        left, then_us = self._left.pop(name, (self._burst, now_us))
        left = min(self._burst, left + (now_us - then_us) * self._per_s / 1e6)
        is_there = amount <= left
        self._left[name] = (left - amount if is_there else left, now_us)
        if len(self._left) > MAX_NAMES:
            self._left.popitem(last=False)
        return is_there
