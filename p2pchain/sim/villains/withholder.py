"""The withholder: shows its blocks to a bare quorum and gives them to nobody else."""

from consensus.messages import Message, Propose
from p2pchain.sim.machine.questions import Answer, Question
from p2pchain.sim.villains.villain import Villain


class Withholder(Villain):
    """Some get the block, one gets other bytes, the rest nothing; it answers nobody."""

    def say(self, message: Message) -> None:
        """Choose who sees a proposal."""
        if not isinstance(message, Propose):
            super().say(message)
            return
        validators = self.epoch.validators
        told = [self.index or 0]
        for node in self.draw_peers():
            seat = None
            if node.signer is not None:
                seat = validators.find_index(node.signer.public_key)
            if seat is not None and not validators.has_quorum(told):
                told.append(seat)
                self.tell([node], message)
            elif self.luck.random() < 0.5:
                other = message.block[:-1] + b"\x00"
                self.tell([node], Propose(other, message.notarize, message.just))

    def answer(self, question: Question, asker: str) -> Answer | None:
        """Give nothing away."""
        return None
