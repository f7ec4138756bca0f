"""The late equivocator: shows its second block when the view is long over."""

from consensus.messages import Message, Propose
from p2pchain.sim.villains.equivocator import Equivocator
from p2pchain.sim.villains.villain import change

DELAY_MS = (8_000, 20_000)
"""Longer than votes of a view are remembered."""


class LateEquivocator(Equivocator):
    """Two blocks for one view, to everybody, one after the other."""

    def say(self, message: Message) -> None:
        """Propose, and propose again."""
        if isinstance(message, Propose):
            proposal = message.notarize.proposal
            double = self._doubles.get(proposal.view)
            if double is not None:
                block_hash, block = double
                vote = self.notarize(change(proposal, block_hash=block_hash))
                second = Propose(block, vote, message.just)
                delay_ms = self.luck.randint(*DELAY_MS)
                self.world.after(delay_ms, self, self.tell, self.others, second)
        self.tell(self.others, message)
