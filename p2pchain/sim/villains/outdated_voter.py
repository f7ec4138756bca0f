"""The outdated voter: says today what was true views and epochs ago."""

from consensus.messages import Message, Notarize, Proposal, Propose
from p2pchain.sim.villains.villain import Villain

REMEMBERED = 200
"""Messages; some epochs' worth."""


class OutdatedVoter(Villain):
    """Votes late, votes again, and votes in views that are over."""

    def start(self) -> None:
        """Forget what was said in the life before."""
        self._said: list[Message] = []
        self._proposals: list[Proposal] = []
        super().start()

    def say(self, message: Message) -> None:
        """Say it with delay, and something old at once."""
        self._remember(message)
        delay_ms = self.luck.choice((0, 300, 2000, 7000))
        self.world.after(delay_ms, self, self.tell, self.others, message)
        self.tell(self.others, self.luck.choice(self._said))
        if self._proposals and self.luck.random() < 0.5:
            old = self.luck.choice(self._proposals)
            votes = (self.notarize, self.finalize)
            self.tell(self.others, self.luck.choice(votes)(old))
            self.tell(self.others, self.nullify(old.epoch, old.view))

    def receive(self, message: Message, sender: str) -> None:
        """Keep others' words for later."""
        if self.is_up:
            self._remember(message)
        super().receive(message, sender)

    def _remember(self, message: Message) -> None:
        self._said.append(message)
        if isinstance(message, Propose):
            self._proposals.append(message.notarize.proposal)
        elif isinstance(message, Notarize):
            self._proposals.append(message.proposal)
        del self._said[:-REMEMBERED], self._proposals[:-REMEMBERED]
