"""
A world: virtual time, luck, a network, nodes, and a judge who watches.

One heap of (time, number, action) is all there is of time.  Every choice comes from one
`random.Random(seed)`, so a seed is a whole run, the trace of a run is its fingerprint,
and a failing seed is a bug report.

    world = World(seed, Setup(size=4))
    world.start()
    world.run(until_ms=60_000)
"""

import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from consensus.messages import Message
from consensus.params import ConsensusParams
from consensus.scheme import Signer
from p2pchain.sim.chains.chains import Chains, open_chains
from p2pchain.sim.errors import InvariantBroken
from p2pchain.sim.invariants.judge import Judge
from p2pchain.sim.light.reader import LightReader, open_reader
from p2pchain.sim.network import Network
from p2pchain.sim.node import Node
from p2pchain.sim.signatures import KeyRing, StandinScheme, make_real_key
from primitives.codec import encode

if TYPE_CHECKING:
    from p2pchain.sim.villains.villain import Villain

DEVNET = ConsensusParams(interval_ms=1000, delta_ms=500, build_ms=500)

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
"""Names of nodes; there are never more."""


MAX_EVENTS = 2_000_000
"""In one run; a hundred times what a storm needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a world is made of."""

    size: int = 4
    """Validators of the first epochs."""
    powers: tuple[int, ...] = ()
    """Of them; all the same when empty."""
    listeners: int = 0
    """Nodes beside them without a seat at first; with `is_moving` they may get one."""
    chain: str = "list"
    """Which application runs: see p2pchain.sim.chains.chains."""
    epoch_blocks: int = 6
    """Length of an epoch in blocks."""
    is_moving: bool = False
    """Whether validator sets change from epoch to epoch."""
    is_hosting: bool = True
    """Whether validators of a tree chain offer to host layers."""
    hosts: frozenset[str] = frozenset()
    """Which of them; all when empty."""
    follows: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Layer shards that nodes follow; who is not named follows all."""
    is_adopting: bool = False
    """Whether nodes of a tree chain begin to follow shards while they run."""
    is_resharding: bool = False
    """Whether validators change the layout of a tree chain."""
    villains: frozenset[str] = frozenset()
    """Nodes that are to be replaced by Byzantine ones."""
    is_bound_broken: bool = False
    """Whether villains hold a third of the power, as they do nowhere else: they vote
    as they should and vouch for wrong chunks."""
    frail: frozenset[str] = frozenset()
    """Honest nodes that may lose a file; what they promised is then as good as broken,
    so together with the villains they never get a third of the power."""
    disk_ms: tuple[int, int] = (0, 0)
    """Shortest and longest time that a write of the log takes."""
    work_ms: tuple[int, int] = (0, 0)
    """Shortest and longest time that making or judging a chunk takes."""
    is_relaying: bool = False
    """Whether nodes pass certificates and proposals on, as gossip does."""
    compact_bytes: int = 16 * 1024
    """A log this long is rewritten; far shorter than in a node, to see it happen."""
    is_skewed: bool = False
    """Whether clocks are off and run too fast or too slow."""
    params: ConsensusParams = DEVNET


Owner = Node | LightReader
"""Whose action something is: it is dropped when that one crashes before."""


class World:
    """Everything there is."""

    def __init__(self, seed: int, setup: Setup, keys: KeyRing | None = None) -> None:
        self.seed = seed
        self.setup = setup
        self.luck = random.Random(seed)
        self.keys = keys or StandinScheme()
        self.params = setup.params
        self.now_ms = 0
        """Virtual time since the start."""
        self.events = 0
        """Things that happened so far."""
        self.adopted = 0
        """Shards that anybody has begun to follow so far."""
        self.built = 0
        """Blocks that anybody built so far."""
        self._queue: list[tuple[int, int, Owner, int, Callable[..., None], Any]] = []
        self._number = 0
        self._trace = blake2b(digest_size=16)
        names = list(ALPHABET[: setup.size + setup.listeners])
        self.signers = {name: self._make_signer(name) for name in names}
        self.chains: Chains = open_chains(self)
        self.network = Network(self)
        self.nodes: dict[str, Node] = {}
        self.judge = Judge(self)
        self.reader: LightReader | None = open_reader(self)
        """A light client, where there are headers to follow."""
        self._is_read = False
        for name in names:
            self.add_node(Node(self, name, self.signers[name]))

    def _make_signer(self, name: str) -> Signer:
        if self.setup.chain == "tree" and isinstance(self.keys, StandinScheme):
            # The real chain checks possession of a real key.
            return self.keys.make_key(name, make_real_key(repr(name)).public_key)
        return self.keys.make_key(name)

    @property
    def honest(self) -> list[Node]:
        """The nodes that run the protocol."""
        return [node for node in self.nodes.values() if node.is_honest]

    @property
    def trace(self) -> str:
        """Fingerprint of everything that was said and decided so far."""
        return self._trace.hexdigest()

    def add_node(self, node: Node) -> None:
        """Put a node in its place; a villain replaces the node of its name."""
        self.nodes[node.name] = node
        self.judge.update_honest()

    def corrupt(self, name: str, kind: "type[Villain]") -> "Villain":
        """Make a node a villain, before it starts; return it."""
        villain = kind(self, name)
        self.add_node(villain)
        return villain

    def start(self, names: Iterable[str] | None = None) -> None:
        """Start the nodes."""
        for name in names if names is not None else list(self.nodes):
            self.nodes[name].start()
        if self.reader is not None and not self._is_read:
            self._is_read = True
            self.reader.start()

    def after(
        self, delay_ms: int, owner: Owner, action: Callable[..., None], *args: Any
    ) -> None:
        """Do something later, unless its owner crashes before."""
        self._number += 1
        entry = (
            self.now_ms + delay_ms,
            self._number,
            owner,
            owner.life,
            action,
            args,
        )
        heapq.heappush(self._queue, entry)

    def run(self, until_ms: int, is_done: Callable[[], bool] | None = None) -> None:
        """Let time pass, up to a moment or until something is so."""
        queue = self._queue
        while queue and queue[0][0] <= until_ms:
            self.now_ms, _, owner, life, action, args = heapq.heappop(queue)
            if owner.life == life:
                self.events += 1
                if self.events > MAX_EVENTS:
                    raise InvariantBroken("busy", f"{MAX_EVENTS} events and no end")
                action(*args)
                if is_done is not None and is_done():
                    return
        self.now_ms = until_ms

    def run_for(
        self, duration_ms: int, is_done: Callable[[], bool] | None = None
    ) -> None:
        """Let a while pass."""
        self.run(self.now_ms + duration_ms, is_done)

    def note(self, node: Node, what: bytes) -> None:
        """Put something into the trace."""
        place = b"%d %s " % (self.now_ms, node.name.encode())
        self._trace.update(place + what)

    def broadcast(self, sender: Node, message: Message) -> None:
        """Send to everybody else."""
        self.note(sender, encode(message))
        for node in self.nodes.values():
            if node is not sender:
                self.network.send(sender, node, message)
