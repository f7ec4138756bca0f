"""Catching up with a node that may lie, at any of its answers."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_world import LightWorld, build_set, change, make_key

from chain.errors import InvalidProof, LightError, OtherEpoch, StaleAnswer
from chain.light.client import LightBlock, LightState
from chain.light.sync import MAX_PROOFS, AskBlock, AskProofs, LightSync
from p2pchain.sim.signatures import StandinScheme
from primitives.errors import RemoteError

SCHEME = StandinScheme()
POOL = [SCHEME.make_key(i) for i in range(200)]
ALWAYS = 2**62
"""A clock that never finds a block to be from the future."""


class Node:
    """An honest one; liars change `on_block` or `on_proofs`."""

    def __init__(self, world: LightWorld):
        self.world = world
        self.asked: list[AskBlock | AskProofs] = []

    def on_block(self, height: int | None) -> LightBlock:
        return self.world.light_block(-1 if height is None else height)

    def on_proofs(self, epoch: int, count: int):
        last = min(epoch + count, self.world.tip.epoch)
        return [self.world.epoch_proof(e) for e in range(epoch, last)]

    def answer(self, sync: LightSync) -> None:
        self.asked.append(sync.ask)
        match sync.ask:
            case AskBlock(height):
                sync.on_block(self.on_block(height))
            case AskProofs(epoch, count):
                sync.on_proofs(self.on_proofs(epoch, count))


def drive(sync: LightSync, node: Node) -> None:
    while sync.ask is not None:
        node.answer(sync)
        assert len(node.asked) < 1000


def follow(state: LightState, node: Node, latest_ms: int = ALWAYS) -> LightState:
    sync = LightSync(state, node.world.scheme, latest_ms)
    drive(sync, node)
    return sync.state


def still(epochs: int) -> LightWorld:
    """Nobody comes or goes."""
    return LightWorld([POOL[:4]] * 2, epochs=epochs, scheme=SCHEME)


def drift(epochs: int) -> LightWorld:
    """A new validator in every epoch, and all of them sign."""
    schedule = [POOL[:4]] + [POOL[i : i + 4] for i in range(epochs)]
    return LightWorld(schedule, epochs=epochs, scheme=SCHEME)


def test_nobody_comes_or_goes_so_one_question_is_enough():
    world = still(100)
    node = Node(world)
    state = follow(world.first, node)
    assert (state.epoch, state.newest) == (100, world.tip)
    assert node.asked == [AskBlock(None)]


def test_a_newcomer_is_found_by_halving():
    before, after = POOL[:4], POOL[:5]
    world = LightWorld([before] * 41 + [after], epochs=100, scheme=SCHEME)
    node = Node(world)
    state = follow(world.first, node)
    assert state.newest == world.tip
    assert state.validators == build_set(after)
    asked = [ask for ask in node.asked if isinstance(ask, AskProofs)]
    assert len(asked) == 1
    assert len(node.asked) < 10


def test_strangers_in_every_epoch():
    world = drift(100)
    node = Node(world)
    state = follow(world.first, node)
    assert (state.epoch, state.newest) == (world.tip.epoch, world.tip)
    pages = [ask for ask in node.asked if isinstance(ask, AskProofs)]
    assert len(pages) == -(-world.tip.epoch // MAX_PROOFS)
    assert len(node.asked) < 30


def test_everything_is_known_already():
    world = still(3)
    state = follow(world.first, Node(world))
    node = Node(world)
    assert follow(state, node) == state
    assert len(node.asked) == 1


def test_one_more_epoch():
    world = drift(6)
    state = world.trust(world.tip.epoch - 1)
    node = Node(world)
    assert follow(state, node).newest == world.tip
    assert node.asked[1:] == [AskProofs(state.epoch, 1)]


def test_a_checkpoint_in_the_middle():
    world = drift(30)
    assert follow(world.trust(17), Node(world)).newest == world.tip


def test_real_signatures():
    world = LightWorld([[make_key(i + j) for j in range(4)] for i in (0, 0, 1, 2, 3)])
    assert follow(world.first, Node(world)).newest == world.tip


# ----------------------------------------------------------------------- liars


def refuses(
    state: LightState, node: Node, error: type[Exception], match: str | None = None
):
    with pytest.raises(error, match=match):
        follow(state, node)


def test_an_epoch_out_of_thin_air_costs_32_questions():
    """Strangers certify a block 2^31 epochs ahead, and every block on the way."""
    world = still(2)
    mine = POOL[100:104]

    class Dreamer(Node):
        def on_block(self, height):
            height = 2**33 if height is None else height
            epoch = height // 4 - 1
            root = build_set(mine).compute_root()
            header = change(
                world.tip,
                height=height,
                epoch=epoch,
                time_ms=world.tip.time_ms + 1000 * height,
                valset_root=root,
                next_valset_root=root,
            )
            certificate = world.certify(header, keys=mine)
            return LightBlock((header,), certificate, build_set(mine))

        def on_proofs(self, epoch, count):
            block = self.on_block((epoch + 1) * 4)
            return [self.world.epoch_proof(0) if epoch == 0 else block]

    node = Dreamer(world)
    refuses(world.first, node, RemoteError)
    assert len(node.asked) < 40


def test_no_block_is_from_the_future():
    world = still(3)
    with pytest.raises(InvalidProof, match="future"):
        follow(world.first, Node(world), world.tip.time_ms - 1)
    assert follow(world.first, Node(world), world.tip.time_ms).newest == world.tip


def test_an_epoch_that_ends_in_the_future():
    world = drift(5)
    node = Node(world)
    honest = node.on_block

    def lie(height: int | None) -> LightBlock:
        block = honest(height)
        if block.header.epoch < 2:
            return block
        return change(block, headers=(change(block.header, time_ms=1),))

    node.on_block = lie
    with pytest.raises(LightError, match="future"):
        follow(world.first, node, world.get_last(1).time_ms)


def test_another_block_than_was_asked_for():
    world = drift(9)
    node = Node(world)
    node.on_block = lambda height: world.light_block(-1 if height is None else 6)
    refuses(world.first, node, InvalidProof, "not asked for")


def test_a_node_that_is_behind():
    world, ahead = drift(4), drift(6)
    state = follow(ahead.first, Node(ahead))
    refuses(state, Node(world), StaleAnswer, "newest block is of epoch")
    late = Node(ahead)
    late.on_block = lambda height: ahead.light_block(-2)
    refuses(state, late, StaleAnswer)


@pytest.mark.parametrize("count", [0, 40])
def test_too_many_or_no_proofs(count):
    world = drift(50)
    node = Node(world)
    honest = node.on_proofs
    node.on_proofs = lambda epoch, asked: honest(epoch, count)
    refuses(world.first, node, InvalidProof, f"{count} proofs")


def test_proofs_of_other_epochs():
    world = drift(20)
    node = Node(world)
    node.on_proofs = lambda epoch, count: [world.epoch_proof(epoch + 1)]
    refuses(world.first, node, OtherEpoch)


def test_a_lie_on_the_second_page_leaves_the_first():
    world = drift(60)
    node = Node(world)
    honest = node.on_proofs

    def lie(epoch: int, count: int):
        proofs = honest(epoch, count)
        if epoch > 1:
            stranger = build_set(POOL[100:104])
            proofs[5] = change(proofs[5], validators=stranger)
        return proofs

    node.on_proofs = lie
    sync = LightSync(world.first, SCHEME, ALWAYS)
    with pytest.raises(InvalidProof, match="next epoch's validators"):
        drive(sync, node)
    # Up to the lie everything was proven, and an honest node can go on from there.
    assert sync.state.epoch == 1 + MAX_PROOFS + 5
    assert follow(sync.state, Node(world)).newest == world.tip


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_liar_never_leads_off_the_chain(data):
    """Any answer may be forged by strangers or taken from elsewhere on the chain."""
    world = data.draw(st.sampled_from(WORLDS))
    mine = POOL[100:104]
    node = Node(world)
    honest_block, honest_proofs = node.on_block, node.on_proofs

    def forge(header):
        root = build_set(mine).compute_root()
        header = change(header, valset_root=root, next_valset_root=root)
        certificate = world.certify(header, keys=mine)
        return LightBlock((header,), certificate, build_set(mine))

    def on_block(height):
        lie: Callable = data.draw(
            st.sampled_from(
                [
                    honest_block,
                    honest_block,
                    lambda height: forge(honest_block(height).header),
                    lambda height: honest_block(data.draw(st.integers(1, 20))),
                    lambda height: change(
                        honest_block(height), certificate=world.certify(world.tip)
                    ),
                ]
            )
        )
        return lie(height)

    def on_proofs(epoch, count):
        proofs = honest_proofs(epoch, count)
        place = data.draw(st.integers(0, len(proofs) - 1))
        lie = data.draw(st.sampled_from(["none", "set", "order", "short"]))
        if lie == "set":
            proofs[place] = change(proofs[place], validators=build_set(mine))
        if lie == "order":
            proofs.reverse()
        return proofs[:place] if lie == "short" else proofs

    node.on_block, node.on_proofs = on_block, on_proofs
    sync = LightSync(world.first, SCHEME, ALWAYS)
    try:
        while sync.ask is not None and len(node.asked) < 100:
            node.answer(sync)
    except (LightError, OtherEpoch, StaleAnswer):
        pass
    assert sync.state.validators == world.get_set(sync.state.epoch)
    assert sync.state.newest in (None, *world.headers)


WORLDS = [still(8), drift(8), LightWorld([POOL[:4]] * 4 + [POOL[:5]], scheme=SCHEME)]
