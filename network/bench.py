"""
What the network costs: `python -m network.bench`

Both ends run in this process over loopback, so every figure holds the work of two
nodes.  Medians, with the worst of a hundred beside them; the load of the machine is
printed because it decides the rest.
"""

import os
import time
from collections.abc import Awaitable, Callable
from statistics import median, quantiles

import trio

from network.network import Network
from network.stream import Stream
from network.topics import MIB, Priority, Topic, Verdict
from primitives.keys import SecretKey

SIZES = ((64, 2000), (64 * 1024, 500), (MIB, 60), (16 * MIB, 6))
"""Bytes and repetitions."""
VOTES = 20_000
WARM_UP = 20


async def bench() -> None:
    """Print the figures of two connected nodes."""
    alice, bob = (
        Network(node_key=SecretKey(name * 32), chain_id=b"bench")
        for name in (b"a", b"b")
    )
    bob.handle_request("echo", _answer)
    bob.handle("talk", _talk)
    print(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    async with trio.open_nursery() as nursery:
        await nursery.start(alice.run, "127.0.0.1", 0)
        alice.add_endpoint(await nursery.start(bob.run, "127.0.0.1", 0))
        started = time.perf_counter()
        await alice.request(bob.peer_id, "echo", b"", timeout_s=5)
        print(f"connect and first answer  {_ms(time.perf_counter() - started)}")
        await _bench_round_trips(alice, bob)
        await _bench_votes(alice, bob)
        await _bench_votes_under_load(alice, bob, nursery)
        nursery.cancel_scope.cancel()


async def _bench_round_trips(alice: Network, bob: Network) -> None:
    async with await alice.open_stream(bob.peer_id, "talk") as stream:
        for size, count in SIZES:
            message = bytes(size)

            async def ask(message: bytes = message) -> None:
                await alice.request(bob.peer_id, "echo", message, timeout_s=60)

            async def say(message: bytes = message) -> None:
                await stream.send(message)
                await stream.receive()

            await _measure(f"request, {size} B", ask, count)
            await _measure(f"stream, {size} B", say, count)


async def _bench_votes(alice: Network, bob: Network) -> None:
    done = trio.Event()
    count = 0

    async def check(peer_id: bytes, payload: bytes) -> Verdict:
        nonlocal count
        count += 1
        if count == VOTES:
            done.set()
        return Verdict.ACCEPT

    bob.subscribe(Topic.CONSENSUS, check)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(VOTES):
        alice.publish(Topic.CONSENSUS, number.to_bytes(200, "big"))
        if number % 100 == 0:
            await trio.sleep(100 / 3800)  # just below the budget of the topic
    with trio.move_on_after(5):
        await done.wait()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"votes of 200 B            {count} of {VOTES} in {wall:.2f} s, "
        f"{cpu / VOTES * 1000:.3f} ms of CPU each for both ends"
    )


async def _bench_votes_under_load(
    alice: Network, bob: Network, nursery: trio.Nursery
) -> None:
    stream = await alice.open_stream(bob.peer_id, "talk", priority=Priority.BULK)
    arrived = trio.Event()

    async def check(peer_id: bytes, payload: bytes) -> Verdict:
        arrived.set()
        return Verdict.ACCEPT

    async def load() -> None:
        while True:
            await stream.send(bytes(8 * MIB))

    async def drain() -> None:
        while True:
            await stream.receive()

    bob.subscribe(Topic.WORK, check)
    samples = []
    nursery.start_soon(load)
    nursery.start_soon(drain)
    for number in range(200):
        await trio.sleep(0.005)
        arrived = trio.Event()
        started = time.perf_counter()
        alice.send(bob.peer_id, Topic.WORK, b"%d" % number)
        await arrived.wait()
        samples.append(time.perf_counter() - started)
    _print("message while 8 MiB flow", samples)


async def _measure(
    name: str, action: Callable[[], Awaitable[None]], count: int
) -> None:
    samples = []
    for number in range(count + WARM_UP):
        started = time.perf_counter()
        await action()
        if number >= min(WARM_UP, count // 2):
            samples.append(time.perf_counter() - started)
    _print(name, samples)


def _print(name: str, samples: list[float]) -> None:
    worst = quantiles(samples, n=100)[-1] if len(samples) > 100 else max(samples)
    print(f"{name:25} {_ms(median(samples))}, 99th {_ms(worst)}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:8.3f} ms"


async def _answer(peer_id: bytes, payload: bytes) -> bytes:
    return payload


async def _talk(peer_id: bytes, stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


if __name__ == "__main__":
    trio.run(bench)
