"""The invalid proposer: every block of its has something wrong with it."""

from dataclasses import replace

from consensus import effects as fx
from consensus.messages import Message, Propose
from p2pchain.sim.villains.villain import Villain, change

FUTURE_MS = 60_000


class InvalidProposer(Villain):
    """Wrong inside (reveal, time, attendance) or outside (place, justification)."""

    def build_block(self, effect: fx.BuildBlock) -> None:
        """Build something wrong."""
        kind = self.luck.randrange(4)
        if kind == 0:
            self.clock.offset_ms += FUTURE_MS
            super().build_block(effect)
            self.clock.offset_ms -= FUTURE_MS
        elif kind == 1:
            signature = bytes(reversed(effect.signature))
            super().build_block(replace(effect, signature=signature))
        elif kind == 2:
            seats = len(self.epoch.validators)
            proposer = (effect.proposer + 1) % seats
            super().build_block(replace(effect, proposer=proposer))
        else:
            super().build_block(effect)

    def say(self, message: Message) -> None:
        """Spoil what stands around the block."""
        if not isinstance(message, Propose):
            super().say(message)
            return
        proposal, just = message.notarize.proposal, message.just
        kind = self.luck.randrange(6)
        if kind == 0:
            proposal = change(proposal, height=proposal.height + 1)
        elif kind == 1:
            proposal = change(proposal, parent_view=proposal.view)
        elif kind == 2:
            proposal = change(proposal, parent_hash=bytes(32))
        elif kind == 3:
            just = just[:-1]
        elif kind == 4:
            just = just[::-1] if len(just) > 1 else just + just
        spoilt = Propose(message.block, self.notarize(proposal), just)
        self.tell(self.others, spoilt)
