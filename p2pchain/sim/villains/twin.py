"""The twin: one key, two machines, each of which believes that it is the only one."""

from p2pchain.sim.villains.villain import Villain


class Twin(Villain):
    """Runs the protocol faithfully, twice."""


def add_twin(twin: Twin) -> Twin:
    """Add the second machine and return it."""
    second = Twin(twin.world, twin.name)
    second.name = twin.name + "2"
    twin.world.add_node(second)
    return second
