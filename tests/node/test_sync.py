"""Catching up: what a peer answers too late is nobody's fault."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from consensus.messages import Certificate, Kind, Proposal
from network.faults import Fault
from p2pchain.node.consensus.sync import Sync, SyncPorts
from p2pchain.node.consensus.sync_messages import FinalRange
from primitives.codec import encode

PEER = bytes([7]) * 32
HASHES = [bytes([fill]) * 32 for fill in range(3)]


def build_certificate(epoch: int) -> Certificate:
    proposal = Proposal(
        epoch=epoch,
        view=1,
        parent_view=0,
        parent_hash=HASHES[0],
        block_hash=HASHES[1],
        height=11,
    )
    return Certificate(Kind.FINALIZATION, proposal, epoch, 1, b"\x0f", bytes(96))


class Application:
    """A chain whose last final block is 10, the end of epoch 0."""

    def __init__(self) -> None:
        self.final_height = 10
        self.final_hash = HASHES[0]
        self.epoch = 0


class SlowPeer:
    """A network of one peer, which answers with a range of epoch 0."""

    def __init__(self, application: Application, *, is_late: bool) -> None:
        self.faults: list[Fault] = []
        self._application = application
        self._is_late = is_late

    def handle_request(self, *args: Any, **kwargs: Any) -> None:
        pass

    def watch_peers(self, watcher: Any) -> None:
        pass

    def penalize(self, peer_id: bytes, fault: Fault) -> None:
        self.faults.append(fault)

    async def request(self, *args: Any, **kwargs: Any) -> bytes:
        if self._is_late:
            # Meanwhile gossip brings the boundary, and with it the next epoch.
            self._application.final_height, self._application.epoch = 11, 1
        return encode(FinalRange((b"block",), build_certificate(0), ()))


def catch_up(*, is_late: bool) -> list[Fault]:
    """Take a range from a peer; return what it was charged with."""
    application = Application()
    network = SlowPeer(application, is_late=is_late)
    ports = SimpleNamespace(
        get_status=None,
        # As the driver's: true, were it not of an epoch that is over.  When it is in
        # time it is of the right epoch, and here it is false then.
        verify_certificate=lambda certificate: False,
        get_certificates=None,
        on_block=None,
        on_certificate=None,
    )
    sync = Sync(network, application, SyncPorts(**vars(ports)))  # type: ignore[arg-type]
    sync.ask(PEER)
    trio.run(sync._catch_up, 0)
    return network.faults


@pytest.mark.parametrize(
    ("is_late", "faults"), [(True, []), (False, [Fault.BAD_MESSAGE])]
)
def test_a_range_that_others_were_faster_than(
    is_late: bool, faults: list[Fault]
) -> None:
    assert catch_up(is_late=is_late) == faults
