"""The certificate forger: quorums that never were."""

from consensus.certificates import build_certificate
from consensus.messages import (
    Certificate,
    Finalize,
    Kind,
    Message,
    Notarize,
    Nullify,
    Proposal,
    Propose,
)
from consensus.validators import encode_bitmap
from p2pchain.sim.villains.villain import Villain, change

Subject = Proposal | tuple[int, int]
"""Of a certificate: a proposal, or the epoch and view that it nullifies."""


class CertificateForger(Villain):
    """Its own signature, or true ones of too few, under a quorum's bitmap."""

    def start(self) -> None:
        """Collect anew."""
        self._votes: dict[tuple[Kind, object], dict[int, bytes]] = {}
        self._proposals: list[Proposal] = []
        super().start()

    def receive(self, message: Message, sender: str) -> None:
        """Collect what others signed, and forge from it."""
        if self.is_up:
            match message:
                case Notarize(proposal=proposal):
                    self._collect(Kind.NOTARIZATION, proposal, message)
                case Finalize(proposal=proposal):
                    self._collect(Kind.FINALIZATION, proposal, message)
                case Nullify(epoch=epoch, view=view):
                    self._collect(Kind.NULLIFICATION, (epoch, view), message)
        super().receive(message, sender)

    def _collect(
        self, kind: Kind, subject: Subject, vote: Notarize | Finalize | Nullify
    ) -> None:
        votes = self._votes.setdefault((kind, subject), {})
        votes[vote.signer] = vote.signature
        if isinstance(subject, Proposal):
            forged = change(subject, block_hash=bytes(reversed(subject.block_hash)))
            self._send_forged(kind, forged, votes)
        self._send_forged(kind, subject, votes)

    def say(self, message: Message) -> None:
        """Put a forged certificate into proposals' justifications as well."""
        if isinstance(message, Propose) and message.just and self.luck.random() < 0.5:
            first = message.just[0]
            everybody = range(len(self.epoch.validators))
            bitmap = encode_bitmap(everybody, len(self.epoch.validators))
            forged = Certificate(
                kind=first.kind,
                proposal=first.proposal,
                epoch=first.epoch,
                view=first.view,
                bitmap=bitmap,
                signature=first.signature,
            )
            just = (forged, *message.just[1:])
            self.tell(self.others, Propose(message.block, message.notarize, just))
            return
        super().say(message)

    def _send_forged(
        self, kind: Kind, subject: Subject, votes: dict[int, bytes]
    ) -> None:
        validators = self.epoch.validators
        known = {s: v for s, v in votes.items() if s < len(validators)}
        if not known or self.luck.random() < 0.7:
            return
        true = build_certificate(
            kind, subject, known, validators, self.world.keys.scheme
        )
        if validators.has_quorum(known) and not isinstance(subject, Proposal):
            return
        everybody = encode_bitmap(range(len(validators)), len(validators))
        bitmap = self.luck.choice((everybody, true.bitmap, true.bitmap + b"\1", b""))
        if bitmap == true.bitmap and validators.has_quorum(known):
            bitmap = everybody + b"\0"
        forged = Certificate(
            kind=self.luck.choice((kind, Kind.FINALIZATION)),
            proposal=true.proposal,
            epoch=true.epoch,
            view=true.view,
            bitmap=bitmap,
            signature=true.signature,
        )
        self.tell(self.others, forged)
