"""
What a simulated node is about to say, behind what it promised on its disk.

As p2pchain.node.consensus.outbox does: all records of a turn in one append, then its
messages and decisions.  The power may go in any write, and between any two messages.
"""

from typing import TYPE_CHECKING

from consensus import effects as fx
from consensus.records import Floor
from consensus.wal import encode_header, encode_records

if TYPE_CHECKING:
    from p2pchain.sim.node import Node

Outgoing = fx.Persist | fx.Broadcast | fx.Decide | fx.BeginLog


class Outbox:
    """Effects of one life that wait for the disk."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._waiting: list[Outgoing] = []
        self._is_writing = False

    @property
    def is_busy(self) -> bool:
        """Whether something waits or is being written."""
        return bool(self._waiting or self._is_writing)

    def put(self, effect: Outgoing) -> None:
        """Have an effect carried out after all that were put in before."""
        self._waiting.append(effect)

    def empty(self) -> None:
        """Begin a turn: write what was promised, and only then send."""
        if self._is_writing or not self._waiting:
            return
        turn, self._waiting = self._waiting, []
        node, world = self._node, self._node.world
        data = self._encode(turn)
        delay_ms = 0
        if data:
            node.disk.votes.begin_append(data)
            if world.setup.disk_ms[1]:
                delay_ms = world.luck.randint(*world.setup.disk_ms)
        self._is_writing = True
        if delay_ms:
            world.after(delay_ms, node, node.guard, self._end_turn, turn, data)
        else:
            self._end_turn(turn, data)

    def _encode(self, turn: list[Outgoing]) -> bytes:
        for effect in turn:
            if isinstance(effect, fx.BeginLog):
                self._begin_log(effect.floor)
        records = [e.record for e in turn if isinstance(e, fx.Persist)]
        if not records or self._node.disk.votes.data is None:
            return b""
        return encode_records(records)

    def _begin_log(self, floor: Floor) -> None:
        self._node.disk.votes.replace(self._encode_header() + encode_records([floor]))

    def _end_turn(self, turn: list[Outgoing], data: bytes) -> None:
        node = self._node
        if data:
            log = node.disk.votes
            log.finish_append()
            assert log.data is not None
            if len(log.data) > node.world.setup.compact_bytes:
                self._compact_log()
        self._is_writing = False
        for effect in turn:
            if isinstance(effect, fx.Broadcast):
                node.say(effect.message)
            elif isinstance(effect, fx.Decide):
                node.make_final(effect.certificate)
        node.handle_events()

    def _compact_log(self) -> None:
        retained = self._node.mind.get_retained_records()
        self._node.disk.votes.replace(self._encode_header() + encode_records(retained))

    def _encode_header(self) -> bytes:
        node = self._node
        assert node.signer is not None
        return encode_header(node.signer.public_key, node.world.chains.chain_id)
