"""
What a chunk really brings about: found by executing it on the whole state.

No witness, nothing that anybody remembers, no committee: the judge's own way, so that
what it says does not depend on the code that it judges.
"""

from chain.execution.chunk import ChunkBody, execute_chunk, fill_header
from chain.execution.held import HeldBlock
from chain.execution.verified import VerifiedCache
from chain.state.chunk_state import ShardState
from chain.tree.blocktree import BlockTree
from chain.tree.branch import Branch
from chain.tree.processing import build_chunk_context, build_claim, validate_sources
from shards.chunk import ChunkHeader
from shards.messages import ProducedChunk


def build_branch(tree: BlockTree, tip: HeldBlock) -> Branch:
    """Return a held block with its pending ancestors."""
    known = {held.block_hash: held for held in tree.pending}
    pending: list[HeldBlock] = []
    held: HeldBlock | None = tip
    while held is not None and held.height > tree.final_height:
        pending.append(held)
        held = known.get(held.header.parent_hash)
    return Branch(tip, tuple(reversed(pending)), tree.final_height, tree.store)


def reexecute(
    tree: BlockTree, parent: HeldBlock, produced: ProducedChunk, cache: VerifiedCache
) -> ChunkHeader:
    """Return the header that a chunk should have.

    Args:
        tree: That holds the parent, with the state of the chunk's shard.
        parent: A block that holds the chunk's predecessor as the shard's tip.
        produced: Its header says where it stands; all else of it is found out.
        cache: Of transactions whose signatures were verified.

    Raises:
        InvalidChunk: It cannot be executed.
    """
    header, shard = produced.header, produced.header.shard
    branch = build_branch(tree, parent)
    validate_sources(produced.packets, branch)
    executed = execute_chunk(
        build_chunk_context(tree.spec, branch, header),
        ShardState(parent.view, shard),
        ChunkBody(produced.packets, produced.transactions),
        build_claim(tree.spec.params, header),
        cache,
    )
    after = parent.view.compute_child_with({shard: executed.buckets})
    pre_root, post_root = parent.view.get_root(shard), after.get_root(shard)
    return fill_header(header, executed.result, pre_root, post_root)
