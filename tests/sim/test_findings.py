"""Bugs that the simulator found, each as small as it can be made.

Every test failed before its bug was mended; docs/log.md tells their stories.
"""

from consensus.effects import Reason
from consensus.messages import Notarize, Proposal, Propose
from consensus.place import find_fault

FAR = 2**62
"""A view that no network reaches, and in which every validator leads some."""


def test_a_proposal_of_a_far_view_costs_nothing():
    """A spammer: its leader's view number sized a list of all skipped views."""
    proposal = Proposal(
        epoch=0,
        view=FAR,
        parent_view=0,
        parent_hash=bytes(32),
        block_hash=bytes([1]) * 32,
        height=1,
    )
    propose = Propose(b"", Notarize(proposal, 0, bytes(96)), ())
    fault = find_fault(propose, tip_view=0)
    assert fault is not None
    assert fault[0] is Reason.BAD_JUST
