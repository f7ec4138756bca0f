"""
Reads over the final chain: what RPC, explorer and wallet ask.

Every answer is about the last final block or something older; nothing here changes
anything.  Lists come in pages: `next` of one page is `after` of the next, an opaque
string that stays good while blocks arrive.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from chain.account import NO_ACCOUNT, Account, compute_ripe
from chain.block import Block, compute_root_path
from chain.blocktree import BlockTree
from chain.books import Books
from chain.conservation import (
    compute_conservation,
    get_conservation,
)
from chain.contracts.channel import Channel, ChannelStatus, OpenPair
from chain.contracts.model import ModelRecord
from chain.contracts.proof import WorkEntry
from chain.contracts.registration import Mirror, Registration, RegistrationStatus
from chain.errors import (
    HistoryAbsent,
    ShardNotFollowed,
    StoreError,
    UnknownModel,
)
from chain.evidence_queries import EvidenceQueries
from chain.foreign_state import ForeignValue
from chain.gaps import Gap, read_gaps, update_gaps
from chain.header import Header, compute_block_hash
from chain.keys import (
    TOTALS_KEY,
    build_account_key,
    build_channel_key,
    build_pair_key,
    build_registration_key,
)
from chain.layout_queries import LayoutQueries
from chain.ledger import Totals
from chain.light_queries import LightQueries
from chain.outcome import Outcome
from chain.paging import PAGE, Page, build_page, iterate_keys, parse_cursor
from chain.proofs import StateProof
from chain.shard_queries import ShardQueries
from chain.spec import ChainSpec
from chain.stake_queries import StakeQueries
from chain.store import ChainStore, StoredPacket, build_key
from chain.transaction import SignedTransaction, compute_tx_id, decode_transaction
from consensus.messages import Certificate
from primitives.codec import decode
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, get_count
from shards.layout import Layout, ShardSpec

CACHED_BLOCKS = 16
"""Decoded blocks kept: at most 16 MiB of bytes, about 60 MB decoded."""


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A final block and what makes it so."""

    height: Height
    block_hash: bytes
    block: Block
    certificate: Certificate | None
    """Its own or the next descendant's; None for genesis alone."""
    length: int
    """Bytes."""
    transactions: int
    """In all its chunks."""


@dataclass(frozen=True, slots=True)
class FoundTransaction:
    """A final transaction, where it stands, and what it did."""

    tx_id: bytes
    signed: SignedTransaction
    height: Height
    block_hash: bytes
    time_ms: int
    shard: ShardId
    index: int
    """Place in its chunk."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class FoundAccount:
    """An account in one shard."""

    shard: ShardId
    address: bytes
    balance: int
    """Atoms that can be spent now."""
    maturing: int
    """Atoms from settlements that cannot be spent yet."""
    nonce: int
    height: Height
    """Of the final block after which it is so."""


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A shard as of the final block."""

    shard_id: ShardId
    spec: ShardSpec | None
    """Its layers; None for the root shard."""
    head: ChunkHeader
    """Its newest chunk; the genesis one if there was none yet."""
    head_height: Height
    """Height of the block that holds it."""
    backlog: tuple[tuple[ShardId, int], ...]
    """Packets that wait for this shard, by source."""
    totals: Totals | None
    """None where its state is not here."""


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A shard's chunk and its block."""

    height: Height
    block_hash: bytes
    chunk: Chunk
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class FoundWork:
    """A posted work record."""

    height: Height
    """Of the block that holds the settlement."""
    shard: ShardId
    tx_id: bytes
    """The settlement."""
    entry: WorkEntry


def read_account(
    shard: ShardId, address: bytes, data: bytes | None, height: Height
) -> FoundAccount:
    """Return the account that a shard's state holds after a block.

    Args:
        shard: Which.
        address: Whose.
        data: What is under the account's key; None: it was never used.
        height: Of the block.
    """
    account = NO_ACCOUNT if data is None else decode(Account, data)
    account = compute_ripe(account, height)
    maturing = account.maturing_amount
    return FoundAccount(
        shard, address, account.balance, maturing, account.nonce, height
    )


class Queries:
    """All reads; cheap to make, one per tree is enough."""

    def __init__(self, tree: BlockTree) -> None:
        self._tree = tree
        self._store: ChainStore = tree.store
        # Final blocks never change, and a page often shows one block many times.
        self._cached_block = lru_cache(CACHED_BLOCKS)(self._load_block)
        self._cached_chunk = lru_cache(CACHED_BLOCKS)(self._load_chunk)
        self._cached_outcomes = lru_cache(CACHED_BLOCKS)(tree.store.get_outcomes)
        self.stakes = StakeQueries(tree, self._get_header)
        """Validators, epochs and stakes."""
        self.evidence = EvidenceQueries(tree.store)
        """Who was convicted of what."""
        self.layouts = LayoutQueries(tree)
        """Shards as they are, as they will be, and as somebody wants them."""
        self.light = LightQueries(tree)
        """What light clients ask for."""
        self.shards = ShardQueries(tree, self._get_body)
        """Chunks, their producers and endorsers."""

    def forget(self) -> None:
        """Look everything up anew: other shards are followed than before."""
        self._cached_block.cache_clear()
        self._cached_chunk.cache_clear()
        self._cached_outcomes.cache_clear()

    @property
    def spec(self) -> ChainSpec:
        """The chain's constants."""
        return self._tree.spec

    @property
    def layout(self) -> Layout:
        """The shards as of the last final block."""
        return self._tree.layout

    @property
    def followed(self) -> tuple[ShardId, ...]:
        """The shards whose state is here, the root shard first."""
        here = self._tree.followed
        return tuple(shard for shard in self.layout.shard_ids if shard in here)

    @property
    def height(self) -> Height:
        """Height of the last final block."""
        return self._tree.final_height

    @property
    def first_height(self) -> Height:
        """Where history begins: 0, or the height of the snapshot that began it.

        Of what was before, lists show nothing, and a question that names a height
        raises `HistoryAbsent`.
        """
        return self._tree.first_height

    # ---------------------------------------------------------------- blocks

    def get_block(self, name: Height | bytes | None = None) -> FoundBlock | None:
        """Return a final block by height or hash; without a name the last one."""
        match name:
            case None:
                height: Height | None = self.height
            case bytes():
                height = self._store.get_height(name)
            case _:
                height = name
        return None if height is None else self._find_block(height)

    def list_blocks(
        self, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundBlock]:
        """Return final blocks, newest first."""
        keys = iterate_keys(self._store.kv, b"B", after)
        return build_page(keys, lambda key: self._get_at(key[1:9]), limit)

    def get_transaction(self, tx_id: bytes) -> FoundTransaction | None:
        """Return a final transaction."""
        place = self._store.get_place(tx_id)
        if place is None:
            return None
        return self._find_transaction(place.height, place.shard, place.index)

    def list_block_transactions(
        self, height: Height, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundTransaction]:
        """Return a final block's transactions, by shard, in order of execution."""
        block = self._store.get_block(height) if height <= self.height else None
        places = [
            build_key(b"", (header.shard, 2), (index, 4))
            for header in (block.body.headers if block else ())
            if self._has_outcomes(height, header)
            for index in range(header.tx_count)
        ]
        start = None if after is None else parse_cursor(after)
        return build_page(
            (place for place in places if start is None or place > start),
            lambda key: self._find_transaction(
                height, int.from_bytes(key[:2], "big"), int.from_bytes(key[2:], "big")
            ),
            limit,
        )

    def list_address_transactions(
        self, address: bytes, after: str | None = None, limit: int = PAGE
    ) -> Page[FoundTransaction]:
        """Return the transactions that concern an account, newest first."""
        prefix = build_key(b"A", address)
        keys = iterate_keys(self._store.kv, prefix, after)
        return build_page(
            keys,
            lambda key: self._find_transaction(
                int.from_bytes(key[-14:-6], "big"),
                int.from_bytes(key[-6:-4], "big"),
                int.from_bytes(key[-4:], "big"),
            ),
            limit,
        )

    def list_gaps(self) -> tuple[Gap, ...]:
        """Return the blocks of which lists do not tell what a shard did, by beginning.

        What is from before `first_height` is not among them.
        """
        first, height = self.first_height, self.height
        missing = frozenset(self.layout.shard_ids) - self._tree.followed
        # The stored ones are as of the last block; a shard may have been taken on or
        # dropped since.
        gaps = update_gaps(
            read_gaps(self._store), height + 1, missing, self._get_begun()
        )
        return tuple(
            Gap(gap.shard, max(gap.first, first), gap.last, gap.reason)
            for gap in gaps
            if gap.last is None or gap.last > first
        )

    def _get_begun(self) -> dict[ShardId, Height]:
        """Return since when shards are followed that were taken on."""
        found = {shard: self._store.get_adopted(shard) for shard in self.followed}
        return {shard: each.first for shard, each in found.items() if each is not None}

    # -------------------------------------------------------------- accounts

    def get_account(self, shard: ShardId, address: bytes) -> FoundAccount:
        """Return an account; one that was never used is empty."""
        data = self._tree.final.view.get(shard, build_account_key(address))
        return read_account(shard, address, data, self.height)

    def list_accounts(self, address: bytes) -> tuple[FoundAccount, ...]:
        """Return the account in every shard that is followed, the root shard first."""
        return tuple(self.get_account(shard, address) for shard in self.followed)

    def get_balance_total(self, address: bytes) -> int:
        """Return the atoms that can be spent, over all shards that are followed."""
        return sum(account.balance for account in self.list_accounts(address))

    # -------------------------------------------------------------- provider

    def get_registration(
        self, account: bytes, shard: ShardId | None = None
    ) -> Registration | None:
        """Return an account's registration, in `shard` or in the first that has one.

        Without a shard, those that are followed are looked through.
        """
        shards = self.followed if shard is None else (shard,)
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

    # -------------------------------------------------------------- channels

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
        shards = self.followed if shard is None else (shard,)
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

    # ------------------------------------------------------- shards, packets

    def list_shards(self) -> tuple[FoundShard, ...]:
        """Return every shard with its newest chunk."""
        return tuple(self._find_shard(shard) for shard in self.layout.shard_ids)

    def get_shard(self, shard: ShardId) -> FoundShard | None:
        """Return one shard."""
        is_known = shard in self.layout.shard_ids
        return self._find_shard(shard) if is_known else None

    def get_chunk(self, shard: ShardId, seq: int) -> FoundChunk | None:
        """Return a shard's chunk by its number; the first after genesis is 1.

        Returns:
            None if there is none, and if its body is not here.
        """
        height = self._store.get_chunk_height(shard, seq)
        found = None if height is None else self._find_block(height)
        if height is None or found is None:
            return None
        self._check_outcomes(height)
        chunk = self.find_chunk(found.block, shard)
        if chunk is None:
            return None
        outcomes = self._store.get_outcomes(height, shard)
        return FoundChunk(height, found.block_hash, chunk, outcomes)

    def find_chunk(self, block: Block, shard: ShardId) -> Chunk | None:
        """Return a shard's chunk in a final block; None if its body is not here."""
        found = self._cached_chunk(compute_block_hash(block.header), shard)
        # What was not here may have come since.
        return found or self._store.get_chunk(block, shard)

    def get_packet(self, src: ShardId, dst: ShardId, seq: int) -> StoredPacket | None:
        """Return a packet and the height of the block that consumed it."""
        return self._store.get_packet(src, dst, seq)

    def list_packets(
        self,
        src: ShardId,
        dst: ShardId,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Page[StoredPacket]:
        """Return the packets from one shard to another, newest first."""
        prefix = build_key(b"P", (src, 2), (dst, 2))
        keys = iterate_keys(self._store.kv, prefix, after)
        return build_page(
            keys,
            lambda key: self._store.get_packet(
                src, dst, int.from_bytes(key[-8:], "big")
            ),
            limit,
        )

    # ------------------------------------------------------------------ work

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

    # ----------------------------------------------------------------- proof

    def prepare_state(self, shard: ShardId, height: Height | None) -> Iterator[None]:
        """Do what makes `build_state_proof` short, a slice at a time.

        Raises:
            PrunedState, UnknownShard: As there.
        """
        if height is None:
            return iter(())
        return self._tree.history.prepare(height, shard, lambda: self.height)

    def build_state_proof(
        self, shard: ShardId, key: bytes, height: Height | None = None
    ) -> StateProof:
        """Return the proof of a key's value, or of its absence, after a final block.

        The first proof of an older state takes a second or two under load, so whoever
        has other work exhausts `prepare_state` before.

        Args:
            shard: Of the layout.
            key: In the shard's state.
            height: Of one of the last blocks; None: the last final one.

        Raises:
            PrunedState: Too old, or not final yet; says what can be had.
            UnknownShard: There was none of that number.
        """
        tree, last = self._tree, self.height
        height = last if height is None else height
        view = tree.history.get_view(height, shard, last)
        value, bucket = view.get(shard, key), view.build_proof(shard, key)
        return self.build_foreign_proof(shard, key, ForeignValue(value, height, bucket))

    def build_foreign_proof(
        self, shard: ShardId, key: bytes, found: ForeignValue
    ) -> StateProof:
        """Return the proof of a value that somebody showed.

        Args:
            shard: Of the layout.
            key: In the shard's state.
            found: What it holds, proven under a root of ours.

        Raises:
            PrunedState: The block is too long ago by now.
            UnknownShard: There was none of that number.
        """
        height = found.height
        roots = self._tree.history.get_roots(height, self.height)
        index, path = compute_root_path(roots, shard)
        header = self._store.get_header(height)
        if header is None:
            raise StoreError(f"no block at height {height}")
        block = self.light.build_block(height)
        return StateProof(
            shard=shard,
            key=key,
            value=found.value,
            bucket=found.proof,
            levels=self.spec.params.bucket_levels,
            shard_root=roots[shard],
            index=index,
            count=len(roots),
            path=path,
            header=header,
            certificate=None if block is None else block.certificate,
            descendants=() if block is None else block.headers[1:],
        )

    def get_conservation(self, height: Height | None = None) -> Books:
        """Return where all atoms were after a final block; None: the last one.

        Raises:
            HistoryAbsent: From before our history.
        """
        return get_conservation(self._tree, height)

    def compute_conservation(self) -> Books:
        """Return where all atoms are; counts the whole state."""
        return compute_conservation(self._tree)

    # ---------------------------------------------------------------- inside

    def _find_block(self, height: Height) -> FoundBlock | None:
        is_final = 0 <= height <= self.height
        return self._cached_block(height) if is_final else None

    def _get_header(self, height: Height) -> Header | None:
        found = self._find_block(height)
        return None if found is None else found.block.header

    def _get_body(self, height: Height) -> Block | None:
        found = self._find_block(height)
        return None if found is None else found.block

    def _load_block(self, height: Height) -> FoundBlock:
        if height < self.first_height:
            raise HistoryAbsent(height, self.first_height)
        data = self._store.get_block_bytes(height)
        block = self._store.get_block(height)
        if data is None or block is None:
            raise StoreError(f"no block at height {height}")
        return FoundBlock(
            height=height,
            block_hash=compute_block_hash(block.header),
            block=block,
            certificate=self._store.get_certificate(height),
            length=len(data),
            transactions=sum(header.tx_count for header in block.body.headers),
        )

    def _find_transaction(
        self, height: Height, shard: ShardId, index: int
    ) -> FoundTransaction:
        self._check_outcomes(height)
        found = self._find_block(height)
        if found is None:
            raise StoreError(f"no block at height {height}")
        chunk = self._get_chunk(found.block, shard)
        signed_bytes = chunk.transactions[index]
        return FoundTransaction(
            tx_id=compute_tx_id(signed_bytes),
            signed=decode_transaction(signed_bytes),
            height=height,
            block_hash=found.block_hash,
            time_ms=found.block.header.time_ms,
            shard=shard,
            index=index,
            outcome=self._get_outcomes(height, shard)[index],
        )

    def _get_chunk(self, block: Block, shard: ShardId) -> Chunk:
        """Return a shard's chunk in a final block.

        Raises:
            ShardNotFollowed: Its body is not here.
        """
        chunk = self.find_chunk(block, shard)
        if chunk is None:
            raise ShardNotFollowed(shard)
        return chunk

    def _load_chunk(self, block_hash: bytes, shard: ShardId) -> Chunk | None:
        found = self.get_block(block_hash)
        return None if found is None else self._store.get_chunk(found.block, shard)

    def _get_outcomes(self, height: Height, shard: ShardId) -> tuple[Outcome, ...]:
        # What was not here may have come since.
        found = self._cached_outcomes(height, shard)
        return found or self._store.get_outcomes(height, shard)

    def _has_outcomes(self, height: Height, header: ChunkHeader) -> bool:
        """Tell whether a chunk was executed here: endorsers have more bodies.

        Raises:
            HistoryAbsent: Nothing of the block was.
        """
        if header.tx_count:
            self._check_outcomes(height)
        outcomes = self._get_outcomes(height, header.shard)
        return len(outcomes) == header.tx_count and self._store.has_chunk(header)

    def _check_outcomes(self, height: Height) -> None:
        """Refuse what only executing the block would tell.

        Of the snapshot that a node began with it has the block and the state, and no
        outcomes: no header binds them.
        """
        if height <= self.first_height and self.first_height:
            raise HistoryAbsent(height, self.first_height, "outcomes of block")

    def _find_shard(self, shard: ShardId) -> FoundShard:
        heads = self._tree.final.heads
        head = heads[shard]
        height = self._store.get_chunk_height(shard, head.seq) or 0
        waiting = (
            (src, get_count(other.out_count, shard) - get_count(head.in_cursor, src))
            for src, other in heads.items()
        )
        return FoundShard(
            shard_id=shard,
            spec=self.layout.get_spec(shard),
            head=head,
            head_height=height,
            backlog=tuple((src, count) for src, count in waiting if count),
            totals=self._get_totals(shard),
        )

    def _get_totals(self, shard: ShardId) -> Totals | None:
        if shard not in self._tree.followed:
            return None
        data = self._tree.final.view.get(shard, TOTALS_KEY)
        return Totals(0, 0, 0) if data is None else decode(Totals, data)

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

    def _get_at(self, height_bytes: bytes) -> FoundBlock | None:
        return self._find_block(int.from_bytes(height_bytes, "big"))
