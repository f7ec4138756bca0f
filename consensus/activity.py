"""
Who has been heard of lately (R8): a leader that says nothing is not waited for.

Only views in which a quorum's votes came to us directly count: in the others we cannot
know who was silent and who was just not heard by us.  A vote counts as it comes,
verified or not: a forged one can only make us wait for a leader as if there were no
such rule.  Signers of verified certificates count as heard of too; that helps where
not everybody is connected with everybody.

What is known here is local.  It changes when we nullify, never whether we may, so
nodes need not agree on it.
"""

from collections.abc import Iterable

from consensus.validators import ValidatorSet

SILENT_VIEWS = 10
"""Views without a word of a validator after which its own views are skipped."""
VIEWS_BEHIND = 8
"""Votes are taken for that many views before ours."""
MAX_NAMED_VIEWS = 64
"""Views whose certificates are remembered: six times what is asked about."""


class Activity:
    """Signers by view: the last ten views with a quorum, and the newest ones."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._voters: dict[int, set[int]] = {}
        self._named: dict[int, set[int]] = {}

    def note_vote(self, view: int, signer: int) -> None:
        """Hear a vote of a recent view; it may be forged."""
        self._voters.setdefault(view, set()).add(signer)

    def note_certificate(self, view: int, signers: Iterable[int]) -> None:
        """See who signed a verified certificate."""
        self._named.setdefault(view, set()).update(signers)
        if len(self._named) > MAX_NAMED_VIEWS:
            del self._named[min(self._named)]

    def advance(self, view: int) -> None:
        """Enter a view: forget what no longer counts."""
        recent = view - VIEWS_BEHIND
        full = self._get_full_views(view)
        self._voters = {
            heard: signers
            for heard, signers in self._voters.items()
            if heard >= recent or heard in full
        }

    def is_silent(self, signer: int, view: int) -> bool:
        """Tell whether nothing came of `signer` since ten full views before `view`."""
        full = self._get_full_views(view)
        return len(full) == SILENT_VIEWS and not any(
            signer in signers
            for known in (self._voters, self._named)
            for heard, signers in known.items()
            if heard >= full[0]
        )

    def _get_full_views(self, view: int) -> list[int]:
        """Return the last ten views in which a quorum's votes came, oldest first."""
        full = [
            heard
            for heard, signers in self._voters.items()
            if heard < view and self._validators.has_quorum(signers)
        ]
        return sorted(full)[-SILENT_VIEWS:]
