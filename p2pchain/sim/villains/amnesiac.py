"""The amnesiac: restarts with an empty log, as if it had never voted."""

from consensus.wal import encode_header
from p2pchain.sim.villains.villain import Villain

EVERY_MS = (900, 4000)


class Amnesiac(Villain):
    """Honest but for its memory, which makes it a villain."""

    def start(self) -> None:
        """Live for a while."""
        super().start()
        if self.is_up:
            self.world.after(self.luck.randint(*EVERY_MS), self, self._forget)

    def _forget(self) -> None:
        self.crash()
        assert self.signer is not None
        public_key = self.signer.public_key
        self.disk.votes.data = encode_header(public_key, self.world.chains.chain_id)
        self.world.after(self.luck.randint(0, 300), self, self.start)
