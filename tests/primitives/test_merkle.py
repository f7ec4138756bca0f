import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.merkle import EMPTY_ROOT, compute_list_root, compute_path, verify_path

lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


@given(lists, st.data())
def test_every_leaf_has_a_path(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = compute_list_root(leaves), compute_path(leaves, index)
    assert verify_path(root, len(leaves), index, leaves[index], path)


@given(lists, st.data())
def test_nothing_else_passes(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = compute_list_root(leaves), compute_path(leaves, index)
    leaf, count = leaves[index], len(leaves)
    assert not verify_path(root, count, index, leaf + b"x", path)
    assert not verify_path(root, count + 1, index, leaf, path)
    assert not verify_path(root, count, index, leaf, (*path, bytes(32)))
    assert not verify_path(root, count, count, leaf, path)
    assert not verify_path(root, count, -1, leaf, path)
    assert not verify_path(bytes(32), count, index, leaf, path)
    if path:
        assert not verify_path(root, count, index, leaf, path[:-1])
        assert not verify_path(root, count, index, leaf, (bytes(32), *path[1:]))


@given(lists, lists)
def test_different_lists_have_different_roots(a: list[bytes], b: list[bytes]) -> None:
    assert (compute_list_root(a) == compute_list_root(b)) == (a == b)


def test_an_inner_node_is_no_leaf() -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    inner = compute_path(leaves, 0)[1]
    assert compute_list_root([inner, inner]) != compute_list_root(leaves)


def test_the_empty_list_has_a_root_of_its_own() -> None:
    assert compute_list_root([]) == EMPTY_ROOT
    assert compute_list_root([b""]) != EMPTY_ROOT


def test_a_path_is_bounded() -> None:
    assert not verify_path(EMPTY_ROOT, 2**62, 0, b"", (bytes(32),) * 62)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 31])
def test_paths_are_no_longer_than_the_tree_is_high(count: int) -> None:
    leaves = [bytes([i]) for i in range(count)]
    for index in range(count):
        assert len(compute_path(leaves, index)) <= (count - 1).bit_length()
