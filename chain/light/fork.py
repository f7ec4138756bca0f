"""
What a fork that a light client saw proves, and against whom.

Two final blocks that exclude each other rest on two finalizations.  Are these of one
epoch and view, they are a piece of evidence as they are: everybody who is in both
bitmaps signed two Finalize votes.  Else the fork spans views, and the piece is at the
nodes: one of the two branches jumps over the other's view, so there is a nullification
of it or another notarization in it (docs/protocol/04-consensus.md).

Spec: docs/protocol/12-light-client.md
"""

from chain.errors import ProvenFork
from consensus.errors import InvalidEvidence
from consensus.evidence import Evidence, build_evidence, find_accused


def find_evidence(fork: ProvenFork) -> Evidence | None:
    """Return the evidence that the two blocks are by themselves, or None."""
    first, second = fork.first, fork.second
    if first.validators != second.validators:
        # Whose keys the bits are depends on the set, and the chain has one per epoch.
        return None
    try:
        evidence = build_evidence(first.certificate, second.certificate)
        find_accused(evidence, first.validators)
    except InvalidEvidence:
        return None
    return evidence
