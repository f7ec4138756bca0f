"""Who keeps which shards: by lot, an epoch ahead."""

from itertools import pairwise

from adoption_world import Half, Source, adopt
from epoch_world import PEOPLE, EpochWorld

from chain.tree.custody import choose_followed, list_custody
from chain.tree.following import FOLLOW_ALL, Follow
from primitives.kv import MemoryStore
from shards.slots import Slot

SIZE = 8


def build_world():
    return EpochWorld((1000,) * SIZE, is_judged=False)


def list_keepers(world):
    """Return who is custodian of which shards in the running epoch, by public key."""
    roles, validators = world.tree.final.child_epoch.roles, world.tree.epoch.validators
    kept = {}
    for shard in roles.shards:
        for index in roles.get_shard_producers(shard).custodians:
            name = validators.validators[index].public_key
            kept.setdefault(name, set()).add(shard)
    return kept


def test_custody_is_of_this_epoch_and_the_next():
    world = build_world()
    told = []
    for _ in range(5):
        keepers = list_keepers(world)
        found = {
            person.key.public_key: list_custody(world.ledger(), person.key.public_key)
            for person in PEOPLE[:SIZE]
        }
        told.append((keepers, found))
        world.end_epoch()
    assert not list_custody(world.ledger(), b"nobody")
    for (now, found), (soon, _) in pairwise(told):
        for name, shards in found.items():
            assert shards == now.get(name, set()) | soon.get(name, set())
    # Three for each shard, and not always the same.
    assert all(
        sum(shard in shards for shards in now.values()) == 3
        for now, _ in told
        for shard in (1, 2)
    )
    assert len({str(sorted(now.items())) for now, _ in told}) > 1


def test_what_is_wanted_is_kept_when_the_database_is_opened():
    world = build_world()
    half = Half(world, follow=FOLLOW_ALL)
    lost = kept = 0
    for _ in range(4):
        for _ in range(world.blocks):
            half.take(world.step())
        for person in PEOPLE[:SIZE]:
            key = person.key.public_key
            follow = Follow(frozenset(), custodian=key)
            custody = list_custody(world.ledger(), key)
            layout = world.tree.layout
            assert choose_followed(world.ledger(), layout, follow) == {0} | custody
            assert choose_followed(world.ledger(), layout, FOLLOW_ALL) == {0, 1, 2}
            store = MemoryStore()
            store.write(dict(half.store.iterate(b"")))
            again = Half(world, store, follow)
            assert again.tree.followed == {0} | custody == again.tree.wanted
            for shard in (1, 2):
                assert bool(list(store.iterate(bytes((83, 0, shard))))) == (
                    shard in custody
                )
            kept += len(custody)
            lost += 2 - len(custody)
    assert kept
    assert lost


def test_who_will_be_a_custodian_has_the_shard_when_its_epoch_begins():
    """So the shard's slots have somebody to fill them whom nobody hosts it for."""
    world = build_world()
    world.end_epoch(2)
    now = list_keepers(world)
    key = next(
        person.key.public_key
        for person in PEOPLE[:SIZE]
        if list_custody(world.ledger(), person.key.public_key)
        - now.get(person.key.public_key, set())
    )
    store = MemoryStore()
    store.write(dict(world.store.iterate(b"")))
    half = Half(world, store, Follow(frozenset()))
    assert half.tree.followed == {0}
    source = Source(world)
    for shard in list_custody(world.ledger(), key):
        adopt(half, shard, source)
    for _ in range(world.blocks):
        half.take(world.step())
    kept = list_keepers(world)[key]
    assert kept - now.get(key, set())
    for shard in kept:
        assert shard in half.tree.followed
        index = world.tree.epoch.validators.find_index(key)
        slot = Slot(world.epoch, shard, 1)
        assert index in world.tree.final.child_epoch.roles.get_producers(slot)
