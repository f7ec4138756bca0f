"""The table of a tree against the list of its nodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    EMPTY_HASHES,
    MAX_LEVELS,
    compute_bucket_count,
    compute_empty_tree,
    compute_leaf_node,
    compute_update,
)
from primitives.treetable import TreeTable, compute_group_update

digests = st.one_of(
    st.just(EMPTY_BUCKET_HASH), st.binary(min_size=32, max_size=32).filter(any)
)
updates = st.lists(
    st.dictionaries(st.integers(0, 63), digests, min_size=1, max_size=10), max_size=5
)


@given(updates, st.integers(3, 4))
def test_updates_are_those_of_the_list(updates, levels):
    table, nodes = TreeTable(levels), compute_empty_tree(levels)
    for dirty in updates:
        expected = compute_update(nodes.__getitem__, dirty, levels)
        root, groups = compute_group_update(table.get_group, dirty, levels)
        assert root == expected[0]
        # Nothing changed before it is applied.
        assert [table.get_node(node) for node in range(len(nodes))] == nodes
        table.apply(root, groups)
        for node, digest in expected.items():
            nodes[node] = digest
        assert [table.get_node(node) for node in range(len(nodes))] == nodes
        assert table.root == nodes[0]


@given(st.dictionaries(st.integers(0, 63), digests), st.integers(3, 5))
def test_loading_is_one_big_update(leaves, levels):
    table = TreeTable(levels)
    table.load([(5, bytes([1]) * 32)])
    table.load(sorted(leaves.items()))
    nodes = compute_empty_tree(levels)
    if leaves:
        for node, digest in compute_update(nodes.__getitem__, leaves, levels).items():
            nodes[node] = digest
    assert [table.get_node(node) for node in range(len(nodes))] == nodes
    assert table.get_leaf(7) == leaves.get(7, EMPTY_BUCKET_HASH)


@pytest.mark.parametrize("levels", [0, 1, MAX_LEVELS])
def test_first_and_last_bucket(levels):
    table = TreeTable(levels)
    assert table.root == EMPTY_HASHES[levels]
    last = compute_bucket_count(levels) - 1
    for index in (0, last):
        digest = bytes([index % 255 + 1]) * 32
        table.apply(*compute_group_update(table.get_group, {index: digest}, levels))
        assert table.get_leaf(index) == digest
    again = TreeTable(levels)
    again.load((index, table.get_leaf(index)) for index in sorted({0, last}))
    assert again.root == table.root
    assert table.get_node(compute_leaf_node(last, levels)) == table.get_leaf(last)


@pytest.mark.parametrize("index", [-1, 64])
def test_a_bucket_beyond_the_tree(index):
    with pytest.raises(IndexError, match=f"bucket {index} of 64"):
        TreeTable(3).load([(index, bytes(32))])
