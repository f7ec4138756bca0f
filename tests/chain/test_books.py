"""Books of shards that go: what they sent away is the root shard's from then on."""

from itertools import permutations

import msgspec
import pytest

from chain.storage import books
from chain.storage.books import Books, balance_books
from shards.layout import ROOT_SHARD

ROOT = balance_books(Books(balances=900, genesis=1000, minted=50, burned=7))
LEFT = balance_books(Books(genesis=300, minted=10, burned=20))
"""Of a shard that retires: everything it ever had is away or burned."""


def inherit(left, totals):
    """Return the root shard's books with the totals of a shard, as FAREWELL does."""
    return msgspec.structs.replace(
        left,
        genesis=left.genesis + totals.genesis,
        minted=left.minted + totals.minted,
        burned=left.burned + totals.burned,
    )


@pytest.mark.parametrize("gone", list(permutations([1, 2, 3])))
@pytest.mark.parametrize("followed", [(), (2,), (1, 3), (1, 2, 3)])
def test_books_are_balanced_whatever_goes_and_whatever_was_followed(gone, followed):
    """Resharding 102: a model's shards retired together, and one was not followed."""
    root = ROOT
    for _ in gone:
        root = inherit(root, LEFT)
    touched = {ROOT_SHARD: root} | dict.fromkeys(followed, LEFT)
    books._close_books(touched, gone)
    assert touched[ROOT_SHARD].is_conserved
    assert touched[ROOT_SHARD].away == ROOT.away + len(gone) * LEFT.away
    assert all(touched[shard].away == 0 for shard in followed)
