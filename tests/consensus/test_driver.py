"""Four drivers over real connections on loopback, with a tiny application."""

import shutil
from contextlib import AsyncExitStack
from dataclasses import replace

import msgspec
import pytest
import trio
from driver_town import CHAIN, Member, reach_all, run_town
from listchain import GENESIS

from chain.records.block import Attendance
from consensus.certificates import build_certificate
from consensus.errors import WrongWal
from consensus.leader import compute_leader
from consensus.messages import (
    Kind,
    Notarize,
    Proposal,
    Propose,
    compute_finalize_bytes,
    compute_notarize_bytes,
)
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.wal_file import WalLocked
from primitives import bls
from primitives.codec import encode
from primitives.keys import SecretKey


def test_four_agree_and_a_listener_follows(tmp_path):
    async def scenario(town):
        listener = Member(town, 9, None)
        async with AsyncExitStack() as stack:
            for member in (*town.members, listener):
                await stack.enter_async_context(member.running())
            await reach_all([*town.members, listener], 8)
            assert not listener.driver.status.is_voting
            assert town.members[0].driver.status.is_voting
        town.assert_agreement(listener)
        town.assert_single_votes()

    run_town(scenario, tmp_path)


def test_single_validator(tmp_path):
    async def scenario(town):
        async with town.members[0].running() as member:
            await member.reach(5)

    run_town(scenario, tmp_path, size=1)


def test_nothing_is_final_before_the_votes_for_it_are_on_disk(tmp_path):
    """One validator is a quorum: nobody else could give it back what it forgot."""

    async def scenario(town):
        async with town.members[0].running() as member:
            done, lost = trio.Event(), []

            def look():
                if len(member.read_votes()) < 2 * member.chain.final_height:
                    lost.append(member.chain.final_height)
                if member.chain.final_height >= 5:
                    done.set()

            member.chain.on_final = look
            await done.wait()
            assert lost == []

    run_town(scenario, tmp_path, size=1)


def test_restarted_validator_catches_up_and_votes_again(tmp_path):
    async def scenario(town):
        async with AsyncExitStack() as stack:
            for member in town.members[:3]:
                await stack.enter_async_context(member.running())
            last = town.members[3]
            async with last.running():
                await reach_all(town.members, 4)
            height = last.chain.final_height
            await reach_all(town.members[:3], height + 8)
            votes = len(last.read_votes())
            async with last.running():
                await last.reach(height + 8)
                target = last.chain.final_height
                while True:
                    target += 1
                    await reach_all(town.members, target)
                    if len(last.read_votes()) > votes + 2:
                        break
        town.assert_agreement()
        town.assert_single_votes()

    run_town(scenario, tmp_path)


def test_all_stop_at_once_and_go_on(tmp_path):
    async def scenario(town):
        for height in (3, 6, 9):
            async with AsyncExitStack() as stack:
                for member in town.members:
                    await stack.enter_async_context(member.running())
                await reach_all(town.members[:1], height)
        assert town.members[0].chain.final_height >= 9
        town.assert_agreement()
        town.assert_single_votes()

    run_town(scenario, tmp_path)


def test_late_joiner_takes_ranges(tmp_path):
    async def scenario(town):
        late = Member(town, 9, None)
        async with AsyncExitStack() as stack:
            for member in town.members:
                await stack.enter_async_context(member.running())
            await reach_all(town.members, 10)
            await stack.enter_async_context(late.running())
            await late.reach(10)
        town.assert_agreement(late)

    run_town(scenario, tmp_path)


def test_lost_log_mutes_a_validator_and_the_rest_goes_on(tmp_path):
    async def scenario(town):
        mute = town.members[2]
        mute.wal_path.unlink()
        async with AsyncExitStack() as stack:
            for member in town.members:
                await stack.enter_async_context(member.running())
            assert not mute.driver.status.is_voting
            assert "missing" in mute.driver.status.mute_reason
            await reach_all(town.members, 4)
        assert not mute.wal_path.exists()
        town.assert_agreement()

    run_town(scenario, tmp_path)


def test_two_processes_cannot_vote_with_one_key(tmp_path):
    async def scenario(town):
        member = town.members[0]
        async with member.running():
            with pytest.raises(WalLocked):
                ConsensusDriver(
                    config=replace(town.config, signer=member.key),
                    application=town.make_chain(),
                    network=Network(node_key=member.node_key, chain_id=CHAIN),
                    wal_path=member.wal_path,
                )

    run_town(scenario, tmp_path)


def test_rubbish_costs_its_sender(tmp_path):
    async def scenario(town):
        villain = Network(node_key=SecretKey(b"v" * 32), chain_id=CHAIN)
        async with town.members[0].running() as member, trio.open_nursery() as nursery:
            await nursery.start(villain.run, "127.0.0.1", 0)
            villain.add_endpoint(town.endpoints[0], persistent=True)
            met = trio.Event()
            lost = trio.Event()
            villain.watch_peers(lambda _, up: met.set() if up else lost.set())
            await met.wait()
            for number in range(20):
                villain.publish(Topic.CONSENSUS, b"rubbish %d" % number)
                villain.publish(Topic.BLOCKS, b"rubbish %d" % number)
            await lost.wait()
            assert member.chain.final == [GENESIS]
            nursery.cancel_scope.cancel()

    run_town(scenario, tmp_path)


def test_a_proposal_is_passed_on_with_the_bytes_that_were_judged(tmp_path):
    """Where the block was here before, nobody has looked at these bytes."""

    async def scenario(town):
        seed = town.make_chain().epoch.seed
        leader = compute_leader(seed, 1, town.validators)
        async with town.members[leader - 1].running() as member:
            block, propose = build_propose(town, leader)
            proposal = propose.notarize.proposal
            member.chain.add_block(proposal, block)
            member.driver._blocks.on_synced_block(proposal)
            other = msgspec.structs.replace(propose, block=block + b"\0")
            check = member.driver._check_propose
            assert await check(b"p" * 32, encode(other)) is Verdict.IGNORE
        async with town.members[leader - 2].running() as member:
            check = member.driver._check_propose
            assert await check(b"p" * 32, encode(propose)) is Verdict.ACCEPT

    run_town(scenario, tmp_path)


def test_a_height_is_believed_once_its_finalization_is_verified(tmp_path):
    async def scenario(town):
        async with town.members[0].running() as member:
            keys = [each.key for each in town.members]
            true = build_finalization(keys, town.validators, height=7)
            for height, expected in ((2**60, Verdict.REJECT), (7, Verdict.ACCEPT)):
                proposal = msgspec.structs.replace(true.proposal, height=height)
                certificate = msgspec.structs.replace(true, proposal=proposal)
                verdict = await member.driver._check_message(
                    b"p" * 32, encode(certificate)
                )
                known = height if expected is Verdict.ACCEPT else 0
                assert verdict is expected
                assert member.driver.status.best_height == known

    run_town(scenario, tmp_path)


def build_propose(town, leader):
    """Return the first block of a chain and its leader's proposal."""
    key, chain = town.members[leader].key, town.make_chain()
    _, block, _ = chain.build_block(
        epoch=0,
        view=1,
        parent_hash=GENESIS,
        parent_view=0,
        proposer=leader,
        reveal=bytes(96),
        attendance=Attendance(b"", b""),
        time_ms=town.now_ms(),
    )
    proposal = chain.read_proposal(block)
    signature = key.sign(compute_notarize_bytes(CHAIN, proposal))
    return block, Propose(block, Notarize(proposal, leader, signature), ())


def build_finalization(keys, validators, height):
    """Return everybody's finalization of a block that nobody has."""
    proposal = Proposal(
        epoch=0,
        view=height,
        parent_view=height - 1,
        parent_hash=b"p" * 32,
        block_hash=b"b" * 32,
        height=height,
    )
    message = compute_finalize_bytes(CHAIN, proposal)
    votes = {index: key.sign(message) for index, key in enumerate(keys)}
    return build_certificate(Kind.FINALIZATION, proposal, votes, validators, bls)


def test_copied_log_of_another_key_is_refused(tmp_path):
    async def scenario(town):
        one, two = town.members[:2]
        shutil.copy(one.wal_path, two.wal_path)
        with pytest.raises(ExceptionGroup) as caught:
            async with two.running():
                pass
        assert caught.group_contains(WrongWal)

    run_town(scenario, tmp_path)
