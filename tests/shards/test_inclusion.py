"""Which certified chunk a block may hold, and each reason why it may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_world import (
    BOUNDS,
    Chain,
    compute_in_root,
    make_next,
    make_proofs,
    name,
    replace,
)

from primitives.merkle import EMPTY_ROOT
from shards.chunk import Counter
from shards.errors import InvalidChunk, MissingAnchor
from shards.inclusion import INCLUSION_VIEWS, is_open, validate_inclusion

PRODUCERS = (1, 2)


class Scene:
    """Three blocks; shard 1 has a chunk in the second, and shard 2 sent it packets."""

    def __init__(self):
        self.chain = chain = Chain()
        chain.add(1)
        sent = make_next(
            chain.tips[2],
            epoch=0,
            view=2,
            anchor=chain.parent,
            producer=1,
            out_count=(Counter(1, 4),),
            out_root=name("packets"),
        )
        self.first = make_next(
            chain.tips[1], epoch=0, view=2, anchor=chain.parent, producer=1
        )
        self.anchor = chain.parent
        self.second = chain.add(3, self.first, sent)
        self.parent = chain.add(4)
        self.proofs = make_proofs(3)

    def make(self, **more):
        fields = {"epoch": 0, "view": 5, "anchor": self.parent, "producer": 1} | more
        return make_next(self.first, **fields)

    def consume(self, count, **more):
        """Return a header that consumes packets of shard 2."""
        fields = {
            "in_cursor": (Counter(2, count),),
            "in_root": compute_in_root(make_proofs(count)),
        }
        return self.make(**(fields | more))

    def check(self, header, *, view=5, valid=True, match="", bounds=BOUNDS):
        base = self.chain.get_base(view, bounds)
        if valid:
            validate_inclusion(header, base, PRODUCERS)
            return
        with pytest.raises(InvalidChunk, match=match):
            validate_inclusion(header, base, PRODUCERS)


@pytest.fixture
def scene():
    return Scene()


def test_a_chunk_on_the_tip(scene):
    scene.check(scene.make())
    scene.check(scene.make(producer=2))
    scene.check(scene.consume(4))
    scene.check(scene.consume(1, transactions=()))


@pytest.mark.parametrize("late", range(-1, INCLUSION_VIEWS + 2))
def test_the_window(scene, late):
    is_good = 0 <= late <= INCLUSION_VIEWS
    scene.check(scene.make(), view=5 + late, valid=is_good, match="of view 5")


def test_anchors(scene):
    scene.check(scene.make(anchor=scene.second))
    scene.check(scene.make(anchor=scene.anchor))
    genesis = name("genesis")
    scene.check(scene.make(anchor=genesis), valid=False, match="the tip's is at 1")
    with pytest.raises(MissingAnchor):
        validate_inclusion(
            scene.make(anchor=name("elsewhere")), scene.chain.get_base(5), PRODUCERS
        )


def test_an_anchor_of_the_chunks_own_view_or_later(scene):
    scene.check(scene.make(view=4), valid=False, match="anchor of view 4")
    scene.check(scene.make(view=4, anchor=scene.second))
    scene.check(scene.make(view=3, anchor=scene.second), valid=False, match="view 3")


def test_a_first_chunk_may_stand_on_the_root():
    chain = Chain()
    header = make_next(chain.tips[1], epoch=0, view=1, anchor=chain.parent, producer=1)
    validate_inclusion(header, chain.get_base(1), PRODUCERS)


def test_an_anchor_before_the_epochs_root():
    chain = Chain(epoch=3, root_height=30)
    old = name("older")
    chain.names[old] = replace_anchor(chain, height=29, epoch=2, view=7)
    tip = replace(chain.tips[1], epoch=2, created_view=5, anchor=old)
    chain.heads[30][1] = tip
    good = make_next(tip, epoch=3, view=1, anchor=name("genesis"), producer=1)
    validate_inclusion(good, chain.get_base(1), PRODUCERS)
    bad = make_next(tip, epoch=3, view=1, anchor=old, producer=1)
    with pytest.raises(InvalidChunk, match="before the root at 30"):
        validate_inclusion(bad, chain.get_base(1), PRODUCERS)


def replace_anchor(chain, **fields):
    return type(next(iter(chain.names.values())))(**fields)


def test_views_of_a_new_epoch_begin_anew():
    """A tip of the epoch before has a higher view, and that is no reason."""
    chain = Chain(epoch=1, root_height=10)
    tip = replace(chain.tips[1], epoch=0, created_view=12)
    chain.heads[10][1] = tip
    header = make_next(tip, epoch=1, view=1, anchor=chain.parent, producer=1)
    validate_inclusion(header, chain.get_base(1), PRODUCERS)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epoch": 1}, "of epoch 1"),
        ({"producer": 3}, "validator 3 does not produce"),
        ({"prev_chunk": bytes(32)}, "prev_chunk"),
        ({"seq": 3}, "chunk 3 after chunk 1"),
        ({"seq": 1}, "chunk 1 after chunk 1"),
        ({"pre_root": bytes(32)}, "pre_root"),
        ({"shard": 0}, "shard 0 has no certified"),
        ({"shard": 9}, "shard 9 has no certified"),
        ({"tx_count": 0}, "do not fit tx_root"),
        ({"tx_root": EMPTY_ROOT}, "tx_root"),
        ({"in_root": name("x")}, "in_root"),
        ({"out_root": name("x")}, "out_root"),
        ({"bytes": BOUNDS.bytes + 1}, "bytes, at most"),
        ({"work": BOUNDS.work + 1}, "work, at most"),
        ({"tx_count": BOUNDS.transactions + 1}, "transactions, at most"),
        ({"in_cursor": (Counter(2, 0),)}, "has a zero"),
        ({"in_cursor": (Counter(2, 1), Counter(2, 1))}, "ascend"),
        ({"in_cursor": (Counter(2, 1), Counter(0, 1))}, "ascend"),
        ({"out_count": (Counter(2, 0),)}, "has a zero"),
    ],
)
def test_broken_headers(scene, changes, match):
    scene.check(replace(scene.make(), **changes), valid=False, match=match)


def test_an_empty_chunk(scene):
    header = replace(scene.make(), tx_count=0, tx_root=EMPTY_ROOT)
    empty = replace(header, post_root=header.pre_root)
    scene.check(empty, valid=False, match="an empty chunk")


def test_a_chunk_in_which_the_shard_changes_by_itself(scene):
    """Resharding does that; whether it asks for it, execution tells."""
    scene.check(replace(scene.make(), tx_count=0, tx_root=EMPTY_ROOT))


def test_the_counters_of_a_shard_that_is_gone_end(scene):
    counters = scene.first.in_cursor
    tip = replace(scene.first, in_cursor=(*counters, Counter(77, 5)))
    for heads in scene.chain.heads.values():
        heads[1] = tip
    fields = {"epoch": 0, "view": 5, "anchor": scene.parent, "producer": 1}
    scene.check(make_next(tip, **fields, in_cursor=counters))


def test_the_bounds_themselves_are_allowed(scene):
    full = replace(
        scene.make(),
        bytes=BOUNDS.bytes,
        work=BOUNDS.work,
        tx_count=BOUNDS.transactions,
    )
    scene.check(full)


def test_a_slot_that_is_not_after_the_tips(scene):
    scene.check(scene.make(view=2), valid=False, match="the tip is of view 2")


def test_packets_that_were_not_emitted_up_to_the_anchor(scene):
    scene.check(scene.consume(5), valid=False, match="5 packets of shard 2")
    # The anchor is before the block that holds the emitting chunk.
    early = scene.consume(1, anchor=scene.anchor)
    scene.check(early, valid=False, match="1 packets of shard 2 consumed, 0 emitted")
    stranger = scene.make(in_cursor=(Counter(7, 1),), in_root=name("x"))
    scene.check(stranger, valid=False, match="shard 7")


def test_too_many_packets(scene):
    few = replace_bounds(packets=3)
    scene.check(scene.consume(3), bounds=few)
    scene.check(scene.consume(4), bounds=few, valid=False, match="4 packets, at most 3")


def replace_bounds(**changes):
    fields = {name: getattr(BOUNDS, name) for name in BOUNDS.__slots__}
    return type(BOUNDS)(**(fields | changes))


def test_cursors_never_go_back(scene):
    tip = replace(scene.first, in_cursor=(Counter(2, 3),), out_count=(Counter(2, 5),))
    scene.chain.heads[scene.chain.height][1] = tip
    fields = {"epoch": 0, "view": 5, "anchor": scene.parent, "producer": 1}
    scene.check(make_next(tip, **fields))
    for changes in (
        {"in_cursor": (Counter(2, 2),)},
        {"in_cursor": ()},
        {"out_count": (Counter(2, 4),)},
        {"out_count": ()},
    ):
        header = make_next(tip, **(fields | changes))
        scene.check(header, valid=False, match="goes back")


def emit(scene, count, **more):
    return scene.make(out_count=(Counter(2, count),), out_root=name("out"), **more)


def test_the_backlog_is_bounded(scene):
    """30 wait at most; a transaction may send one more that no limit holds for."""
    scene.check(emit(scene, 31))
    scene.check(emit(scene, 32), valid=False, match="32 packets wait for shard 2")
    three = emit(scene, 33, transactions=(b"a", b"b", b"c"))
    scene.check(three)
    answers = replace(
        scene.consume(2), out_count=(Counter(2, 33),), out_root=name("out")
    )
    scene.check(answers)
    scene.check(
        replace(answers, out_count=(Counter(2, 34),)), valid=False, match="34 packets"
    )
    scene.check(
        scene.make(out_count=(Counter(8, 1),), out_root=name("out")),
        valid=False,
        match="shard 8, which is none",
    )


def test_a_shard_moves_records_by_itself(scene):
    """Where the layout changes; such a chunk needs neither transaction nor packet."""
    bounds = replace_bounds(moves=5)
    scene.check(emit(scene, 36), bounds=bounds)
    scene.check(emit(scene, 37), bounds=bounds, valid=False, match="37 packets wait")
    alone = emit(scene, 35, transactions=())
    scene.check(alone, bounds=bounds)
    scene.check(alone, valid=False, match="35 packets wait")


def test_a_backlog_above_the_limit_may_stay(scene):
    """Bounces made it so; then only what is exempt may be added."""
    tip = replace(scene.first, out_count=(Counter(2, 50),))
    scene.chain.heads[scene.chain.height][1] = tip
    fields = {"epoch": 0, "view": 5, "anchor": scene.parent, "producer": 1}
    scene.check(make_next(tip, **fields))
    out = {"out_root": name("out")}
    one = make_next(tip, **fields, **out, out_count=(Counter(2, 51),))
    scene.check(one)
    two = make_next(tip, **fields, **out, out_count=(Counter(2, 52),))
    scene.check(two, valid=False, match="52 packets wait")


def test_halted_shards(scene):
    scene.chain.halted = frozenset({2})
    scene.check(scene.make())
    scene.check(scene.consume(1), valid=False, match="shard 2, which is halted")
    scene.chain.halted = frozenset({1})
    scene.check(scene.make(), valid=False, match="shard 1 is halted")


def test_open_chunks(scene):
    header = scene.make()
    assert is_open(header, scene.chain.get_base(5 + INCLUSION_VIEWS))
    assert not is_open(header, scene.chain.get_base(6 + INCLUSION_VIEWS))
    scene.chain.add(5, header)
    assert not is_open(header, scene.chain.get_base(6))
    assert not is_open(replace(header, shard=9), scene.chain.get_base(6))
    assert not is_open(replace(header, epoch=9), scene.chain.get_base(6))


FIELDS = st.sampled_from(
    ["seq", "created_view", "producer", "work", "bytes", "tx_count", "epoch", "shard"]
)


@given(FIELDS, st.integers(0, 2**16 - 1))
def test_any_number_in_any_field_is_judged(field, value):
    """Never anything but an answer; and the only way to be valid is to be within."""
    scene = Scene()
    header = replace(scene.make(), **{field: value})
    try:
        validate_inclusion(header, scene.chain.get_base(5), PRODUCERS)
    except InvalidChunk:
        return
    allowed = {
        "seq": [2],
        "created_view": [5],
        "producer": PRODUCERS,
        "work": range(BOUNDS.work + 1),
        "bytes": range(BOUNDS.bytes + 1),
        "tx_count": range(1, BOUNDS.transactions + 1),
        "epoch": [0],
        "shard": [1],
    }
    assert value in allowed[field]


def test_a_chain_of_chunks_stays_valid():
    """Whatever views go by, each next chunk made as it should be is includable."""
    chain = Chain()
    view = 0
    for step in range(1, 30):
        view += 1 + step % 3
        anchor = chain.parent
        header = make_next(
            chain.tips[1], epoch=0, view=view, anchor=anchor, producer=1 + step % 2
        )
        for _ in range(step % 4):
            chain.add(view)
            view += 1
        base = chain.get_base(view)
        validate_inclusion(header, base, PRODUCERS)
        chain.add(view, header)
        with pytest.raises(InvalidChunk, match="prev_chunk"):
            validate_inclusion(header, chain.get_base(view + 1), PRODUCERS)
