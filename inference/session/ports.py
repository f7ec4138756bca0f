"""What a requester's session needs of the rest of the node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from chain.records.channel import Payment
from inference.hop.ports import Dialer, Signer
from inference.sampling.params import Choice, SamplingParams
from inference.session.events import FindHops
from inference.session.plan import HopPlan
from primitives.errors import P2PChainError


class RequesterWorker(Protocol):
    """The process that holds embedding, head and sampler."""

    async def open(
        self, session_id: bytes, sampling: SamplingParams, prompt_tokens: Sequence[int]
    ) -> None:
        """Begin an answer; raises WorkerError, BadPrompt or Busy."""

    async def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> bytes:
        """Return the hidden states of tokens."""

    def begin_choose(
        self,
        session_id: bytes,
        hidden: bytes,
        tokens: int,
        drafts: Sequence[int],
        wanted: int,
        on_done: Callable[[Choice | P2PChainError], None],
    ) -> None:
        """Begin to choose the tokens that follow from the answer to a step.

        Args:
            session_id: Of the session.
            hidden: (tokens, hidden_size) as it came from the last hop.
            tokens: Of the step.
            drafts: Guesses that it carried.
            wanted: Guesses that the next one may carry.
            on_done: Gets what was chosen, or BadAnswer where they have a wrong length
                or are not finite, or what else went wrong; later.

        Raises:
            WorkerError, RemoteError: It cannot begin.
        """

    async def close(self, session_id: bytes) -> None:
        """Forget the answer; harmless when there is none."""


class Payer(Protocol):
    """Our side of the channels: `SharedPayer` over the wallet's book."""

    def pay(self, stream: bytes, channel_id: bytes, units: int) -> Payment:
        """Release units and write that down before they are sent.

        Args:
            stream: Names the stream over which the payment goes: whoever reads it has
                seen only what was sent there.
            channel_id: The channel.
            units: How many.

        Raises:
            P2PChainError: The deposit is exhausted or the channel not ours.
        """

    def forget(self, stream: bytes) -> None:
        """The stream is over and nothing more is paid there."""


class HopFinder(Protocol):
    """Finds hops in the place of lost ones: `p2pchain/node/gateway/rerouting.py`."""

    async def find(self, wanted: FindHops) -> tuple[HopPlan, ...]:
        """Return hops, in order, with channels that can pay them.

        Raises:
            P2PChainError: There are none, or no channel to them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RequesterPorts:
    """Everything around a requester's session."""

    worker: RequesterWorker
    dialer: Dialer
    payer: Payer
    signer: Signer
    """The channels' signer."""
    on_fault: Callable[[bytes, str], None]
    """Told which hop did what no correct one does."""
    finder: HopFinder | None = None
    """Without one, a lost hop ends the session."""
