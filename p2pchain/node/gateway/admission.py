"""
What a gateway takes: which model, which texts, how long an answer may be.

Everything that can be refused without a route, a channel or a provider is refused here,
with the name of the parameter that is wrong.
"""

from inference.errors import BadPrompt, Busy, WorkerError
from inference.sampling.params import ChatMessage, SamplingParams
from inference.sampling.speculation import Speculation
from inference.worker.requester_worker import RequesterWorker
from p2pchain.api.completion import CompletionRequest, EmbeddingRequest
from p2pchain.api.errors import (
    InvalidParams,
    NotReady,
    Overloaded,
    PromptTooLong,
    UnknownModel,
    Unsupported,
)


class Admission:
    """Requests of one model, as token ids."""

    def __init__(self, worker: RequesterWorker) -> None:
        """
        Args:
            worker: Has the tokenizer.
        """
        self._worker = worker
        self._info = worker.info

    def validate_model(self, model: str) -> None:
        """Check that a request is for the model that we have.

        Raises:
            UnknownModel: For another one.
        """
        name, model_id = self._info.name, self._info.model_id.hex()
        if model not in (name, model_id, "0x" + model_id):
            raise UnknownModel(
                f"the model {model[:80]!r} does not exist here; this gateway serves "
                f"{name!r}",
                param="model",
            )

    async def admit_completion(
        self, request: CompletionRequest
    ) -> tuple[tuple[int, ...], int]:
        """Return the prompt's token ids and the most tokens of the answer.

        Raises:
            ApiError: It cannot be answered here, or not now.
        """
        self.validate_model(request.model)
        if self._info.is_encoder:
            text = "this model turns texts into vectors; see /v1/embeddings"
            raise Unsupported(text, param="model")
        is_draft = request.sampling.speculation is Speculation.DRAFT
        if is_draft and not self._worker.has_draft_model:
            text = "this gateway has no model that guesses"
            raise Unsupported(text, param="speculation")
        prompt = await self._encode(request)
        return prompt, self._compute_max_tokens(request, len(prompt))

    async def admit_texts(self, request: EmbeddingRequest) -> list[tuple[int, ...]]:
        """Return each text's token ids.

        Raises:
            ApiError: One of them cannot be encoded here, or not now.
        """
        self.validate_model(request.model)
        if not self._info.is_encoder:
            text = "this model answers; it does not turn texts into vectors"
            raise Unsupported(text, param="model")
        return [await self._encode_input(text) for text in request.inputs]

    async def _encode_input(self, text: str | tuple[int, ...]) -> tuple[int, ...]:
        """Return a text's token ids, if the model takes as many."""
        wanted = CompletionRequest(model="", prompt=text, sampling=SamplingParams())
        prompt = await self._encode(wanted)
        most = self._info.max_positions
        if not 0 < len(prompt) <= most:
            raise PromptTooLong(
                f"a text of {len(prompt)} tokens; this model takes {most}",
                param="input",
            )
        return prompt

    async def _encode(self, request: CompletionRequest) -> tuple[int, ...]:
        try:
            if request.messages:
                messages = [ChatMessage(m.role, m.content) for m in request.messages]
                return tuple(await self._worker.encode_chat(messages))
            if isinstance(request.prompt, str):
                return tuple(await self._worker.encode_text(request.prompt))
        except BadPrompt as error:
            param = "messages" if request.messages else "prompt"
            raise InvalidParams(str(error), param=param) from error
        except Busy as error:
            raise Overloaded(str(error)) from error
        except WorkerError as error:
            raise NotReady(f"the gateway's worker is not ready: {error}") from error
        if any(token >= self._info.vocab_size for token in request.prompt):
            raise InvalidParams("a token id is not in the vocabulary", param="prompt")
        return request.prompt

    def _compute_max_tokens(self, request: CompletionRequest, prompt: int) -> int:
        context = self._info.max_positions
        if prompt == 0:
            raise InvalidParams("the prompt has no tokens", param="prompt")
        wanted = request.max_tokens
        if prompt + (wanted or 1) > context:
            raise PromptTooLong(
                f"this model's context is {context} tokens; the prompt has {prompt} "
                f"and {wanted or 1} are wanted as an answer",
                param="messages" if request.messages else "prompt",
            )
        return context - prompt if wanted is None else wanted
