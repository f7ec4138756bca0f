"""
Evidence in a node: from whoever notices to the next leader's block.

    consensus (Conflict) ---report--+
    chunks (Conflict) ------accuse--+
    RPC, command line ------submit--+--> pool --pick--> our next block
    topic `evidence` ---------------+      +--> topic `evidence`

A piece is passed on when it is proven and convicts somebody who is not convicted yet;
so a cheat's endless variations of one offence stop at the first hop.

What waits is on disk too, at most a piece per stake: otherwise a cheat whose offence
only a few have seen would get away when those restart.
"""

import logging
from itertools import islice

from chain.block import MAX_EVIDENCE
from chain.blocktree import BlockTree
from chain.errors import UselessEvidence
from chain.evidence import Verdict
from chain.evidence_pool import EvidencePool
from chain.ledger import ShardLedger
from chain.pieces import Piece
from chain.roster import find_stake
from consensus.errors import InvalidEvidence
from consensus.evidence import build_evidence
from consensus.messages import Certificate, Vote
from network.network import Network
from network.topics import Topic
from network.topics import Verdict as Opinion
from primitives.codec import encode
from shards.layout import ROOT_SHARD

log = logging.getLogger(__name__)

REPEAT_BLOCKS = 10
"""What still waits is told again: a peer may have joined since, or have been in the
epoch before when it heard of it."""


class EvidenceDesk:
    """Takes evidence in, keeps it, passes it on, and hands it to leaders.

    Args:
        tree: The chain; its judge verifies.
        network: Carries the topic.
    """

    def __init__(self, tree: BlockTree, network: Network) -> None:
        self._tree = tree
        self._network = network
        self.pool = EvidencePool(tree.judge, tree.spec.params.evidence_epochs)
        """What waits for a block."""
        self._load()
        network.subscribe(Topic.EVIDENCE, self._check)

    def report(self, first: Vote | Certificate, second: Vote | Certificate) -> None:
        """Take two statements that our own consensus saw exclude each other."""
        try:
            piece = build_evidence(first, second)
        except InvalidEvidence as error:
            log.warning("a conflict that is no evidence: %s", error)
        else:
            self.accuse(piece)

    def accuse(self, piece: Piece) -> None:
        """Take a piece whose statements were verified here."""
        try:
            self.submit(encode(piece))
        except UselessEvidence as error:
            log.debug("a conflict that needs no evidence: %s", error)
        except InvalidEvidence as error:
            log.warning("a conflict that is no evidence: %s", error)

    def submit(self, data: bytes) -> Verdict:
        """Take encoded evidence, tell the peers, return what it proves.

        Raises:
            InvalidEvidence: It proves nothing.
            UselessEvidence: It convicts nobody at this moment.
        """
        verdict = self._take(data)
        self._network.publish(Topic.EVIDENCE, data)
        return verdict

    def pick(self, parent_hash: bytes) -> tuple[bytes, ...]:
        """Return the evidence for a block of ours on a held parent."""
        view = self._tree.get(parent_hash).view
        return self.pool.pick(lambda key: view.get(ROOT_SHARD, key))

    def on_final(self) -> None:
        """Drop what the final chain has dealt with; sometimes tell the rest again."""
        if not len(self.pool):
            return
        self._tree.store.delete_evidence(self.pool.revalidate(self._read))
        if self._tree.final_height % REPEAT_BLOCKS == 0:
            for piece in islice(self.pool.list_pieces(), MAX_EVIDENCE):
                self._network.publish(Topic.EVIDENCE, piece.data)

    def _load(self) -> None:
        """Take up what waited before a restart, judged again."""
        gone = []
        for evidence_id, data in list(self._tree.store.iterate_evidence()):
            try:
                self.pool.add(data, self._read)
            except (InvalidEvidence, UselessEvidence) as error:
                log.info("evidence %s waits no more: %s", evidence_id.hex()[:16], error)
                gone.append(evidence_id)
        self._tree.store.delete_evidence(gone)

    async def _check(self, peer_id: bytes, payload: bytes) -> Opinion:
        try:
            self._take(payload)
        except UselessEvidence:
            return Opinion.IGNORE
        except InvalidEvidence:
            return Opinion.REJECT
        return Opinion.ACCEPT

    def _take(self, data: bytes) -> Verdict:
        verdict = self.pool.add(data, self._read)
        self._tree.store.save_evidence(verdict.evidence_id, data)
        ledger = ShardLedger(self._read)
        stakes = [find_stake(ledger, key) for key in verdict.guilty]
        names = [stake.name for stake in stakes if stake is not None]
        log.warning(
            "evidence %s: %s in epoch %d, view %d by %s",
            verdict.evidence_id.hex()[:16],
            verdict.misdeed,
            verdict.epoch,
            verdict.view,
            ", ".join(names),
        )
        return verdict

    def _read(self, key: bytes) -> bytes | None:
        """Read the root shard's final state."""
        return self._tree.final.view.get(ROOT_SHARD, key)
