"""
The requester engine: all of a model but its layers, and the choice of tokens.

    prompt -> token ids -> embed -> ... stages ... -> finish -> choose -> text

Providers see hidden states, never logits or text; the first of them can, however,
look tokens up by their embeddings (docs/security.md).  What comes back from the last
stage is judged here before anybody is paid for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from inference.device.precision import Precision
from inference.errors import (
    BadAnswer,
    BadPrompt,
    BadRequest,
    Busy,
    UnknownSession,
)
from inference.model.stand_ins import CPU
from inference.model.tokenizer import Tokenizer
from inference.requester.ends import Ends
from inference.sampling.detokenizer import Detokenizer, StopScanner
from inference.sampling.drafts import Drafter, DraftSource, FirstDrafter, NgramDrafter
from inference.sampling.params import (
    ChatMessage,
    Choice,
    SampledToken,
    SamplingParams,
    TokenLogprob,
)
from inference.sampling.sampler import choose_token, compute_logprobs
from inference.sampling.speculation import Speculation
from primitives.errors import P2PChainError

MAX_SESSIONS = 1024
"""A session holds token ids only; the gateway's own limit is lower."""
_CONTEXT_TOKENS = 8
"""Tokens of the prompt that are decoded along with the first ones of the answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A last stage's answer to one step of one session."""

    session_id: bytes
    hidden: torch.Tensor
    """(1, T, H)"""
    drafts: tuple[int, ...] = ()
    """Guesses that the step carried, in its last rows."""
    wanted: int = 0
    """Guesses that the next step may carry."""


@dataclass(slots=True)
class _Answer:
    """One session: what was asked, and what has been said so far."""

    params: SamplingParams
    prompt: list[int]
    detokenizer: Detokenizer
    scanner: StopScanner
    tokens: list[int] = field(default_factory=list)
    is_finished: bool = False
    drafter: Drafter | None = None
    """Made when the first guess is wanted."""

    @property
    def position(self) -> int:
        """Of the last token in the sequence."""
        return len(self.prompt) + len(self.tokens) - 1


class RequesterEngine:
    """Tokenizer, embedding, final norm, head and sampler of one model."""

    def __init__(self, ends: Ends, tokenizer: Tokenizer) -> None:
        """Take what was loaded."""
        self.ends = ends
        self.part = ends.part
        self.tokenizer = tokenizer
        self.max_positions = ends.max_positions
        self.hidden_size: int = ends.part.config.hidden_size
        self.draft_source: DraftSource | None = None
        """Guesses better than the text so far, where there is one."""
        self._answers: dict[bytes, _Answer] = {}

    @classmethod
    def load(
        cls,
        directory: Path,
        max_positions: int,
        precision: Precision = Precision.NATIVE,
        device: torch.device = CPU,
    ) -> "RequesterEngine":
        """Load everything but the layers from a model directory.

        Args:
            directory: Of the model.
            max_positions: Of prompt and answer together.
            precision: Of the layers that are bought.
            device: Where the ends compute.

        Raises:
            BadWeights, UnsupportedModel: Says why.
        """
        tokenizer = Tokenizer(directory)
        return cls(Ends.load(directory, max_positions, precision, device), tokenizer)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation; raises BadPrompt."""
        return self.tokenizer.encode_chat(messages)

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of plain text; raises BadPrompt."""
        return self.tokenizer.encode_text(text)

    def open_session(
        self, session_id: bytes, params: SamplingParams, prompt: Sequence[int]
    ) -> None:
        """Begin an answer to `prompt`.

        Raises:
            BadPrompt: Empty, too long for the model, or ids it does not have.
            BadRequest: The name is in use, or guesses are wanted of no model.
            Busy: Too many sessions.
        """
        if params.speculation is Speculation.DRAFT and self.draft_source is None:
            raise BadRequest("no model that guesses is here")
        if session_id in self._answers:
            raise BadRequest("a session of that name is open")
        if len(self._answers) >= MAX_SESSIONS:
            raise Busy(f"{MAX_SESSIONS} sessions are open")
        if not 0 < len(prompt) < self.max_positions:
            raise BadPrompt(
                f"a prompt of {len(prompt)} tokens; the model holds "
                f"{self.max_positions} with the answer"
            )
        self._validate_ids(prompt)
        self._answers[session_id] = _Answer(
            params=params,
            prompt=list(prompt),
            detokenizer=Detokenizer(self.tokenizer.decode, prompt[-_CONTEXT_TOKENS:]),
            scanner=StopScanner(params.stop),
        )

    def close_session(self, session_id: bytes) -> None:
        """Forget a session; closing one that is not open does nothing."""
        self._answers.pop(session_id, None)
        if self.draft_source is not None:
            self.draft_source.close(session_id)

    def embed(
        self, session_id: bytes, position: int, token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Return what enters layer 0 for T tokens from `position` on, (1, T, H).

        Raises:
            UnknownSession, BadPrompt: No such session; ids the model does not have.
        """
        self._find(session_id)
        self._validate_ids(token_ids)
        if not token_ids or not 0 <= position <= self.max_positions - len(token_ids):
            raise BadRequest(
                f"{len(token_ids)} tokens at {position}; the model holds "
                f"{self.max_positions}"
            )
        return self.ends.look_up(position, token_ids)

    def embed_next(self, session_id: bytes, drafts: Sequence[int]) -> torch.Tensor:
        """Return what enters layer 0 for the last token and D guesses, (1, 1 + D, H).

        Raises:
            UnknownSession: No such session.
        """
        [hidden] = self.embed_all_next([(session_id, drafts)])
        return hidden

    def embed_all_next(
        self, nexts: Sequence[tuple[bytes, Sequence[int]]]
    ) -> list[torch.Tensor]:
        """Like `embed_next` for several sessions, in one pass where there is one.

        Args:
            nexts: Sessions and the guesses of their next steps.
        """
        answers = [(self._find(session_id), drafts) for session_id, drafts in nexts]
        return self.ends.look_up_all(
            [(answer.position, [answer.tokens[-1], *d]) for answer, d in answers]
        )

    def sample(self, session_id: bytes, hidden: torch.Tensor) -> SampledToken:
        """Choose the next token from the last row of an answer, (1, T, H).

        Raises:
            As `choose` does.
        """
        return self.choose(Turn(session_id, hidden)).tokens[0]

    def choose(self, turn: Turn) -> Choice:
        """Choose the next tokens from the last stage's answer to a step.

        The token after each row is chosen as if the rows behind it did not exist; the
        next row counts when its guess is what was chosen.

        Raises:
            UnknownSession: No such session.
            BadRequest: The answer is finished, or has fewer rows than guesses.
            BadAnswer: Not (1, T, H), or NaN or infinity in it: nobody is paid for it.
        """
        [choice] = self.choose_all([turn])
        if isinstance(choice, Exception):
            raise choice
        return choice

    def choose_all(self, turns: Sequence[Turn]) -> list[Choice | Exception]:
        """Like `choose` for several sessions, each once, in one pass of the head."""
        results: dict[bytes, Choice | Exception] = {}
        rows: list[torch.Tensor] = []
        positions: list[int] = []
        valid: list[Turn] = []
        for turn in turns:
            try:
                answer = self._validate_turn(turn)
            except P2PChainError as error:
                results[turn.session_id] = error
                continue
            count = 1 + len(turn.drafts)
            positions += range(answer.position, answer.position + count)
            rows.append(turn.hidden[:, -count:])
            valid.append(turn)
        if valid:
            logits = self.ends.finish(torch.cat(rows, dim=1), positions)
            parts = logits.split([1 + len(turn.drafts) for turn in valid])
            for turn, part in zip(valid, parts, strict=True):
                try:
                    results[turn.session_id] = self._choose(turn, part)
                except P2PChainError as error:
                    results[turn.session_id] = error
        return [results[turn.session_id] for turn in turns]

    def _validate_turn(self, turn: Turn) -> _Answer:
        answer, hidden = self._find(turn.session_id), turn.hidden
        if answer.is_finished:
            raise BadRequest("this answer is finished")
        if hidden.ndim != 3 or hidden.shape != (1, hidden.shape[1], self.hidden_size):
            raise BadAnswer(f"hidden states of shape {tuple(hidden.shape)}")
        if not hidden.shape[1] or not bool(torch.isfinite(hidden).all()):
            raise BadAnswer("hidden states with NaN or infinity")
        if len(turn.drafts) >= hidden.shape[1]:
            raise BadRequest(f"{len(turn.drafts)} guesses in {hidden.shape[1]} rows")
        return answer

    def _choose(self, turn: Turn, logits: torch.Tensor) -> Choice:
        """Choose from logits (1 + guesses, V)."""
        answer = self._find(turn.session_id)
        rows = logits.cpu().numpy()
        # Not torch's: it takes a quarter of a millisecond for a row.
        if not np.isfinite(rows).all():
            raise BadAnswer("hidden states that give NaN or infinity as logits")
        tokens: list[SampledToken] = []
        for scores, guess in zip(rows, (*turn.drafts, None), strict=True):
            token_id = choose_token(scores, answer.params, answer.prompt, answer.tokens)
            logprobs = self._explain(scores, answer.params, token_id)
            tokens.append(replace(self._accept(answer, token_id), logprobs=logprobs))
            if token_id != guess or answer.is_finished:
                break
        if answer.drafter is not None:
            answer.drafter.push([token.token_id for token in tokens])
        elif turn.wanted:
            answer.drafter = self._open_drafter(turn.session_id, answer)
        return Choice(tuple(tokens), self._draft(answer, turn.wanted))

    def _draft(self, answer: _Answer, wanted: int) -> tuple[int, ...]:
        """Return guesses of what follows, at most `wanted`."""
        if answer.drafter is None or answer.is_finished:
            return ()
        # No more than the answer can still have behind the token that is certain.
        left = answer.params.max_tokens - len(answer.tokens)
        left = min(left, self.max_positions - answer.position - 1) - 1
        return tuple(answer.drafter.draft(max(0, min(wanted, left))))

    def _open_drafter(self, session_id: bytes, answer: _Answer) -> Drafter:
        said = [*answer.prompt, *answer.tokens]
        from_text = NgramDrafter(said)
        mode, model = answer.params.speculation, None
        if self.draft_source is not None and mode is not Speculation.NGRAM:
            model = self.draft_source.open(session_id, said)
        if model is None:
            return from_text
        return model if mode is Speculation.DRAFT else FirstDrafter(from_text, model)

    def _explain(
        self, scores: NDArray[np.float32], params: SamplingParams, token_id: int
    ) -> tuple[TokenLogprob, ...]:
        """Return how likely the token and others were, if that was asked for."""
        if params.logprobs is None:
            return ()
        return tuple(
            TokenLogprob(each, self.tokenizer.decode([each]), logprob)
            for each, logprob in compute_logprobs(scores, token_id, params.logprobs)
        )

    def _accept(self, answer: _Answer, token_id: int) -> SampledToken:
        answer.tokens.append(token_id)
        params = answer.params
        is_eos = token_id in self.tokenizer.eos_ids and not params.ignore_eos
        text = "" if is_eos else answer.scanner.push(answer.detokenizer.push(token_id))
        total = len(answer.prompt) + len(answer.tokens)
        is_full = len(answer.tokens) >= params.max_tokens or total >= self.max_positions
        if (is_eos or is_full) and not answer.scanner.is_stopped:
            text += answer.scanner.push(answer.detokenizer.flush())
        is_stop = is_eos or answer.scanner.is_stopped
        answer.is_finished = is_stop or is_full
        if answer.is_finished:
            text += answer.scanner.flush()
        reason = "stop" if is_stop else "length" if is_full else None
        return SampledToken(token_id, text, reason)

    def _find(self, session_id: bytes) -> _Answer:
        answer = self._answers.get(session_id)
        if answer is None:
            raise UnknownSession("no such session is open at this requester")
        return answer

    def _validate_ids(self, token_ids: Sequence[int]) -> None:
        vocab_size = self.part.config.vocab_size
        if not all(0 <= token_id < vocab_size for token_id in token_ids):
            raise BadPrompt(f"token ids outside the model's {vocab_size}")
