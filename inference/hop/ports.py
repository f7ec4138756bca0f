"""
What a provider's sessions need of the rest of the node.

The node fills these from network, wallet, chain and the stage's supervisor; the tests
bring small ones of their own.  Everything is used on the trio thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from chain.records.channel import Payment
from chain.records.proof import Receipt
from inference.hop.channel_account import Standing
from inference.hop.kept_outputs import DEFAULT_LIMIT_BYTES
from inference.protocol.account import SessionAccount
from inference.protocol.steps import PREFILL_TOKENS
from primitives.errors import P2PChainError


class Stream(Protocol):
    """Whole messages, in order, both ways, to one authenticated peer.

    Every method raises a `primitives.errors.P2PChainError` when the stream is over.
    """

    @property
    def peer_id(self) -> bytes:
        """Node key of the other end."""

    async def send(self, message: bytes) -> None:
        """Queue a message; waits while too much is queued."""

    def send_now(self, message: bytes, *, is_urgent: bool = False) -> bool:
        """Queue a message; False, and nothing, where `send` would wait.

        Args:
            message: What to send.
            is_urgent: Whether it leaves before anything else is done, if it can.
        """

    async def receive(self) -> bytes:
        """Return the next message."""

    def receive_now(self) -> bytes | None:
        """Return the next message if it is here."""

    def watch(self, watcher: Callable[[], None] | None) -> None:
        """Call `watcher` from now on when a message has come, or the end."""

    async def close(self) -> None:
        """Send what is queued and end the stream for both sides."""

    def abort(self) -> None:
        """Give the stream up at once; harmless when it is over."""


class Dialer(Protocol):
    """Opens streams to other nodes."""

    async def open_stream(self, peer_id: bytes, protocol: str) -> Stream:
        """Return a stream; raises P2PChainError when the peer is out of reach."""


class StageWorker(Protocol):
    """The process that holds our layers."""

    async def open(
        self, session_id: bytes, max_positions: int, keys: Sequence[bytes] = ()
    ) -> int:
        """Make room for a session; raises Busy or WorkerError.

        Returns:
            How many positions are there already, of those that `keys` name.
        """

    @property
    def page_bytes(self) -> int:
        """What a page of a session takes."""

    async def read_pages(self, keys: Sequence[bytes]) -> bytes:
        """Return what named pages hold, as far as known; raises WorkerError."""

    async def write_pages(self, session_id: bytes, content: bytes, pages: int) -> int:
        """Give a session its next pages; returns how many positions it has then.

        Raises:
            BadAnswer: They are no pages of our layers.
            RemoteError, WorkerError: The session cannot take them; no worker.
        """

    def keep(self, session_id: bytes, first: int, keys: Sequence[bytes]) -> None:
        """Let later sessions begin with full pages, from page `first` on."""

    def begin_forward(
        self,
        session_id: bytes,
        position: int,
        hidden: bytes,
        tokens: int,
        on_done: Callable[[bytes | P2PChainError], None],
    ) -> Callable[[], None]:
        """Begin to run the layers.

        Args:
            session_id: Of the session.
            position: Of the first token.
            hidden: The step's hidden states.
            tokens: Of the step.
            on_done: Gets what comes out, or a WorkerError or RemoteError; later.

        Returns:
            What gives the answer up; `on_done` is not called afterwards.

        Raises:
            WorkerError, RemoteError: It cannot begin.
        """

    async def close(self, session_id: bytes) -> None:
        """Free the session's memory; harmless when there is none."""


class Signer(Protocol):
    """A key that stays where it is."""

    @property
    def public_key(self) -> bytes:
        """32 bytes, Ed25519."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeChannel:
    """A channel that pays us, as chain and book know it."""

    payer: bytes
    """Account that opened it."""
    signer: bytes
    unit_price: int
    """Atoms."""
    remaining_units: int
    """What the deposit can still promise beyond the best claim."""
    paid_units: int
    """Units that came in over the channel's life."""
    standing: Standing
    """As last saved; `EMPTY_STANDING` for a new channel."""
    is_open: bool


class Payee(Protocol):
    """The provider's book of channels."""

    def get_channel(self, channel_id: bytes) -> PayeeChannel | None:
        """Return a channel that pays us, or None."""

    def accept_payment(self, channel_id: bytes, payment: Payment) -> int:
        """Check and write down a payment; returns the units that it brings.

        Raises:
            RemoteError: It is not valid in this channel.
        """

    def save_standing(self, channel_id: bytes, standing: Standing) -> None:
        """Write down what was delivered; a crash of the process must keep it."""

    def on_session_closed(self, account: SessionAccount) -> None:
        """Keep the session's receipts until they are settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopOffer:
    """What this provider serves now, as registered."""

    profile: bytes
    start: int
    end: int
    input_price: int
    """Atoms per layer and prompt token."""
    output_price: int
    """Atoms per layer and decoded token."""
    hidden_size: int
    dtype: int
    """A value of `inference.protocol.activations.Dtype`."""
    max_positions: int
    is_encoder: bool = False
    """Texts are encoded, in one step each, and nothing is decoded."""
    shares: bool = False
    """Sessions of one client that begin alike share what is kept of it."""
    rolls_back: bool = True
    """Every layer can forget its last positions; none keeps a state."""

    @property
    def max_step_tokens(self) -> int:
        """Most tokens of one step."""
        return self.max_positions if self.is_encoder else PREFILL_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class HopLimits:
    """What one provider takes on at once, and how long it waits, in seconds."""

    max_sessions: int = 128
    """Half of them for a gateway alone.  They cost 19 kB each here; what they cost the
    stage, its own limit of memory says, which is often lower."""
    max_newcomers: int = 96
    """Sessions on channels that have never paid; a quarter is left to the others."""
    max_trusting: int = 8
    """Sessions of one channel that pay a step when they have its answer: so many steps
    a channel can leave unpaid.  Those beyond pay each step ahead."""
    all_ahead: int = 1000
    """Steps that those pay ahead; the most that requesters agree to."""
    opens_per_s: float = 16.0
    open_burst: int = 64
    """Sessions that one peer may ask for, in the long run and at once; a refusal costs
    half a millisecond."""
    max_silent_pushes: int = 128
    """Streams of one neighbour that have not named their session yet: one for each
    that may be opening."""
    tell_bytes_per_s: float = 32 * 1024 * 1024
    tell_burst_bytes: float = DEFAULT_LIMIT_BYTES
    """What an account may have said again to it (Fetch), in the long run and at once:
    all that can be kept, once, as when the next hop dies under all its sessions; then a
    quarter of a link of a gigabit."""
    crowded_idle_s: float = 20.0
    """After which a session that waits for its next step gives way, if all places are
    taken; a step of another stage may take five seconds, so it is not merely slow."""
    trust_after: int = 0
    """Paid steps after which a channel may pay after the step; 100 in public."""
    max_kept_bytes: int = DEFAULT_LIMIT_BYTES
    """Of outputs, over all sessions, for those who replace a lost next hop."""
    open_s: float = 10.0
    """For the first message of a requester's stream."""
    dial_s: float = 10.0
    """To reach the next hop."""
    send_s: float = 20.0
    """For a neighbour to take a message; the network itself gives up after ten."""
    idle_s: float = 120.0
    """For the next step: a reader may think, but memory is not held for ever."""
    payment_s: float = 10.0
    """For a payment that should travel at the same time as the data."""
    compute_s: float = 60.0
    """For the stage worker: a full prefill step on a slow CPU."""
    settle_s: float = 15.0
    """For the last payment after Finish; requesters wait less than this for the lap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopPorts:
    """Everything around a provider's sessions."""

    chain_id: bytes
    key: Signer
    """Node key: our peer id, signs the receipts."""
    get_offer: Callable[[], HopOffer | None]
    """What we serve now; None while no layers are ready."""
    worker: StageWorker
    dialer: Dialer
    payee: Payee
    publish: Callable[[Receipt], None]
    """Tells the world about a receipt; must not block."""
    get_expiry: Callable[[], int]
    """Height after which a receipt signed now is void."""
    on_fault: Callable[[bytes, str], None]
    """Told which peer did what no correct peer does."""
