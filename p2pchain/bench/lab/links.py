"""
A devnet whose links take time: every byte between two nodes goes through a relay.

    python -m p2pchain.bench.lab.links NETWORK PORT ...

is the process that relays (p2pchain/testnet/relay.py).  It reads lines of JSON,
{"delay_s": 0.01}, and answers each with {}; so the delay of a running network can be
changed, and what is compared takes turns in one network.  The nodes are processes as
people run them: they are given other addresses of their peers, and nothing else.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import trio

from network.endpoint import Endpoint
from p2pchain.bench.lab.lab import Lab, LineProcess, RunningNetwork
from p2pchain.node.home.home import Home
from p2pchain.testnet.relay import Relays

NETWORKS = range(1, 255)
"""Second byte of all addresses of a network on loopback."""
NICENESS = 15


class Links:
    """The delay of all links of a network."""

    def __init__(self, relays: LineProcess) -> None:
        """Take the process that relays."""
        self._relays = relays

    def set_delay(self, delay_s: float) -> None:
        """Let what is sent from now on take so long, one way."""
        self._relays.ask({"delay_s": delay_s})


@contextmanager
def open_linked_network(
    lab: Lab, name: str, **settings: Any
) -> Iterator[tuple[RunningNetwork, Links]]:
    """Run a new devnet inside the block; its links take no time at first.

    Args:
        lab: Where its homes go.
        name: Their folder.
        settings: As of `Lab.create`.
    """
    folder = lab.create(name, **settings)
    homes = [Home(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    # The lab's folder has a random name, so networks side by side differ.
    second = NETWORKS[sum(str(folder).encode()) % len(NETWORKS)]
    ports = _redirect(homes, second)
    arguments = [str(second), *map(str, ports)]
    with (
        LineProcess("p2pchain.bench.lab.links", *arguments) as relays,
        lab.open_network(name) as network,
    ):
        yield network, Links(relays)


def _redirect(homes: list[Home], second: int) -> list[int]:
    """Give every node an address of its own and relays' addresses of its peers.

    Returns:
        The ports of the nodes in order.
    """
    configs = [home.load_config() for home in homes]
    ports = [config.p2p_port for config in configs]
    places = {port: index for index, port in enumerate(ports)}
    relays = Relays(second, ports)
    for index, (home, config) in enumerate(zip(homes, configs, strict=True)):
        peers = []
        for text in config.peers:
            peer = Endpoint.parse(text)
            host = relays.get_dialled_host(index, places[peer.port])
            peers.append(str(Endpoint(peer.peer_id, host, peer.port)))
        home.save_config(
            replace(config, p2p_host=relays.get_host(index), peers=tuple(peers))
        )
    return ports


def main() -> int:
    """Relay, and change the delay as lines on stdin say, until they end."""
    second, *ports = map(int, sys.argv[1:])
    with suppress(PermissionError):
        # A cable waits for no processor.
        os.nice(-NICENESS)
    trio.run(_serve, Relays(second, ports))
    return 0


async def _serve(relays: Relays) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(relays.run)
        print(json.dumps({}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            relays.set_delay(json.loads(line)["delay_s"])
            print(json.dumps({}), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
