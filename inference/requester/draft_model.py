"""
Guesses of a small model, whole, beside the ends of a large one.

It has to share the large one's vocabulary, for what it guesses are token ids.  It sees
the last tokens only, up to two windows of them: a guess need not be good, and a long
prompt would keep the worker from others' tokens.  What it has computed of guesses that
were right is kept.
"""

from collections.abc import Sequence
from pathlib import Path

from inference.engine.stage import StageEngine
from inference.errors import Busy, UnsupportedModel
from inference.model.tokenizer import Tokenizer
from inference.requester.ends import Ends
from inference.weights.model_info import read_model_shape

WINDOW_TOKENS = 256
"""A pass over them takes about as long as ten over one."""
CACHE_BYTES = 256 * 1024 * 1024
"""Of all sessions' keys and values; who finds no room gets no guesses of the model."""


class DraftModel:
    """A decoder in one piece, greedy."""

    def __init__(self, ends: Ends, stage: StageEngine) -> None:
        """Take the loaded parts."""
        self.ends = ends
        self.stage = stage
        self.window = min(WINDOW_TOKENS, ends.max_positions // 2)

    @classmethod
    def load(cls, directory: Path, tokenizer: Tokenizer) -> "DraftModel":
        """Load all of a model.

        Args:
            directory: Of the small model.
            tokenizer: Of the large one.

        Raises:
            BadWeights: Files are missing or damaged.
            UnsupportedModel: It has another vocabulary, or cannot forget guesses.
        """
        shape = read_model_shape(directory)
        if shape.is_encoder:
            raise UnsupportedModel("the model that guesses is an encoder")
        if Tokenizer(directory).get_vocabulary() != tokenizer.get_vocabulary():
            raise UnsupportedModel("the model that guesses has another vocabulary")
        stage = StageEngine.load(
            directory,
            range(shape.layers),
            kv_budget_bytes=CACHE_BYTES,
            max_positions=shape.max_positions,
        )
        if stage.cost.state_bytes:
            raise UnsupportedModel("the model that guesses keeps states")
        return cls(Ends.load(directory, shape.max_positions), stage)

    def open(
        self, session_id: bytes, token_ids: Sequence[int]
    ) -> "ModelDrafter | None":
        """Begin to guess what follows; None where there is no room.

        Args:
            session_id: Names the answer.
            token_ids: So far.
        """
        try:
            self.stage.open_session(session_id, 2 * self.window)
        except Busy:
            return None
        return ModelDrafter(self, session_id, token_ids)

    def close(self, session_id: bytes) -> None:
        """Forget an answer; harmless where none is known."""
        self.stage.close_session(session_id)


class ModelDrafter:
    """Guesses for one answer.

    Args:
        model: Computes.
        session_id: Names the answer.
        token_ids: Where it begins.
    """

    def __init__(
        self, model: DraftModel, session_id: bytes, token_ids: Sequence[int]
    ) -> None:
        self._model = model
        self._session_id = session_id
        self._tokens = list(token_ids[-model.window :])
        self._computed: list[int] = []
        """Tokens whose positions the stage has."""

    def push(self, token_ids: Sequence[int]) -> None:
        """Note tokens that were said."""
        self._tokens += token_ids

    def draft(self, count: int) -> list[int]:
        """Return the likeliest tokens that follow, at most a window of them."""
        count = min(count, self._model.window)
        if len(self._tokens) + count > 2 * self._model.window:
            self._tokens = self._tokens[-self._model.window :]
            self._computed = []
        known = 0
        # The last token has to be computed again: what follows it is asked for.
        for said, computed in zip(self._tokens[:-1], self._computed, strict=False):
            if said != computed:
                break
            known += 1
        drafts: list[int] = []
        position, ids = known, self._tokens[known:]
        while len(drafts) < count:
            drafts.append(self._step(position, ids))
            position, ids = position + len(ids), drafts[-1:]
        if drafts:
            self._computed = [*self._tokens, *drafts[:-1]]
        return drafts

    def _step(self, position: int, token_ids: list[int]) -> int:
        """Return the likeliest token after some more."""
        ends, last = self._model.ends, position + len(token_ids) - 1
        hidden = ends.look_up(position, token_ids)
        hidden = self._model.stage.forward(self._session_id, position, hidden)
        return int(ends.finish(hidden[:, -1:], [last])[0].argmax())
