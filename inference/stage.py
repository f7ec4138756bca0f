"""
The stage engine: forward passes through some layers, a key-value cache per session.

One sequence per session, one step at a time.  A step names its first position: the
next one continues the session, an earlier one first rolls it back, so a step that is
repeated gives the same bytes again.  Memory is admitted by the formula of memory.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from inference.errors import (
    BadAnswer,
    BadRequest,
    Busy,
    UnknownSession,
    UnsupportedModel,
    WrongPosition,
)
from inference.ghost_cache import GhostCache
from inference.memory import DEFAULT_KV_BUDGET_BYTES, validate_room
from inference.split import Part, load_stage

MAX_SESSIONS = 256
"""One decoding session per millisecond of a fast step; more only wait."""
MAX_SESSION_ID_BYTES = 32
_TEST_TOKENS = 3


@dataclass(slots=True)
class _Session:
    cache: GhostCache
    max_positions: int


class StageEngine:
    """The layers of one stage and the sessions that run through them."""

    def __init__(
        self, part: Part, *, kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES
    ) -> None:
        """Take a loaded part and test it with a real forward pass.

        Raises:
            UnsupportedModel: The test did not give what it must.
        """
        self.part = part
        self.hidden_size: int = part.config.hidden_size
        self.position_bytes = 0
        """Bytes that one position of one session takes; measured by the self-test."""
        self._kv_budget_bytes = kv_budget_bytes
        self._sessions: dict[bytes, _Session] = {}
        self.self_test()

    @classmethod
    def load(
        cls,
        directory: Path,
        layers: range,
        *,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET_BYTES,
    ) -> "StageEngine":
        """Load `layers` from a model directory; reads only their weights.

        Raises:
            BadWeights, UnsupportedModel: Says why.
        """
        return cls(load_stage(directory, layers), kv_budget_bytes=kv_budget_bytes)

    def open_session(self, session_id: bytes, max_positions: int) -> None:
        """Admit a session of at most `max_positions` tokens.

        Raises:
            BadRequest: The name is in use or not a name, or no positions.
            Busy: No memory for it now.
        """
        if not 0 < len(session_id) <= MAX_SESSION_ID_BYTES:
            raise BadRequest(f"a session's name has 1 to {MAX_SESSION_ID_BYTES} bytes")
        if session_id in self._sessions:
            raise BadRequest("a session of that name is open")
        if max_positions < 1:
            raise BadRequest("a session needs at least one position")
        if len(self._sessions) >= MAX_SESSIONS:
            raise Busy(f"{MAX_SESSIONS} sessions are open")
        open_positions = sum(s.max_positions for s in self._sessions.values())
        validate_room(
            open_positions, max_positions, self.position_bytes, self._kv_budget_bytes
        )
        cache = GhostCache(self.part.config, self.part.layers)
        self._sessions[session_id] = _Session(cache, max_positions)

    def close_session(self, session_id: bytes) -> None:
        """Forget a session; closing one that is not open does nothing."""
        self._sessions.pop(session_id, None)

    def forward(
        self, session_id: bytes, position: int, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Run (1, T, H) hidden states of T tokens from `position` on.

        An earlier position than the session's next one rolls it back first.

        Returns:
            (1, T, H), on the way to the next stage.

        Raises:
            UnknownSession, WrongPosition: The session cannot take this step.
            BadAnswer: The input is not (1, T, H) in the model's dtype.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSession("no such session is open in this stage")
        tokens = hidden.shape[1] if hidden.ndim == 3 else 0
        if not tokens or hidden.shape != (1, tokens, self.hidden_size):
            raise BadAnswer(f"hidden states of shape {tuple(hidden.shape)}")
        if hidden.dtype != self.part.dtype:
            raise BadAnswer(f"hidden states in {hidden.dtype}")
        if not 0 <= position <= session.cache.length:
            raise WrongPosition(
                f"position {position}; the next one is {session.cache.length}"
            )
        if position + tokens > session.max_positions:
            raise WrongPosition(
                f"{position + tokens} positions; opened for {session.max_positions}"
            )
        if position < session.cache.length:
            session.cache.truncate(position)
        return self._run(session.cache, hidden)

    def self_test(self) -> None:
        """Run prefill, step and rollback on the real weights.

        Raises:
            UnsupportedModel: Not finite, of a wrong shape, or not repeatable.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (1, _TEST_TOKENS + 1, self.hidden_size)
        hidden = torch.randn(shape, generator=generator).to(self.part.dtype)
        cache = GhostCache(self.part.config, self.part.layers)
        try:
            first = self._run(cache, hidden[:, :_TEST_TOKENS])
            step = self._run(cache, hidden[:, _TEST_TOKENS:])
            cache.truncate(_TEST_TOKENS)
            again = self._run(cache, hidden[:, _TEST_TOKENS:])
        except Exception as error:
            # Whatever the model's own code raises, the stage is not fit to serve.
            raise UnsupportedModel(f"the self-test failed: {error}") from error
        for name, output, length in (
            ("prefill", first, _TEST_TOKENS),
            ("step", step, 1),
        ):
            if output.shape != (1, length, self.hidden_size):
                raise UnsupportedModel(f"{name} gives shape {tuple(output.shape)}")
            if not bool(torch.isfinite(output).all()):
                raise UnsupportedModel(f"{name} gives NaN or infinity")
        if not torch.equal(step, again):
            raise UnsupportedModel("a repeated step gives another result")
        self.position_bytes = cache.measure_position_bytes()

    def _run(self, cache: GhostCache, hidden: torch.Tensor) -> torch.Tensor:
        start = cache.length
        tokens = hidden.shape[1]
        position_ids = torch.arange(start, start + tokens).unsqueeze(0)
        try:
            with torch.inference_mode():
                output = self.part.run_layers(
                    hidden, position_ids=position_ids, past_key_values=cache
                )
        except BaseException:
            # Some layers have taken the step and some have not: take it back.
            cache.truncate(start)
            raise
        cache.advance(tokens)
        return output
