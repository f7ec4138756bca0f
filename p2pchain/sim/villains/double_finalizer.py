"""The double finalizer: finalizes two blocks of a view, and nullifies it as well."""

from consensus.messages import Finalize, Message, Nullify, Proposal, Propose
from p2pchain.sim.villains.villain import Villain, change


class DoubleFinalizer(Villain):
    """E2 and E3, all the time."""

    def start(self) -> None:
        """Forget the proposals of the life before."""
        self._proposals: dict[int, Proposal] = {}
        super().start()

    def receive(self, message: Message, sender: str) -> None:
        """Remember what could be finalized."""
        if isinstance(message, Propose):
            proposal = message.notarize.proposal
            self._proposals[proposal.view] = proposal
        super().receive(message, sender)

    def say(self, message: Message) -> None:
        """Say the opposite, too, to some or to all."""
        super().say(message)
        receivers = [node for node in self.others if self.luck.random() < 0.7]
        match message:
            case Finalize(proposal=proposal):
                block_hash = bytes(reversed(proposal.block_hash))
                other = self.finalize(change(proposal, block_hash=block_hash))
                self.tell(receivers, other)
                self.tell(receivers, self.nullify(proposal.epoch, proposal.view))
            case Nullify(epoch=epoch, view=view):
                known = self._proposals.get(view)
                if known is not None and known.epoch == epoch:
                    self.tell(receivers, self.finalize(known))
