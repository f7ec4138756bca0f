"""
Which shards a node should follow now: those that it wants, and those that it keeps.

Every shard has three custodians in every epoch, drawn by stake two epochs before
(shards/slots.py): they fill its slots when no host does, so that a shard nobody hosts
stays alive.  Who will be one in the next epoch begins to follow the shard in this one,
and has all of it to fetch the state; who was one in the last epoch lets the shard go.

    epoch        e - 1        e        e + 1
    custodian                 yes
    follows        x          x

Spec: docs/protocol/06-shards.md
"""

from chain.ledger.ledger import Ledger
from chain.ledger.producers import get_producers
from chain.ledger.roster import get_epoch_record, get_validators
from chain.tree.following import Follow
from primitives.types import ShardId
from shards.layout import Layout


def choose_followed(
    ledger: Ledger, layout: Layout, follow: Follow
) -> frozenset[ShardId]:
    """Return the shards of a layout that a node should follow.

    Args:
        ledger: Of the root shard.
        layout: Of the next block.
        follow: What the node wants.
    """
    wanted = follow.choose(layout)
    if follow.custodian is not None and follow.shards is not None:
        kept = list_custody(ledger, follow.custodian)
        wanted |= kept & set(layout.shard_ids)
    return wanted


def list_custody(ledger: Ledger, public_key: bytes) -> frozenset[ShardId]:
    """Return the shards that a validator keeps in the running epoch or the next one.

    Args:
        ledger: Of the root shard.
        public_key: BLS, of the validator.
    """
    running = get_epoch_record(ledger).epoch
    kept: set[ShardId] = set()
    for epoch in (running, running + 1):
        validators = get_validators(ledger, epoch)
        table = get_producers(ledger, epoch)
        if validators is None or table is None:
            continue
        places = {
            index
            for index, validator in enumerate(validators.validators)
            if validator.public_key == public_key
        }
        kept.update(
            entry.shard for entry in table.shards if places & set(entry.custodians)
        )
    return frozenset(kept)
