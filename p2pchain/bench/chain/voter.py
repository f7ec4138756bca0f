"""
One validator in a process of its own, with everything but inference and web interface.

    python -m p2pchain.bench.chain.voter      answers every line of JSON with one

Network, driver, log, chain and LevelDB are those of a node; two subclasses note when
things happen.  Times are of the system's monotonic clock, so those of several
processes can be laid side by side.  What went over the network is decoded only when
the notes are asked for.
"""

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from chain.records.spec import ChainSpec
from chain.records.transfer import Transfer
from chain.storage.leveldb import LevelStore
from consensus.leader import compute_leader
from consensus.messages import (
    MAX_PROPOSE_BYTES,
    Certificate,
    Message,
    Proposal,
    get_view,
)
from consensus.participant import ParticipantConfig
from network.endpoint import Endpoint
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.bench.chain.validators import Validators, derive_account
from p2pchain.node.chain.service import ChainService
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.driver import ConsensusDriver
from p2pchain.node.home.wal_file import create_wal
from primitives import bls
from primitives.codec import decode, encode
from primitives.keys import SecretKey
from primitives.kv import KeyValueStore
from primitives.types import ATOMS_PER_COIN
from wallet.transactions import ChainView, build_transactions

WATCHED = (Topic.CONSENSUS, Topic.BLOCKS)
FINAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The first line: who we are."""

    index: int
    count: int
    time_ms: int
    """Of genesis."""
    folder: str
    """Of our own; does not exist yet."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something happened."""

    what: str
    """built, judged, saved, finalized (with a beginning); sent X, heard X of a kind."""
    epoch: int
    view: int
    height: int
    """0 where it does not matter."""
    begin_s: float
    end_s: float


class TracedNetwork(Network):
    """Notes what consensus sends and hears."""

    def trace(self) -> None:
        """Begin; what comes before `subscribe` is not noted."""
        self.sent: list[tuple[float, bytes]] = []
        self.heard: list[tuple[float, bytes]] = []

    def publish(self, topic: Topic, payload: bytes) -> None:
        """As the network does."""
        if topic in WATCHED:
            self.sent.append((time.monotonic(), payload))
        super().publish(topic, payload)

    def send(self, peer_id: bytes, topic: Topic, payload: bytes) -> bool:
        """As the network does."""
        if topic in WATCHED:
            self.sent.append((time.monotonic(), payload))
        return super().send(peer_id, topic, payload)

    def subscribe(
        self, topic: Topic, check: Callable[[bytes, bytes], Awaitable[Verdict]]
    ) -> None:
        """As the network does."""

        async def note_and_check(peer_id: bytes, payload: bytes) -> Verdict:
            self.heard.append((time.monotonic(), payload))
            return await check(peer_id, payload)

        super().subscribe(topic, note_and_check if topic in WATCHED else check)

    def list_notes(self) -> list[Note]:
        """Return the first time of each message, sent or heard."""
        notes: dict[tuple[str, int, int], Note] = {}
        for what, lot in (("sent", self.sent), ("heard", self.heard)):
            for at, payload in lot:
                message: Message = decode(Message, payload, MAX_PROPOSE_BYTES)  # type: ignore[arg-type]
                epoch, view = get_view(message)
                kind = type(message).__name__
                if isinstance(message, Certificate):
                    kind = message.kind.name
                key = (f"{what} {kind.lower()}", epoch, view)
                notes.setdefault(key, Note(*key, 0, at, at))
        return list(notes.values())


class TracedChain(ChainService):
    """Notes when blocks are built, judged, saved and made final."""

    def __init__(self, spec: ChainSpec, kv: KeyValueStore, network: Network) -> None:
        """As the chain service does."""
        super().__init__(spec, kv, network)
        self.notes: list[Note] = []

    def build_block(self, **place: Any) -> tuple[bytes, bytes, int]:
        """As the chain service does."""
        begin = time.monotonic()
        built = super().build_block(**place)
        self._note("built", place["epoch"], place["view"], built[2], begin)
        return built

    def add_block(
        self, proposal: Proposal, block_bytes: bytes, *, is_decided: bool = False
    ) -> None:
        """As the chain service does."""
        begin = time.monotonic()
        super().add_block(proposal, block_bytes, is_decided=is_decided)
        place = proposal.epoch, proposal.view, proposal.height
        self._note("judged", *place, begin)

    def save_pending(self, block_hash: bytes) -> None:
        """As the chain service does."""
        begin = time.monotonic()
        super().save_pending(block_hash)
        header = self.tree.get_block(block_hash).header
        self._note("saved", header.epoch, header.view, header.height, begin)

    def finalize(self, certificate: Certificate) -> None:
        """As the chain service does."""
        begin = time.monotonic()
        super().finalize(certificate)
        place = certificate.epoch, certificate.view, self.final_height
        self._note("finalized", *place, begin)

    def _note(
        self, what: str, epoch: int, view: int, height: int, begin_s: float
    ) -> None:
        note = Note(what, epoch, view, height, begin_s, time.monotonic())
        self.notes.append(note)


class Voter:
    """The running validator and what it answers."""

    def __init__(
        self, world: Validators, network: TracedNetwork, chain: TracedChain, index: int
    ) -> None:
        self._world = world
        self._network = network
        self._chain = chain
        self._account = derive_account(index)
        self._nonce = 0

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a line asks for."""
        match request["do"]:
            case "connect":
                for text in request["peers"]:
                    self._network.add_endpoint(Endpoint.parse(text), persistent=True)
                return {}
            case "wait":
                with trio.fail_after(FINAL_S):
                    await self._chain.wait_height(request["height"])
                return {}
            case "turn":
                return await self._await_turn()
            case "transfer":
                return await self._transfer()
            case "notes":
                notes = self._chain.notes + self._network.list_notes()
                return {
                    "notes": [asdict(note) for note in notes],
                    "cpu_s": time.process_time(),
                }
        raise ValueError(f"unknown request {request['do']!r}")

    async def _await_turn(self) -> dict[str, Any]:
        """Return the next block's height and who leads the view after it, once final.

        Its leader waits for the block's time to pass, so there is time to act.
        """
        with trio.fail_after(FINAL_S):
            await self._chain.wait_height(self._chain.height + 1)
        tree = self._chain.tree
        view = tree.final.child_parent_view + 1
        leader = compute_leader(tree.epoch.seed, view, tree.epoch.validators)
        return {"height": self._chain.height, "leader": leader}

    async def _transfer(self) -> dict[str, Any]:
        view = ChainView(
            chain_id=self._world.spec.chain_id,
            params=self._world.spec.params,
            height=self._chain.height,
            nonces={0: self._nonce},
        )
        payload = Transfer(bytes(31) + b"\1", 0, 1)
        (signed,) = build_transactions(self._account, view, [(0, payload)])
        self._nonce += 1
        begin = time.monotonic()
        tx_id = self._chain.submit(encode(signed))
        await self._chain.wait_outcome(tx_id, FINAL_S)
        end = time.monotonic()
        place = self._chain.tree.store.get_place(tx_id)
        assert place is not None
        return {"begin_s": begin, "end_s": end, "height": place.height}


def build_world(count: int, time_ms: int) -> Validators:
    """Return the validators of a network; the same in all of its processes."""
    accounts = [derive_account(index).public_key for index in range(count)]
    balances = dict.fromkeys(accounts, 1000 * ATOMS_PER_COIN)
    return Validators(balances, count=count, time_ms=time_ms)


async def run_voter(settings: Settings, store: KeyValueStore) -> None:
    """Vote and answer until the input ends."""
    world = build_world(settings.count, settings.time_ms)
    key = world.keys[settings.index]
    wal = Path(settings.folder) / "votes"
    create_wal(wal, key.public_key, world.spec.chain_id)
    network = TracedNetwork(
        node_key=SecretKey(bytes([200 + settings.index]) * 32),
        chain_id=world.spec.chain_id,
    )
    network.trace()
    chain = TracedChain(world.spec, store, network)
    driver = ConsensusDriver(
        config=ParticipantConfig(
            chain_id=world.spec.chain_id,
            params=world.genesis.params.consensus,
            scheme=bls,
            signer=key,
        ),
        application=chain,
        network=network,
        wal_path=wal,
        bodies=BodyExchange(network, chain.tree),
    )
    async with trio.open_nursery() as nursery:
        endpoint = await nursery.start(network.run, "127.0.0.1", 0)
        await nursery.start(driver.run)
        voter = Voter(world, network, chain, settings.index)
        _say({"endpoint": str(endpoint), "pid": os.getpid()})
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            _say(await voter.answer(json.loads(line)))
        nursery.cancel_scope.cancel()


def main() -> None:
    """Read who we are, then run."""
    _say({})
    settings = Settings(**json.loads(sys.stdin.readline()))
    Path(settings.folder).mkdir()
    with LevelStore(Path(settings.folder) / "data") as store:
        trio.run(run_voter, settings, store)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
