"""A crash at every byte that a node writes to its log, and at every write."""

import pytest

from p2pchain.sim.invariants.progress import assert_progress
from p2pchain.sim.machine.disk import Fuse
from p2pchain.sim.scenarios.storms import calm
from p2pchain.sim.world import Setup, World


def run_until_cut(fuse):
    """One of four loses power at the fuse, comes back, and everybody goes on."""
    world = World(3, Setup(epoch_blocks=3))
    world.start()
    node = world.nodes["a"]
    node.disk.fuse = fuse
    world.run(6_000, lambda: not node.is_up)
    was_cut = not node.is_up
    calm(world)
    assert_progress(world)
    return was_cut


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_crash_in_every_write(share):
    number = 0
    while run_until_cut(Fuse(number, share)):
        number += 1
    assert number > 15


def test_crash_at_bytes_of_the_log():
    for byte in range(0, 3000, 97):
        run_until_cut(Fuse(0, 0.0, b"", byte))


@pytest.mark.slow
def test_crash_at_every_byte_of_the_log():
    byte = 0
    while run_until_cut(Fuse(0, 0.0, b"", byte)):
        byte += 1
    assert byte > 2000
