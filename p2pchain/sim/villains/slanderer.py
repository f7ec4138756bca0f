"""The slanderer: evidence of what nobody did, made of what others did sign."""

from typing import cast

from consensus.evidence import (
    CertificateEvidence,
    Evidence,
    MixedEvidence,
    VoteEvidence,
)
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
        self._heard: list[Vote | Certificate] = []
        super().start()

    def receive(self, message: Message, sender: str) -> None:
        """Look for what could be put beside what was just said."""
        if self.is_up:
            said = message.notarize if isinstance(message, Propose) else message
            self._slander(said, self._choose(said))
            if not isinstance(said, Certificate):
                self._slander(said, self._forge(said))
            self._heard.append(said)
            del self._heard[:-REMEMBERED]
        super().receive(message, sender)

    def say(self, message: Message) -> None:
        """Propose to one only: it votes for the block and then, rightly, leaves."""
        if isinstance(message, Propose):
            self.tell(self.luck.sample(self.others, 1), message)
        else:
            super().say(message)

    def _choose(self, said: Vote | Certificate) -> Vote | Certificate | None:
        """Return something of the same view, best of all of the same signer."""
        near = [k for k in self._heard if get_view(k) == get_view(said)]
        if not isinstance(said, Certificate):
            own = [k for k in near if getattr(k, "signer", said.signer) == said.signer]
            near = own or near
        known = near or self._heard
        return self.luck.choice(known) if known else None

    def _slander(
        self, said: Vote | Certificate, other: Vote | Certificate | None
    ) -> None:
        """Spread one pair, as if the two excluded each other."""
        if other is None or self.luck.random() < 0.5:
            return
        first, second = sorted((said, other), key=encode)
        piece: Evidence
        if isinstance(first, Certificate) and isinstance(second, Certificate):
            piece = CertificateEvidence(first, second)
        elif isinstance(first, Certificate):
            piece = MixedEvidence(first, cast(Vote, second))
        elif isinstance(second, Certificate):
            piece = MixedEvidence(second, first)
        else:
            piece = VoteEvidence(first, second)
        for node in self.others:
            self.world.network.send_evidence(self, node, encode(piece))

    def _forge(self, vote: Vote) -> Vote:
        """Return what its signer must not say beside this."""
        match vote:
            case Notarize(proposal=proposal):
                block_hash = bytes(reversed(proposal.block_hash))
                return self.notarize(
                    change(proposal, block_hash=block_hash), vote.signer
                )
            case Nullify(epoch=epoch, view=view):
                known = [v for v in self._heard if isinstance(v, Notarize | Finalize)]
                if not known:
                    return self.nullify(epoch, view, vote.signer)
                last = self.luck.choice(known).proposal
                place = change(last, epoch=epoch, view=view)
                return self.finalize(place, vote.signer)
            case Finalize(proposal=proposal):
                return self.nullify(proposal.epoch, proposal.view, vote.signer)
