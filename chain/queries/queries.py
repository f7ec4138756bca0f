"""
Reads over the final chain: what RPC, explorer and wallet ask.

Every answer is about the last final block or something older; nothing here changes
anything.  Lists come in pages: `next` of one page is `after` of the next, an opaque
string that stays good while blocks arrive.
"""

from functools import lru_cache

from chain.checks.conservation import (
    compute_conservation,
    get_conservation,
)
from chain.errors import (
    HistoryAbsent,
    ShardNotFollowed,
    StoreError,
)
from chain.ledger.ledger import Totals
from chain.queries.evidence import EvidenceQueries
from chain.queries.found import (
    FoundAccount,
    FoundBlock,
    FoundChunk,
    FoundShard,
    FoundTransaction,
    read_account,
)
from chain.queries.layouts import LayoutQueries
from chain.queries.light import LightQueries
from chain.queries.market import MarketQueries
from chain.queries.paging import PAGE, Page, build_page, iterate_keys, parse_cursor
from chain.queries.proofs import StateQueries
from chain.queries.shards import ShardQueries
from chain.queries.stakes import StakeQueries
from chain.records.block import Block
from chain.records.header import Header, compute_block_hash
from chain.records.keys import (
    TOTALS_KEY,
    build_account_key,
)
from chain.records.outcome import Outcome
from chain.records.spec import ChainSpec
from chain.records.transaction import compute_tx_id, decode_transaction
from chain.storage.books import Books
from chain.storage.gaps import Gap, read_gaps, update_gaps
from chain.storage.store import ChainStore, StoredPacket, build_key
from chain.tree.blocktree import BlockTree
from primitives.codec import decode
from primitives.types import Height, ShardId
from shards.chunk import Chunk, ChunkHeader, get_count
from shards.layout import Layout

CACHED_BLOCKS = 16
"""Decoded blocks kept: at most 16 MiB of bytes, about 60 MB decoded."""


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
        self.market = MarketQueries(tree)
        """Models, providers, channels, and the work that was paid."""
        self.states = StateQueries(tree, self.light)
        """Proofs of what a state holds."""

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

    # ---------------------------------------------------------- conservation

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

    def _get_at(self, height_bytes: bytes) -> FoundBlock | None:
        return self._find_block(int.from_bytes(height_bytes, "big"))
