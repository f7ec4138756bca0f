"""What a requester starts a session with, and what it has in hand afterwards."""

from dataclasses import dataclass

from inference.protocol.codec import Codec
from inference.protocol.messages import VERSION, HopTiming, SessionTerms
from inference.protocol.steps import PREFILL_TOKENS
from inference.protocol.wire_form import WireForm
from inference.sampling.params import TokenLogprob
from primitives.errors import P2PChainError


@dataclass(frozen=True, slots=True, kw_only=True)
class HopPlan:
    """One hop of a route: who, which layers, at what price, paid from where."""

    peer_id: bytes
    """Node key: the network's name of the hop, and the key of its receipts."""
    node_name: str
    """For people."""
    account: bytes
    """Payee of the channel."""
    profile: bytes
    start: int
    end: int
    input_price: int
    """Atoms per layer and prompt token."""
    output_price: int
    """Atoms per layer and decoded token."""
    channel_id: bytes
    unit_price: int
    """Atoms per unit of the channel."""
    arrears_units: int = 0
    """What we acknowledge to owe from an earlier session; paid when opening."""
    source: bytes | None = None
    """Node key of another hop of these layers that has kept the prompt's beginning,
    behind the same hops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """Everything that is settled before the first message."""

    chain_id: bytes
    session_id: bytes
    """Random, 32 bytes."""
    client: bytes
    """Account that opened the channels."""
    hops: tuple[HopPlan, ...]
    """In the order of the layers; the route may change while the answer is made."""
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    max_tokens: int
    """Of the answer, at least 1; 0 when the prompt is a text that is only encoded."""
    hidden_size: int
    dtype: int
    """A value of `inference.protocol.activations.Dtype`."""
    codec: int = Codec.RAW
    """A value of `inference.protocol.codec.Codec`."""
    attempt: int = 0
    max_prepaid_steps: int = 1000
    """Most steps that a hop may want ahead of its work in this session."""
    prefix_secret: bytes = b""
    """Sessions with the same one share what hops have kept of equal beginnings; empty
    where nothing is to be shared.  Hops never see it."""

    @property
    def wire(self) -> WireForm:
        """What its hidden states look like on the way."""
        return WireForm(self.hidden_size, self.dtype, self.codec)

    @property
    def is_text(self) -> bool:
        """Whether the prompt is a text that is only encoded, in one step."""
        return self.max_tokens == 0

    @property
    def max_step_tokens(self) -> int:
        """Most tokens of one step."""
        return len(self.prompt) if self.is_text else PREFILL_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTimeouts:
    """How long a requester waits, in seconds."""

    open_s: float = 15.0
    """For every hop to accept: a dial by us and one by the hop before."""
    worker_s: float = 30.0
    """For our own embedding, head and sampler."""
    probe_s: float = 3.0
    """For an answer to a step before the hops are asked how far they are, at most;
    sooner where steps have been fast."""
    silence_s: float = 3.0
    """For their reply: who says nothing in this time is lost, not slow.  Longer where
    replies have taken long."""
    step_s: float = 60.0
    """For an answer to a step in all, unless a hop says that it needs longer."""
    receipts_s: float = 5.0
    """For receipts that should have come before the answer."""
    finish_s: float = 5.0
    """For the last lap."""
    send_s: float = 10.0
    """For a hop to take a message."""
    longest_step_s: float = 600.0
    """For a step, however long a hop says that it needs."""
    search_s: float = 20.0
    """For another hop in the place of a lost one, with a channel to it."""
    recover_s: float = 60.0
    """Between a loss and the next token, without any progress."""
    close_s: float = 10.0
    """For everything that is left to do once the caller wants no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One token of the answer."""

    token_id: int
    text: str
    """What became readable; may be empty while a character is incomplete."""
    finish_reason: str | None
    """"stop", "length", or None while the answer goes on."""
    step: int
    position: int
    """Of the token in the sequence."""
    elapsed_us: int
    """From sending the step to its answer, as we measured it."""
    hops: tuple[HopTiming, ...]
    """What each hop says it took; the rest of `elapsed_us` is network."""
    vector: bytes = b""
    """What a text was encoded to, float32; empty where tokens are chosen."""
    route: tuple[bytes, ...] = ()
    """Their node keys."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """If asked for: of this token, then of the most likely ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopSummary:
    """One hop's part in a session."""

    plan: HopPlan
    steps: int
    """Answers that came through it."""
    queue_us: int
    """Time that its steps waited there, by its own word."""
    compute_us: int
    """Time that they took there, by its own word."""
    units: int
    """Units paid, arrears not counted."""
    price_atoms: int
    """The same in atoms."""
    arrears_units: int
    """Units paid for earlier sessions."""
    vouchers: int
    """New vouchers sent."""
    receipts: int
    """Valid receipts received."""
    unpaid_units: int
    """What the hop may think it is owed: the step that was under way at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSummary:
    """A session after its end."""

    session_id: bytes
    hops: tuple[HopSummary, ...]
    """Those at the end, in the order of the layers, then those that were replaced."""
    route_hops: int
    """How many of them were there at the end."""
    recoveries: int
    """Times that the route was mended."""
    longest_gap_us: int
    """Longest time between two tokens in which the route was mended; 0 without."""
    tokens_in: int
    """Prompt tokens that were processed, by this session or one before it."""
    cached_tokens: int
    """Those that hops had kept from one before it: neither sent nor paid."""
    tokens_out: int
    """Tokens that the reader got."""
    guesses: int
    """Tokens that steps carried as guesses."""
    right_guesses: int
    """Of those, the ones that were right."""
    finish_reason: str
    """"stop", "length", "cancelled", or "error"."""
    first_token_us: int
    """From the start of the session to its first token; 0 when there was none."""
    total_us: int
    """From the start of the session to its end."""
    fault: P2PChainError | None
    """What went wrong after the answer was complete; it harms nobody's answer."""

    @property
    def price_atoms(self) -> int:
        """What the session cost in all."""
        return sum(hop.price_atoms for hop in self.hops)


def build_terms(
    plan: SessionPlan,
    hop: HopPlan,
    signer: bytes,
    *,
    attempt: int,
    prompt_tokens: int,
    previous: bytes | None,
    following: bytes | None,
) -> SessionTerms:
    """Return what a hop is asked for.

    Args:
        plan: The session's plan.
        hop: Which hop.
        signer: Public key of the channels' signer.
        attempt: Number of the route.
        prompt_tokens: Positions at the input price.
        previous: Node key of the hop before, None where we are.
        following: Node key of the hop after, None where we are.
    """
    return SessionTerms(
        version=VERSION,
        chain_id=plan.chain_id,
        session=plan.session_id,
        attempt=attempt,
        provider=hop.peer_id,
        profile=hop.profile,
        start=hop.start,
        end=hop.end,
        client=plan.client,
        signer=signer,
        channel_id=hop.channel_id,
        unit_price=hop.unit_price,
        input_price=hop.input_price,
        output_price=hop.output_price,
        prompt_tokens=prompt_tokens,
        max_positions=len(plan.prompt) + plan.max_tokens,
        hidden_size=plan.hidden_size,
        dtype=plan.dtype,
        codec=plan.codec,
        previous=previous,
        next=following,
    )
