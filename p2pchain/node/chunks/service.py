"""
The shell around the desk: chunks of layer shards, made, judged and handed to leaders.

Theory of operation
-------------------
    consensus enters a view           a little before its leader proposes
      --place--> wait --> ViewEntered --> desk --> Build, Execute, Send ...
                                                                     |
    leader: build_block --> `offer` <-- certified chunks  <---------+

A chunk's content is fixed when it is produced, and a transaction that comes later waits
for the next one; so the desk hears of a view as late as the committee can still be done
before the leader's turn.  A chunk that is not loses a view and nothing else.

A chunk goes to everybody, because anybody may be in its committee.  Its body stays in
the tree's pool, for the block that will name it and for whoever asks.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import trio

from chain.errors import UnfinalParent, UnknownBlock
from chain.execution.chunk import ChunkBody
from chain.execution.held import HeldBlock
from chain.tree.chunk_judge import ChunkJudge
from consensus.params import ConsensusParams
from consensus.participant import LOST_LOG_WAIT_MS
from consensus.scheme import SignatureScheme, Signer
from network.faults import Fault
from network.network import Network
from network.topics import Topic, Verdict
from p2pchain.node.chain.service import ChainService
from p2pchain.node.chunks.lead import MOST_LEAD_S, ChunkLead
from p2pchain.node.chunks.outbox import CHUNK_PREFIX, ChunkOutbox
from p2pchain.node.consensus.bodies import BodyExchange
from p2pchain.node.consensus.status import Place
from p2pchain.node.consensus.timers import Timers
from p2pchain.node.home.wal_file import WalFile
from primitives.codec import decode
from primitives.errors import P2PChainError
from primitives.types import Epoch, View
from shards import effects as fx
from shards import events as ev
from shards.certificate import CertifiedChunk
from shards.chunk import ChunkHeader, compute_chunk_hash
from shards.desk import Desk
from shards.desk_state import DeskConfig, DeskRecord
from shards.inclusion import INCLUSION_VIEWS
from shards.messages import (
    MAX_PRODUCED_BYTES,
    Endorsement,
    ProducedChunk,
    decode_message,
)
from shards.slots import compute_brief_turn_ms

log = logging.getLogger(__name__)

VIEW = "view"
"""Name of the timer that waits for the desk's turn."""


class ChunkService:
    """One node's producing and endorsing.

    Args:
        chain: Builds, judges and holds.
        bodies: Gets bodies that did not come by.
        network: Its topic CHUNKS is ours.
        params: Of consensus.
        scheme: Of signatures.
        signer: Our key; None for a listener.
        wal_path: The log that `create_wal` made; needed with a signer.
        now_ms: Unix time in milliseconds.

    Raises:
        WalLocked: Another process signs with this key.
        WrongWal: The log belongs to another key or chain.
    """

    def __init__(
        self,
        *,
        chain: ChainService,
        bodies: BodyExchange,
        network: Network,
        params: ConsensusParams,
        scheme: SignatureScheme,
        signer: Signer | None,
        wal_path: Path | None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._chain = chain
        self._network = network
        self._params = params
        self._now_ms = now_ms
        self._started_ms = now_ms()
        self._wal: WalFile | None = None
        if signer is not None:
            assert wal_path is not None, "a signer needs a log"
            self._wal = WalFile(wal_path, signer.public_key, chain.chain_id, DeskRecord)
        wal = self._wal
        self._kv = chain.tree.store.kv
        self._saved = self._load_saved()
        config = DeskConfig(
            chain_id=chain.chain_id,
            delta_ms=params.delta_ms,
            brief_turn_ms=compute_brief_turn_ms(params.interval_ms, params.delta_ms),
            scheme=scheme,
            signer=signer,
        )
        self._desk = Desk(
            config,
            chain.tree.final.child_epoch.roles,
            () if wal is None else wal.records,
            self._saved,
            is_muted=wal is not None and wal.is_lost,
        )
        self._exchange = bodies
        self._fetching: set[bytes] = set()
        self._nursery: trio.Nursery | None = None
        self._judge = ChunkJudge(chain.tree)
        self._events: deque[ev.Event] = deque()
        self._refusals: list[fx.Refuse] = []
        self._is_handling = False
        self._timers = Timers(self._on_timer)
        self._lead = ChunkLead()
        self._coming: Place | None = None
        """What the timer waits for, and when its time may come at the earliest."""
        self._earliest_s = 0.0
        self._outbox = ChunkOutbox(
            wal, self._kv, network, self._desk.get_retained_records
        )
        self._epoch = chain.tree.final.child_epoch.epoch
        for produced in self._saved.values():
            self._keep(produced)
        chain.listen(self._on_final)
        chain.offer_chunks = self.offer
        network.subscribe(Topic.CHUNKS, self._check)

    async def run(self) -> None:
        """Take part until cancelled; raises what the disk raises."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._timers.run)
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._chain.evidence.proofs.run)
        finally:
            self._nursery = None
            if self._wal is not None:
                self._wal.close()

    def on_place(self, place: Place) -> None:
        """Consensus has a view and a parent to make a block on."""
        due_ms = self._chain.get_time_ms(place.parent_hash) + self._params.interval_ms
        left_s = (due_ms - self._now_ms()) / 1000
        self._timers.set(VIEW, max(0.0, left_s - self._lead.lead_s), place)
        self._coming = place
        self._earliest_s = trio.current_time() + left_s - MOST_LEAD_S

    def offer(self, parent_hash: bytes, view: View) -> list[CertifiedChunk]:
        """Return certified chunks that a block of ours may hold.

        We execute those of the shards that we follow, so their bodies are fetched if
        they did not come by; a later block may have them then.
        """
        base = self._chain.tree.chunks.build_inclusion_base(parent_hash, view)
        offered = list(self._desk.pick(base))
        self._fetch_bodies([certified.header for certified in offered])
        return offered

    def find_produced(self, chunk_hash: bytes) -> ProducedChunk | None:
        """Return a chunk that we vouched for, with its witness, while it is kept."""
        return self._saved.get(chunk_hash)

    def _fetch_bodies(self, headers: Sequence[ChunkHeader]) -> None:
        tree = self._chain.tree
        for header in headers:
            chunk_hash = compute_chunk_hash(header)
            is_needed = header.shard in tree.followed and not tree.has_body(chunk_hash)
            if is_needed and self._nursery and chunk_hash not in self._fetching:
                self._fetching.add(chunk_hash)
                self._nursery.start_soon(self._fetch_body, chunk_hash, header)

    async def _fetch_body(self, chunk_hash: bytes, header: ChunkHeader) -> None:
        try:
            await self._exchange.fetch([header])
        finally:
            self._fetching.discard(chunk_hash)

    # Events in, effects out

    def _handle(self, event: ev.Event) -> list[fx.Refuse]:
        self._events.append(event)
        if self._is_handling:
            return []
        self._is_handling = True
        self._refusals = []
        try:
            while self._events:
                for effect in self._desk.handle(self._events.popleft()):
                    self._carry_out(effect)
        finally:
            self._is_handling = False
        return self._refusals

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SetTimer():
                value = ev.TimerFired(effect.timer, effect.slot)
                name = (effect.timer, effect.slot)
                self._timers.set(name, effect.delay_ms / 1000, value)
            case fx.Build():
                self._build(effect)
            case fx.Execute():
                self._events.append(self._judge.judge(effect.produced))
            case fx.SaveChunk():
                self._keep(effect.produced)
                chunk_hash = compute_chunk_hash(effect.produced.header)
                self._saved[chunk_hash] = effect.produced
                self._outbox.put(effect)
            case fx.Persist() | fx.Send() | fx.Broadcast():
                self._outbox.put(effect)
            case fx.Refuse():
                self._refusals.append(effect)
            case fx.Conflict():
                self._chain.evidence.accuse(effect.evidence)
            case fx.CertificateReady():
                self._chain.tree.chunks.note_certified(effect.certified)
                self._note_lead(effect.certified.header)
                self._denounce(effect.certified)

    def _note_lead(self, header: ChunkHeader) -> None:
        """A chunk is certified; of our own we know how long that took."""
        if header.producer == self._desk.index:
            self._lead.on_certified(header.created_view, trio.current_time())

    def _build(self, effect: fx.Build) -> None:
        try:
            produced = self._chain.tree.chunks.produce_chunk(
                effect.slot, effect.anchor, effect.producer, self._chain.mempool
            )
        except (UnknownBlock, UnfinalParent) as error:
            # The chain went on while our turn was late; a newer view is on its way.
            log.debug("no chunk for %s: %s", effect.slot, error)
            produced = None
        except P2PChainError:
            # The slot passes without our chunk; the next in rank has its turn.
            log.exception("no chunk for %s", effect.slot)
            produced = None
        if produced is None:
            self._events.append(ev.NothingBuilt(effect.slot))
        else:
            self._events.append(ev.ChunkBuilt(produced))

    def _denounce(self, certified: CertifiedChunk) -> None:
        produced = self._judge.take_suspect(certified.header)
        if produced is not None:
            chunk_hash = compute_chunk_hash(certified.header)
            log.error("a wrong chunk is certified: %s", chunk_hash.hex()[:16])
            self._chain.evidence.denounce(produced, certified.certificate)

    # What happens

    def _on_timer(self, name: Hashable, value: object) -> None:
        if isinstance(value, Place):
            self._enter(value)
        else:
            assert isinstance(value, ev.TimerFired)
            self._blame(self._handle(value))

    def _hurry(self, epoch: Epoch, view: View) -> None:
        """Somebody's turn has come already: do not let it wait for ours."""
        place = self._coming
        if place is None or (place.epoch, place.view) != (epoch, view):
            return
        if trio.current_time() >= self._earliest_s:
            self._timers.set(VIEW, 0.0, place)

    def _enter(self, place: Place) -> None:
        tree = self._chain.tree
        self._coming = None
        if place.epoch != self._epoch or not tree.has(place.parent_hash):
            return
        entered = self._judge.enter(place.view, place.parent_hash)
        if entered is None:
            return
        self._lead.begin(place.view, trio.current_time())
        self._blame(self._handle(entered))
        self._forget_saved(place.view)

    def _on_final(self, held: HeldBlock) -> None:
        if held.child_epoch.epoch != self._epoch:
            self._epoch = held.child_epoch.epoch
            self._handle(ev.EpochBegun(held.child_epoch.roles))
        if self._wal is not None and self._wal.is_lost:
            self._replace_lost(self._wal)

    def _replace_lost(self, wal: WalFile) -> None:
        """Begin a new log in an epoch that began after the old one was lost.

        All that we may have signed and forgotten is of slots that are over then.  An
        epoch that is only new to us will not do: with the log we may have lost the
        chain, and with it the memory of epochs in which we signed.
        """
        first_ms = self._chain.tree.epoch_first_time_ms
        if first_ms is not None and first_ms > self._started_ms + LOST_LOG_WAIT_MS:
            wal.begin([self._desk.begin_signing()])

    async def _check(self, peer_id: bytes, payload: bytes) -> Verdict:
        """Take a message; pass on what is checked, and that only."""
        message = decode_message(payload)
        verdict = Verdict.ACCEPT
        for refusal in self._handle(ev.Received(message, peer_id)):
            if refusal.sender != peer_id:
                self._blame([refusal])
                continue
            is_fault = refusal.reason.is_fault or verdict is Verdict.REJECT
            verdict = Verdict.REJECT if is_fault else Verdict.IGNORE
            if is_fault:
                log.info("refused: %s %s", refusal.reason.value, refusal.detail)
        if verdict is Verdict.ACCEPT:
            if isinstance(message, ProducedChunk):
                self._keep(message)
                self._hurry(message.header.epoch, message.header.created_view)
            elif isinstance(message, Endorsement):
                return Verdict.IGNORE
        return verdict

    def _blame(self, refusals: list[fx.Refuse]) -> None:
        for refusal in refusals:
            if refusal.reason.is_fault and refusal.sender is not None:
                log.info(
                    "%s is to blame: %s", refusal.sender.hex()[:8], refusal.reason.value
                )
                self._network.penalize(refusal.sender, Fault.BAD_MESSAGE)

    # Bodies

    def _keep(self, produced: ProducedChunk) -> None:
        """Keep a body, which the desk has compared with the header."""
        body = ChunkBody(produced.packets, produced.transactions)
        self._chain.tree.keep_body(produced.header, body)

    def _load_saved(self) -> dict[bytes, ProducedChunk]:
        return {
            key[len(CHUNK_PREFIX) :]: decode(ProducedChunk, data, MAX_PRODUCED_BYTES)
            for key, data in self._kv.iterate(CHUNK_PREFIX)
        }

    def _forget_saved(self, view: View) -> None:
        """Delete chunks that no block can hold any more."""
        over = [
            chunk_hash
            for chunk_hash, produced in self._saved.items()
            if produced.header.epoch < self._epoch
            or produced.header.created_view + INCLUSION_VIEWS < view
        ]
        if over:
            keys = [CHUNK_PREFIX + chunk_hash for chunk_hash in over]
            self._kv.write(dict.fromkeys(keys), sync=False)
            for chunk_hash in over:
                del self._saved[chunk_hash]
