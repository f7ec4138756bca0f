"""The swapper: its own vote and another's, each in the other's place."""

from consensus.messages import Finalize, Message, Notarize, Nullify, Propose, Vote
from p2pchain.sim.villains.villain import Villain


class Swapper(Villain):
    """What verifies as a sum, and not alone."""

    def start(self) -> None:
        """Forget what was swapped in the life before."""
        self._swapped: set[tuple[int, object]] = set()
        super().start()

    def receive(self, message: Message, sender: str) -> None:
        """Swap with whoever votes first, or with the leader."""
        vote = message.notarize if isinstance(message, Propose) else message
        if self.is_up and isinstance(vote, Notarize | Nullify | Finalize):
            self._swap(vote)
        super().receive(message, sender)

    def _swap(self, vote: Vote) -> None:
        own = self.index
        subject = (
            (vote.epoch, vote.view) if isinstance(vote, Nullify) else vote.proposal
        )
        key = vote.signer, (type(vote), subject)
        if own is None or own == vote.signer or key in self._swapped:
            return
        self._swapped.add(key)
        mine: Vote
        pair: tuple[Vote, Vote]
        match vote:
            case Notarize(proposal=proposal):
                mine = self.notarize(proposal)
                pair = (
                    Notarize(proposal, own, vote.signature),
                    Notarize(proposal, vote.signer, mine.signature),
                )
            case Finalize(proposal=proposal):
                mine = self.finalize(proposal)
                pair = (
                    Finalize(proposal, own, vote.signature),
                    Finalize(proposal, vote.signer, mine.signature),
                )
            case Nullify(epoch=epoch, view=view):
                mine = self.nullify(epoch, view)
                pair = (
                    Nullify(epoch, view, own, vote.signature),
                    Nullify(epoch, view, vote.signer, mine.signature),
                )
        receivers = [node for node in self.others if self.luck.random() < 0.6]
        self.tell(receivers, *self.luck.choice((pair, pair[::-1])))

    def say(self, message: Message) -> None:
        """Say what is true to a few only."""
        self.tell([n for n in self.others if self.luck.random() < 0.5], message)
