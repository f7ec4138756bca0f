"""The slanderer: evidence of what nobody did, made of what others did sign."""

from consensus.evidence import CertificateEvidence, VoteEvidence
from consensus.messages import (
    Certificate,
    Finalize,
    Message,
    Notarize,
    Nullify,
    Propose,
    Vote,
    get_view,
)
from p2pchain.sim.villains.villain import Villain, change
from primitives.codec import encode

REMEMBERED = 60
"""Statements: some views' worth."""


class Slanderer(Villain):
    """Pairs of true statements that are legal, and of a true and a forged one."""

    def start(self) -> None:
        """Forget what was said in the life before."""
        self._votes: list[Vote] = []
        self._certificates: list[Certificate] = []
        super().start()

    def receive(self, message: Message, sender: str) -> None:
        """Look for what could be put beside what was just said."""
        if self.is_up:
            match message:
                case Certificate():
                    self._slander(message, self._certificates)
                    self._certificates.append(message)
                case Propose():
                    self._slander(message.notarize, self._votes)
                    self._votes.append(message.notarize)
                case _:
                    self._slander(message, self._votes)
                    self._slander(message, [self._forge(message)])
                    self._votes.append(message)
            del self._votes[:-REMEMBERED], self._certificates[:-REMEMBERED]
        super().receive(message, sender)

    def say(self, message: Message) -> None:
        """Propose to one only: it votes for the block and then, rightly, leaves."""
        if isinstance(message, Propose):
            self.tell(self.luck.sample(self.others, 1), message)
        else:
            super().say(message)

    def _slander(
        self, statement: Vote | Certificate, known: list[Vote] | list[Certificate]
    ) -> None:
        """Spread one pair: of one signer, or of one view, or of anything."""
        if not known or self.luck.random() < 0.5:
            return
        near = [k for k in known if get_view(k) == get_view(statement)]
        if not isinstance(statement, Certificate):
            near = [k for k in near if k.signer == statement.signer] or near
        other = self.luck.choice(near or known)
        first, second = sorted((statement, other), key=encode)
        kind = (
            CertificateEvidence if isinstance(statement, Certificate) else VoteEvidence
        )
        for node in self.others:
            self.world.network.send_evidence(self, node, encode(kind(first, second)))

    def _forge(self, vote: Vote) -> Vote:
        """Return what its signer must not say beside this."""
        match vote:
            case Notarize(proposal=proposal):
                block_hash = bytes(reversed(proposal.block_hash))
                return self.notarize(
                    change(proposal, block_hash=block_hash), vote.signer
                )
            case Nullify() if self._votes:
                known = [v for v in self._votes if not isinstance(v, Nullify)]
                proposal = self.luck.choice(known).proposal if known else None
                if proposal is None:
                    return self.nullify(vote.epoch, vote.view, vote.signer)
                place = change(proposal, epoch=vote.epoch, view=vote.view)
                return self.finalize(place, vote.signer)
            case Finalize(proposal=proposal):
                return self.nullify(proposal.epoch, proposal.view, vote.signer)
        return vote
