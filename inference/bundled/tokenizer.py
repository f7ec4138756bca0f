"""The bundled model's tokenizer: byte-level BPE learned from the corpus, and its
chat template."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1024
"""Entries at most: 256 bytes, the marks below, and merges."""

MAX_POSITIONS = 2048
"""Longest sequence in tokens; rotary positions make a larger table cost nothing."""

BEGIN = "<|begin|>"
END = "<|end|>"
PAD = "<|pad|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
MARKS = [PAD, BEGIN, END, SYSTEM, USER, ASSISTANT]
"""Special tokens, in the order of their ids.  END closes every message."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- set role = "system" if message.role == "developer" else message.role %}
    {%- if role not in ["system", "user", "assistant"] %}
        {{- raise_exception("unknown role: " ~ message.role) }}
    {%- endif %}
    {{- "<|" ~ role ~ "|>" }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- else %}
        {%- for part in message.content or [] if part.type == "text" %}
            {{- part.text | trim }}
        {%- endfor %}
    {%- endif %}
    {{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|assistant|>" }}
{%- endif %}
"""
"""Any number of turns; content is a string or a list of text parts, as in the
OpenAI API."""


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts` and return the finished tokenizer.

    The same texts in the same order give the same tokenizer.
    """
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            min_frequency=2,
            special_tokens=MARKS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
    )
