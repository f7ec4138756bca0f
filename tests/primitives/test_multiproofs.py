"""Multiproofs and partial trees against the full tree."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.buckets import (
    EMPTY_BUCKET_HASH,
    EMPTY_HASHES,
    MAX_LEVELS,
    InvalidMultiproof,
    PartialTree,
    build_multiproof,
    compute_bucket_count,
    compute_empty_tree,
    compute_leaf_node,
    compute_multiproof_nodes,
    compute_tree,
    compute_update,
)
from primitives.hashing import compute_hash

LEVELS = 3
COUNT = compute_bucket_count(LEVELS)
indices = st.integers(0, COUNT - 1)
digests = st.binary(min_size=32, max_size=32)
sets = st.sets(indices, max_size=12)


def build_leaf(number: int) -> bytes:
    """Return some hash that no other number has."""
    return compute_hash("test", number.to_bytes(4, "big"))


TREE = compute_tree([build_leaf(number) for number in range(COUNT)], LEVELS)
ROOT = TREE[0]


def prove(numbers) -> tuple[dict[int, bytes], tuple[bytes, ...]]:
    leaves = {number: build_leaf(number) for number in numbers}
    return leaves, build_multiproof(TREE.__getitem__, numbers, LEVELS)


@given(sets)
def test_any_set_of_buckets_leads_to_the_root(numbers):
    leaves, siblings = prove(numbers)
    assert PartialTree(leaves, siblings, LEVELS).root == ROOT
    assert build_multiproof(TREE.__getitem__, sorted(numbers), LEVELS) == siblings
    # Minimal: no hash that the buckets give already, none twice.
    known = {TREE[0]} if numbers else set()
    for number in numbers:
        node = compute_leaf_node(number, LEVELS)
        while node:
            known.add(TREE[node])
            node = (node - 1) // 4
    assert not known & set(siblings)
    assert len(set(siblings)) == len(siblings)


@given(sets, st.dictionaries(indices, digests, max_size=12))
def test_changes_give_the_root_of_the_full_tree(numbers, dirty):
    leaves, siblings = prove(numbers | dirty.keys())
    partial = PartialTree(leaves, siblings, LEVELS)
    expected = compute_update(TREE.__getitem__, dirty, LEVELS).get(0, ROOT)
    assert partial.root == ROOT
    assert partial.update(dirty) == expected
    assert partial.root == expected
    # And back again.
    assert partial.update({number: build_leaf(number) for number in dirty}) == ROOT


@given(st.sets(indices, min_size=1, max_size=6), indices, digests)
def test_a_bucket_outside_cannot_be_changed(numbers, other, digest):
    numbers.discard(other)
    partial = PartialTree(*prove(numbers), LEVELS)
    with pytest.raises(InvalidMultiproof, match=f"bucket {other} is not"):
        partial.update({other: digest})
    assert partial.root == ROOT


@given(sets, st.data())
def test_extra_and_missing_hashes(numbers, data):
    leaves, siblings = prove(numbers)
    place = data.draw(st.integers(0, len(siblings)))
    longer = (*siblings[:place], bytes(32), *siblings[place:])
    with pytest.raises(InvalidMultiproof, match="hashes beside"):
        PartialTree(leaves, longer, LEVELS)
    if siblings:
        shorter = siblings[: place - 1] + siblings[place:] if place else siblings[1:]
        with pytest.raises(InvalidMultiproof, match="hashes beside"):
            PartialTree(leaves, shorter, LEVELS)


@given(st.sets(indices, min_size=1, max_size=8), st.data())
def test_a_wrong_hash_gives_another_root(numbers, data):
    leaves, siblings = prove(numbers)
    number = data.draw(st.sampled_from(sorted(numbers)))
    assert PartialTree(leaves | {number: bytes(32)}, siblings, LEVELS).root != ROOT
    if siblings:
        place = data.draw(st.integers(0, len(siblings) - 1))
        wrong = (*siblings[:place], bytes(32), *siblings[place + 1 :])
        assert PartialTree(leaves, wrong, LEVELS).root != ROOT


@given(st.sets(indices, min_size=1, max_size=8), indices)
def test_a_bucket_left_out_or_put_in_is_noticed(numbers, other):
    leaves, siblings = prove(numbers)
    fewer = dict(list(leaves.items())[1:])
    with suppress(InvalidMultiproof):
        assert PartialTree(fewer, siblings, LEVELS).root != ROOT
    if other not in leaves:
        more = leaves | {other: build_leaf(other)}
        with suppress(InvalidMultiproof):
            assert PartialTree(more, siblings, LEVELS).root != ROOT


def test_no_bucket_and_every_bucket():
    assert prove(())[1] == (ROOT,)
    assert prove(range(COUNT))[1] == ()
    assert PartialTree({0: ROOT}, (), 0).root == ROOT


@pytest.mark.parametrize("number", [-1, COUNT, 2**40])
def test_buckets_that_do_not_exist(number):
    with pytest.raises(InvalidMultiproof, match=f"bucket {number} of {COUNT}"):
        PartialTree({number: bytes(32)}, (), LEVELS)


@pytest.mark.parametrize("levels", [-1, MAX_LEVELS + 1])
def test_levels_that_no_tree_has(levels):
    with pytest.raises(InvalidMultiproof, match="levels"):
        PartialTree({}, (ROOT,), levels)


@pytest.mark.parametrize("digest", [bytes(1), bytes(31), bytes(33)])
def test_hashes_of_another_length(digest):
    with pytest.raises(InvalidMultiproof, match=f"of {len(digest)} bytes"):
        PartialTree({}, (digest,), LEVELS)


@given(st.dictionaries(indices, digests, max_size=3), sets)
def test_empty_subtrees_take_no_bytes(filled, numbers):
    """A proof in a young tree of full size is as short as one in a small tree."""
    levels = MAX_LEVELS
    filled = {number * 3001: digest for number, digest in filled.items()}
    numbers = {number * 3001 for number in numbers}
    empty = dict(enumerate(compute_empty_tree(LEVELS)))
    assert empty[0] == EMPTY_HASHES[LEVELS]
    nodes = compute_update(find_empty, filled, levels) if filled else {}

    def get_node(node: int) -> bytes:
        return nodes.get(node) or find_empty(node)

    siblings = build_multiproof(get_node, numbers, levels)
    assert sum(map(bool, siblings)) <= len(filled) * (levels + 1)
    leaves = {n: filled.get(n, EMPTY_BUCKET_HASH) for n in numbers}
    assert PartialTree(leaves, siblings, levels).root == get_node(0)
    for place, sibling in enumerate(siblings):
        if not sibling:
            (_, height) = compute_multiproof_nodes(numbers, levels)[place]
            longer = list(siblings)
            longer[place] = EMPTY_HASHES[height]
            with pytest.raises(InvalidMultiproof, match="written out"):
                PartialTree(leaves, longer, levels)
            break


def find_empty(node: int) -> bytes:
    """Return the hash of a node of an empty tree of full size."""
    depth = 0
    while compute_leaf_node(0, depth + 1) <= node:
        depth += 1
    return EMPTY_HASHES[MAX_LEVELS - depth]
