"""Four drivers over real connections on loopback, with a tiny application."""

import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from hashlib import blake2b

import pytest
import trio
from listchain import GENESIS, ListChain

from consensus.errors import WrongWal
from consensus.messages import Finalize, Notarize, Nullify, get_view
from consensus.params import ConsensusParams
from consensus.participant import ParticipantConfig
from consensus.validators import Validator, ValidatorSet
from consensus.wal import scan_wal
from network.network import Network
from network.topics import Topic
from p2pchain.node.consensus_driver import ConsensusDriver
from p2pchain.node.wal_file import WalLocked, create_wal
from primitives import bls
from primitives.keys import SecretKey

CHAIN = blake2b(b"driver test", digest_size=32).digest()
PARAMS = ConsensusParams(interval_ms=60, delta_ms=120, build_ms=100)
LIMIT_S = 60
"""Only a guard against hanging; a quiet machine needs a second or two."""


class Member:
    """One node's possessions, which outlive its driver."""

    def __init__(self, town, number, key):
        self.town, self.number, self.key = town, number, key
        self.node_key = SecretKey(bytes([number + 1]) * 32)
        self.chain = town.make_chain()
        self.wal_path = town.folder / f"wal{number}"
        self.driver = self.network = None
        if key is not None:
            create_wal(self.wal_path, key.public_key, CHAIN)

    @asynccontextmanager
    async def running(self):
        """Run network and driver; leaving is a stop without goodbye."""
        async with trio.open_nursery() as nursery:
            self.network = Network(node_key=self.node_key, chain_id=CHAIN)
            self.driver = ConsensusDriver(
                config=replace(self.town.config, signer=self.key),
                application=self.chain,
                network=self.network,
                wal_path=self.wal_path if self.key is not None else None,
            )
            endpoint = await nursery.start(self.network.run, "127.0.0.1", 0)
            for other in self.town.endpoints.values():
                if other.peer_id != endpoint.peer_id:
                    self.network.add_endpoint(other, persistent=True)
            self.town.endpoints[self.number] = endpoint
            await nursery.start(self.driver.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()
        self.chain.crash()

    async def reach(self, height):
        """Return once the final height is at least `height`."""
        while self.chain.final_height < height:
            changed = trio.Event()
            self.chain.on_final = changed.set
            await changed.wait()

    def read_votes(self):
        """Return the votes in the log."""
        data = self.wal_path.read_bytes()
        records, _ = scan_wal(data, self.key.public_key, CHAIN)
        return [r for r in records if isinstance(r, Notarize | Nullify | Finalize)]


class Town:
    """Validators who know each other."""

    def __init__(self, folder, size=4, epoch_blocks=2**40):
        self.folder = folder
        keys = [bls.BlsSecretKey(bytes(31) + bytes([i + 7])) for i in range(size)]
        validators = tuple(Validator(key.public_key, 10) for key in keys)
        self.validators = ValidatorSet(validators)
        self.epoch_blocks = epoch_blocks
        self.get_set = None
        self.config = ParticipantConfig(
            chain_id=CHAIN, params=PARAMS, scheme=bls, signer=None
        )
        self.endpoints = {}
        self.members = [Member(self, i, key) for i, key in enumerate(keys)]

    def make_chain(self):
        return ListChain(
            CHAIN,
            self.validators,
            self.epoch_blocks,
            lambda epoch: (self.get_set or (lambda _: self.validators))(epoch),
        )

    def assert_agreement(self, *others):
        """Final chains are prefixes of the longest one."""
        chains = [member.chain.final for member in (*self.members, *others)]
        longest = max(chains, key=len)
        for chain in chains:
            assert chain == longest[: len(chain)]

    def assert_single_votes(self):
        """Nobody's log holds two votes that exclude each other."""
        for member in self.members:
            seen = {}
            for vote in member.read_votes():
                kind, view = type(vote), get_view(vote)
                assert seen.setdefault((kind, view), vote) == vote
                if kind is not Notarize:
                    other = Nullify if kind is Finalize else Finalize
                    assert (other, view) not in seen


def run_town(scenario, tmp_path, size=4, **options):
    """Run an async scenario with a town, within the limit."""

    async def main():
        with trio.fail_after(LIMIT_S):
            await scenario(Town(tmp_path, size, **options))

    trio.run(main)


async def reach_all(members, height):
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(member.reach, height)


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


def test_copied_log_of_another_key_is_refused(tmp_path):
    async def scenario(town):
        one, two = town.members[:2]
        shutil.copy(one.wal_path, two.wal_path)
        with pytest.raises(ExceptionGroup) as caught:
            async with two.running():
                pass
        assert caught.group_contains(WrongWal)

    run_town(scenario, tmp_path)
