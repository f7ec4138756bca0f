"""Tiny random models of many families, saved as people find them on disk."""

import json
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from inference.certification.tiny_config import build_tiny_config

VOCAB = 300
LAYERS = 4
HIDDEN = 32
POSITIONS = 96
EOS = 0

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
_GATED = {**_SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
_HEADS = {**_GATED, "head_dim": 8}
_GPT = {
    "vocab_size": VOCAB,
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_positions": POSITIONS,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
}

FAMILIES = {
    "llama": lambda: hf.LlamaConfig(**_GATED),
    "llama-tied": lambda: hf.LlamaConfig(**_GATED, tie_word_embeddings=True),
    "qwen2": lambda: hf.Qwen2Config(**_GATED),
    "qwen2-window": lambda: hf.Qwen2Config(
        **_GATED, use_sliding_window=True, sliding_window=6, max_window_layers=2
    ),
    "mistral": lambda: hf.MistralConfig(**_GATED, sliding_window=6),
    "gpt2": lambda: hf.GPT2Config(**_GPT),
    "qwen3": lambda: hf.Qwen3Config(**_HEADS),
    "phi3": lambda: hf.Phi3Config(**_GATED),
    "gemma": lambda: hf.GemmaConfig(**_HEADS),
    "gemma2": lambda: hf.Gemma2Config(**_HEADS, sliding_window=6),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **_HEADS,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**_SIZES, intermediate_size=48),
    "opt": lambda: hf.OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=HIDDEN),
    "opt-projected": lambda: hf.OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=16),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=LAYERS, n_head=4, eos_token_id=EOS
    ),
    "falcon": lambda: hf.FalconConfig(**_SIZES),
    "falcon-alibi": lambda: hf.FalconConfig(**_SIZES, alibi=True),
    "mixtral": lambda: hf.MixtralConfig(**_GATED, num_local_experts=4),
    "granite": lambda: hf.GraniteConfig(
        **_GATED, embedding_multiplier=3.0, logits_scaling=2.0
    ),
    "cohere": lambda: hf.CohereConfig(**_GATED),
    "gpt-oss": lambda: hf.GptOssConfig(
        **_HEADS, num_local_experts=4, num_experts_per_tok=2, sliding_window=6
    ),
    "ctrl": lambda: hf.CTRLConfig(**_GPT, dff=48),
    "gptj": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "mpt": lambda: hf.MptConfig(
        vocab_size=VOCAB, d_model=HIDDEN, n_layers=LAYERS, n_heads=4
    ),
    "bert": lambda: hf.BertConfig(**_SIZES, intermediate_size=48, is_decoder=True),
    "deepseek-v4": lambda: build_tiny_config(hf.DeepseekV4Config()),
    "mamba": lambda: hf.MambaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, state_size=4
    ),
}
"""Configurations by name; all have `LAYERS` layers."""

MUST_BE_EXACT = ("llama", "llama-tied", "qwen2", "qwen2-window", "mistral", "gpt2")


def save_model(
    directory: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int | None = None,
    tokenizer: bool = False,
) -> Path:
    """Save a random model in Hugging Face layout and return its directory."""
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for parameter in model.parameters():
        # Wide enough that a wrong mask or position shows in the first digits.
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1
    model = model.to(dtype)
    sizes = {} if shard_bytes is None else {"max_shard_size": shard_bytes}
    model.save_pretrained(directory, **sizes)
    if tokenizer:
        save_tokenizer(directory)
    return directory


def save_encoder(directory: Path) -> Path:
    """Save a random BERT with what says that its vectors are normalised means."""
    torch.manual_seed(1)
    sizes = _SIZES | {"max_position_embeddings": 256}
    model = hf.BertModel(hf.BertConfig(**sizes, intermediate_size=48))
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1
    model.save_pretrained(directory)
    save_tokenizer(directory)
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{name}"}
        for path, name in (
            ("", "Transformer"),
            ("1_Pooling", "Pooling"),
            ("2_Normalize", "Normalize"),
        )
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    pooling = directory / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return directory


def load_reference(directory: Path) -> hf.PreTrainedModel:
    """Return the undivided model, loaded by the library alone.

    The library maps weights from the file at addresses that are not aligned, and
    kernels then add up in another order.  Copies in aligned memory make the
    comparison one of the split alone.
    """
    model = hf.AutoModelForCausalLM.from_pretrained(directory).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def save_tokenizer(directory: Path) -> None:
    """Save a byte-level BPE tokenizer with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["the layers of a model are spread over nodes"], trainer)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", bos_token="<|end|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer.save_pretrained(directory)


def edit_config(directory: Path, **changes: object) -> None:
    """Change entries of config.json; None deletes."""
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
