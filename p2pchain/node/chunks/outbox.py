"""
What a validator says about chunks, in order and not before it is on disk.

As with votes: all chunks and records of a turn are synced in a thread, then the turn's
messages leave, and meanwhile the next turn gathers.
"""

from collections.abc import Callable, Mapping, Sequence

import trio

from network.network import Network
from network.topics import Topic
from p2pchain.node.home.wal_file import WalFile
from primitives.codec import encode
from primitives.kv import KeyValueStore
from shards import effects as fx
from shards.chunk import compute_chunk_hash
from shards.desk_state import DeskRecord
from shards.messages import Endorsement, Message, encode_message

CHUNK_PREFIX = b"d"
"""Chunks that we vouched for, by hash, while a block may still hold them."""

Outgoing = fx.SaveChunk | fx.Persist | fx.Send | fx.Broadcast


class ChunkOutbox:
    """Effects that wait for the disk.

    Args:
        wal: Our log; None for a listener.
        kv: Where chunks are kept.
        network: Where messages go.
        get_retained: What a shorter log needs; called between turns.
    """

    def __init__(
        self,
        wal: WalFile | None,
        kv: KeyValueStore,
        network: Network,
        get_retained: Callable[[], Sequence[DeskRecord]],
    ) -> None:
        self._wal = wal
        self._kv = kv
        self._network = network
        self._get_retained = get_retained
        self._waiting: list[Outgoing] = []
        self._filled = trio.Event()
        self._disk = trio.CapacityLimiter(1)

    def put(self, effect: Outgoing) -> None:
        """Have an effect carried out after all that were put in before."""
        self._waiting.append(effect)
        self._filled.set()

    async def run(self) -> None:
        """Write what was promised, then send; for ever."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            turn, self._waiting = self._waiting, []
            chunks = {
                CHUNK_PREFIX + compute_chunk_hash(e.produced.header): encode(e.produced)
                for e in turn
                if isinstance(e, fx.SaveChunk)
            }
            records = [e.record for e in turn if isinstance(e, fx.Persist)]
            if chunks or records:
                await trio.to_thread.run_sync(
                    self._write, chunks, records, limiter=self._disk
                )
            for effect in turn:
                if isinstance(effect, fx.Send | fx.Broadcast):
                    self._send(effect.message)

    def _write(
        self, chunks: Mapping[bytes, bytes], records: Sequence[DeskRecord]
    ) -> None:
        assert self._wal is not None, "only a signer promises"
        if chunks:
            self._kv.write(chunks, sync=True)
        if records:
            self._wal.append(records)
            if self._wal.is_long:
                self._wal.rewrite(self._get_retained())

    def _send(self, message: Message) -> None:
        """Send to everybody: validators are not known by their peers' keys.

        Endorsements go straight to our peers and no further, as votes do: they are
        verified in sums, and nobody forwards what it has not checked.
        """
        payload = encode_message(message)
        if isinstance(message, Endorsement):
            for peer in self._network.peers():
                self._network.send(peer.peer_id, Topic.CHUNKS, payload)
        else:
            self._network.publish(Topic.CHUNKS, payload)
