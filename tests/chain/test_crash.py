"""
Crashes: whatever write is the last, the database opens and goes on.

`FailingStore` is a disk that dies: it applies a number of batches and then raises, as
LevelDB does when the power goes, with the batch in flight either applied or not.
"""

import pytest
from chain_world import ALICE, COIN, DAVE, GENESIS, SPEC, START_MS, World, build_genesis

from chain.checks.conservation import compute_conservation
from chain.errors import StoreError
from chain.records.block import decode_block
from chain.records.transfer import Transfer
from chain.storage.leveldb import LevelStore
from chain.storage.store import TIP_KEY, build_key
from genesis.state import build_chain_spec
from primitives.kv import MemoryStore


class PowerCut(Exception):
    """The machine went off."""


class FailingStore(MemoryStore):
    """Applies `left` batches, then the power goes before or after the next one."""

    def __init__(self, left: int, is_applied: bool = False):
        super().__init__()
        self.left = left
        self.is_applied = is_applied
        self.unsynced = 0

    def write(self, changes, *, sync=False):
        assert sync, "every write of the chain is one that must last"
        if self.left == 0:
            if self.is_applied:
                super().write(changes, sync=sync)
            raise PowerCut
        self.left -= 1
        super().write(changes, sync=sync)

    def survive(self) -> MemoryStore:
        """Return the disk after the machine is on again."""
        store = MemoryStore()
        store.write(dict(self.iterate(b"")), sync=True)
        return store


def run_until_cut(store) -> World | None:
    """Run a scripted history until the power goes; None if it went at creation."""
    world = None
    try:
        world = World(store=store)
        for amount in range(1, 4):
            block = world.build(
                world.sign(ALICE, Transfer(DAVE.public_key, 0, amount)),
                world.sign(ALICE, Transfer(DAVE.public_key, 2, amount)),
            )
            world.tree.save_pending(block.block_hash)
            above = world.build()
            world.tree.save_pending(above.block_hash)
            world.finalize(block)
    except PowerCut:
        pass
    return world


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("writes", range(10))
def test_a_cut_at_every_write_leaves_all_of_a_block_or_nothing(writes, is_applied):
    reference = World()
    roots = {}
    complete = run_until_cut(FailingStore(99))
    assert complete is not None
    for height in range(complete.tree.final_height + 1):
        block = complete.tree.store.get_block(height)
        roots[height] = block.header.roots_root

    disk = FailingStore(writes, is_applied)
    run_until_cut(disk)
    store = disk.survive()
    world = World(store=store)
    tree = world.tree
    # Opening compares state and header, so a torn batch would have shown.
    assert tree.final.header.roots_root == roots[tree.final_height]
    assert compute_conservation(tree).is_conserved
    for height in range(1, tree.final_height + 1):
        assert tree.get_final(height) is not None
        block = tree.store.get_block(height)
        for header in block.body.headers:
            outcomes = tree.store.get_outcomes(height, header.shard)
            chunk = tree.store.get_chunk(block, header.shard)
            assert chunk.header == header
            assert len(outcomes) == len(chunk.transactions)
    assert store.get(build_key(b"B", (tree.final_height + 1, 8))) is None
    # And it goes on.
    account = tree.final.height
    block = world.finalize(world.build(parent=world.tip))
    assert world.tree.final_hash == block.block_hash
    assert world.tree.final_height > account
    assert reference.tree.final_height == 0


def test_saved_blocks_are_back_after_a_crash():
    world = World()
    first = world.build(world.sign(ALICE, Transfer(DAVE.public_key, 0, COIN)))
    second = world.build()
    lost = world.build(parent=first, view=9)
    world.tree.save_pending(second.block_hash)
    tree = world.reopen()
    assert {held.block_hash for held in tree.pending} == {
        first.block_hash,
        second.block_hash,
    }
    assert not tree.has(lost.block_hash)
    again = tree.get(first.block_hash)
    assert again.view.get_roots() == first.view.get_roots()
    assert again.emitted == first.emitted
    tree.finalize(world.certify(again))
    assert tree.final_height == 1


def test_final_blocks_take_their_saved_copies_away():
    world = World()
    stale = world.build(view=1)
    world.tree.save_pending(stale.block_hash)
    first = world.build(parent=world.tree.final, view=2)
    second = world.build(parent=first, view=3)
    world.tree.save_pending(second.block_hash)
    assert len(list(world.tree.store.iterate_pending())) == 3
    world.finalize(first)
    saved = [decode_block(data) for data in world.tree.store.iterate_pending()]
    assert saved == [second.block]


def test_saving_twice_writes_once():
    world = World(store=FailingStore(2))
    block = world.build()
    world.tree.save_pending(block.block_hash)
    world.tree.save_pending(block.block_hash)


def test_a_saved_block_to_which_nothing_leads_is_forgotten():
    world = World()
    first = world.build()
    second = world.build()
    world.tree.save_pending(second.block_hash)
    world.store.write({build_key(b"U", first.block_hash): None}, sync=True)
    assert world.reopen().pending == ()
    assert list(world.tree.store.iterate_pending()) == []


def test_the_database_of_another_chain():
    world = World()
    other = build_chain_spec(build_genesis(grace_blocks=7))
    with pytest.raises(StoreError, match="another chain"):
        World(spec=other, store=world.store)


def test_a_database_of_another_format():
    world = World()
    world.store.write({b"Mformat": b"0"}, sync=True)
    with pytest.raises(StoreError, match=r"has format 0 .* reads format"):
        world.reopen()


def damage_state(store):
    key, data = next(store.iterate(b"S"))
    store.write({key: data[:-1] + bytes([data[-1] ^ 1])}, sync=True)


def damage_bucket_index(store):
    store.write({b"S" + bytes(2) + b"\xff" * 4: b"\x90"}, sync=True)


def damage_block(store):
    store.write({build_key(b"B", (0, 8)): b"nonsense"}, sync=True)


def damage_tip(store):
    store.write({TIP_KEY: b"nonsense"}, sync=True)


def lose_block(store):
    store.write({build_key(b"B", (0, 8)): None}, sync=True)


def lose_chunks(store):
    keys = [key for key, _ in store.iterate(b"K")]
    store.write(dict.fromkeys(keys), sync=True)


def swap_block(store):
    other = World(spec=build_chain_spec(build_genesis(grace_blocks=7)))
    data = other.tree.final.block_bytes
    store.write({build_key(b"B", (0, 8)): data}, sync=True)


def damage_saved(store):
    store.write({build_key(b"U", bytes(32)): b"nonsense"}, sync=True)


@pytest.mark.parametrize(
    "damage",
    [
        damage_state,
        damage_bucket_index,
        damage_block,
        damage_tip,
        lose_block,
        lose_chunks,
        swap_block,
        damage_saved,
    ],
)
def test_damage_is_a_typed_error(damage):
    world = World()
    damage(world.store)
    with pytest.raises(StoreError):
        world.reopen()


def test_leveldb_goes_on_after_closing(tmp_path):
    world = World(store=LevelStore(tmp_path))
    for _ in range(3):
        world.advance(world.sign(ALICE, Transfer(DAVE.public_key, 2, COIN)))
    pending = world.build()
    world.tree.save_pending(pending.block_hash)
    roots, tip = world.tree.final.view.get_roots(), world.tree.final_hash
    world.store.close()
    tree = world.reopen(LevelStore(tmp_path))
    assert tree.final_hash == tip
    assert tree.final.view.get_roots() == roots
    assert [held.block_hash for held in tree.pending] == [pending.block_hash]
    world.store.close()


def test_leveldb_is_opened_once(tmp_path):
    with LevelStore(tmp_path):
        with pytest.raises(StoreError, match="cannot open"):
            LevelStore(tmp_path)


def test_leveldb_in_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot open"):
        LevelStore(tmp_path / "file")


def test_leveldb_agrees_with_the_memory_store(tmp_path):
    memory = MemoryStore()
    with LevelStore(tmp_path) as disk:
        for store in (memory, disk):
            store.write(
                {
                    bytes([i, j]): b"%d" % (i + j)
                    for i in (1, 2, 255)
                    for j in range(0, 250, 50)
                },
                sync=True,
            )
            store.write({b"\x01\x32": None, b"\x02": b"short"}, sync=False)
        for prefix in (b"", b"\x01", b"\x02", b"\xff", b"\x07", b"\x02\x32"):
            for start in (None, b"\x01\x32", b"\x02", b"\x02\x64", b"\xff\xff"):
                for reverse in (False, True):
                    expected = list(
                        memory.iterate(prefix, start=start, reverse=reverse)
                    )
                    found = list(disk.iterate(prefix, start=start, reverse=reverse))
                    assert found == expected, (prefix, start, reverse)
        assert disk.get(b"\x02") == b"short"
        assert disk.get(b"\x01\x32") is None


def test_the_clock_of_the_scene():
    assert GENESIS.time_ms == START_MS
    assert SPEC.time_ms == START_MS
