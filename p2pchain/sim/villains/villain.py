"""
What all villains have in common: a key, a participant of their own, and no scruples.

A villain runs the protocol to know where everybody is, and says something else than
what it is told to say.  It holds its own key only: signatures of others it can repeat
but not make.
"""

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from consensus.messages import (
    Finalize,
    Message,
    Notarize,
    Nullify,
    Proposal,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from p2pchain.sim.node import Node

if TYPE_CHECKING:
    from p2pchain.sim.world import World


class Villain(Node):
    """A node that may say anything."""

    is_honest = False

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name, world.signers[name])

    @property
    def luck(self) -> random.Random:
        """The world's."""
        return self.world.luck

    @property
    def others(self) -> list[Node]:
        """Everybody else."""
        return [node for node in self.world.nodes.values() if node is not self]

    @property
    def index(self) -> int | None:
        """Its seat in the current epoch."""
        assert self.signer is not None
        return self.epoch.validators.find_index(self.signer.public_key)

    def tell(self, receivers: Iterable[Node], *messages: Message) -> None:
        """Send to some."""
        for node in receivers:
            for message in messages:
                self.world.network.send(self, node, message)

    def notarize(self, proposal: Proposal, signer: int | None = None) -> Notarize:
        """Return a vote with this villain's signature, in whosever name."""
        message = compute_notarize_bytes(self._chain_id, proposal)
        return Notarize(proposal, self._seat(signer), self._sign(message))

    def finalize(self, proposal: Proposal, signer: int | None = None) -> Finalize:
        """Return a vote with this villain's signature, in whosever name."""
        message = compute_finalize_bytes(self._chain_id, proposal)
        return Finalize(proposal, self._seat(signer), self._sign(message))

    def nullify(self, epoch: int, view: int, signer: int | None = None) -> Nullify:
        """Return a vote with this villain's signature, in whosever name."""
        message = compute_nullify_bytes(self._chain_id, epoch, view)
        return Nullify(epoch, view, self._seat(signer), self._sign(message))

    @property
    def _chain_id(self) -> bytes:
        return self.world.chains.chain_id

    def _seat(self, signer: int | None) -> int:
        own = self.index if signer is None else signer
        return 0 if own is None else own

    def _sign(self, message: bytes) -> bytes:
        assert self.signer is not None
        return self.signer.sign(message)


def change(proposal: Proposal, **fields: object) -> Proposal:
    """Return a proposal with other fields."""
    values = {name: getattr(proposal, name) for name in Proposal.__struct_fields__}
    return Proposal(**(values | fields))
