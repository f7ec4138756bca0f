"""Reads of layouts and of proposals to change them; a part of `Queries`."""

from dataclasses import dataclass

from chain.ledger.docket import compute_approval, list_proposals
from chain.ledger.epochs import compute_last_height
from chain.ledger.halts import get_halts
from chain.ledger.layouts import list_models
from chain.ledger.ledger import ShardLedger
from chain.ledger.phase import Phase, compute_phase, compute_sweep_epoch
from chain.records.proposal import PROPOSAL_EPOCHS, Proposal
from chain.tree.blocktree import BlockTree
from primitives.types import Epoch, Height, ShardId
from shards.layout import ROOT_SHARD, Layout, ShardSpec


@dataclass(frozen=True, slots=True)
class FoundProposal:
    """An open proposal, and how far it is."""

    proposal: Proposal
    power: int
    """Of the running epoch's validators that are for it."""
    total_power: int
    last_epoch: Epoch
    """At the end of which it expires."""

    @property
    def is_approved(self) -> bool:
        """The next boundary adopts it, unless another one comes first."""
        return 3 * self.power > 2 * self.total_power


class LayoutQueries:
    """Answers from the last final block."""

    def __init__(self, tree: BlockTree) -> None:
        self._tree = tree

    @property
    def layout(self) -> Layout:
        """Of the running epoch."""
        return self._tree.layout

    @property
    def next_layout(self) -> Layout:
        """Of the epoch after."""
        return self._tree.final.child_epoch.next_layout

    def get_phase(self, shard: ShardId) -> Phase:
        """Return what a shard takes in the next block."""
        tree = self._tree
        return compute_phase(tree.layout, shard, tree.epoch.epoch, tree.spec.params)

    def get_last_height(self, spec: ShardSpec) -> Height | None:
        """Return the last height at which a retiring shard takes transactions."""
        if not spec.is_retiring:
            return None
        params = self._tree.spec.params
        sweep_epoch = compute_sweep_epoch(spec, params)
        return compute_last_height(sweep_epoch - 1, params.epoch_blocks)

    def list_running_shards(self) -> tuple[ShardId, ...]:
        """Return the shards that take transactions, followed or not."""
        halted = {halt.shard for halt in get_halts(self._open_ledger())}
        return tuple(
            shard
            for shard in self.layout.shard_ids
            if self.get_phase(shard) != Phase.SWEEPING and shard not in halted
        )

    def list_open_shards(self) -> tuple[ShardId, ...]:
        """Return the shards in which accounts can still do something, as seen here:
        of one that we do not follow we do not know what is in it.
        """
        followed = self._tree.followed
        return tuple(s for s in self.list_running_shards() if s in followed)

    def list_model_names(self) -> dict[bytes, str]:
        """Return the names of the models of this epoch and the next one, by id."""
        ledger = self._open_ledger()
        known = {**list_models(ledger, self.layout)}
        known.update(list_models(ledger, self.next_layout))
        return {model_id: model.name for model_id, model in known.items()}

    def list_proposals(self) -> tuple[FoundProposal, ...]:
        """Return the open proposals, oldest first."""
        ledger = self._open_ledger()
        validators = self._tree.epoch.validators
        return tuple(
            FoundProposal(
                proposal,
                compute_approval(ledger, proposal, validators),
                validators.total_power,
                proposal.epoch + PROPOSAL_EPOCHS,
            )
            for proposal in list_proposals(ledger)
        )

    def _open_ledger(self) -> ShardLedger:
        view = self._tree.final.view
        return ShardLedger(lambda key: view.get(ROOT_SHARD, key))
