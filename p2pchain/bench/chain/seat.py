"""
One validator's seat: everything real except its peers, whose messages are made by hand.

    bytes --decode--> participant --effects--> block tree, log, more events

Decoding, the participant with BLS, judging and executing blocks, LevelDB and the log's
records are those of a node.  There is no network, so encrypting, framing and gossip
cost nothing here; timers never fire, and a proposal is due when `propose` is called.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from chain.records.block import Attendance
from chain.tree.blocktree import BlockTree
from chain.tree.building import Picker
from consensus import effects as fx
from consensus import events as ev
from consensus.messages import MAX_PROPOSE_BYTES, Message, Propose
from consensus.params import ConsensusParams
from consensus.participant import Participant, ParticipantConfig
from consensus.randao import compute_reveal_bytes
from consensus.records import WalRecord
from p2pchain.sim.chains.people import NothingWaits
from primitives import bls
from primitives.bls import BlsSecretKey
from primitives.codec import decode

PEER = bytes(32)


@dataclass(slots=True)
class TimedSigner:
    """A key that knows how long it has signed."""

    key: BlsSecretKey
    cpu_s: float = 0.0

    @property
    def public_key(self) -> bytes:
        """The key's name in the validator set."""
        return self.key.public_key

    def sign(self, message: bytes) -> bytes:
        """Sign, and count the CPU that it took."""
        started = time.process_time()
        signature = self.key.sign(message)
        self.cpu_s += time.process_time() - started
        return signature


@dataclass(slots=True)
class Costs:
    """What a seat has spent, in CPU seconds, signing left out."""

    total_s: float = 0.0
    block_s: float = 0.0
    """Of that, building, or judging and executing, the block."""
    final_s: float = 0.0
    """Of that, making it final in LevelDB."""
    turns: list[list[WalRecord]] = field(default_factory=list)
    """What the log took, one entry per event that needed it: fsyncs, at most."""


class Seat:
    """One validator with its tree and its log's bytes.

    Args:
        chain_id: The chain.
        params: Of consensus.
        key: The seat's secret key.
        tree: Its blocks.
        picker: What its blocks are filled with.
    """

    def __init__(
        self,
        chain_id: bytes,
        params: ConsensusParams,
        key: BlsSecretKey,
        tree: BlockTree,
        picker: Picker | None = None,
    ) -> None:
        self._chain_id = chain_id
        self._tree = tree
        self._picker = picker or NothingWaits()
        self._signer = TimedSigner(key)
        self._events: deque[ev.Event] = deque()
        self._due: ev.ProposalDue | None = None
        self._said: list[Message] = []
        self.costs = Costs()
        config = ParticipantConfig(
            chain_id=chain_id, params=params, scheme=bls, signer=self._signer
        )
        self._participant = Participant(config, tree.epoch, tree.tip)
        self._carry_out(self._participant.start())

    @property
    def index(self) -> int:
        """Our place in the validator set."""
        assert self._participant.index is not None
        return self._participant.index

    def take_costs(self) -> Costs:
        """Return what was spent since the last time."""
        costs, self.costs = self.costs, Costs()
        return costs

    def propose(self) -> Propose | None:
        """Make the proposal that is due and return it; None if there is none."""
        if self._due is None:
            return None
        self._said.clear()
        event, self._due = self._due, None
        self._handle(event)
        return next((each for each in self._said if isinstance(each, Propose)), None)

    def hear(self, payloads: Sequence[bytes]) -> None:
        """Take encoded messages of peers, one after the other."""
        for payload in payloads:
            started = time.process_time()
            message: Message = decode(Message, payload, MAX_PROPOSE_BYTES)  # type: ignore[arg-type]
            self.costs.total_s += time.process_time() - started
            self._handle(ev.Received(message, PEER))

    def _handle(self, event: ev.Event) -> None:
        """Handle an event and what follows from it."""
        started, signed = time.process_time(), self._signer.cpu_s
        self._events.append(event)
        while self._events:
            self._carry_out(self._participant.handle(self._events.popleft()))
        spent = time.process_time() - started
        self.costs.total_s += spent - (self._signer.cpu_s - signed)

    def _carry_out(self, effects: list[fx.Effect]) -> None:
        records: list[WalRecord] = []
        for effect in effects:
            match effect:
                case fx.Persist():
                    records.append(effect.record)
                case fx.Broadcast():
                    self._said.append(effect.message)
                case fx.ScheduleProposal():
                    self._due = ev.ProposalDue(effect.view)
                case fx.BuildBlock():
                    self._build(effect)
                case fx.CheckBlock():
                    self._check(effect)
                case fx.SavePending():
                    self._tree.save_pending(effect.block_hash)
                case fx.Decide():
                    self._finalize(effect)
        if records:
            self.costs.turns.append(records)

    def _build(self, effect: fx.BuildBlock) -> None:
        started, signed = time.process_time(), self._signer.cpu_s
        message = compute_reveal_bytes(self._chain_id, effect.epoch, effect.view)
        held = self._tree.build(
            parent_hash=effect.parent_hash,
            view=effect.view,
            proposer=effect.proposer,
            reveal=self._signer.sign(message),
            attendance=Attendance(effect.bitmap, effect.signature),
            time_ms=self._tree.get_time_ms(effect.parent_hash) + 1000,
            picker=self._picker,
        )
        spent = time.process_time() - started
        self.costs.block_s += spent - (self._signer.cpu_s - signed)
        self._events.append(
            ev.BlockBuilt(effect.view, held.block_hash, held.block_bytes, held.height)
        )

    def _check(self, effect: fx.CheckBlock) -> None:
        started = time.process_time()
        now_ms = time.time_ns() // 1_000_000
        self._tree.add(effect.block, now_ms, effect.proposal)
        self.costs.block_s += time.process_time() - started
        self._events.append(ev.BlockAdded(effect.proposal))

    def _finalize(self, effect: fx.Decide) -> None:
        started = time.process_time()
        self._tree.finalize(effect.certificate)
        self.costs.final_s += time.process_time() - started
