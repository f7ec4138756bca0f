"""
Places for sessions: who may hold how many, and who gives way.

Theory of operation
-------------------
An open session holds memory, a stream or two, and places that others want.  A channel
with a deposit is needed to open one, which costs a transaction, but one deposit must
not buy all places, and nothing must be worth holding for nothing:

    asking      each peer may ask so often; more is refused before its signature is
                looked at, the dearest part of a refusal
    holding     bounds per channel, per account, per peer, and in all
    newcomers   channels that have never paid a step share three quarters of the
                places, so whoever opens many new channels leaves room for payers
    idling      when all places are taken, the session that has waited longest for a
                step, and long enough, gives way; with nobody waiting it may wait for
                `HopLimits.idle_s`

Refusals are BUSY: the requester takes another provider, or comes again.

Pure: no streams, no clock, no signatures.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from inference.hop.ports import HopLimits

MAX_PEERS = 1024
"""Peers whose questions are counted; many times what is connected at once."""


class NoPlace(Exception):
    """No place for this session now; the text says why."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose session it is."""

    peer: bytes
    """Node key of the requester."""
    account: bytes
    channel: bytes


@dataclass(slots=True)
class _Place:
    holder: Holder
    has_paid: Callable[[], bool]
    """Whether its channel has ever paid a step."""


class Places:
    """The places of one provider.

    Args:
        limits: How many, for whom.
    """

    def __init__(self, limits: HopLimits) -> None:
        self._limits = limits
        self._places: dict[bytes, _Place] = {}
        self._of_peer: Counter[bytes] = Counter()
        self._of_account: Counter[bytes] = Counter()
        self._allowances: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        """By peer: questions that it may still ask, and when that was so, in us."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, session: bytes) -> bool:
        return session in self._places

    @property
    def is_full(self) -> bool:
        """Whether somebody has to give way before anybody comes."""
        return len(self._places) >= self._limits.max_sessions

    def ask(self, peer: bytes, now_us: int) -> None:
        """Count a question, before anything about it is looked at.

        Raises:
            NoPlace: The peer asks too often, or holds its share.
        """
        limits = self._limits
        allowed, asked_us = self._allowances.pop(peer, (limits.open_burst, now_us))
        allowed += (now_us - asked_us) * limits.opens_per_s / 1e6
        allowed = min(allowed, limits.open_burst)
        is_allowed = allowed >= 1
        self._allowances[peer] = (allowed - is_allowed, now_us)
        if len(self._allowances) > MAX_PEERS:
            self._allowances.popitem(last=False)
        if not is_allowed:
            raise NoPlace("too many sessions are asked for")
        self._check_peer(peer)

    def enter(
        self, session: bytes, holder: Holder, has_paid: Callable[[], bool]
    ) -> None:
        """Take a place; `leave` must follow.

        Raises:
            NoPlace: All are taken, or those that this holder may have.
        """
        limits = self._limits
        if self.is_full:
            raise NoPlace(f"{len(self)} sessions are open")
        self._check_peer(holder.peer)
        taken = self._of_account[holder.account]
        if taken >= limits.max_sessions_per_account:
            raise NoPlace(f"{taken} sessions are open for the account")
        if not has_paid():
            newcomers = sum(not place.has_paid() for place in self._places.values())
            if newcomers >= limits.max_newcomers:
                raise NoPlace(f"{newcomers} sessions that never paid are open")
        self._places[session] = _Place(holder, has_paid)
        self._of_peer[holder.peer] += 1
        self._of_account[holder.account] += 1

    def leave(self, session: bytes) -> None:
        """Give a place back; one that was given back already is no matter."""
        place = self._places.pop(session, None)
        if place is None:
            return
        for count, key in (
            (self._of_peer, place.holder.peer),
            (self._of_account, place.holder.account),
        ):
            count[key] -= 1
            if not count[key]:
                del count[key]

    def _check_peer(self, peer: bytes) -> None:
        taken = self._of_peer[peer]
        if taken >= self._limits.max_sessions_per_peer:
            raise NoPlace(f"{taken} sessions of this peer are open")
