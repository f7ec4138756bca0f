"""Bugs that the simulator found, each as small as it can be made.

Every test failed before its bug was mended; docs/log.md tells their stories.
"""

import pytest

from chain.errors import ShardNotFollowed
from chain.storage.history import get_roots
from chain.tree import pending
from consensus import book, place
from consensus.effects import Reason
from consensus.leader import compute_leader
from consensus.messages import Notarize, Proposal, Propose
from consensus.place import find_fault
from consensus.proposer import Proposer
from p2pchain.sim.invariants.progress import assert_progress, compute_limit_ms
from p2pchain.sim.network import Weather
from p2pchain.sim.runner import Job, run_job
from p2pchain.sim.scenarios.scenarios import get_scenario
from p2pchain.sim.scenarios.storms import calm
from p2pchain.sim.world import Setup, World

FAR = 2**62
"""A view that no network reaches, and in which every validator leads some."""


def test_a_proposal_of_a_far_view_costs_nothing():
    """A spammer: its leader's view number sized a list of all skipped views."""
    proposal = Proposal(
        epoch=0,
        view=FAR,
        parent_view=0,
        parent_hash=bytes(32),
        block_hash=bytes([1]) * 32,
        height=1,
    )
    propose = Propose(b"", Notarize(proposal, 0, bytes(96)), ())
    fault = find_fault(propose, tip_view=0)
    assert fault is not None
    assert fault[0] is Reason.BAD_JUST


def test_a_leader_without_its_log_is_waited_for_like_a_villain():
    """Seed 6977: the second view after the faults was led by one who may not sign."""
    world = World(0, Setup(frail=frozenset("d")))
    world.start()
    epoch = world.nodes["a"].epoch
    leader = compute_leader(epoch.seed, world.nodes["a"].view, epoch.validators)
    node = world.nodes["abcd"[leader]]
    before_ms = compute_limit_ms(world)
    node.crash()
    node.lose_log()
    node.start()
    assert compute_limit_ms(world) > before_ms
    outcome = run_job(Job(6977, "storm", "list", False))
    assert not outcome.failure


def test_who_passes_on_a_spoilt_witness_is_not_to_blame():
    """Spoiler 3: members blamed those who are in no committee and cannot judge it."""
    outcome = run_job(Job(3, "shards-spoiler", "tree", False))
    assert not outcome.failure


def test_who_lost_log_and_chain_signs_nothing_in_epochs_that_it_forgot():
    """Trap 0: it was shown a second chunk of a slot in which it had endorsed one."""
    outcome = run_job(Job(0, "shards-trap", "tree", False))
    assert not outcome.failure


def test_a_shard_goes_on_when_its_only_hosts_are_silent():
    """Silent hosts 1: their turns took the whole view, and custodians had none."""
    outcome = run_job(Job(1, "shards-silent-hosts", "tree", False))
    assert not outcome.failure


def test_a_leader_leaves_out_what_its_branch_cannot_judge():
    """Conspiracy 4008: a lie that no block took, of an epoch that was over."""
    outcome = run_job(Job(4008, "shards-conspiracy", "tree", False))
    assert not outcome.failure


def test_a_block_that_gave_way_is_fetched_when_it_is_certified(monkeypatch):
    """Seed 6: consensus counted on a block that others had pushed out of memory."""
    monkeypatch.setattr(pending, "MAX_UNSAVED", 1)
    world = World(6, Setup(chain="tree", epoch_blocks=50))
    world.network.weather = Weather((1, 2500), loss=0.25, spikes=0.1)
    world.start()
    world.run(60_000)
    calm(world)
    assert_progress(world)
    world.judge.on_end()


@pytest.mark.parametrize("sleeper", ["a", "d"])
def test_a_long_night_has_a_morning(monkeypatch, sleeper):
    """After more nullified views than fit into a proposal, nobody could propose."""
    for module in (book, place):
        monkeypatch.setattr(module, "MAX_SKIPPED", 3)
    world = World(0, Setup(epoch_blocks=50))
    world.start()
    world.run(5000)
    with monkeypatch.context() as night:
        night.setattr(Proposer, "prepare", lambda self: None)
        world.nodes[sleeper].crash()
        world.run_for(240_000)
    views = [node.view - node.book.tip.view for node in world.honest if node.is_up]
    assert min(views) > 10
    # Who slept has to be shown what the others went through.
    world.nodes[sleeper].start()
    world.nodes["b"].crash()
    world.run_for(60_000)
    calm(world)
    assert_progress(world)
    world.judge.on_end()


def test_who_let_go_of_a_shard_misses_its_turn():
    """Taking on 5: the shard was dropped in a view in which a turn was to come."""
    outcome = run_job(Job(5, "shards-taking-on", "tree", False))
    assert not outcome.failure


def test_a_shard_that_was_not_followed_may_go():
    """Resharding 0: `db verify` missed the state of a shard that had retired."""
    world = get_scenario("shards-resharding")(0, "tree", None)
    refused = 0
    for node in world.honest:
        tree = node.chain.tree
        assert not node.chain.find_damage()
        for height in range(1, tree.final_height):
            for shard in get_roots(tree.state, height + 1).keys() - {
                *tree.state.shards
            }:
                try:
                    tree.history.get_view(height, shard, tree.final_height)
                except ShardNotFollowed:
                    refused += 1
    assert refused


def test_a_run_may_end_before_the_followers_of_a_shard_have_its_last_block():
    """Storm 21867: others had the block for 24 ms; the judge missed an execution."""
    outcome = run_job(Job(21867, "storm", "tree", False))
    assert not outcome.failure, outcome.failure


def test_one_of_four_that_bonds_more_takes_the_quorum_along():
    """One offline, seed 8: down, it came to hold two fifths, and nothing was final."""
    outcome = run_job(Job(8, "one-offline", "tree", False))
    assert not outcome.failure, outcome.failure
