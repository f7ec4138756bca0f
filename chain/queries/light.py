"""
What light clients ask a node for: blocks and epochs with what proves them.

Pages and links are bounded, so no question costs more than reading `MAX_LINKS` blocks.

Spec: docs/protocol/12-light-client.md
"""

from chain.errors import StoreError
from chain.ledger.epochs import compute_last_height
from chain.light.client import MAX_LINKS, EpochProof, LightBlock
from chain.light.sync import MAX_PROOFS
from chain.records.header import Header
from chain.tree.blocktree import BlockTree
from consensus.validators import ValidatorSet
from primitives.types import Epoch, Height


class LightQueries:
    """Builds answers from the final chain."""

    def __init__(self, tree: BlockTree) -> None:
        self._tree = tree

    def build_block(self, height: Height | None = None) -> LightBlock | None:
        """Return a final block that a light client can verify.

        Args:
            height: None: the newest one.

        Returns:
            None for heights that are not final or from before our history, for genesis,
            which needs no proof, and for a block with more than `MAX_LINKS` - 1 others
            up to the certified one.
        """
        height = self._tree.final_height if height is None else height
        first = max(1, self._tree.first_height)
        if not first <= height <= self._tree.final_height:
            return None
        certificate = self._tree.store.get_certificate(height)
        if certificate is None or certificate.proposal is None:
            raise StoreError(f"nothing makes block {height} final")
        last = certificate.proposal.height
        if last - height >= MAX_LINKS:
            return None
        headers = tuple(self._get_header(h) for h in range(height, last + 1))
        validators = self._get_validators(headers[0].epoch)
        return LightBlock(headers, certificate, validators)

    def list_proofs(self, epoch: Epoch, limit: int) -> tuple[EpochProof, ...]:
        """Return the proofs of an epoch that is over and of those after it.

        Args:
            epoch: Of the first proof.
            limit: At most so many; never more than `MAX_PROOFS`.
        """
        proofs: list[EpochProof] = []
        while len(proofs) < min(limit, MAX_PROOFS):
            height = compute_last_height(epoch, self._tree.spec.params.epoch_blocks)
            block = self.build_block(height)
            if block is None:
                break
            following = self._get_validators(epoch + 1)
            proofs.append(EpochProof(block.header, block.certificate, following))
            epoch += 1
        return tuple(proofs)

    def _get_header(self, height: Height) -> Header:
        header = self._tree.store.get_header(height)
        if header is None:
            raise StoreError(f"no block at height {height}")
        return header

    def _get_validators(self, epoch: Epoch) -> ValidatorSet:
        if epoch == 0:
            return self._tree.spec.first_validators
        found = self._tree.store.get_validators(epoch)
        if found is None:
            raise StoreError(f"no validator set of epoch {epoch}")
        return found
