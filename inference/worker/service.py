"""
What a worker does with a request: engines behind the wire, and the null stage.

A service takes a request with its payload, and answers at once or in a later step:
what waits for the next pass is answered when that has run.  It raises typed errors only
for what the caller did; the loop in worker.py turns every other exception into an
answer as well, so that one session never ends the worker.

Torch is imported when a service needs it, not with this file: it takes two seconds,
and the null stage, and a model that is refused by its headers, do without.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from inference.device.hardware import CPU
from inference.device.memory import CacheCost
from inference.device.precision import AUTO, Precision
from inference.errors import (
    BadAnswer,
    BadRequest,
    UnknownSession,
    UnsupportedModel,
    WorkerError,
)
from inference.sampling.params import Choice
from inference.weights.model_info import (
    DTYPE_BYTES,
    ModelShape,
    read_model_shape,
)
from inference.worker.wire import (
    Answer,
    CloseSession,
    Done,
    Embed,
    EncodeChat,
    EncodeText,
    Forward,
    HiddenStates,
    KeepPages,
    OpenAnswer,
    Opened,
    OpenSession,
    Pages,
    ReadPages,
    ReadPiece,
    Ready,
    Refused,
    Request,
    Sample,
    Sampled,
    TokenIds,
    WritePages,
)

log = logging.getLogger("inference.worker.worker")

Buffer = bytes | bytearray | memoryview
Reply = tuple[Answer, Buffer]
"""An answer and its payload."""


class Service(Protocol):
    """What worker.py needs of a service."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""

    def build_ready(self) -> Ready:
        """Return what the worker says when it is loaded and tested."""

    def handle(self, request: Request, payload: bytearray) -> list[Reply]:
        """Take a request; return what can be answered now, not always this one."""

    def step(self) -> list[Reply]:
        """Do a share of what waits; return what can be answered now."""


class NullService:
    """A stage that returns its input: what remains is the cost of the way to it."""

    def __init__(self, directory: Path) -> None:
        """Read the model's sizes; loads no weights and no torch."""
        self._shape = read_model_shape(directory)

    has_work = False

    def build_ready(self) -> Ready:
        """Return sizes; nothing was read."""
        return build_ready(self._shape)

    def handle(self, request: Request, payload: bytearray) -> list[Reply]:
        """Echo hidden states; every session is fine."""
        match request:
            case OpenSession(call=call):
                return [(Opened(call, cached=0), b"")]
            case CloseSession(call=call) | KeepPages(call=call):
                return [(Done(call), b"")]
            case Forward(call=call, tokens=tokens):
                validate_length(payload, tokens, self._shape)
                return [(HiddenStates(call, tokens), payload)]
        raise BadRequest(f"a stage does not answer {type(request).__name__}")

    def step(self) -> list[Reply]:
        """Nothing ever waits."""
        return []


class StageService:
    """A stage engine behind the wire."""

    def __init__(
        self,
        directory: Path,
        layers: range,
        *,
        threads: int,
        kv_budget_bytes: int,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
    ) -> None:
        """Load and test the layers; raises BadWeights or UnsupportedModel."""
        self._shape = read_shape(directory, precision)
        if not 0 <= layers.start < layers.stop <= self._shape.layers:
            raise UnsupportedModel(
                f"layers {layers.start}:{layers.stop} of a model of "
                f"{self._shape.layers}"
            )
        import_torch(threads)
        from inference.engine.stage import StageEngine

        self._engine = StageEngine.load(
            directory,
            layers,
            kv_budget_bytes=kv_budget_bytes,
            max_positions=self._shape.max_positions,
            precision=precision,
            device=choose_device(device, precision),
        )

    @property
    def has_work(self) -> bool:
        """Whether a request waits for a pass."""
        return self._engine.has_work

    def build_ready(self) -> Ready:
        """Return sizes and what was read."""
        ready = build_ready(self._shape, self._engine.part, self._engine.cost)
        executor = self._engine.executor
        return replace(ready, engine=executor.name, shares=executor.shares)

    def handle(self, request: Request, payload: bytearray) -> list[Reply]:
        """Open or close a session, or let a step of one wait for the next pass."""
        match request:
            case Forward(call, session_id, position, tokens):
                hidden = build_tensor(payload, tokens, self._shape)
                self._engine.submit(call, session_id, position, hidden)
                return []
            case OpenSession(call, session_id, max_positions, keys):
                cached = self._engine.open_session(session_id, max_positions, keys)
                return [(Opened(call, cached), b"")]
            case KeepPages(call, session_id, first, keys):
                self._engine.keep(session_id, first, keys)
                return [(Done(call), b"")]
            case ReadPages(call, keys):
                pages = self._engine.read_pages(keys)
                return [(Pages(call, len(pages)), b"".join(pages))]
            case WritePages(call, session_id, count):
                contents = split_pages(payload, count)
                cached = self._engine.write_pages(session_id, contents)
                return [(Opened(call, cached), b"")]
            case CloseSession(call, session_id):
                dropped = self._engine.close_session(session_id)
                closed = UnknownSession("the session was closed before its turn")
                refusals = [(build_refusal(each, closed), b"") for each in dropped]
                return [*refusals, (Done(call), b"")]
        raise BadRequest(f"a stage does not answer {type(request).__name__}")

    def step(self) -> list[Reply]:
        """Run one pass over what waits."""
        replies: list[Reply] = []
        for call, output in self._engine.step():
            if isinstance(output, Exception):
                replies.append((build_refusal(call, output), b""))
            else:
                tokens = output.shape[1]
                replies.append((HiddenStates(call, tokens), get_bytes(output)))
        return replies


class RequesterService:
    """A requester engine behind the wire."""

    def __init__(
        self,
        directory: Path,
        *,
        threads: int,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
        draft_model: Path | None = None,
    ) -> None:
        """Load and test the ends; raises BadWeights or UnsupportedModel."""
        self._shape = read_shape(directory, precision)
        import_torch(threads)
        from inference.requester.requester import RequesterEngine
        from inference.requester.text_encoder import TextEncoder

        limit = self._shape.max_positions
        self._engine: Any
        if self._shape.is_encoder:
            self._engine = TextEncoder.load(directory, limit, precision)
        else:
            self._engine = RequesterEngine.load(
                directory, limit, precision, choose_device(device, precision)
            )
        if draft_model is not None:
            if self._shape.is_encoder:
                raise UnsupportedModel("nothing is to be guessed of an encoder")
            from inference.requester.draft_model import DraftModel

            tokenizer = self._engine.tokenizer
            self._engine.draft_source = DraftModel.load(draft_model, tokenizer)
        self._samples: list[tuple[Sample, Any]] = []

    @property
    def has_work(self) -> bool:
        """Whether an answer of a last stage waits for the head."""
        return bool(self._samples)

    def build_ready(self) -> Ready:
        """Return sizes and what was read."""
        return build_ready(self._shape, self._engine.part)

    def handle(self, request: Request, payload: bytearray) -> list[Reply]:
        """Encode or embed; what is to be sampled waits for the next step."""
        if isinstance(request, Sample):
            hidden = build_tensor(payload, request.tokens, self._shape)
            self._samples.append((request, hidden))
            return []
        return [self._answer(request, payload)]

    def step(self) -> list[Reply]:
        """Take what waits through the head in one pass, and choose tokens."""
        batch: dict[bytes, tuple[Sample, Any]] = {}
        later = []
        for sample in self._samples:
            # A session's second step follows its first.
            if sample[0].session_id in batch:
                later.append(sample)
            else:
                batch[sample[0].session_id] = sample
        self._samples = later
        try:
            choices = self._engine.choose_all(
                [self._build_turn(*sample) for sample in batch.values()]
            )
            requests = [request for request, _ in batch.values()]
            return self._build_replies(requests, choices)
        except Exception as error:
            # The model's own code, or memory: nobody of the batch has an answer.
            return [(build_refusal(r.call, error), b"") for r, _ in batch.values()]

    def _build_turn(self, request: Sample, hidden: Any) -> Any:
        from inference.requester.requester import Turn

        return Turn(request.session_id, hidden, request.drafts, request.wanted)

    def _build_replies(
        self, requests: list[Sample], choices: list[Choice | Exception]
    ) -> list[Reply]:
        """Answer, and look the next steps' input up: it saves a way there and back."""
        pairs = list(zip(requests, choices, strict=True))
        nexts = [
            (request.session_id, choice.drafts)
            for request, choice in pairs
            if isinstance(choice, Choice) and choice.tokens[-1].finish_reason is None
        ]
        inputs = self._engine.embed_all_next(nexts) if nexts else []
        ids = (session_id for session_id, _ in nexts)
        hidden = dict(zip(ids, map(get_bytes, inputs), strict=True))
        replies: list[Reply] = []
        for request, choice in pairs:
            if isinstance(choice, Exception):
                replies.append((build_refusal(request.call, choice), b""))
            else:
                sampled = Sampled(request.call, choice.tokens, choice.drafts)
                replies.append((sampled, hidden.get(request.session_id, b"")))
        return replies

    def _answer(self, request: Request, payload: bytearray) -> Reply:
        engine = self._engine
        match request:
            case Embed(call, session_id, position, token_ids):
                hidden = engine.embed(session_id, position, token_ids)
                return HiddenStates(call, len(token_ids)), get_bytes(hidden)
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


def read_shape(directory: Path, precision: Precision) -> ModelShape:
    """Return a model's sizes, and the dtype in which it is computed here."""
    shape = read_model_shape(directory)
    return dataclasses.replace(shape, dtype=precision.get_dtype(shape.dtype))


def choose_device(device: str, precision: Precision) -> Any:
    """Return the torch device that a word stands for.

    Args:
        device: A name of torch's, or `AUTO` for a CUDA device where there is one, but
            packed weights have kernels for processors only.
        precision: In which it is to compute.

    Raises:
        UnsupportedModel: There is none such here.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if device == AUTO:
        is_plain = precision.packing is Precision.NATIVE
        device = "cuda" if has_cuda and is_plain else CPU
    if device.startswith("cuda") and not has_cuda:
        raise UnsupportedModel(f"no device {device} here")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise UnsupportedModel(f"no device {device} here") from error


def import_torch(threads: int) -> None:
    """Import torch for so many threads; spinning ones were ruled out before."""
    import torch

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def build_refusal(call: int, error: Exception) -> Refused:
    """Return what tells the caller of an error, of our tree or not."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return Refused(call, code, str(error))
    # Not of our tree: the model's own code, or memory.  The session pays, not the
    # worker; the text goes to the log whole and to the caller short.
    log.error("request failed", exc_info=error)
    return Refused(call, WorkerError.code, f"{type(error).__name__}: {error}"[:500])


def build_ready(
    shape: ModelShape, part: Any = None, cost: CacheCost | None = None
) -> Ready:
    """Return the first frame of a worker that holds `part`."""
    hashes: dict[str, bytes] = {} if part is None else part.hashes
    return Ready(
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        layers=shape.layers,
        dtype=shape.dtype,
        bytes_read=0 if part is None else part.bytes_read,
        position_bytes=0 if cost is None else cost.position_bytes,
        state_bytes=0 if cost is None else cost.state_bytes,
        engine="",
        shares=False,
        pieces=tuple(ReadPiece(*item) for item in sorted(hashes.items())),
    )


def split_pages(payload: Buffer, count: int) -> list[memoryview]:
    """Return the pages that lie one after another in a payload.

    Raises:
        BadAnswer: They are not of one length, or there are none.
    """
    size = len(payload) // count if count else 0
    if not size or size * count != len(payload):
        raise BadAnswer(f"{count} pages in {len(payload)} bytes")
    view = memoryview(payload)
    return [view[first : first + size] for first in range(0, len(payload), size)]


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

    flat = tensor.contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.cpu().numpy())
