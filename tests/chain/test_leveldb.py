"""LevelDB when the disk flips bits or is full."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from chain.errors import FailedWrite, StoreError
from chain.storage.leveldb import LevelStore
from primitives.hashing import compute_hash

KEYS = [b"k" + number.to_bytes(4, "big") for number in range(2000)]


def compute_value(key: bytes) -> bytes:
    """Return 128 bytes that no other key has."""
    return compute_hash("test", key) * 4


def fill(folder: Path) -> None:
    with LevelStore(folder) as store:
        store.write({key: compute_value(key) for key in KEYS}, sync=True)
    # What is in the log becomes a file when the database is opened.
    with LevelStore(folder):
        pass


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_an_error_and_never_a_wrong_value(tmp_path, part):
    fill(tmp_path)
    (file,) = tmp_path.glob("*.ldb")
    flip(file, int(file.stat().st_size * part))
    damaged = 0
    with LevelStore(tmp_path) as store:
        for key in KEYS:
            try:
                assert store.get(key) == compute_value(key)
            except StoreError:
                damaged += 1
        # One block of LevelDB's, of four kilobytes or a little more.
        assert 0 < damaged < 80
        with pytest.raises(StoreError, match="cannot read"):
            list(store.iterate(b"k"))
        frozen = store.freeze()
        with pytest.raises(StoreError, match="cannot read"):
            list(frozen.iterate(b"k", reverse=True))
        with pytest.raises(StoreError, match="cannot read"):
            [frozen.get(key) for key in KEYS]
        frozen.close()


def test_a_flipped_bit_in_the_log_does_not_lose_what_follows_in_silence(tmp_path):
    with LevelStore(tmp_path) as store:
        for key in KEYS[:20]:
            store.write({key: compute_value(key)}, sync=True)
    (file,) = tmp_path.glob("*.log")
    flip(file, file.stat().st_size // 2)
    with pytest.raises(StoreError, match="cannot open"):
        LevelStore(tmp_path)


def test_half_a_record_at_the_end_of_the_log_is_a_crash_and_no_damage(tmp_path):
    with LevelStore(tmp_path) as store:
        for key in KEYS[:20]:
            store.write({key: compute_value(key)}, sync=True)
    (file,) = tmp_path.glob("*.log")
    file.write_bytes(file.read_bytes()[:-10])
    with LevelStore(tmp_path) as store:
        assert dict(store.iterate(b"k")) == {
            key: compute_value(key) for key in KEYS[:19]
        }


@contextmanager
def limited_files(size: int):
    """No file of this process grows beyond `size`: a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_lot(store: LevelStore, number: int) -> None:
    """Write ten keys in one batch."""
    keys = KEYS[10 * number : 10 * number + 10]
    store.write({key: compute_value(key) for key in keys}, sync=True)


def find_failure(store: LevelStore, number: int) -> FailedWrite | None:
    try:
        write_lot(store, number)
    except FailedWrite as failure:
        return failure
    return None


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    store = LevelStore(tmp_path)
    done = 0
    with limited_files(100_000):
        while (failure := find_failure(store, done)) is None:
            done += 1
    assert "cannot write" in str(failure)
    assert done > 0
    # There is room again, but half a record may stand at the end of the log.
    with pytest.raises(FailedWrite, match="after one that failed"):
        write_lot(store, done + 1)
    assert store.get(KEYS[0]) == compute_value(KEYS[0])
    store.close()
    with LevelStore(tmp_path) as store:
        kept = dict(store.iterate(b"k"))
        assert len(kept) in (10 * done, 10 * done + 10)
        assert kept == {key: compute_value(key) for key in KEYS[: len(kept)]}
        write_lot(store, done)
        assert len(dict(store.iterate(b"k"))) == 10 * done + 10


def test_a_database_in_use_and_a_folder_that_is_none(tmp_path):
    with LevelStore(tmp_path / "db"), pytest.raises(StoreError, match="cannot open"):
        LevelStore(tmp_path / "db")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot open"):
        LevelStore(tmp_path / "file")
