"""
Places for sessions: who may hold how many, and who gives way.

Theory of operation
-------------------
An open session holds memory, a stream or two, and places that others want.  A channel
with a deposit is needed to open one, which costs a transaction, but one deposit must
not buy all places, and nothing must be worth holding for nothing:

    asking      each peer may ask so often; more is refused before its signature is
                looked at, the dearest part of a refusal
    holding     nobody takes a place who holds as many as are free: an account alone
                has half of all, n accounts that want all they can get have a part of
                n + 1 each, and one part is free for whoever comes next; the same for
                peers, of which one may serve several accounts
    newcomers   channels that have never paid a step share three quarters of the
                places, so whoever opens many new channels leaves room for payers
    idling      when all places are taken, the session that has waited longest for a
                step, and long enough, gives way; with nobody waiting it may wait for
                `HopLimits.idle_s`

So a place is free until there are as many accounts as places.  What sessions hold of
the stage is its memory's affair, which is admitted by a formula of its own.

Refusals are BUSY: the requester takes another provider, or comes again.

Pure: no streams, no clock, no signatures.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from inference.hop.allowances import Allowances
from inference.hop.ports import HopLimits


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
        self._questions = Allowances(limits.opens_per_s, limits.open_burst)
        """By peer."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, session: bytes) -> bool:
        return session in self._places

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self._limits.max_sessions - len(self._places)

    @property
    def is_full(self) -> bool:
        """Whether somebody has to give way before anybody comes."""
        return self.free <= 0

    def may_displace(self, holder: Holder) -> bool:
        """Tell whether somebody may give way to this holder: it has no place yet."""
        has_place = self._of_peer[holder.peer] or self._of_account[holder.account]
        return self.is_full and not has_place

    def ask(self, peer: bytes, now_us: int) -> None:
        """Count a question, before anything about it is looked at.

        Raises:
            NoPlace: The peer asks too often, or holds its share.
        """
        if not self._questions.take(peer, 1, now_us):
            raise NoPlace("too many sessions are asked for")
        if not self.is_full:
            self._check_share("peer", self._of_peer[peer])

    def enter(
        self, session: bytes, holder: Holder, has_paid: Callable[[], bool]
    ) -> None:
        """Take a place; `leave` must follow.

        Raises:
            NoPlace: All are taken, or those that this holder may have.
        """
        if self.is_full:
            raise NoPlace(f"{len(self)} sessions are open")
        self._check_share("peer", self._of_peer[holder.peer])
        self._check_share("account", self._of_account[holder.account])
        if not has_paid():
            newcomers = sum(not place.has_paid() for place in self._places.values())
            if newcomers >= self._limits.max_newcomers:
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

    def _check_share(self, whose: str, taken: int) -> None:
        if taken >= self.free:
            raise NoPlace(
                f"{taken} sessions of this {whose} are open, and {self.free} places"
            )
