"""
Catching up: from a trusted epoch to the newest block, with as little as possible.

Theory of operation
-------------------
`LightSync` says what to fetch next (`ask`), takes the answer, and says the next thing,
until there is nothing left to ask.  It fetches nothing itself.

    ask the newest block;  is its epoch the trusted one?         adopt it, done
                           may we skip to it?                    skip, done
                           is it one epoch away?                 a page of epoch proofs
                           else                                  a block halfway, first

`goals` is the stack of blocks to reach, the nearest last.  Each goal halves the way to
the one below it, so a node that invents an epoch 2^32 away gets 32 questions and no
trust.  A page of epoch proofs goes on to the farthest goal and passes the nearer ones
on its way, so n epochs that all bring strangers cost about n / 32 questions.

What was verified stays: after an error `state` is as far as honest answers led.

Spec: docs/protocol/12-light-client.md
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chain.errors import InvalidProof, StaleAnswer, UnknownSigners
from chain.light.client import EpochProof, LightBlock, LightState, adopt, advance, skip
from consensus.scheme import SignatureScheme
from primitives.types import Epoch, Height, TimeMs

MAX_PROOFS = 32
"""Epoch proofs in a page: 0.3 MB with the largest sets."""


@dataclass(frozen=True, slots=True)
class AskBlock:
    """Fetch a block."""

    height: Height | None
    """None: the newest one."""


@dataclass(frozen=True, slots=True)
class AskProofs:
    """Fetch epoch proofs, ascending."""

    epoch: Epoch
    """Of the first one."""
    count: int
    """At most so many, at least one."""


class LightSync:
    """One catching up; see the top of the file."""

    def __init__(
        self, state: LightState, scheme: SignatureScheme, latest_ms: TimeMs
    ) -> None:
        """
        Args:
            state: Where to begin.
            scheme: Verifies certificates.
            latest_ms: No block may be of a later time: our clock and some drift.
        """
        self.state = state
        """As far as was verified."""
        self.ask: AskBlock | AskProofs | None = AskBlock(None)
        """What to fetch next; None when done."""
        self._goals: list[LightBlock] = []
        self._scheme = scheme
        self._latest_ms = latest_ms

    def on_block(self, block: LightBlock) -> None:
        """Take the answer to an AskBlock.

        Raises:
            LightError: It is not what was asked for, or proves nothing.
            StaleAnswer: The newest block is older than one that we know.
        """
        assert isinstance(self.ask, AskBlock)
        header, height = block.header, self.ask.height
        if height is not None:
            epoch = height // self.state.chain.epoch_blocks - 1
            if (header.height, header.epoch) != (height, epoch):
                raise InvalidProof(f"block {header.height} was not asked for")
        elif header.epoch < self.state.epoch:
            raise StaleAnswer(
                f"the newest block is of epoch {header.epoch}, {self.state.epoch} began"
            )
        if header.time_ms > self._latest_ms:
            raise InvalidProof(f"block {header.height} is from the future")
        self._goals.append(block)
        self._go()

    def on_proofs(self, proofs: Sequence[EpochProof]) -> None:
        """Take the answer to an AskProofs.

        Raises:
            LightError, OtherEpoch: One of them does not hold; those before it do.
        """
        assert isinstance(self.ask, AskProofs)
        if not 1 <= len(proofs) <= self.ask.count:
            raise InvalidProof(f"{len(proofs)} proofs, {self.ask.count} asked for")
        for proof in proofs:
            if proof.header.time_ms > self._latest_ms:
                raise InvalidProof("an epoch that ends in the future")
            self.state = advance(self.state, proof, self._scheme)
        while self._goals[-1].header.epoch < self.state.epoch:
            self._goals.pop()
        self._go()

    def _go(self) -> None:
        """Go from goal to goal until something is missing."""
        while self._goals:
            goal, here = self._goals[-1], self.state.epoch
            epoch = goal.header.epoch
            try:
                if epoch == here:
                    self.state = adopt(self.state, goal, self._scheme)
                else:
                    self.state = skip(self.state, goal, self._scheme)
            except UnknownSigners:
                self._ask_nearer(epoch)
                return
            self._goals.pop()
        self.ask = None

    def _ask_nearer(self, epoch: Epoch) -> None:
        here = self.state.epoch
        if epoch == here + 1:
            farthest = self._goals[0].header.epoch
            self.ask = AskProofs(here, min(MAX_PROOFS, farthest - here))
        else:
            middle = (here + epoch) // 2
            self.ask = AskBlock(self.state.chain.get_last_height(middle))
