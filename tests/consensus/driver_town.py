"""
Four validators in one process: real connections on loopback, a tiny application.

    async def scenario(town):
        async with town.members[0].running() as member:
            await member.reach(5)

    run_town(scenario, tmp_path, size=1)
"""

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import blake2b

import trio
from listchain import ListChain

from consensus.messages import Finalize, Notarize, Nullify, get_view
from consensus.params import ConsensusParams
from consensus.participant import ParticipantConfig
from consensus.validators import Validator, ValidatorSet
from consensus.wal import scan_wal
from network.network import Network
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.wal_file import create_wal
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
                now_ms=self.town.now_ms,
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

    def __init__(self, folder, size=4, epoch_blocks=2**40, haste=1):
        """Args: `haste` is how many times faster clocks run than time does."""
        self.folder = folder
        self.start_s, self.haste = time.time(), haste
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

    def now_ms(self):
        passed_s = time.time() - self.start_s
        return int(1000 * (self.start_s + self.haste * passed_s))

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
