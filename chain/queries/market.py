"""
Reads of models, providers, channels and paid work; a part of chain/queries/queries.py.
"""

from chain.errors import (
    UnknownModel,
)
from chain.queries.found import (
    FoundWork,
)
from chain.queries.paging import PAGE, Page, build_page, iterate_keys
from chain.records.channel import Channel, ChannelStatus, OpenPair
from chain.records.keys import (
    build_channel_key,
    build_pair_key,
    build_registration_key,
)
from chain.records.model import ModelRecord
from chain.records.proof import WorkEntry
from chain.records.registration import Mirror, Registration, RegistrationStatus
from chain.storage.store import ChainStore, build_key
from chain.tree.blocktree import BlockTree
from primitives.codec import decode
from primitives.types import ShardId


class MarketQueries:
    """All reads about who offers what, and who was paid for it."""

    def __init__(self, tree: BlockTree) -> None:
        self._tree = tree
        self._store: ChainStore = tree.store

    @property
    def _followed(self) -> tuple[ShardId, ...]:
        here = self._tree.followed
        return tuple(s for s in self._tree.layout.shard_ids if s in here)

    def get_registration(
        self, account: bytes, shard: ShardId | None = None
    ) -> Registration | None:
        """Return an account's registration, in `shard` or in the first that has one.

        Without a shard, those that are followed are looked through.
        """
        shards = self._followed if shard is None else (shard,)
        for home in shards:
            data = self._tree.final.view.get(home, build_registration_key(account))
            if data is not None:
                return decode(Registration, data)
        return None

    def list_registrations(
        self,
        model_id: bytes | None = None,
        status: RegistrationStatus | None = None,
    ) -> tuple[Registration, ...]:
        """Return registrations by home shard, then account."""
        return tuple(
            registration
            for _, registration in self._store.iterate(b"R", Registration)
            if model_id in (None, registration.model_id)
            and status in (None, registration.status)
        )

    def list_mirrors(self, shard: ShardId) -> tuple[Mirror, ...]:
        """Return the registrations with another home that reach into a shard."""
        prefix = build_key(b"G", (shard, 2))
        return tuple(mirror for _, mirror in self._store.iterate(prefix, Mirror))

    def list_models(self) -> tuple[ModelRecord, ...]:
        """Return the models of the chain."""
        return tuple(self._tree.final.child_epoch.models.values())

    def get_model(self, model_id: bytes) -> ModelRecord:
        """Return a model of the chain.

        Raises:
            UnknownModel: There is none of that id.
        """
        model = self._tree.final.child_epoch.models.get(model_id)
        if model is None:
            raise UnknownModel(f"the chain has no model {model_id.hex()[:16]}")
        return model

    def get_channel(self, channel_id: bytes) -> Channel | None:
        """Return a channel as it is, or as it was when it ended."""
        return self._store.read(build_key(b"Z", channel_id), Channel)

    def find_channel(
        self, payer: bytes, payee: bytes, shard: ShardId | None = None
    ) -> Channel | None:
        """Return the channel that is open between two accounts.

        Args:
            payer: Who pays.
            payee: Who is paid.
            shard: Where; None: the first followed shard that has one.
        """
        view = self._tree.final.view
        shards = self._followed if shard is None else (shard,)
        for place in shards:
            pair = view.get(place, build_pair_key(payer, payee))
            if pair is not None:
                channel_id = decode(OpenPair, pair).channel_id
                data = view.get(place, build_channel_key(channel_id))
                return None if data is None else decode(Channel, data)
        return None

    def list_channels(
        self,
        address: bytes,
        after: str | None = None,
        limit: int = PAGE,
        *,
        is_open: bool | None = None,
    ) -> Page[Channel]:
        """Return the channels that an account pays from or is paid by, newest first.

        Args:
            address: Of the account.
            after: `next` of the page before.
            limit: Channels looked at; with `is_open` a page may hold fewer.
            is_open: Only those that have not ended, or only those that have.
        """
        prefix = build_key(b"Y", address)
        keys = iterate_keys(self._store.kv, prefix, after)
        page = build_page(keys, lambda key: self.get_channel(key[-32:]), limit)
        if is_open is None:
            return page
        items = tuple(
            channel
            for channel in page.items
            if (channel.status != ChannelStatus.CLOSED) == is_open
        )
        return Page(items, page.next)

    def list_work(
        self,
        after: str | None = None,
        limit: int = PAGE,
        payee: bytes | None = None,
    ) -> Page[FoundWork]:
        """Return posted work records, newest first, of everybody or of one payee."""
        prefix = b"W" if payee is None else build_key(b"V", payee)
        keys = iterate_keys(self._store.kv, prefix, after)
        return build_page(keys, self._find_work, limit)

    def _find_work(self, key: bytes) -> FoundWork | None:
        place = key[-14:]
        entry = self._store.read(build_key(b"W", place), WorkEntry)
        if entry is None:
            return None
        height = int.from_bytes(place[:8], "big")
        shard = int.from_bytes(place[8:10], "big")
        outcomes = self._store.get_outcomes(height, shard)
        tx_id = outcomes[int.from_bytes(place[10:], "big")].tx_id
        return FoundWork(height, shard, tx_id, entry)
