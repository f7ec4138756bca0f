"""
Evidence in a simulated node: from whoever notices to everybody.

The same way as in p2pchain.node.chain.evidence_desk: a piece is passed on by every node
that can use it, and by no other, so that endless variations stop at the first hop.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from chain.errors import MissingFraudProof
from chain.records.pieces import Piece
from consensus.errors import InvalidEvidence
from consensus.evidence import build_evidence
from consensus.messages import Certificate, Vote
from primitives.codec import encode
from primitives.errors import MissingError

if TYPE_CHECKING:
    from p2pchain.sim.node import Node


class EvidenceDesk:
    """Takes evidence in and passes it on.

    Args:
        node: Whose desk it is.
        take: Verify a piece and keep it, return the keys that it convicts; raises
            InvalidEvidence, or a MissingError where it is of no use now.
    """

    def __init__(self, node: "Node", take: Callable[[bytes], Iterable[bytes]]) -> None:
        self._node = node
        self._take = take

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Take two statements that the node's own consensus saw exclude each other.

        Raises:
            InvalidEvidence: They are no evidence: consensus was wrong.
        """
        self.accuse(build_evidence(first, second))

    def accuse(self, piece: Piece) -> bool:
        """Take a piece whose statements were verified here; False: of no use now.

        Raises:
            InvalidEvidence: It proves nothing after all.
        """
        data = encode(piece)
        try:
            guilty = self._take(data)
        except MissingError:
            return False
        self._accept(data, guilty, "")
        return True

    def on_gossip(self, data: bytes, sender: str) -> None:
        """Take what another node passes on."""
        try:
            guilty = self._take(data)
        except MissingFraudProof as error:
            again = partial(self.on_gossip, data, sender)
            self._node.requests.fetch_proof(error.proof_hash, again)
            return
        except MissingError:
            return
        except InvalidEvidence as error:
            self._node.blame(sender, f"evidence: {error}")
            return
        self._accept(data, guilty, sender)

    def tell(self, data: bytes, besides: str = "") -> None:
        """Pass a piece on to everybody but one."""
        node = self._node
        for other in node.world.nodes.values():
            if other is not node and other.name != besides:
                node.world.network.send_evidence(node, other, data)

    def _accept(self, data: bytes, guilty: Iterable[bytes], sender: str) -> None:
        self._node.world.judge.on_evidence(self._node, frozenset(guilty))
        self.tell(data, sender)
