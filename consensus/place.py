"""
Where a proposal stands in the chain, and whether what comes with it proves it.

The proposal itself is signed by the leader, so a contradiction in it is the leader's
fault.  The certificates beside it are not: whoever passes the message on could have
changed them, so they cost the sender only.

Of more skipped views than a message holds it brings the last ones; who has not seen the
others nullified asks for them before it votes.

A proposal either follows its parent, one block higher, or, where the parent is the
epoch's boundary block, repeats it: nothing may follow that one before it is final.
"""

from consensus.book import Tip
from consensus.effects import Reason
from consensus.messages import MAX_SKIPPED, Kind, Proposal, Propose

Fault = tuple[Reason, str]
"""BAD_PROPOSAL is the leader's, BAD_JUST the sender's; and what is wrong."""


def find_fault(propose: Propose, tip_view: int) -> Fault | None:
    """Return what is wrong with the views that a proposal names and skips.

    Args:
        propose: Signed by the leader; its certificates not verified yet.
        tip_view: View of the last final block, below which nothing can be built.
    """
    proposal, just = propose.notarize.proposal, propose.just
    parent_view = proposal.parent_view
    if not tip_view <= parent_view < proposal.view:
        return Reason.BAD_PROPOSAL, f"parent in view {parent_view}"
    skipped = just
    if parent_view > 0:
        parent = just[0].proposal if just else None
        if parent is None or just[0].view != parent_view:
            return Reason.BAD_JUST, "no certificate of the parent"
        skipped = just[1:]
    if any(certificate.kind != Kind.NULLIFICATION for certificate in skipped):
        return Reason.BAD_JUST, "a skipped view that is not nullified"
    # Counted first: the leader chose the numbers, and views may lie very far apart.
    count = min(proposal.view - parent_view - 1, MAX_SKIPPED)
    views = range(proposal.view - count, proposal.view)
    if len(skipped) != count or any(
        certificate.view != view
        for certificate, view in zip(skipped, views, strict=True)
    ):
        return Reason.BAD_JUST, "skipped views that are not contiguous"
    return None


def is_long(proposal: Proposal) -> bool:
    """Tell whether a proposal skips more views than it can bring certificates of."""
    return proposal.view - proposal.parent_view - 1 > MAX_SKIPPED


def is_next(propose: Propose, root: Tip | None, last_height: int) -> bool:
    """Tell whether a proposal follows its parent, whose certificate is verified.

    Args:
        propose: `find_fault` found nothing.
        root: The epoch's root; None once a later block is final.
        last_height: Height of the epoch's boundary block, which is only repeated.
    """
    proposal = propose.notarize.proposal
    if proposal.parent_view > 0:
        parent = propose.just[0].proposal
        assert parent is not None
        parent_hash, parent_height = parent.block_hash, parent.height
    elif root is not None:
        parent_hash, parent_height = root.block_hash, root.height
    else:
        return False
    must_repeat = parent_height >= last_height
    height = parent_height if must_repeat else parent_height + 1
    return (
        (proposal.parent_hash, proposal.height) == (parent_hash, height)
    ) and proposal.is_repeat == must_repeat
