"""The cache of parts: limits, pins, damage, and a crash between any two writes."""

import os
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import CacheFull, DiskFull, WrongPart
from inference.weights.pieces import Part
from inference.weights.pieces_store import PieceStore, get_part_path

SIZE = 100


def make(number: int, size: int = SIZE) -> tuple[Part, bytes]:
    data = bytes([number]) * size
    return Part(blake3(data).digest(), size), data


def put(store: PieceStore, *numbers: int) -> None:
    for number in numbers:
        part, data = make(number)
        store.put(part.digest, data)


def list_held(store: PieceStore, numbers=range(20)) -> list[int]:
    return [n for n in numbers if make(n)[0].digest in store]


@pytest.fixture
def store(tmp_path: Path) -> PieceStore:
    """Room for four parts on a disk of any size."""
    return build(tmp_path)


def build(folder: Path, **options) -> PieceStore:
    defaults = {"limit_bytes": 4 * SIZE, "reserve_bytes": 0}
    return PieceStore(folder / "parts", **(defaults | options))


def test_what_was_put_comes_back(store: PieceStore, tmp_path: Path) -> None:
    put(store, 1, 2, 1)
    assert store.used_bytes == 2 * SIZE
    again = build(tmp_path)
    assert again.used_bytes == 2 * SIZE
    for number in (1, 2):
        part, data = make(number)
        assert store.get(part.digest) == again.get(part.digest) == data
    assert again.get(bytes(32)) is None


def test_bytes_that_are_no_such_part_are_not_kept(store: PieceStore) -> None:
    with pytest.raises(WrongPart):
        store.put(make(1)[0].digest, make(2)[1])
    assert store.used_bytes == 0


def test_the_least_recently_used_goes_first(store: PieceStore) -> None:
    put(store, 1, 2, 3, 4)
    store.get(make(1)[0].digest)
    put(store, 5)
    assert list_held(store) == [1, 3, 4, 5]


def test_the_order_outlives_the_process(store: PieceStore, tmp_path: Path) -> None:
    put(store, 1, 2, 3, 4)
    for age, number in enumerate((2, 4, 1, 3)):
        path = get_part_path(store.folder, make(number)[0].digest)
        os.utime(path, (age, age))
    again = build(tmp_path)
    put(again, 5, 6)
    assert list_held(again) == [1, 3, 5, 6]


def test_pinned_parts_stay(store: PieceStore) -> None:
    put(store, 1, 2, 3, 4)
    store.pin("hosted", [make(n)[0] for n in (1, 2, 3)])
    put(store, 5, 6)
    assert list_held(store) == [1, 2, 3, 6]
    store.pin("gateway", [make(6)[0]])
    with pytest.raises(CacheFull, match="all of them in use"):
        put(store, 7)
    store.pin("hosted", [])
    put(store, 7)
    assert list_held(store) == [2, 3, 6, 7]


def test_a_pin_that_can_never_fit_is_refused_before_anything_is_fetched(
    store: PieceStore,
) -> None:
    parts = [make(n)[0] for n in range(1, 6)]
    with pytest.raises(CacheFull, match="raise weights_cache_mb"):
        store.pin("hosted", parts)
    store.pin("hosted", parts[:4])
    # The same parts under another name take no more room.
    store.pin("gateway", parts[:4])


def test_a_full_disk_takes_evictable_parts_first(tmp_path: Path) -> None:
    free = [250]

    def measure(folder: Path) -> int:
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return free[0] - used

    store = build(tmp_path, reserve_bytes=50, get_free_bytes=measure)
    put(store, 1, 2)
    put(store, 3)
    assert list_held(store) == [2, 3]
    store.pin("hosted", [make(n)[0] for n in (2, 3)])
    with pytest.raises(DiskFull, match="MB are free"):
        put(store, 4)
    assert list_held(store) == [2, 3]


def test_a_disk_that_refuses_is_told_and_nothing_is_counted(
    store: PieceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(DiskFull, match="No space left"):
            put(store, 1)
    assert store.used_bytes == 0
    assert list_held(store) == []
    put(store, 1)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_part_is_named_and_can_be_put_anew(
    store: PieceStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    part, data = make(1)
    put(store, 1)
    path = get_part_path(store.folder, part.digest)
    match damage:
        case "flip":
            path.write_bytes(data[:50] + b"\xff" + data[51:])
        case "truncate":
            path.write_bytes(data[:50])
        case "remove":
            path.unlink()
    assert store.get(part.digest) is None
    assert part.digest.hex() in caplog.text
    assert part.digest not in store
    assert store.used_bytes == 0
    put(store, 1)
    assert store.get(part.digest) == data


class Crash(BaseException):
    """The machine stops here."""


@pytest.mark.parametrize("torn", [0, 37, SIZE])
@pytest.mark.parametrize("step", range(12))
def test_a_crash_between_any_two_writes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, torn: int
) -> None:
    """`torn` bytes of what was being written reach the disk."""
    count = 0

    def interrupt(name: str):
        original = getattr(Path, name)

        def run(self: Path, *args, **kwargs):
            nonlocal count
            count += 1
            if count > step:
                if name == "write_bytes":
                    original(self, args[0][:torn])
                raise Crash
            return original(self, *args, **kwargs)

        return run

    store, known = build(tmp_path), []

    def put_all() -> None:
        for number in range(1, 9):
            put(store, number)
            known.append(number)

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "rename", "unlink"):
            patch.setattr(Path, name, interrupt(name))
        with pytest.raises(Crash):
            put_all()
    again = build(tmp_path)
    assert not list(again.folder.glob("new-*"))
    for number in list_held(again):
        assert again.get(make(number)[0].digest) == make(number)[1]
    # Of the parts that were there, only what eviction took may be gone.
    assert set(known[-3:]) <= set(list_held(again))
    put(again, *range(1, 9))
    assert again.used_bytes == 4 * SIZE


@given(st.lists(st.tuples(st.sampled_from("pgur"), st.integers(0, 12)), max_size=40))
def test_any_use_keeps_to_the_limit(tmp_path_factory, steps) -> None:
    store = build(tmp_path_factory.mktemp("store"))
    pinned: set[int] = set()
    for action, number in steps:
        part, data = make(number)
        if action == "p":
            try:
                store.put(part.digest, data)
            except CacheFull:
                assert pinned <= set(list_held(store))
        elif action == "g":
            assert store.get(part.digest) in (None, data)
        elif action == "u":
            pinned = set(list_held(store)) - {number}
            store.pin("some", [make(n)[0] for n in pinned])
        else:
            store.remove(part.digest)
            pinned.discard(number)
        assert store.used_bytes == SIZE * len(list_held(store)) <= 4 * SIZE
        assert pinned <= set(list_held(store))
