"""The spammer: as many different messages as it can make, to fill others' memory."""

from consensus.messages import Certificate, Kind, Message, Proposal, Propose
from p2pchain.sim.villains.villain import Villain

EVERY_MS = 250
BURST = 12
"""Messages at a time; every one of them to everybody."""
MAX_SEAT = 200
"""Beyond the largest validator set."""


class Spammer(Villain):
    """Everything that a decoder lets through."""

    def start(self) -> None:
        """Begin, and go on for ever."""
        super().start()
        self.world.after(EVERY_MS, self, self._spam)

    def _spam(self) -> None:
        for _ in range(BURST):
            self.tell(self.others, self._make_message())
        self.world.after(EVERY_MS, self, self._spam)

    def _make_message(self) -> Message:
        luck = self.luck
        epoch = self.epoch.epoch + luck.choice((0, 0, 0, 1, 7))
        near, far = luck.randint(-8, 2), luck.randint(3, 10**6)
        view = max(1, self.view + luck.choice((near, near, far)))
        proposal = self._make_proposal(epoch, view)
        signer = luck.choice((None, None, luck.randrange(MAX_SEAT)))
        match luck.randrange(6):
            case 0:
                return self.notarize(proposal, signer)
            case 1:
                return self.finalize(proposal, signer)
            case 2:
                return self.nullify(epoch, view, signer)
            case 3:
                kind = luck.choice(tuple(Kind))
                return self._make_certificate(kind, proposal)
            case 4:
                junk = luck.randbytes(luck.randrange(200))
                nulls = tuple(
                    self._make_certificate(Kind.NULLIFICATION, proposal)
                    for _ in range(luck.randrange(40))
                )
                return Propose(junk, self.notarize(proposal, signer), nulls)
            case _:
                vote = self.notarize(proposal)
                return Propose(bytes(64), vote, ())

    def _make_proposal(self, epoch: int, view: int) -> Proposal:
        luck = self.luck
        tip = self.chain.tip
        return Proposal(
            epoch=epoch,
            view=view,
            parent_view=luck.choice((0, tip.view, max(0, view - 1))),
            parent_hash=luck.choice((tip.block_hash, luck.randbytes(32))),
            block_hash=luck.randbytes(32),
            height=tip.height + luck.choice((1, 1, 2, 99)),
        )

    def _make_certificate(self, kind: Kind, proposal: Proposal) -> Certificate:
        luck = self.luck
        size = (len(self.epoch.validators) + 7) // 8
        return Certificate(
            kind=kind,
            proposal=None if luck.random() < 0.5 else proposal,
            epoch=proposal.epoch,
            view=proposal.view,
            bitmap=luck.choice((luck.randbytes(size), b"\xff" * 16, b"\x0f")),
            signature=self._sign(proposal.block_hash),
        )
