"""
Carrying out the steps of a manifest, each in a task of its own.

Every fault ends with the same demand: the node comes back and catches up with where the
network was by then.
"""

import shutil
from collections.abc import Awaitable, Callable, Iterable
from typing import assert_never

import trio

from p2pchain.testnet.equivocation import equivocate
from p2pchain.testnet.network import Testnet
from p2pchain.testnet.process import NodeProcess
from p2pchain.testnet.stakes import join, leave
from p2pchain.testnet.steps import (
    ALL,
    Disconnect,
    Equivocate,
    Join,
    Kill,
    Leave,
    Pause,
    Restart,
    Step,
    Wipe,
    get_nodes,
)

Fault = Callable[[NodeProcess], Awaitable[None]]


async def perform(testnet: Testnet, step: Step) -> None:
    """Carry out one step when its height has come.

    Raises:
        TestnetFailed: The network does not bear it.
    """
    await testnet.wait_height(step.at)
    for name in get_nodes(step):
        if name != ALL:
            await testnet.wait_started(name)
    match step:
        case Kill():
            await _disturb(testnet, step.node, lambda n: _kill(testnet, n, step.for_s))
        case Restart():
            await _disturb(
                testnet, step.node, lambda n: _restart(testnet, n, step.for_s)
            )
        case Pause():
            await _disturb(testnet, step.node, lambda n: _pause(testnet, n, step.for_s))
        case Wipe():
            await _disturb(testnet, step.node, lambda n: _wipe(testnet, n, step))
        case Disconnect():
            await _disconnect(testnet, step)
        case Join():
            await join(testnet, step)
        case Leave():
            await leave(testnet, step)
        case Equivocate():
            await equivocate(testnet, step)
        case _:
            assert_never(step)


async def _disturb(testnet: Testnet, name: str, fault: Fault) -> None:
    """Disturb one node, or all that run, and see it catch up."""
    names: Iterable[str] = list(testnet.nodes) if name == ALL else [name]
    async with trio.open_nursery() as nursery:
        for each in names:
            nursery.start_soon(_disturb_one, testnet, testnet.nodes[each], fault)


async def _disturb_one(testnet: Testnet, node: NodeProcess, fault: Fault) -> None:
    async with node.busy:
        with testnet.disturb():
            await fault(node)
        await _see_caught_up(testnet, node.name)


async def _see_caught_up(testnet: Testnet, name: str) -> None:
    started = trio.current_time()
    height = await testnet.wait_caught_up(name)
    seconds = trio.current_time() - started
    testnet.timeline.note(name, f"caught up at height {height} in {seconds:.1f} s")


async def _kill(testnet: Testnet, node: NodeProcess, for_s: float) -> None:
    testnet.timeline.note(node.name, f"SIGKILL, back in {for_s:g} s")
    await node.kill()
    await trio.sleep(for_s)
    await _start(testnet, node)


async def _restart(testnet: Testnet, node: NodeProcess, for_s: float) -> None:
    testnet.timeline.note(node.name, f"SIGTERM, back in {for_s:g} s")
    await node.stop()
    await trio.sleep(for_s)
    await _start(testnet, node)


async def _start(testnet: Testnet, node: NodeProcess) -> None:
    await node.start()
    testnet.timeline.note(node.name, "started again")


async def _pause(testnet: Testnet, node: NodeProcess, for_s: float) -> None:
    testnet.timeline.note(node.name, f"SIGSTOP for {for_s:g} s")
    node.pause()
    try:
        await trio.sleep(for_s)
    finally:
        node.resume()
    testnet.timeline.note(node.name, "SIGCONT")


async def _wipe(testnet: Testnet, node: NodeProcess, step: Wipe) -> None:
    what = "chain and votes" if step.lose_votes else "chain"
    testnet.timeline.note(node.name, f"stopped, {what} deleted")
    await node.stop()
    shutil.rmtree(node.home.data)
    node.home.data.mkdir(mode=0o700)
    if step.lose_votes:
        for path in node.home.votes.parent.iterdir():
            path.unlink()
    testnet.forget_height(node.name)
    await trio.sleep(step.for_s)
    await _start(testnet, node)


async def _disconnect(testnet: Testnet, step: Disconnect) -> None:
    text = {
        (True, True): "cut off",
        (True, False): "cut off inwards",
        (False, True): "cut off outwards",
    }[step.is_deaf, step.is_dumb]
    names = ", ".join(step.nodes)
    testnet.timeline.note(names, f"{text} for {step.for_s:g} s")
    indexes = [testnet.homes.get_index(name) for name in step.nodes]
    with testnet.disturb():
        wires = testnet.homes.relays.cut(
            indexes, inwards=step.is_deaf, outwards=step.is_dumb
        )
        try:
            await trio.sleep(step.for_s)
        finally:
            for wire in wires:
                wire.mend()
    testnet.timeline.note(names, "connected again")
    for name in step.nodes:
        await _see_caught_up(testnet, name)
