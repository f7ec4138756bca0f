"""A worker process that holds a model's ends, as the node sees it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from inference.device.hardware import CPU
from inference.device.precision import Precision
from inference.sampling.params import ChatMessage, Choice, SampledToken, SamplingParams
from inference.weights.model_info import Model
from inference.worker.supervisor import SupervisedWorker
from inference.worker.wire import (
    Done,
    Embed,
    EncodeChat,
    EncodeText,
    HiddenStates,
    OpenAnswer,
    Sample,
    Sampled,
    TokenIds,
)
from primitives.errors import P2PChainError


class RequesterWorker(SupervisedWorker):
    """A worker that holds all of a model but its layers."""

    def __init__(
        self,
        directory: Path,
        model: Model,
        *,
        threads: int = 1,
        precision: Precision = Precision.NATIVE,
        device: str = CPU,
        draft_model: Path | None = None,
    ) -> None:
        """Describe the requester; `run` starts it.

        Args:
            directory: The model's directory.
            model: What `load_model` found there.
            threads: Of torch.
            precision: Of the layers whose answers it reads.
            device: Where the ends compute: a name of torch's, or `auto`.
            draft_model: Directory of a small model that guesses, if there is one.
        """
        self.has_draft_model = draft_model is not None
        """Whether a model of its own guesses what follows."""
        guesses = () if draft_model is None else ("--draft-model", str(draft_model))
        super().__init__(
            directory,
            model,
            role=["requester", *guesses],
            threads=threads,
            precision=precision,
            device=device,
        )

    async def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation; raises BadPrompt."""
        answer, _ = await self._call(TokenIds, lambda n: EncodeChat(n, tuple(messages)))
        return list(answer.token_ids)

    async def encode_text(self, text: str) -> list[int]:
        """Return the token ids of plain text; raises BadPrompt."""
        answer, _ = await self._call(TokenIds, lambda n: EncodeText(n, text))
        return list(answer.token_ids)

    async def open(
        self, session_id: bytes, sampling: SamplingParams, prompt_tokens: Sequence[int]
    ) -> None:
        """Begin an answer to `prompt_tokens`.

        Raises:
            BadPrompt: Empty, or too long for the model.
            Busy, BadRequest: Too many sessions; the name is in use.
        """
        prompt = tuple(prompt_tokens)
        await self._call(Done, lambda n: OpenAnswer(n, session_id, sampling, prompt))

    async def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> bytes:
        """Return what enters layer 0, (tokens, hidden_size) in the model's dtype."""
        ids = tuple(token_ids)
        _, payload = await self._call(
            HiddenStates, lambda n: Embed(n, session_id, position, ids)
        )
        return payload

    async def choose(
        self,
        session_id: bytes,
        hidden: bytes | memoryview,
        tokens: int,
        drafts: Sequence[int] = (),
        wanted: int = 0,
    ) -> Choice:
        """Judge the last stage's answer to a step and choose the next tokens.

        Args:
            session_id: An open session.
            hidden: (tokens, hidden_size) in the model's dtype.
            tokens: Of the step.
            drafts: Its guesses; the last rows belong to them.
            wanted: Guesses that the next step may carry.

        Raises:
            BadAnswer: A wrong length, or NaN or infinity: nobody is paid for it.
        """
        guesses = tuple(drafts)
        return _build_choice(
            await self._call(
                Sampled,
                lambda n: Sample(n, session_id, tokens, guesses, wanted),
                hidden,
            )
        )

    def begin_choose(
        self,
        session_id: bytes,
        hidden: bytes | memoryview,
        tokens: int,
        drafts: Sequence[int],
        wanted: int,
        on_done: Callable[[Choice | P2PChainError], None],
    ) -> None:
        """Begin what `choose` does; `on_done` gets what it returns or raises.

        Raises:
            Busy, WorkerLost, WorkerFailed: It cannot begin.
        """
        guesses = tuple(drafts)

        def take(answer: tuple[Sampled, bytes] | P2PChainError) -> None:
            if isinstance(answer, P2PChainError):
                on_done(answer)
            else:
                on_done(_build_choice(answer))

        self._begin(
            Sampled,
            lambda n: Sample(n, session_id, tokens, guesses, wanted),
            hidden,
            take,
        )

    async def sample(
        self, session_id: bytes, hidden: bytes | memoryview, tokens: int
    ) -> SampledToken:
        """Choose one token from the last row; it carries its own embedding.

        Raises:
            BadAnswer: As `choose` says.
        """
        choice = await self.choose(session_id, hidden, tokens)
        [token] = choice.tokens
        return replace(token, embedding=token.embedding or choice.embedding)


def _build_choice(answer: tuple[Sampled, bytes]) -> Choice:
    """Return what was chosen: the payload is the next step's input."""
    sampled, payload = answer
    return Choice(sampled.tokens, sampled.drafts, payload)
