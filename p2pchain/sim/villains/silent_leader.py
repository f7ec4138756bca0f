"""The silent leader: votes for others and never proposes; or says nothing at all."""

from consensus.messages import Message, Propose
from p2pchain.sim.villains.villain import Villain


class SilentLeader(Villain):
    """Costs every view that it leads."""

    def say(self, message: Message) -> None:
        """Keep proposals back."""
        if not isinstance(message, Propose):
            super().say(message)


class Mute(Villain):
    """Hears everything, says nothing: what R8 skips."""

    def say(self, message: Message) -> None:
        """Say nothing."""
