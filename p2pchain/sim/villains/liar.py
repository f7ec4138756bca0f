"""The liar: answers questions, wrongly."""

import msgspec

from consensus.messages import Certificate
from p2pchain.sim.machine.questions import (
    Answer,
    AskBlock,
    AskBody,
    AskCertificates,
    AskPackets,
    AskProof,
    AskRange,
    AskStatus,
    Question,
    Range,
)
from p2pchain.sim.villains.villain import Villain
from shards.packet import PacketProof

HIGH = 10**6
"""A height that nobody will ever reach."""


class Liar(Villain):
    """Claims to be far ahead, and hands out what does not fit."""

    def answer(self, question: Question, asker: str) -> Answer | None:
        """Return something near the truth."""
        true = super().answer(question, asker)
        if self.luck.random() < 0.3:
            return true
        match question:
            case AskStatus():
                return HIGH
            case AskBlock() if isinstance(true, bytes):
                return self.luck.choice((true[:-1], true + b"\0", b""))
            case AskBody() | AskProof() if isinstance(true, bytes):
                return self.luck.choice((true[:-1], true + b"\0", b""))
            case AskCertificates() if isinstance(true, tuple):
                held = [each for each in true if isinstance(each, Certificate)]
                return (*held[::-1], *held)
            case AskPackets() if isinstance(true, tuple):
                sent = [each for each in true if isinstance(each, PacketProof)]
                if sent and self.luck.random() < 0.5:
                    return (_enrich(sent[0]), *sent[1:])
                return tuple(sent[::-1])
            case AskRange() if isinstance(true, Range):
                blocks = true.blocks
                spoilt = self.luck.choice(
                    (blocks[:-1], blocks[::-1], blocks[1:], (b"junk", *blocks[1:]))
                )
                if self.luck.random() < 0.3:
                    lies = tuple(dict.fromkeys(each, b"junk") for each in true.bodies)
                    return Range(blocks, lies, true.certificate)
                bodies = true.bodies[: len(spoilt)]
                return Range(spoilt or blocks, bodies, true.certificate)
        return None


def _enrich(proof: PacketProof) -> PacketProof:
    """Return a proof of a packet that was never sent."""
    packet = msgspec.structs.replace(proof.packet, amount=proof.packet.amount + 1)
    return msgspec.structs.replace(proof, packet=packet)
