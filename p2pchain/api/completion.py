"""Models as this node sees them, routes to their layers, and answers on their way."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.sampling.params import ChatMessage, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from chain.records.proof import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenReceipt:
    """A forward pass that a provider announced on topic `work`."""

    receipt: "Receipt"
    seen_ms: int
    """Our clock when it came, milliseconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHop:
    """One provider of a route."""

    name: str
    """The validator's genesis name, else the first 16 hex digits of its node key."""
    node_key: bytes
    provider: bytes
    """Account that registered; payee of the channel."""
    shard: int
    """Home shard of the registration, where the channel is."""
    start: int
    end: int
    input_price: int
    """Atoms per layer-token in prefill."""
    output_price: int
    """Atoms per layer-token in decode."""
    latency_us: int | None
    """Measured round trip to it; None when never measured."""
    measured_us: int
    """What it registered as its time per decode token for the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model of the chain as this node sees it."""

    model_id: bytes
    name: str
    """What `model` in a request says; the hex model_id works too."""
    created_ms: int
    layers: int
    context_length: int
    """Most positions of prompt and answer together."""
    servable: bool
    """True when this node has a requester worker for it and a route exists."""
    reason: str = ""
    """Why it is not servable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """A prompt with its sampling, checked by the api."""

    model: str
    """Name or hex id, as the caller gave it."""
    messages: tuple[ChatMessage, ...] = ()
    """A chat, to be put through the model's chat template; empty for a plain prompt."""
    prompt: str | tuple[int, ...] = ""
    """Plain text or token ids; used when there are no messages."""
    max_tokens: int | None = None
    """None: as many as the context holds."""
    sampling: SamplingParams
    """With seed and stop strings; its own `max_tokens` is to be replaced."""
    shares_prefix: bool = True
    """Whether providers may keep what they computed, for prompts that begin alike."""
    cache_salt: str = ""
    """Prompts share only with those of the same salt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts to be turned into vectors, checked by the api."""

    model: str
    """Name or hex id, as the caller gave it."""
    inputs: tuple[str | tuple[int, ...], ...]
    """Texts or token ids, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Texts as vectors."""

    vectors: tuple[bytes, ...]
    """In the order of the inputs; float32, little-endian."""
    prompt_tokens: int
    """Of all inputs together."""
    sessions: tuple[bytes, ...]
    """One per input."""
    price: int
    """Of all of them, in atoms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First event: the route stands and the prompt fits."""

    session: bytes
    route: tuple[RouteHop, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Some more of the answer."""

    text: str
    """May be empty while a character is incomplete."""
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    """If asked for: of this token, then of the most likely ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HopReport:
    """What one hop of a finished session did and cost."""

    name: str
    node_key: bytes
    start: int
    end: int
    steps: int
    """Forward passes."""
    step_us: int
    """Median time of one decode step at the hop, as it reported."""
    price: int
    """Atoms paid to it in this session."""
    channel_id: bytes
    vouchers: int
    """Vouchers signed for it in this session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last event of a complete answer."""

    reason: str
    """"stop" (end of sequence or a stop string) or "length"."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt; those that providers had kept and did not compute."""
    guesses: int = 0
    """Tokens that steps carried as guesses, each at the price of an input token."""
    right_guesses: int = 0
    """Of those, the ones that became part of the answer."""
    lap_us: int = 0
    """Median time of one decode step through all hops and back, as the client saw it;
    0 for an answer without decode steps."""
    hops: tuple[HopReport, ...] = field(default=())


CompletionEvent = Started | Delta | Finished
