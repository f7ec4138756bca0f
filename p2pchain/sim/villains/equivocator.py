"""The equivocator: two blocks when it leads, and a vote for everything it sees."""

from consensus import effects as fx
from consensus import events as ev
from consensus.messages import Message, Nullify, Propose
from p2pchain.sim.villains.villain import Villain, change


class Equivocator(Villain):
    """One half of the others gets one block, one half another, some both."""

    def start(self) -> None:
        """Forget the blocks of the life before."""
        self._doubles: dict[int, tuple[bytes, bytes]] = {}
        self._seen: set[bytes] = set()
        super().start()

    def build_block(self, effect: fx.BuildBlock) -> None:
        """Build two."""
        super().build_block(effect)
        first = len(self._events)
        self.clock.offset_ms += 7
        super().build_block(effect)
        self.clock.offset_ms -= 7
        if len(self._events) > first:
            built = self._events.pop()
            assert isinstance(built, ev.BlockBuilt)
            self._doubles[effect.view] = built.block_hash, built.block

    def say(self, message: Message) -> None:
        """Double the proposals; keep half of the nullifications back."""
        if isinstance(message, Nullify) and self.luck.random() < 0.5:
            return
        if not isinstance(message, Propose):
            super().say(message)
            return
        proposal = message.notarize.proposal
        double = self._doubles.get(proposal.view)
        if double is None:
            super().say(message)
            return
        block_hash, block = double
        other = change(proposal, block_hash=block_hash)
        second = Propose(block, self.notarize(other), message.just)
        for node in self.others:
            choice = self.luck.choice(((message,), (second,), (message, second)))
            self.tell([node], *choice)

    def receive(self, message: Message, sender: str) -> None:
        """Vote for whatever is proposed."""
        if self.is_up and isinstance(message, Propose):
            proposal = message.notarize.proposal
            if proposal.block_hash not in self._seen:
                self._seen.add(proposal.block_hash)
                self.tell(self.others, self.notarize(proposal))
        super().receive(message, sender)
