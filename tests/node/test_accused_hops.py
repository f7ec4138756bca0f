"""Whom a gateway avoids after a session went on without a hop."""

from types import SimpleNamespace

import pytest
import trio

from inference.protocol.codes import AbortCode
from inference.protocol.errors import HopAborted, HopAccused, HopLost
from inference.session.events import FindHops
from p2pchain.api.errors import NoRoute
from p2pchain.node.gateway.rerouting import Rerouting

PEER = b"\x01" * 32


class Routes:
    """Nobody else covers the layers."""

    def __init__(self):
        self.avoided, self.excluded = [], []

    def avoid(self, registration):
        self.avoided.append(registration)

    def find_part(self, layers, excluded, positions):
        self.excluded.append(excluded)
        raise NoRoute("nobody else")


@pytest.mark.parametrize(
    ("kind", "is_avoided"), [(HopLost, True), (HopAborted, True), (HopAccused, False)]
)
def test_a_neighbours_word_harms_nobody_beyond_the_session(kind, is_avoided):
    routes = Routes()
    rerouting = Rerouting(
        routes,
        pool=None,
        retries=None,
        layers=8,
        answer_tokens=4,
        route=(SimpleNamespace(hop=SimpleNamespace(node_key=PEER), registration="r"),),
        plans=(SimpleNamespace(peer_id=PEER),),
        build_plan=None,
    )
    error = kind("text", peer_id=PEER, code=AbortCode.BAD_DATA)
    wanted = FindHops(search=1, start=0, end=2, positions=4, excluded=(), lost=(error,))
    with pytest.raises(NoRoute):
        trio.run(rerouting.find, wanted)
    assert routes.excluded[0] == {PEER}
    assert bool(routes.avoided) is is_avoided
