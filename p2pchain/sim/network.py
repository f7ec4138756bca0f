"""
A seeded network: what becomes of a message between two simulated nodes.

Every link has two directions, and each can be cut alone.  A message is lost, doubled
or delayed by the luck of the seed; because delays are drawn one by one, later messages
overtake earlier ones.  Requests take one message each way and time out when either is
lost.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.messages import Message
from shards.messages import Message as ChunkMessage

if TYPE_CHECKING:
    from p2pchain.sim.machine.questions import Answer, Question
    from p2pchain.sim.node import Node
    from p2pchain.sim.world import World

REQUEST_TIMEOUT_MS = 2000
"""As long as a node waits for one peer's answer."""

Link = tuple[str, str]
"""From, to: names of nodes."""


@dataclass(slots=True)
class Weather:
    """What can happen to messages on all links, for the time being."""

    delay_ms: tuple[int, int] = (5, 100)
    """Shortest and longest; the longest is below Delta while all is well."""
    loss: float = 0.0
    """Share of messages that never arrive."""
    duplication: float = 0.0
    """Share of messages that arrive twice."""
    spikes: float = 0.0
    """Share of messages that take ten times as long."""


@dataclass(slots=True)
class Network:
    """Carries messages between the nodes of a world."""

    world: "World"
    weather: Weather = field(default_factory=Weather)
    cut: set[Link] = field(default_factory=set)
    """Directions in which nothing passes."""
    slow: dict[str, int] = field(default_factory=dict)
    """Milliseconds that everything from or to a node takes longer."""
    chunk_filter: Callable[[str, str, ChunkMessage], bool] | None = None
    """The same for what is said about chunks."""
    filter: Callable[[str, str, Message | None], bool] | None = None
    """A scenario's own rule: from, to, message (None: a request); False drops it."""

    def send(self, sender: "Node", receiver: "Node", message: Message) -> None:
        """Deliver once, twice or not at all, after a while."""
        if self._is_open(sender, receiver, message):
            self._deliver(sender, receiver, receiver.receive, message)

    def send_evidence(self, sender: "Node", receiver: "Node", data: bytes) -> None:
        """Deliver a piece of evidence with the same luck."""
        if self._is_open(sender, receiver, None):
            self._deliver(sender, receiver, receiver.receive_evidence, data)

    def send_chunk(
        self, sender: "Node", receiver: "Node", message: ChunkMessage
    ) -> None:
        """Deliver something about a chunk with the same luck."""
        self.world.judge.on_chunk_made(message)
        passes = self.chunk_filter
        if passes is not None and not passes(sender.name, receiver.name, message):
            return
        if self._is_open(sender, receiver, None):
            self._deliver(sender, receiver, receiver.receive_chunk, message)

    def _deliver(
        self,
        sender: "Node",
        receiver: "Node",
        take: Callable[..., None],
        content: Message | ChunkMessage | bytes,
    ) -> None:
        luck, weather = self.world.luck, self.weather
        copies = 1
        if weather.duplication and luck.random() < weather.duplication:
            copies = 2
        for _ in range(copies):
            if weather.loss and luck.random() < weather.loss:
                continue
            self.world.after(
                self._draw_delay(sender, receiver),
                receiver,
                take,
                content,
                sender.name,
            )

    def ask(
        self,
        asker: "Node",
        other: "Node",
        question: "Question",
        take: Callable[["Answer | None", str], None],
    ) -> None:
        """Ask one node; `take` gets its answer, or None when it is too late for one."""
        is_open = True

        def close(answer: "Answer | None") -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                take(answer, other.name)

        def answer() -> None:
            if not other.is_up:
                return
            found = other.answer(question, asker.name)
            if self._is_lucky(other, asker):
                delay = self._draw_delay(other, asker)
                self.world.after(delay, asker, close, found)

        self.world.after(REQUEST_TIMEOUT_MS, asker, close, None)
        if self._is_lucky(asker, other):
            self.world.after(self._draw_delay(asker, other), other, answer)

    def cut_apart(self, *groups: Iterable[str]) -> None:
        """Partition: nobody hears anybody of another group."""
        where = {name: number for number, group in enumerate(groups) for name in group}
        self.cut = {(a, b) for a in where for b in where if where[a] != where[b]}

    def heal(self) -> None:
        """Everything is as it should be from now on."""
        self.weather = Weather()
        self.cut = set()
        self.slow = {}
        self.filter = None
        self.chunk_filter = None

    def _is_lucky(self, sender: "Node", receiver: "Node") -> bool:
        if not self._is_open(sender, receiver, None):
            return False
        loss = self.weather.loss
        return not loss or self.world.luck.random() >= loss

    def _is_open(
        self, sender: "Node", receiver: "Node", message: Message | None
    ) -> bool:
        if self.cut and (sender.name, receiver.name) in self.cut:
            return False
        return self.filter is None or self.filter(sender.name, receiver.name, message)

    def _draw_delay(self, sender: "Node", receiver: "Node") -> int:
        weather = self.weather
        delay = self.world.luck.randint(*weather.delay_ms)
        if weather.spikes and self.world.luck.random() < weather.spikes:
            delay *= 10
        if self.slow:
            delay += self.slow.get(sender.name, 0) + self.slow.get(receiver.name, 0)
        return delay
