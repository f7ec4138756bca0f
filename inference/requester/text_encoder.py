"""
The requester's part of an encoder: tokenizer, embedding, the end, and the vector.

    text -> token ids -> embed -> ... stages ... -> end -> pool -> vector

It answers what the requester of a decoder answers (requester.py), so that the same
sessions run with it: the "token" of its only step is empty and carries the vector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from inference.device.precision import Precision
from inference.errors import (
    BadAnswer,
    BadPrompt,
    BadRequest,
    Busy,
    UnknownSession,
    UnsupportedModel,
)
from inference.model.part import Part
from inference.model.pooling import Pooling, read_pooling
from inference.model.split import load_ends
from inference.model.tokenizer import Tokenizer
from inference.requester.requester import MAX_SESSIONS, Turn
from inference.sampling.params import ChatMessage, Choice, SampledToken, SamplingParams
from primitives.errors import P2PChainError


class TextEncoder:
    """Everything of an encoder but its layers."""

    def __init__(
        self, part: Part, tokenizer: Tokenizer, pooling: Pooling, max_positions: int
    ) -> None:
        """Take the loaded ends of a model and test them.

        Raises:
            UnsupportedModel: The test did not give what it must.
        """
        self.part = part
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_tokens = min(
            max_positions, pooling.max_tokens or max_positions, tokenizer.max_tokens
        )
        """Of a text, special tokens included."""
        self.hidden_size: int = part.config.hidden_size
        self._texts: dict[bytes, tuple[int, ...]] = {}
        self.self_test()

    @classmethod
    def load(
        cls,
        directory: Path,
        max_positions: int,
        precision: Precision = Precision.NATIVE,
    ) -> "TextEncoder":
        """Load everything but the layers from a model directory.

        What an encoder's ends compute is next to nothing: they stay on the processor.

        Args:
            directory: Of the model.
            max_positions: Of a text.
            precision: Of the layers that are bought; only its dtype matters here.

        Raises:
            BadWeights, UnsupportedModel: Says why.
        """
        pooling = read_pooling(directory)
        part = load_ends(directory, precision=precision)
        return cls(part, Tokenizer(directory), pooling, max_positions)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Refuse: an encoder continues nothing.

        Raises:
            BadPrompt: Always.
        """
        raise BadPrompt("this model turns texts into vectors; it does not answer")

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of a text; raises BadPrompt."""
        return self.tokenizer.encode_text(text)

    def open_session(
        self, session_id: bytes, params: SamplingParams, prompt: Sequence[int]
    ) -> None:
        """Begin with a text.

        Raises:
            BadPrompt: Empty, too long for the model, or ids it does not have.
            BadRequest: The name is in use.
            Busy: Too many sessions.
        """
        if session_id in self._texts:
            raise BadRequest("a session of that name is open")
        if len(self._texts) >= MAX_SESSIONS:
            raise Busy(f"{MAX_SESSIONS} sessions are open")
        if not 0 < len(prompt) <= self.max_tokens:
            raise BadPrompt(
                f"a text of {len(prompt)} tokens; the model takes {self.max_tokens}"
            )
        vocab_size = self.part.config.vocab_size
        if not all(0 <= token_id < vocab_size for token_id in prompt):
            raise BadPrompt(f"token ids outside the model's {vocab_size}")
        self._texts[session_id] = tuple(prompt)

    def close_session(self, session_id: bytes) -> None:
        """Forget a session; closing one that is not open does nothing."""
        self._texts.pop(session_id, None)

    def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Return what enters layer 0 for the whole text, (1, T, H).

        Raises:
            UnknownSession: No such session.
            BadRequest: Anything but the whole text.
        """
        if position or tuple(token_ids) != self._find(session_id):
            raise BadRequest("a text is encoded as a whole")
        with torch.inference_mode():
            return self.part.run_front(torch.tensor([list(token_ids)]))

    def sample(self, session_id: bytes, hidden: torch.Tensor) -> SampledToken:
        """Return the vector of a text from the last stage's answer, (1, T, H).

        Raises:
            UnknownSession: No such session.
            BadAnswer: Of another shape, or NaN or infinity in it.
        """
        text = self._find(session_id)
        if hidden.shape != (1, len(text), self.hidden_size):
            raise BadAnswer(f"hidden states of shape {tuple(hidden.shape)}")
        if not bool(torch.isfinite(hidden).all()):
            raise BadAnswer("hidden states with NaN or infinity")
        vector = self.finish(hidden)
        if not bool(torch.isfinite(vector).all()):
            raise BadAnswer("hidden states that give NaN or infinity as a vector")
        return SampledToken(0, "", "stop", vector.float().numpy().tobytes())

    def choose_all(self, turns: Sequence[Turn]) -> list[Choice | Exception]:
        """Like `sample` for several sessions, each once."""
        results: list[Choice | Exception] = []
        for turn in turns:
            try:
                results.append(Choice((self.sample(turn.session_id, turn.hidden),)))
            except P2PChainError as error:
                results.append(error)
        return results

    def embed_next(self, session_id: bytes, drafts: Sequence[int]) -> torch.Tensor:
        """Refuse: there is no next step.

        Raises:
            BadRequest: Always.
        """
        raise BadRequest("an encoder has no next step")

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the vector (H,) of what left the last layer, (1, T, H)."""
        with torch.inference_mode():
            return self.pooling.pool(self.part.run_back(hidden)).contiguous()

    def self_test(self) -> None:
        """Take a token to a vector.

        Raises:
            UnsupportedModel: A wrong shape, or not finite.
        """
        try:
            with torch.inference_mode():
                hidden = self.part.run_front(torch.zeros(1, 2, dtype=torch.long))
            vector = self.finish(hidden)
        except Exception as error:
            # Whatever the model's own code raises, it is not fit to serve.
            raise UnsupportedModel(f"the self-test failed: {error}") from error
        if hidden.shape != (1, 2, self.hidden_size):
            raise UnsupportedModel(f"embeddings of shape {tuple(hidden.shape)}")
        if vector.shape != (self.hidden_size,):
            raise UnsupportedModel(f"a vector of shape {tuple(vector.shape)}")
        if not bool(torch.isfinite(vector).all()):
            raise UnsupportedModel("the end gives NaN or infinity")

    def _find(self, session_id: bytes) -> tuple[int, ...]:
        text = self._texts.get(session_id)
        if text is None:
            raise UnknownSession("no such session is open at this requester")
        return text
