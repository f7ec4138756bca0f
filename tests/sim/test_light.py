"""A light client among liars, and what it would believe if it looked away."""

import pytest

from chain.light import client as light
from chain.light import sync as light_sync
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.scenarios.scenarios import SCENARIOS

SEEDS = range(6)


def read_all(seeds=SEEDS):
    """Return the light clients of worlds with a villain, at their end."""
    worlds = [SCENARIOS["equivocator"](seed, "tree", None) for seed in seeds]
    return [world.reader for world in worlds]


def test_a_light_client_hears_many_lies_and_follows():
    readers = read_all()
    assert all(reader.taken > 5 and reader.refused > 5 for reader in readers)
    assert all(reader.state.epoch > 2 for reader in readers)


def count_no_signatures(monkeypatch):
    """A certificate proves whatever it says."""
    monkeypatch.setattr(light, "_validate_certificate", lambda *args: None)


def follow_no_links(monkeypatch):
    """Headers beside the certified one need not be its ancestors."""
    monkeypatch.setattr(light, "_validate_links", lambda headers: None)


def trust_any_set(monkeypatch):
    """A set is trusted because its own members signed for it."""

    def skip(state, block, scheme):
        later = light._trust(state, block.header.epoch, block.validators)
        return light.adopt(later, block, scheme)

    monkeypatch.setattr(light_sync, "skip", skip)


def take_the_next_set_on_trust(monkeypatch):
    """The next epoch's validators need not be those that the boundary names."""

    def advance(state, proof, scheme):
        block = light.LightBlock((proof.header,), proof.certificate, state.validators)
        state = light.adopt(state, block, scheme)
        return light._trust(state, state.epoch + 1, proof.validators)

    monkeypatch.setattr(light_sync, "advance", advance)


@pytest.mark.parametrize(
    "mutate",
    [count_no_signatures, follow_no_links, trust_any_set, take_the_next_set_on_trust],
    ids=lambda mutate: mutate.__name__,
)
def test_a_careless_light_client_is_caught(mutate, monkeypatch):
    mutate(monkeypatch)
    with pytest.raises(InvariantBroken) as broken:
        read_all(range(20))
    assert broken.value.invariant == "light client"
