"""
Reads of stakes, validator sets and epochs; a part of chain/queries/queries.py.

"The running epoch" is that of the next block.  Stakes are as of the last final block.
"""

from collections.abc import Callable
from dataclasses import dataclass

from chain.errors import HistoryAbsent, StoreError
from chain.ledger.epochs import compute_first_height, compute_last_height, compute_seed
from chain.ledger.ledger import ShardLedger
from chain.ledger.roster import (
    find_stake,
    get_epoch_record,
    get_stake,
    get_validators,
    list_stakes,
)
from chain.ledger.stake import EpochRecord, Stake
from chain.queries.paging import PAGE, Page, build_page, iterate_keys
from chain.records.header import Header
from chain.records.outcome import Event
from chain.storage.store import build_key
from chain.tree.blocktree import BlockTree
from consensus.validators import Validator, ValidatorSet
from primitives.types import Epoch, Height
from shards.layout import ROOT_SHARD


@dataclass(frozen=True, slots=True)
class Member:
    """A validator of an epoch."""

    index: int
    """Its place in the set, which bitmaps name."""
    validator: Validator
    """Key and power in that epoch."""
    stake: Stake | None
    """Whose key it is now; None once the last atom was paid out."""
    seen: int | None
    """Blocks for whose parent its vote was recorded; None but in the running epoch."""


@dataclass(frozen=True, slots=True)
class FoundEpoch:
    """An epoch that is over, runs, or comes next."""

    number: Epoch
    first_height: Height
    last_height: Height
    """Of its boundary block."""
    blocks: int
    """Final ones of it."""
    counted: int
    """Of these, the ones that recorded votes; all but the first."""
    seed: bytes
    """Draws its leaders."""
    validators_root: bytes
    next_validators_root: bytes | None
    """Of the epoch after; None while that is not chosen."""
    validators: ValidatorSet
    events: tuple[Event, ...]
    """What its end brought about: rewards, leavers, payouts."""

    @property
    def blocks_to_go(self) -> int:
        """Blocks until its end."""
        return self.last_height - self.first_height + 1 - self.blocks


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """What a block's system step did: a reward, a slash, a payout."""

    height: Height
    event: Event


class StakeQueries:
    """All reads about who votes, with what, and since when."""

    def __init__(
        self, tree: BlockTree, get_header: Callable[[Height], Header | None]
    ) -> None:
        self._tree = tree
        self._get_header = get_header

    @property
    def record(self) -> EpochRecord:
        """The running epoch and its seeds."""
        return get_epoch_record(self._ledger)

    def get_stake(self, account: bytes) -> Stake | None:
        """Return an account's stake."""
        return get_stake(self._ledger, account)

    def find_stake(self, public_key: bytes) -> Stake | None:
        """Return the stake that votes, or voted, with a BLS public key."""
        return find_stake(self._ledger, public_key)

    def list_stakes(self) -> tuple[Stake, ...]:
        """Return all stakes, ascending by account."""
        return tuple(list_stakes(self._ledger))

    def list_events(self, height: Height) -> tuple[Event, ...]:
        """Return what a final block did besides its transactions."""
        return self._tree.store.get_system_events(height)

    def list_account_events(
        self, address: bytes, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundEvent]:
        """Return what the chain did to an account by itself, newest first.

        Raises:
            InvalidCursor: `after` is not of this list.
        """
        keys = iterate_keys(self._tree.store.kv, build_key(b"I", address), after)
        return build_page(keys, self._find_event, limit)

    def get_validators(self, epoch: Epoch) -> ValidatorSet | None:
        """Return an epoch's set; the one after the running epoch is the last known."""
        kept = get_validators(self._ledger, epoch)
        if kept is not None:
            return kept
        is_first = epoch == 0
        tree = self._tree
        return (
            tree.spec.first_validators if is_first else tree.store.get_validators(epoch)
        )

    def get_known_validators(self) -> tuple[ValidatorSet, ValidatorSet]:
        """Return the sets of the running epoch and of the next one."""
        ledger = self._ledger
        epoch = get_epoch_record(ledger).epoch
        running = get_validators(ledger, epoch)
        following = get_validators(ledger, epoch + 1)
        if running is None or following is None:
            raise StoreError(
                f"the state has no validators of epoch {epoch} or the next"
            )
        return running, following

    def list_members(self, epoch: Epoch) -> tuple[Member, ...] | None:
        """Return the validators of an epoch, or None where the set is not known."""
        validators = self.get_validators(epoch)
        if validators is None:
            return None
        ledger = self._ledger
        seen = self._get_seen(len(validators)) if epoch == self.record.epoch else None
        return tuple(
            Member(
                index,
                validator,
                find_stake(ledger, validator.public_key),
                None if seen is None else seen[index],
            )
            for index, validator in enumerate(validators.validators)
        )

    def get_epoch(self, number: Epoch) -> FoundEpoch | None:
        """Return an epoch up to the one after the running, or None."""
        if not 0 <= number <= self.record.epoch + 1:
            return None
        blocks_per_epoch = self._tree.spec.params.epoch_blocks
        first = compute_first_height(number, blocks_per_epoch)
        last = compute_last_height(number, blocks_per_epoch)
        height = self._tree.final_height
        blocks = max(0, min(height, last) - first + 1)
        validators = self.get_validators(number)
        if validators is None:
            if first < self._tree.first_height:
                raise HistoryAbsent(first, self._tree.first_height)
            raise StoreError(f"no validator set of epoch {number}")
        following = self.get_validators(number + 1)
        return FoundEpoch(
            number=number,
            first_height=first,
            last_height=last,
            blocks=blocks,
            counted=max(0, blocks - 1),
            seed=self._compute_seed(number),
            validators_root=validators.compute_root(),
            next_validators_root=None
            if following is None
            else following.compute_root(),
            validators=validators,
            events=self.list_events(last) if height >= last else (),
        )

    def _find_event(self, key: bytes) -> FoundEvent:
        height = int.from_bytes(key[-12:-4], "big")
        index = int.from_bytes(key[-4:], "big")
        return FoundEvent(height, self.list_events(height)[index])

    @property
    def _ledger(self) -> ShardLedger:
        view = self._tree.final.view
        return ShardLedger(lambda key: view.get(ROOT_SHARD, key))

    def _get_seen(self, size: int) -> tuple[int, ...]:
        """Return the tally of the running epoch; a boundary ends the one before."""
        final = self._tree.final
        return (0,) * size if final.is_epoch_root else final.seen

    def _compute_seed(self, number: Epoch) -> bytes:
        if number < 2:
            return self._tree.spec.seed
        record = self.record
        if number == record.epoch:
            return record.seed
        if number == record.epoch + 1:
            return record.next_seed
        blocks_per_epoch = self._tree.spec.params.epoch_blocks
        header = self._get_header(compute_last_height(number - 2, blocks_per_epoch))
        if header is None:
            raise StoreError(f"no boundary block of epoch {number - 2}")
        return compute_seed(header.mix)
