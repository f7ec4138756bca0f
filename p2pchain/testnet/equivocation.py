"""
Equivocation: a second machine that signs with a validator's key.

The runner has the keys of all homes.  As a peer like any other it connects to every
node over the real protocol and speaks two votes of the culprit that exclude each other,
view after view, until the chain has convicted it; or it hands the evidence of two such
votes to one node's RPC.  The culprit's own node knows nothing of it.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from consensus.evidence import Equivocation, build_evidence
from consensus.messages import (
    Finalize,
    Notarize,
    Nullify,
    Proposal,
    Vote,
    compute_finalize_bytes,
    compute_notarize_bytes,
    compute_nullify_bytes,
)
from network.endpoint import Endpoint
from network.network import Network
from network.topics import Topic
from p2pchain.testnet.errors import StepFailed
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.rpc import Json
from p2pchain.testnet.stakes import find_member, get_stake, wait_member
from p2pchain.testnet.steps import Equivocate
from primitives.bls import BlsSecretKey
from primitives.codec import encode
from primitives.keys import SecretKey

CONVICTION_EPOCHS = 3
"""Until the evidence is in a final block: whoever leads next includes it, but votes
count only while their view lasts."""
SPEAK_S = 0.2
"""Between two looks at the view: a few times in each."""


async def equivocate(testnet: Testnet, step: Equivocate) -> None:
    """Contradict a validator and see it convicted and out of the set.

    Raises:
        StepFailed: It is not convicted in time, or stays in the set.
    """
    name, note = step.node, testnet.timeline.note
    way = "evidence by RPC" if step.via_rpc else "votes to every node"
    note(name, f"somebody else signs with its key: {step.crime}, {way}")
    speak = _report if step.via_rpc else _speak
    blocks = CONVICTION_EPOCHS * testnet.homes.genesis.params.chain.epoch_blocks
    last = testnet.height + blocks
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak, testnet, step)
        while (await get_stake(testnet, name))["status"] != "TOMBSTONED":
            if testnet.height > last:
                raise StepFailed(
                    f"{name} equivocated and is not convicted at {testnet.height}"
                )
            await trio.sleep(SPEAK_S)
        nursery.cancel_scope.cancel()
    slashed = (await get_stake(testnet, name))["slashed"]
    note(name, f"convicted: tombstoned, {slashed} atoms slashed")
    await wait_member(testnet, name, is_member=False)
    note(name, "is out of the validator set")


async def _speak(testnet: Testnet, step: Equivocate) -> None:
    """Speak pairs of votes to every node, in each view that comes."""
    spoken: set[tuple[int, int]] = set()
    async with _open_peer(testnet) as network:
        while True:
            state = await testnet.ask("consensus_state")
            for view in (int(state["view"]), int(state["view"]) + 1):
                place = (int(state["epoch"]), view)
                peers = network.peers()
                if place in spoken or not peers:
                    continue
                spoken.add(place)
                for vote in await _sign_pair(testnet, step, state, view):
                    for peer in peers:
                        network.send(peer.peer_id, Topic.CONSENSUS, encode(vote))
            await trio.sleep(SPEAK_S)


async def _report(testnet: Testnet, step: Equivocate) -> None:
    """Hand the evidence of one pair to a node."""
    state = await testnet.ask("consensus_state")
    first, second = await _sign_pair(testnet, step, state, int(state["view"]))
    evidence = encode(build_evidence(first, second))
    await testnet.ask("broadcast_evidence", evidence="0x" + evidence.hex())


async def _sign_pair(
    testnet: Testnet, step: Equivocate, state: Json, view: int
) -> tuple[Vote, Vote]:
    """Return two votes of the culprit that exclude each other.

    Raises:
        StepFailed: It is not in the set.
    """
    member = await find_member(testnet, step.node)
    if member is None:
        raise StepFailed(f"{step.node} is not in the set, so it cannot equivocate")
    key = testnet.homes.keys[step.node].validator
    subjects = (_invent_proposal(state, view), _invent_proposal(state, view))
    return sign_pair(
        step.crime, testnet.homes.chain_id, key, int(member["index"]), subjects
    )


def sign_pair(
    crime: Equivocation,
    chain_id: bytes,
    key: BlsSecretKey,
    signer: int,
    subjects: tuple[Proposal, Proposal],
) -> tuple[Vote, Vote]:
    """Return two votes of one signer in one view that exclude each other."""
    first, second = subjects

    def notarize(proposal: Proposal) -> Notarize:
        message = compute_notarize_bytes(chain_id, proposal)
        return Notarize(proposal, signer, key.sign(message))

    def finalize(proposal: Proposal) -> Finalize:
        message = compute_finalize_bytes(chain_id, proposal)
        return Finalize(proposal, signer, key.sign(message))

    match crime:
        case Equivocation.DOUBLE_NOTARIZE:
            return notarize(first), notarize(second)
        case Equivocation.DOUBLE_FINALIZE:
            return finalize(first), finalize(second)
        case Equivocation.NULLIFY_AND_FINALIZE:
            place = (first.epoch, first.view)
            message = compute_nullify_bytes(chain_id, *place)
            return Nullify(*place, signer, key.sign(message)), finalize(first)


def _invent_proposal(state: Json, view: int) -> Proposal:
    """Return a proposal of a block that nobody has, as a child of the final one."""
    is_child = int(state["final_view"]) < view
    return Proposal(
        epoch=int(state["epoch"]),
        view=view,
        parent_view=int(state["final_view"]) if is_child else 0,
        parent_hash=bytes.fromhex(state["final_hash"].removeprefix("0x")),
        block_hash=secrets.token_bytes(32),
        height=int(state["final_height"]) + 1,
    )


@asynccontextmanager
async def _open_peer(testnet: Testnet) -> AsyncIterator[Network]:
    """Be a peer of every node, with a key that nobody knows."""
    homes = testnet.homes
    key = SecretKey(secrets.token_bytes(32))
    network = Network(node_key=key, chain_id=homes.chain_id)
    for name, keys in homes.keys.items():
        index = homes.get_index(name)
        host, port = homes.relays.get_host(index), homes.ports[index]
        endpoint = Endpoint(keys.node.public_key, host, port)
        network.add_endpoint(endpoint, persistent=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run, "127.0.0.1", 0)
        yield network
        nursery.cancel_scope.cancel()
