"""
Evidence in a node: from whoever notices to the next leader's block.

    consensus (Conflict) ---report--+
    chunks (Conflict) ------accuse--+
    chunks (bad, certified) -denounce-+
    tree (strays) ----------denounce--+
    RPC, command line ------submit--+--> pool --pick--> our next block
    topic `evidence` ---------------+      +--> topic `evidence`

A piece is passed on when it is proven and convicts somebody who is not convicted yet;
so a cheat's endless variations of one offence stop at the first hop.

Of a fraud the topic carries a notice; whoever hears of it fetches the proof, and judges
before it passes the notice on.  A chunk may stand on a block that is not final here
yet: then its notice is tried again with every final block.

What waits is on disk too, at most a piece per stake: otherwise a cheat whose offence
only a few have seen would get away when those restart.
"""

import logging
from collections import OrderedDict
from itertools import islice

from chain.errors import MissingFraudProof, UselessEvidence
from chain.ledger.ledger import ShardLedger
from chain.ledger.roster import find_stake
from chain.records.block import MAX_EVIDENCE
from chain.records.pieces import Piece, decode_piece, get_piece_place
from chain.rewarding.evidence import Verdict
from chain.tree.blocktree import BlockTree
from chain.tree.evidence_pool import EvidencePool
from consensus.errors import InvalidEvidence
from consensus.evidence import build_evidence
from consensus.messages import Certificate, Vote
from network.faults import Fault
from network.network import Network
from network.topics import Topic
from network.topics import Verdict as Opinion
from p2pchain.node.chain.proof_fetcher import ProofFetcher
from primitives.codec import encode
from primitives.errors import MissingError
from shards.certificate import ChunkCertificate
from shards.fraud import build_fraud, build_notice
from shards.layout import ROOT_SHARD
from shards.messages import ProducedChunk

log = logging.getLogger(__name__)

MAX_EARLY = 8
"""Notices that are tried again: each took a certificate, or the work of a peer that it
gains nothing by."""
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
        self.proofs = ProofFetcher(tree.frauds, network)
        """Of frauds; its `run` has to run."""
        self._early: OrderedDict[bytes, None] = OrderedDict()
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

    def denounce(self, produced: ProducedChunk, certificate: ChunkCertificate) -> None:
        """Take a chunk that is wrong, as we found, and that was endorsed all the same.

        Args:
            produced: With its body and witness; its signature may be zeros.
            certificate: Of the chunk, verified.
        """
        proof = build_fraud(produced, certificate)
        validators = self._tree.get_validators(proof.header.epoch)
        if validators is None:
            return
        self._tree.frauds.offer(encode(proof))
        self._try(encode(build_notice(proof, validators)))

    def submit(self, data: bytes) -> Verdict:
        """Take encoded evidence, tell the peers, return what it proves.

        Raises:
            InvalidEvidence: It proves nothing.
            UselessEvidence: It convicts nobody at this moment.
            MissingFraudProof: A notice of a fraud whose proof is not here.
            UnjudgedFraud: A notice of a fraud from before our history.
        """
        verdict = self._take(data)
        self._network.publish(Topic.EVIDENCE, data)
        return verdict

    def pick(self, parent_hash: bytes) -> tuple[bytes, ...]:
        """Return the evidence for a block of ours on a held parent."""
        view = self._tree.get(parent_hash).view
        court = self._tree.open_court(parent_hash)
        return self.pool.pick(lambda key: view.get(ROOT_SHARD, key), court)

    def on_final(self) -> None:
        """Drop what the final chain has dealt with; sometimes tell the rest again."""
        for data in list(self._early):
            del self._early[data]
            self._try(data)
        for stray in self._tree.strays.take():
            self.denounce(stray.produced, stray.certificate)
        self._tree.frauds.forget_before(max(0, self._tree.epoch.epoch - 1))
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
                self.pool.add(data, self._read, self._tree.open_final_court())
            except (InvalidEvidence, MissingError) as error:
                log.info("evidence %s waits no more: %s", evidence_id.hex()[:16], error)
                gone.append(evidence_id)
        self._tree.store.delete_evidence(gone)

    async def _check(self, peer_id: bytes, payload: bytes) -> Opinion:
        try:
            self._take(payload)
        except MissingFraudProof as error:
            self.proofs.fetch(
                error.proof_hash, peer_id, lambda: self._on_proof(payload, peer_id)
            )
            return Opinion.IGNORE
        except MissingError:
            return Opinion.IGNORE
        except InvalidEvidence:
            return Opinion.REJECT
        return Opinion.ACCEPT

    def _on_proof(self, data: bytes, peer_id: bytes) -> None:
        """A proof is here of which a peer had told us."""
        if not self._try(data):
            self._network.penalize(peer_id, Fault.BAD_MESSAGE)

    def _try(self, data: bytes) -> bool:
        """Submit a notice, now or after the next final block; False: it is false."""
        try:
            self.submit(data)
        except UselessEvidence as error:
            log.debug("a fraud that is of no use now: %s", error)
            notice = decode_piece(data)
            if get_piece_place(notice)[0] >= self._tree.epoch.epoch - 1:
                self._early[data] = None
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
        except MissingError as error:
            log.info("a fraud that cannot be judged here: %s", error)
        except InvalidEvidence as error:
            log.warning("a fraud that is none: %s", error)
            return False
        return True

    def _take(self, data: bytes) -> Verdict:
        court = self._tree.open_final_court()
        verdict = self.pool.add(data, self._read, court)
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
