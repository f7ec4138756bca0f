"""
The roles of one epoch: who produces and who endorses in each of its slots.

Everything here follows from the epoch's seed, its validators and its table of
producers, so it is the same for every node and every branch.  Draws are remembered:
each costs a hash per member, and a slot is asked about once per message.
"""

from collections import OrderedDict

from consensus.validators import ValidatorSet
from primitives.types import Epoch, ShardId
from shards.committee import Committee, draw_committee
from shards.inclusion import INCLUSION_VIEWS
from shards.layout import MAX_SHARDS
from shards.producers import ProducerTable, ShardProducers
from shards.slots import Slot, rank_producers

MAX_REMEMBERED = (INCLUSION_VIEWS + 4) * MAX_SHARDS
"""Slots whose draws are remembered: all that are open, and a few to spare."""


class Roles:
    """Who does what in the slots of an epoch.

    Args:
        epoch: Its number.
        seed: Of the epoch.
        validators: Its set.
        producers: Of its layer shards.
    """

    def __init__(
        self,
        epoch: Epoch,
        seed: bytes,
        validators: ValidatorSet,
        producers: ProducerTable,
    ) -> None:
        self.epoch = epoch
        self.validators = validators
        self._seed = seed
        self._powers = tuple(v.power for v in validators.validators)
        self._producers = {entry.shard: entry for entry in producers.shards}
        self._drawn: OrderedDict[Slot, tuple[Committee, tuple[int, ...]]] = (
            OrderedDict()
        )

    @property
    def shards(self) -> tuple[ShardId, ...]:
        """The shards that have slots, ascending."""
        return tuple(self._producers)

    def has_slot(self, slot: Slot) -> bool:
        """Tell whether a slot is one of this epoch."""
        return slot.epoch == self.epoch and slot.shard in self._producers

    def get_shard_producers(self, shard: ShardId) -> ShardProducers:
        """Return the hosts and the custodians of a shard that has slots."""
        return self._producers[shard]

    def get_committee(self, slot: Slot) -> Committee:
        """Return who may endorse in a slot of this epoch."""
        return self._draw(slot)[0]

    def get_producers(self, slot: Slot) -> tuple[int, ...]:
        """Return who may produce in a slot of this epoch, first the first."""
        return self._draw(slot)[1]

    def _draw(self, slot: Slot) -> tuple[Committee, tuple[int, ...]]:
        known = self._drawn.get(slot)
        if known is None:
            entry = self._producers[slot.shard]
            known = self._drawn[slot] = (
                draw_committee(self._seed, slot.shard, slot.created_view, self._powers),
                rank_producers(self._seed, slot, entry.hosts, entry.custodians),
            )
            if len(self._drawn) > MAX_REMEMBERED:
                self._drawn.popitem(last=False)
        return known
