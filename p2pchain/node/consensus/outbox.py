"""
What consensus says, in order and not before it is on disk.

One task empties the outbox, turn by turn: all records of the turn in one append and one
fsync, in a thread; then the messages, and the decisions that follow from the records.
So nothing leaves before what it promises is on disk, and while the disk works, events
go on being handled and gather for the next turn.
"""

from collections.abc import Callable, Sequence

import trio

from consensus import effects as fx
from consensus.messages import (
    Finalize,
    Message,
    Notarize,
    Nullify,
    Propose,
)
from consensus.records import WalRecord
from network.network import Network
from network.topics import Topic
from p2pchain.node.home.wal_file import WalFile
from primitives.codec import encode

Outgoing = fx.Persist | fx.BeginLog | fx.Broadcast | fx.Decide


class Outbox:
    """Effects that wait for the disk.

    Args:
        wal: Our log; None for a listener.
        network: Where messages go.
        get_retained: What a shorter log needs; called between turns.
        on_decide: Makes a block final.
    """

    def __init__(
        self,
        wal: WalFile | None,
        network: Network,
        get_retained: Callable[[], list[WalRecord]],
        on_decide: Callable[[fx.Decide], None],
    ) -> None:
        self._wal = wal
        self._network = network
        self._get_retained = get_retained
        self._on_decide = on_decide
        self._waiting: list[Outgoing] = []
        self._filled = trio.Event()
        self._is_writing = False
        self._failure: Exception | None = None
        self._disk = trio.CapacityLimiter(1)

    @property
    def is_empty(self) -> bool:
        """Whether all that was put in is on disk and out."""
        return not (self._waiting or self._is_writing)

    def put(self, effect: Outgoing) -> None:
        """Have an effect carried out after all that were put in before."""
        self._waiting.append(effect)
        self._filled.set()

    def fail(self, error: Exception) -> None:
        """Say nothing more, and raise `error` out of `run`."""
        self._failure = error
        self._waiting.clear()
        self._filled.set()

    async def run(self) -> None:
        """Write what was promised, then send; for ever."""
        while True:
            await self._filled.wait()
            if self._failure is not None:
                raise self._failure
            self._filled = trio.Event()
            turn, self._waiting = self._waiting, []
            self._is_writing = True
            if self._wal is not None:
                await self._log(self._wal, turn)
            self._is_writing = False
            for effect in turn:
                match effect:
                    case fx.Broadcast():
                        self._send(effect.message, effect.is_repeat)
                    case fx.Decide():
                        self._on_decide(effect)

    async def _log(self, wal: WalFile, turn: Sequence[Outgoing]) -> None:
        for effect in turn:
            if isinstance(effect, fx.BeginLog):
                await self._write(wal.begin, [effect.floor])
        if wal.is_lost:
            # What we adopt without signing needs no memory.
            return
        records = [effect.record for effect in turn if isinstance(effect, fx.Persist)]
        if records:
            await self._write(wal.append, records)
            if wal.is_long:
                await self._write(wal.rewrite, self._get_retained())

    async def _write(
        self,
        write: Callable[[Sequence[WalRecord]], None],
        records: Sequence[WalRecord],
    ) -> None:
        # A thread of its own: votes never queue behind other services' work.
        await trio.to_thread.run_sync(write, records, limiter=self._disk)

    def _send(self, message: Message, is_repeat: bool) -> None:
        payload = encode(message)
        topic = Topic.BLOCKS if isinstance(message, Propose) else Topic.CONSENSUS
        if is_repeat or isinstance(message, Notarize | Nullify | Finalize):
            for peer in self._network.peers():
                self._network.send(peer.peer_id, topic, payload)
        else:
            self._network.publish(topic, payload)
