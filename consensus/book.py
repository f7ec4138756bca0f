"""
The certificates and held blocks of one epoch: where the chain stands and could go on.
"""

from dataclasses import dataclass

from consensus.messages import (
    MAX_SKIPPED,
    Certificate,
    Finalize,
    Kind,
    Notarize,
    Nullify,
    Proposal,
    Vote,
    get_view,
)

VIEWS_KEPT = 16
"""Certificates stay that many views below the tip, for those who are a little late."""


@dataclass(frozen=True, slots=True)
class Tip:
    """The last final block."""

    height: int
    view: int
    """The view that made it final; 0 for the root of an epoch."""
    block_hash: bytes
    certificate: Certificate | None
    """Its finalization; None for the root of an epoch."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """On what a leader can propose, or what it lacks to know."""

    parent_view: int = 0
    parent_hash: bytes = b""
    height: int = 0
    """Of the block to propose."""
    notarization: Certificate | None = None
    """The parent's; None for the epoch's root."""
    is_repeat: bool = False
    """Whether the parent is the epoch's boundary: then it is proposed again."""
    just: tuple[Certificate, ...] = ()
    """See `consensus.messages.Propose`."""
    missing_view: int | None = None
    """A view whose certificates have to be fetched first; the rest is empty then."""


class CertificateBook:
    """At most one certificate per kind and view, all of them verified."""

    def __init__(self, tip: Tip, last_height: int) -> None:
        self.tip = tip
        self.last_height = last_height
        """Height of the epoch's boundary block."""
        self.root = tip if tip.view == 0 else None
        """The epoch's root; None if we start above it."""
        self.notarizations: dict[int, Certificate] = {}
        self.nullifications: dict[int, Certificate] = {}
        self._finalizations: dict[int, Certificate] = {}
        self._held: dict[bytes, Proposal | None] = {tip.block_hash: None}
        """Blocks that are here, and the proposal as which they were judged."""
        if tip.certificate is not None:
            self._finalizations[tip.view] = tip.certificate
            self._held[tip.block_hash] = tip.certificate.proposal

    @property
    def best_final_view(self) -> int:
        """The highest view with a finalization, whether its block is held or not."""
        return max(self._finalizations, default=0)

    @property
    def best_final_height(self) -> int:
        """The height of the highest finalized block, whether it is held or not."""
        heights = [
            certificate.proposal.height
            for certificate in self._finalizations.values()
            if certificate.proposal is not None
        ]
        return max([self.tip.height, *heights])

    def has(self, certificate: Certificate) -> bool:
        """Tell whether we hold one of the same kind, view and subject."""
        known = self._get_kind(certificate).get(certificate.view)
        return known is not None and known.proposal == certificate.proposal

    def get_certificates(self, view: int) -> tuple[Certificate, ...]:
        """Return all that we hold of a view: at most three."""
        kinds = (self.notarizations, self.nullifications, self._finalizations)
        return tuple(kind[view] for kind in kinds if view in kind)

    def find_rival(self, certificate: Certificate) -> Certificate | None:
        """Return a certificate that cannot exist together with this one.

        N and X of one view can: see the theorems in the specification.
        """
        is_nullification = certificate.kind == Kind.NULLIFICATION
        for known in self.get_certificates(certificate.view):
            is_mixed = is_nullification != (known.kind == Kind.NULLIFICATION)
            if is_mixed and Kind.FINALIZATION in (certificate.kind, known.kind):
                return known
            if not is_mixed and known.proposal != certificate.proposal:
                return known
        return None

    def is_stale(self, certificate: Certificate) -> bool:
        """Tell whether a certificate can be of no use any more."""
        if certificate.kind == Kind.FINALIZATION:
            return certificate.view <= self.tip.view
        # The tip's notarization is still wanted: it makes the next block's attendance.
        return certificate.view < max(self.tip.view, 1)

    def is_settled(self, vote: Vote) -> bool:
        """Tell whether a vote is of no use any more."""
        _, view = get_view(vote)
        match vote:
            case Notarize():
                # Late votes for a certified block count for attendance.
                known = self.notarizations.get(view)
                is_other = known is not None and known.proposal != vote.proposal
                return is_other or view < self.tip.view
            case Nullify():
                return view in self.nullifications or view <= self.tip.view
            case Finalize():
                return view in self._finalizations or view <= self.tip.view

    def is_certified(self, vote: Vote) -> bool:
        """Tell whether the certificate that `vote` would go into is held."""
        _, view = get_view(vote)
        match vote:
            case Notarize():
                return view in self.notarizations
            case Nullify():
                return view in self.nullifications
            case Finalize():
                return view in self._finalizations

    # Held blocks

    def is_held(self, block_hash: bytes) -> bool:
        """Tell whether the block's bytes are here and valid."""
        return block_hash in self._held

    def is_wanted(self, proposal: Proposal) -> bool:
        """Tell whether a certificate we hold is of this block, and it is not here."""
        return not self.is_held(proposal.block_hash) and any(
            certificate.proposal == proposal
            for certificate in self.get_certificates(proposal.view)
        )

    def is_judged(self, proposal: Proposal) -> bool:
        """Tell whether a block is held and found valid as what `proposal` makes it.

        A repetition makes it nothing new.
        """
        if not self.is_held(proposal.block_hash):
            return False
        return proposal.is_repeat or self._held[proposal.block_hash] == proposal

    def find_wanted(self) -> list[Proposal]:
        """Return the certified blocks above the tip that are not here, oldest first."""
        wanted = {
            view: certificate.proposal
            for kind in (self._finalizations, self.notarizations)
            for view, certificate in kind.items()
            if view > self.tip.view
            and certificate.proposal is not None
            and not self.is_held(certificate.proposal.block_hash)
        }
        return [wanted[view] for view in sorted(wanted)]

    def add_held(self, proposal: Proposal) -> list[Certificate]:
        """Note that a block is held; return its certificates that waited for it.

        Of a boundary block there may be some of several views.
        """
        if self.is_held(proposal.block_hash) or proposal.height < self.tip.height:
            return []
        self._held[proposal.block_hash] = proposal
        return [
            certificate
            for kind in (self.notarizations, self._finalizations)
            for _, certificate in sorted(kind.items())
            if certificate.proposal is not None
            and certificate.proposal.block_hash == proposal.block_hash
        ]

    def drop_held(self, block_hash: bytes) -> None:
        """Note that a block is not held any more; never one that is certified."""
        self._held.pop(block_hash, None)

    # Adding certificates

    def add_nullification(self, certificate: Certificate) -> None:
        """Keep a verified nullification."""
        self.nullifications[certificate.view] = certificate

    def add_certified(self, certificate: Certificate) -> None:
        """Keep a verified notarization or finalization."""
        self._get_kind(certificate)[certificate.view] = certificate

    def restore(self, certificate: Certificate) -> None:
        """Keep a certificate from our log."""
        self._get_kind(certificate)[certificate.view] = certificate

    def set_tip(self, certificate: Certificate) -> None:
        """Make a held, finalized block the tip and forget what lies far below."""
        proposal = certificate.proposal
        assert proposal is not None
        self.tip = Tip(proposal.height, proposal.view, proposal.block_hash, certificate)
        oldest = proposal.view - VIEWS_KEPT
        for kind in (self.notarizations, self.nullifications, self._finalizations):
            for view in [view for view in kind if view < oldest]:
                del kind[view]
        self._held = {
            block_hash: judged
            for block_hash, judged in self._held.items()
            if block_hash == proposal.block_hash
            or (judged is not None and judged.height > proposal.height)
        }

    # Where to go on

    def get_passed_view(self) -> int:
        """R6: return the highest view that a certificate lets us leave."""
        passed = [self.tip.view, *self.nullifications]
        for kind in (self.notarizations, self._finalizations):
            passed += [view for view, c in kind.items() if self._is_usable(c)]
        return max(passed)

    def find_entering(self, view: int) -> Certificate | None:
        """Return the best certificate that lets others leave `view`.

        A notarization lets nobody leave who cannot get the block; where that is not
        here, perhaps nobody has it any more, and the nullification is the way.
        """
        if view in self._finalizations:
            return self._finalizations[view]
        notarization = self.notarizations.get(view)
        if notarization is not None and self._is_usable(notarization):
            return notarization
        return self.nullifications.get(view, notarization)

    def count_nullified(self, view: int) -> int:
        """R8: return how many views in a row before `view` brought no block."""
        count = 0
        while (before := view - count - 1) in self.nullifications:
            if before in self.notarizations:
                break
            count += 1
        return count

    def is_unknown(self, view: int) -> bool:
        """Tell whether certificates of a view may still be missing."""
        if view < self.tip.view:
            return False
        notarization = self.notarizations.get(view)
        is_passed = notarization is not None and self._is_usable(notarization)
        return not is_passed and view not in self.nullifications

    def find_unskipped(self, proposal: Proposal) -> int | None:
        """Return the highest view that a proposal skips and that is not nullified."""
        for view in range(proposal.view - 1, proposal.parent_view, -1):
            if view not in self.nullifications:
                return view
        return None

    def find_parent(self, view: int) -> Ancestry:
        """Return the highest certified block below `view` that can be built on.

        Every view between must be nullified; views that we know nothing about, because
        a later certificate carried us over them, have to be fetched first.
        """
        skipped: list[Certificate] = []
        for candidate in range(view - 1, self.tip.view, -1):
            notarization = self.notarizations.get(candidate)
            if notarization is not None and self._is_usable(notarization):
                return self._build_ancestry(notarization, skipped)
            if candidate not in self.nullifications:
                return Ancestry(missing_view=candidate)
            skipped.append(self.nullifications[candidate])
        if self.tip.view == 0:
            return Ancestry(
                parent_hash=self.tip.block_hash,
                height=self.tip.height + 1,
                just=tuple(reversed(skipped[:MAX_SKIPPED])),
            )
        notarization = self.notarizations.get(self.tip.view)
        if notarization is None:
            return Ancestry(missing_view=self.tip.view)
        return self._build_ancestry(notarization, skipped)

    def _build_ancestry(
        self, parent: Certificate, skipped: list[Certificate]
    ) -> Ancestry:
        assert parent.proposal is not None
        is_repeat = parent.proposal.height >= self.last_height
        return Ancestry(
            parent_view=parent.view,
            parent_hash=parent.proposal.block_hash,
            height=parent.proposal.height + (not is_repeat),
            notarization=parent,
            is_repeat=is_repeat,
            just=(parent, *reversed(skipped[:MAX_SKIPPED])),
        )

    def _is_usable(self, certificate: Certificate) -> bool:
        assert certificate.proposal is not None
        return self.is_held(certificate.proposal.block_hash)

    def _get_kind(self, certificate: Certificate) -> dict[int, Certificate]:
        match certificate.kind:
            case Kind.NOTARIZATION:
                return self.notarizations
            case Kind.NULLIFICATION:
                return self.nullifications
            case Kind.FINALIZATION:
                return self._finalizations
