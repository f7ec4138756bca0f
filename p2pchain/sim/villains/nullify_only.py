"""The nullify-only voter: wants every view to pass without a block."""

from consensus.messages import Finalize, Message, Notarize, Propose
from p2pchain.sim.villains.villain import Villain


class NullifyOnly(Villain):
    """Nullifies whatever it should vote for."""

    def say(self, message: Message) -> None:
        """Replace every vote for a block."""
        match message:
            case Propose():
                proposal = message.notarize.proposal
            case Notarize() | Finalize():
                proposal = message.proposal
            case _:
                super().say(message)
                return
        self.tell(self.others, self.nullify(proposal.epoch, proposal.view))
