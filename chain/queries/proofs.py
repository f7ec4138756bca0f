"""
Proofs of what the states of the last blocks hold; a part of chain/queries/queries.py.
"""

from collections.abc import Iterator

from chain.errors import (
    StoreError,
)
from chain.queries.foreign_state import ForeignValue
from chain.queries.light import LightQueries
from chain.records.block import compute_root_path
from chain.state.proofs import StateProof
from chain.tree.blocktree import BlockTree
from primitives.types import Height, ShardId


class StateQueries:
    """All reads that end in a proof."""

    def __init__(self, tree: BlockTree, light: LightQueries) -> None:
        self._tree = tree
        self._light = light

    def prepare_state(self, shard: ShardId, height: Height | None) -> Iterator[None]:
        """Do what makes `build_state_proof` short, a slice at a time.

        Raises:
            PrunedState, UnknownShard: As there.
        """
        if height is None:
            return iter(())
        return self._tree.history.prepare(
            height, shard, lambda: self._tree.final_height
        )

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
        tree, last = self._tree, self._tree.final_height
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
        roots = self._tree.history.get_roots(height, self._tree.final_height)
        index, path = compute_root_path(roots, shard)
        header = self._tree.store.get_header(height)
        if header is None:
            raise StoreError(f"no block at height {height}")
        block = self._light.build_block(height)
        return StateProof(
            shard=shard,
            key=key,
            value=found.value,
            bucket=found.proof,
            levels=self._tree.spec.params.bucket_levels,
            shard_root=roots[shard],
            index=index,
            count=len(roots),
            path=path,
            header=header,
            certificate=None if block is None else block.certificate,
            descendants=() if block is None else block.headers[1:],
        )
