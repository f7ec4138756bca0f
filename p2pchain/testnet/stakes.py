"""
Changes of the validator set: joining, leaving, and coming back after downtime.

Transactions are the runner's own, signed with the keys of the homes; what they bring
about is read from any node.  A change reaches the set two epochs after the boundary
that ends the transaction's epoch, so everything here waits in epochs, not in seconds.
"""

import trio

from chain.records.staking import Bond, Unbond
from chain.records.transfer import Transfer
from p2pchain.client import RpcError
from p2pchain.testnet.errors import StepFailed
from p2pchain.testnet.funds import commit
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.rpc import Json
from p2pchain.testnet.steps import Join, Leave
from primitives.address import encode_address
from primitives.types import ATOMS_PER_COIN
from shards.layout import ROOT_SHARD

CHANGE_EPOCHS = 5
"""Until a change is in the set: the rest of one epoch, two more, and two because no
more than a third of the stake changes at a time."""
MAX_RETURNS = 3
"""Of one validator after downtime: the sets of two more epochs may still count it, and
put it down again where it was silent in most of them."""
FEES = 10 * ATOMS_PER_COIN
"""Sent with a stake, for the transactions of its owner."""
POLL_S = 0.5


async def join(testnet: Testnet, step: Join) -> None:
    """Make a node without stake a validator that votes.

    Raises:
        StepFailed: A transaction is refused, or the node is not in the set in time.
    """
    name, note = step.node, testnet.timeline.note
    keys = testnet.homes.keys[name]
    node = testnet.nodes[name]
    atoms = step.stake * ATOMS_PER_COIN
    await testnet.wait_caught_up(name)
    gift = Transfer(keys.account.public_key, ROOT_SHARD, atoms + FEES)
    await commit(testnet, testnet.homes.treasury, gift)
    async with node.busy:
        await node.stop()
        testnet.homes.set_validator(name)
        await node.start()
    note(name, "started again with its validator key")
    await testnet.wait_caught_up(name)
    await commit(testnet, keys.account, _build_bond(testnet, name, atoms))
    note(name, f"bonded {step.stake} coins")
    await wait_member(testnet, name, is_member=True)
    note(name, "is in the validator set")
    await wait_vote(testnet, name)
    note(name, "votes")


async def leave(testnet: Testnet, step: Leave) -> None:
    """Take a validator's whole stake out and see it leave the set.

    Raises:
        StepFailed: A transaction is refused, or it is in the set for too long.
    """
    name, note = step.node, testnet.timeline.note
    keys = testnet.homes.keys[name]
    stake = await get_stake(testnet, name)
    await commit(testnet, keys.account, Unbond(int(stake["bonded"])))
    note(name, f"unbonds {int(stake['bonded']) // ATOMS_PER_COIN} coins")
    await wait_member(testnet, name, is_member=False)
    note(name, "has left the validator set")


async def bring_back(testnet: Testnet, name: str) -> None:
    """See that a validator is in the set and votes, as its operator would.

    Who was down for half an epoch leaves the set; a bond of nothing brings it back.
    Such a bond waits until the node may sign again: one that is made while it is still
    silent in the running set is undone at the epoch's end.

    Raises:
        StepFailed: It does not vote again in time.
    """
    last, returns = _get_deadline(testnet), 0
    first: dict[int, int] = {}
    while not await _has_new_vote(testnet, name, first):
        if testnet.height > last:
            raise await _blame_silence(testnet, name)
        if returns < MAX_RETURNS and await _may_return(testnet, name):
            testnet.timeline.note(name, "left the set for downtime: bonds again")
            bond = _build_bond(testnet, name, 0)
            await commit(testnet, testnet.homes.keys[name].account, bond)
            last, returns = _get_deadline(testnet), returns + 1
        await trio.sleep(POLL_S)


async def wait_member(testnet: Testnet, name: str, *, is_member: bool) -> None:
    """Return once a node's key is in the running set, or is not.

    Raises:
        StepFailed: Not within `CHANGE_EPOCHS`.
    """
    last = _get_deadline(testnet)
    while (await find_member(testnet, name) is not None) is not is_member:
        if testnet.height > last:
            should = "is not in" if is_member else "is still in"
            raise StepFailed(
                f"{name} {should} the validator set at height {testnet.height}; its "
                f"stake: {await get_stake(testnet, name)}"
            )
        await trio.sleep(POLL_S)


async def wait_vote(testnet: Testnet, name: str) -> None:
    """Return once a new vote of a member is recorded in a block.

    Raises:
        StepFailed: Not within `CHANGE_EPOCHS`; says why the node does not vote.
    """
    last = _get_deadline(testnet)
    first: dict[int, int] = {}
    while not await _has_new_vote(testnet, name, first):
        if testnet.height > last:
            raise await _blame_silence(testnet, name)
        await trio.sleep(POLL_S)


async def find_member(testnet: Testnet, name: str) -> Json | None:
    """Return a node's entry in the running set, if it is there."""
    return (await _get_attendance(testnet, name))[1]


async def get_stake(testnet: Testnet, name: str) -> Json:
    """Return a node's stake as the chain has it.

    Raises:
        StepFailed: It has none, or no node answers.
    """
    account = testnet.homes.keys[name].account.public_key
    stake: Json = await testnet.ask("stake", address=encode_address(account))
    return stake


async def _get_attendance(testnet: Testnet, name: str) -> tuple[int, Json | None]:
    answer = await testnet.ask("validators")
    key = "0x" + testnet.homes.keys[name].validator.public_key.hex()
    members = [m for m in answer["validators"] if m["public_key"] == key]
    return int(answer["epoch"]), members[0] if members else None


async def _has_new_vote(testnet: Testnet, name: str, first: dict[int, int]) -> bool:
    """Tell whether blocks recorded a vote since the first call with `first`, empty."""
    epoch, member = await _get_attendance(testnet, name)
    if member is None or member["seen"] is None:
        return False
    seen = int(member["seen"])
    return seen > first.setdefault(epoch, seen)


async def _may_return(testnet: Testnet, name: str) -> bool:
    """Tell whether a validator was put down and could vote by now."""
    if (await get_stake(testnet, name))["status"] != "DOWN":
        return False
    try:
        return not (await _get_consensus_state(testnet, name))["mute_reason"]
    except RpcError:
        return False


async def _blame_silence(testnet: Testnet, name: str) -> StepFailed:
    stake = await get_stake(testnet, name)
    try:
        state: object = await _get_consensus_state(testnet, name)
    except RpcError as error:
        state = error
    return StepFailed(
        f"no block has a new vote of {name}, at height {testnet.height}; its stake is "
        f"{stake['status']}, its consensus_state: {state}"
    )


async def _get_consensus_state(testnet: Testnet, name: str) -> Json:
    rpc = testnet.nodes[name].rpc
    if rpc is None:
        raise RpcError("it does not run")
    state: Json = await rpc.call("consensus_state")
    return state


def _get_deadline(testnet: Testnet) -> int:
    blocks = testnet.homes.genesis.params.chain.epoch_blocks
    return testnet.height + CHANGE_EPOCHS * blocks


def _build_bond(testnet: Testnet, name: str, atoms: int) -> Bond:
    keys = testnet.homes.keys[name]
    proof = keys.validator.prove_possession(keys.account.public_key)
    return Bond(name, keys.validator.public_key, proof, atoms)
