"""
Text to tokens and back, by the model's own tokenizer and chat template.

Only local files are read; code that comes with a model is never run.  A template is
jinja2 in the library's sandbox.  A model without one (GPT-2) gets a plain transcript,
so that chat requests have some meaning for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from inference.errors import BadPrompt, BadWeights
from inference.sampling.params import ChatMessage
from inference.weights.weights import read_json

MAX_PROMPT_CHARACTERS = 1024 * 1024
"""A quarter of a million tokens of four characters; bounds what one request costs."""


class Tokenizer:
    """A model's tokenizer."""

    def __init__(self, directory: Path) -> None:
        """Load it from a model directory.

        Raises:
            BadWeights: There is none, or it is damaged.
        """
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            # The library lets errors of every kind through here.
            raise BadWeights(f"the tokenizer cannot be loaded: {error}") from error
        self.max_tokens: int = self._tokenizer.model_max_length
        """Of a text, by the tokenizer's own word; often without an end."""
        self.eos_ids = _read_eos_ids(directory, self._tokenizer.eos_token_id)

    def get_vocabulary(self) -> dict[str, int]:
        """Return the ids of all tokens."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        return vocabulary

    def encode_text(self, text: str) -> list[int]:
        """Return the token ids of plain text.

        Raises:
            BadPrompt: Too long, or nothing in it.
        """
        _validate_length(len(text))
        return _validate_ids(self._tokenizer(text, verbose=False)["input_ids"])

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the token ids of a conversation that the model is to continue.

        Raises:
            BadPrompt: Too long, empty, or refused by the model's template.
        """
        if not messages:
            raise BadPrompt("no messages")
        _validate_length(sum(len(message.content) for message in messages))
        if not self._tokenizer.chat_template:
            return self.encode_text(build_transcript(messages))
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.content} for m in messages],
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            # The template is a program of the model's author; it may raise anything.
            raise BadPrompt(f"the model's template refuses this: {error}") from error
        # The template has written the special tokens already.
        encoding = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return _validate_ids(encoding["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def build_transcript(messages: Sequence[ChatMessage]) -> str:
    """Return a conversation as plain text, for models without a template."""
    lines = [f"{message.role}: {message.content}" for message in messages]
    return "\n".join([*lines, "assistant:"])


def _validate_length(characters: int) -> None:
    if characters > MAX_PROMPT_CHARACTERS:
        raise BadPrompt(f"{characters} characters; at most {MAX_PROMPT_CHARACTERS}")


def _validate_ids(token_ids: list[int]) -> list[int]:
    if not token_ids:
        raise BadPrompt("no tokens in the prompt")
    return list(token_ids)


def _read_eos_ids(directory: Path, fallback: int | None) -> frozenset[int]:
    """Return the ids that end an answer, as the library's `generate` finds them."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        if isinstance(value, int):
            return frozenset((value,))
        if isinstance(value, list) and all(isinstance(item, int) for item in value):
            return frozenset(value)
    return frozenset(() if fallback is None else (fallback,))
