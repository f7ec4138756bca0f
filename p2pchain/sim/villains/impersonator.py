"""The impersonator: votes and proposes in the names of others."""

from consensus.messages import Finalize, Message, Notarize, Nullify, Propose, get_view
from p2pchain.sim.villains.villain import Villain, change


class Impersonator(Villain):
    """Its own signature under everybody's index."""

    def start(self) -> None:
        """Forget where it has been."""
        self._spoilt: set[tuple[int, int]] = set()
        super().start()

    def say(self, message: Message) -> None:
        """Say it for others, too."""
        super().say(message)
        victim = self.luck.randrange(len(self.epoch.validators))
        if victim == self.index:
            return
        match message:
            case Notarize(proposal=proposal):
                block_hash = bytes(reversed(proposal.block_hash))
                other = change(proposal, block_hash=block_hash)
                self.tell(self.others, self.notarize(other, victim))
                self.tell(self.others, self.notarize(proposal, victim))
            case Finalize(proposal=proposal):
                self.tell(self.others, self.finalize(proposal, victim))
                forged = self.nullify(proposal.epoch, proposal.view, victim)
                self.tell(self.others, forged)
            case Nullify(epoch=epoch, view=view):
                self.tell(self.others, self.nullify(epoch, view, victim))

    def receive(self, message: Message, sender: str) -> None:
        """Offer an own block in the leader's place, and in its name."""
        place = get_view(message)
        if self.is_up and isinstance(message, Propose) and place not in self._spoilt:
            self._spoilt.add(place)
            proposal = message.notarize.proposal
            block_hash = bytes(reversed(proposal.block_hash))
            other = change(proposal, block_hash=block_hash)
            for signer in (None, message.notarize.signer):
                vote = self.notarize(other, signer)
                forged = Propose(message.block, vote, message.just)
                self.tell(self.others, forged)
        super().receive(message, sender)
