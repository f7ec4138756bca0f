"""Databases with flipped bytes: found at opening, replaced by command."""

import shutil
from contextlib import suppress

import pytest
from snapshot_world import make_chain

from chain.errors import StoreError
from chain.storage.leveldb import LevelStore
from chain.tree.opening import open_tree
from p2pchain.node.repair import finish_repair, replace_database
from primitives import bls

BOOK = {b"book/payer/%d" % i: b"voucher %d" % i for i in range(2000)}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A database whose pages are in sorted files, and its chain."""
    folder = tmp_path_factory.mktemp("chain") / "data"
    with LevelStore(folder) as store:
        world = make_chain(store=store)
        store.write(BOOK, sync=True)
        final = world.tree.final_hash
        # What is written once more moves from the log into sorted files.
        store._db.compact_range()
    return folder, world.spec, final


def flip(folder, where: float) -> None:
    """Flip bits of the largest sorted file."""
    path = max(folder.glob("*.ldb"), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0x55
    path.write_bytes(data)


def open_it(folder, spec) -> bytes:
    with LevelStore(folder) as store:
        return open_tree(spec, store, bls).final_hash


@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_flipped_byte_is_found_or_harmless_and_mended(chain, tmp_path, where):
    folder, spec, final = chain
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    flip(data, where)
    with suppress(StoreError):
        # It may have hit an index of the histories, which opening does not read.
        assert open_it(data, spec) == final
    repaired = replace_database(data)
    assert repaired.old.is_dir()
    with LevelStore(data) as store:
        tree = open_tree(spec, store, bls)
        assert tree.final_height == 0
        kept = dict(store.iterate(b"book/"))
        assert kept.items() <= BOOK.items()
        assert kept == BOOK or repaired.lost


def test_every_state_bucket_that_is_damaged_is_named(chain, tmp_path):
    folder, spec, _ = chain
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    with LevelStore(data) as store:
        key, value = next(store.iterate(b"S"))
        store.write({key: value[:-1] + bytes([value[-1] ^ 1])}, sync=True)
    with pytest.raises(StoreError, match="of shard"):
        open_it(data, spec)


def test_a_database_that_does_not_open_at_all(chain, tmp_path):
    folder, spec, _ = chain
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    manifest = next(data.glob("MANIFEST-*"))
    manifest.write_bytes(b"\xff" * 100)
    with pytest.raises(StoreError):
        open_it(data, spec)
    repaired = replace_database(data)
    with LevelStore(data) as store:
        assert dict(store.iterate(b"book/")) == BOOK
        assert open_tree(spec, store, bls).final_height == 0
    assert repaired.kept >= len(BOOK)
    assert not repaired.lost


def test_a_cut_between_the_two_names_is_mended(chain, tmp_path):
    folder, spec, _ = chain
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    replace_database(data)
    data.rename(tmp_path / "data.new")
    finish_repair(data)
    with LevelStore(data) as store:
        assert dict(store.iterate(b"book/")) == BOOK
        assert open_tree(spec, store, bls).final_height == 0
    finish_repair(data)


def test_an_earlier_damaged_database_is_not_overwritten(chain, tmp_path):
    folder, _, _ = chain
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    replace_database(data)
    with pytest.raises(StoreError, match="earlier repair"):
        replace_database(data)
