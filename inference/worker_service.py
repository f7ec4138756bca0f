"""
What a worker does with a request: engines behind the wire, and the null stage.

A service takes a request and its payload and returns an answer and its payload.  It
raises typed errors only for what the caller did; the loop in worker.py turns every
other exception into an answer as well, so that one session never ends the worker.

Torch is imported when a service needs it, not with this file: it takes two seconds,
and the null stage, and a model that is refused by its headers, do without.
"""

from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from inference.errors import BadAnswer, BadRequest, UnsupportedModel
from inference.model_info import (
    DTYPE_BYTES,
    ModelShape,
    read_model_shape,
)
from inference.sampling import SampledToken
from inference.worker_wire import (
    Answer,
    CloseSession,
    Done,
    Embed,
    EncodeChat,
    EncodeText,
    Forward,
    HiddenStates,
    OpenAnswer,
    OpenSession,
    ReadPiece,
    Ready,
    Request,
    Sample,
    Sampled,
    TokenIds,
)

Buffer = bytes | bytearray | memoryview


class Service(Protocol):
    """What worker.py needs of a service."""

    def build_ready(self) -> Ready:
        """Return what the worker says when it is loaded and tested."""

    def handle(self, request: Request, payload: bytearray) -> tuple[Answer, Buffer]:
        """Return the answer to a request, and its payload."""


class NullService:
    """A stage that returns its input: what remains is the cost of the way to it."""

    def __init__(self, directory: Path) -> None:
        """Read the model's sizes; loads no weights and no torch."""
        self._shape = read_model_shape(directory)

    def build_ready(self) -> Ready:
        """Return sizes; nothing was read."""
        return build_ready(self._shape)

    def handle(self, request: Request, payload: bytearray) -> tuple[Answer, Buffer]:
        """Echo hidden states; every session is fine."""
        match request:
            case OpenSession(call=call) | CloseSession(call=call):
                return Done(call), b""
            case Forward(call=call, tokens=tokens):
                validate_length(payload, tokens, self._shape)
                return HiddenStates(call, tokens), payload
        raise BadRequest(f"a stage does not answer {type(request).__name__}")


class StageService:
    """A stage engine behind the wire."""

    def __init__(
        self, directory: Path, layers: range, *, threads: int, kv_budget_bytes: int
    ) -> None:
        """Load and test the layers; raises BadWeights or UnsupportedModel."""
        self._shape = read_model_shape(directory)
        if not 0 <= layers.start < layers.stop <= self._shape.layers:
            raise UnsupportedModel(
                f"layers {layers.start}:{layers.stop} of a model of "
                f"{self._shape.layers}"
            )
        import_torch(threads)
        from inference.stage import StageEngine

        self._engine = StageEngine.load(
            directory, layers, kv_budget_bytes=kv_budget_bytes
        )

    def build_ready(self) -> Ready:
        """Return sizes and what was read."""
        return build_ready(self._shape, self._engine.part, self._engine.position_bytes)

    def handle(self, request: Request, payload: bytearray) -> tuple[Answer, Buffer]:
        """Open, run or close a session."""
        match request:
            case Forward(call, session_id, position, tokens):
                hidden = build_tensor(payload, tokens, self._shape)
                output = self._engine.forward(session_id, position, hidden)
                return HiddenStates(call, tokens), get_bytes(output)
            case OpenSession(call, session_id, max_positions):
                self._engine.open_session(session_id, max_positions)
                return Done(call), b""
            case CloseSession(call, session_id):
                self._engine.close_session(session_id)
                return Done(call), b""
        raise BadRequest(f"a stage does not answer {type(request).__name__}")


class RequesterService:
    """A requester engine behind the wire."""

    def __init__(self, directory: Path, *, threads: int) -> None:
        """Load and test the ends; raises BadWeights or UnsupportedModel."""
        self._shape = read_model_shape(directory)
        import_torch(threads)
        from inference.requester import RequesterEngine

        self._engine = RequesterEngine.load(directory, self._shape.max_positions)

    def build_ready(self) -> Ready:
        """Return sizes and what was read."""
        return build_ready(self._shape, self._engine.part)

    def handle(self, request: Request, payload: bytearray) -> tuple[Answer, Buffer]:
        """Encode, embed or sample."""
        engine = self._engine
        match request:
            case Embed(call, session_id, position, token_ids):
                hidden = engine.embed(session_id, position, token_ids)
                return HiddenStates(call, len(token_ids)), get_bytes(hidden)
            case Sample(call, session_id, tokens):
                hidden = build_tensor(payload, tokens, self._shape)
                token = engine.sample(session_id, hidden)
                return Sampled(call, self._embed_next(session_id, token)), b""
            case EncodeChat(call, messages):
                return TokenIds(call, tuple(engine.encode_chat(messages))), b""
            case EncodeText(call, text):
                return TokenIds(call, tuple(engine.encode_text(text))), b""
            case OpenAnswer(call, session_id, params, prompt):
                engine.open_session(session_id, params, prompt)
                return Done(call), b""
            case CloseSession(call, session_id):
                engine.close_session(session_id)
                return Done(call), b""
        raise BadRequest(f"a requester does not answer {type(request).__name__}")

    def _embed_next(self, session_id: bytes, token: SampledToken) -> SampledToken:
        """Look the next step's input up at once: it saves a way there and back."""
        if token.finish_reason is not None:
            return token
        hidden = self._engine.embed_last(session_id)
        return replace(token, embedding=bytes(get_bytes(hidden)))


def import_torch(threads: int) -> None:
    """Import torch for so many threads; spinning ones were ruled out before."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def build_ready(shape: ModelShape, part: Any = None, position_bytes: int = 0) -> Ready:
    """Return the first frame of a worker that holds `part`."""
    hashes: dict[str, bytes] = {} if part is None else part.hashes
    return Ready(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        layers=shape.layers,
        dtype=shape.dtype,
        bytes_read=0 if part is None else part.bytes_read,
        position_bytes=position_bytes,
        pieces=tuple(ReadPiece(*item) for item in sorted(hashes.items())),
    )


def validate_length(payload: Buffer, tokens: int, shape: ModelShape) -> None:
    """Refuse a payload that is not (tokens, hidden) in the model's dtype.

    Raises:
        BadAnswer: Says both lengths.
    """
    expected = tokens * shape.hidden_size * DTYPE_BYTES[shape.dtype]
    if not tokens or len(payload) != expected:
        raise BadAnswer(
            f"{len(payload)} bytes of hidden states; {tokens} tokens take {expected}"
        )


def build_tensor(payload: bytearray, tokens: int, shape: ModelShape) -> Any:
    """Return the payload as a tensor (1, T, H) over the same memory."""
    import torch

    validate_length(payload, tokens, shape)
    flat = torch.frombuffer(payload, dtype=getattr(torch, shape.dtype))
    return flat.view(1, tokens, shape.hidden_size)


def get_bytes(tensor: Any) -> memoryview:
    """Return the bytes of a (1, T, H) tensor, without a copy where it is contiguous."""
    import torch

    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
