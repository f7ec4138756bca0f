"""Real drivers from epoch to epoch: boundaries, sets that change, lost memories."""

from contextlib import AsyncExitStack

import trio
from driver_town import CHAIN, Member, reach_all, run_town

from consensus.messages import get_view
from consensus.records import Floor
from consensus.validators import ValidatorSet
from consensus.wal import scan_wal


async def start(stack, *members):
    for member in members:
        await stack.enter_async_context(member.running())


def test_epochs_follow_each_other(tmp_path):
    async def scenario(town):
        listener = Member(town, 9, None)
        async with AsyncExitStack() as stack:
            await start(stack, *town.members, listener)
            await reach_all([*town.members, listener], 10)
            status = town.members[0].driver.status
            assert status.epoch == town.members[0].chain.final_height // 3
            assert status.is_voting
        town.assert_agreement(listener)
        town.assert_single_votes()
        epochs = {get_view(vote)[0] for vote in town.members[0].read_votes()}
        assert {0, 1, 2} <= epochs

    run_town(scenario, tmp_path, epoch_blocks=3)


def test_one_block_per_epoch(tmp_path):
    """Every block is a boundary, and every block begins an epoch."""

    async def scenario(town):
        async with AsyncExitStack() as stack:
            await start(stack, *town.members)
            await reach_all(town.members, 6)
        town.assert_agreement()
        town.assert_single_votes()

    run_town(scenario, tmp_path, epoch_blocks=1)


def test_the_set_changes_with_every_epoch(tmp_path):
    """Six keys, of which the epoch takes four in turn; the others listen."""

    async def scenario(town):
        def get_set(epoch):
            chosen = sorted((epoch + k) % 6 for k in range(4))
            return ValidatorSet(tuple(town.validators.validators[i] for i in chosen))

        town.get_set = get_set
        async with AsyncExitStack() as stack:
            await start(stack, *town.members)
            await reach_all(town.members, 13)
        town.assert_agreement()
        town.assert_single_votes()
        for number, member in enumerate(town.members):
            for epoch in {get_view(vote)[0] for vote in member.read_votes()}:
                assert (number - epoch) % 6 < 4

    run_town(scenario, tmp_path, size=6, epoch_blocks=2)


def test_late_joiner_crosses_boundaries(tmp_path):
    async def scenario(town):
        late = Member(town, 9, None)
        async with AsyncExitStack() as stack:
            await start(stack, *town.members)
            await reach_all(town.members, 11)
            await start(stack, late)
            await late.reach(11)
        town.assert_agreement(late)

    run_town(scenario, tmp_path, epoch_blocks=2)


def test_all_stop_around_a_boundary_and_go_on(tmp_path):
    async def scenario(town):
        for height in (2, 3, 4, 6):
            async with AsyncExitStack() as stack:
                await start(stack, *town.members)
                await reach_all(town.members[:1], height)
        town.assert_agreement()
        town.assert_single_votes()

    run_town(scenario, tmp_path, epoch_blocks=2)


def test_lost_log_begins_anew_in_a_young_epoch(tmp_path):
    async def scenario(town):
        mute = town.members[2]
        mute.wal_path.unlink()
        async with AsyncExitStack() as stack:
            await start(stack, *town.members)
            assert not mute.driver.status.is_voting
            assert "missing" in mute.driver.status.mute_reason
            lost_at = town.now_ms()
            while not mute.driver.status.is_voting:
                await mute.reach(mute.chain.final_height + 1)
            epoch = mute.driver.status.epoch
            first = mute.chain.final[3 * epoch + 1]
            assert mute.chain.get_time_ms(first) > lost_at + 9_000
            await reach_all(town.members, mute.chain.final_height + 4)
        town.assert_agreement()
        town.assert_single_votes()
        records, _ = scan_wal(mute.wal_path.read_bytes(), mute.key.public_key, CHAIN)
        assert isinstance(records[0], Floor)
        assert records[0].epoch == epoch
        places = [get_view(vote) for vote in mute.read_votes()]
        assert places
        assert min(places) > (records[0].epoch, records[0].view)

    run_town(scenario, tmp_path, epoch_blocks=3, haste=10)


def test_wiped_chain_is_replayed_in_silence(tmp_path):
    async def scenario(town):
        wiped = town.members[1]
        async with AsyncExitStack() as stack:
            await start(stack, *(m for m in town.members if m is not wiped))
            async with wiped.running():
                await reach_all(town.members, 9)
            before = wiped.read_votes()
            reached = max(get_view(vote)[0] for vote in before)
            wiped.chain = town.make_chain()
            await start(stack, wiped)
            assert not wiped.driver.status.is_voting
            assert "catches up" in wiped.driver.status.mute_reason
            while len(votes := wiped.read_votes()) < len(before) + 4:
                await wiped.reach(wiped.chain.final_height + 1)
        town.assert_agreement()
        town.assert_single_votes()
        assert all(get_view(v)[0] >= reached for v in votes[len(before) :])

    run_town(scenario, tmp_path, epoch_blocks=3)


def test_a_straggler_is_told_how_its_epoch_ended(tmp_path):
    """Three are an epoch ahead; the fourth speaks and gets the finalization."""

    async def scenario(town):
        last = town.members[3]
        async with AsyncExitStack() as stack:
            await start(stack, *town.members[:3])
            async with last.running():
                await reach_all(town.members, 1)
            await reach_all(town.members[:3], 5)
            await start(stack, last)
            with trio.fail_after(20):
                await last.reach(5)
        town.assert_agreement()

    run_town(scenario, tmp_path, epoch_blocks=2)
