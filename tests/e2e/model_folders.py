"""Tiny random models as people find them on disk, with a tokenizer one can read back.

Every token but the end of text is one character, so a text tells its token ids.
"""

import json
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END = 0
CHARACTERS = [chr(code) for code in range(33, 127)]
VOCABULARY = {"<|end|>": END} | {c: i for i, c in enumerate(CHARACTERS, start=1)}
HIDDEN = 32
POSITIONS = 96

_SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
}

FAMILIES = {
    "llama": lambda layers: hf.LlamaConfig(**_SIZES, num_hidden_layers=layers),
    "qwen2": lambda layers: hf.Qwen2Config(
        **_SIZES, num_hidden_layers=layers, tie_word_embeddings=True
    ),
    "mistral": lambda layers: hf.MistralConfig(
        **_SIZES, num_hidden_layers=layers, sliding_window=6
    ),
    "gpt2": lambda layers: hf.GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=HIDDEN,
        n_layer=layers,
        n_head=4,
        n_positions=POSITIONS,
        bos_token_id=END,
        eos_token_id=END,
    ),
}
"""Configurations by family, for a number of layers."""


def save_model(
    directory: Path, family: str, layers: int, positions: int = POSITIONS
) -> Path:
    """Save a random model with its tokenizer and return the directory."""
    torch.manual_seed(layers)
    config = FAMILIES[family](layers)
    config.max_position_embeddings = positions
    model = hf.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        # Wide enough that a wrong layer shows in the first token.
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1
    model.save_pretrained(directory)
    _save_tokenizer(directory)
    return directory


def save_wide_model(directory: Path) -> Path:
    """Save a model of four layers that computes long and remembers little.

    Its last two layers add little to what comes in, so that the first two alone guess
    well what it says (`save_first_layers`).
    """
    torch.manual_seed(3)
    sizes = _SIZES | {
        "hidden_size": 128,
        "intermediate_size": 8192,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
    }
    config = hf.LlamaConfig(**sizes, num_hidden_layers=4)
    model = hf.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1
    for layer in model.model.layers[2:]:
        layer.self_attn.o_proj.weight.data *= 0.3
        layer.mlp.down_proj.weight.data *= 0.3
    model.save_pretrained(directory)
    _save_tokenizer(directory)
    return directory


def save_first_layers(directory: Path, whole: Path, layers: int) -> Path:
    """Save a model's first layers as a model of their own; return the directory."""
    model = hf.AutoModelForCausalLM.from_pretrained(whole)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(directory)
    _save_tokenizer(directory)
    return directory


def save_encoder(directory: Path) -> Path:
    """Save a random BERT whose vectors are normalised means; return the directory."""
    torch.manual_seed(1)
    sizes = _SIZES | {"max_position_embeddings": 256, "num_hidden_layers": 4}
    del sizes["num_key_value_heads"]
    model = hf.BertModel(hf.BertConfig(**sizes))
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.3 if parameter.ndim > 1 else 1 + noise * 0.1
    model.save_pretrained(directory)
    _save_tokenizer(directory)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return directory


def _save_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>"
    ).save_pretrained(directory)


def generate(directory: Path, prompt: list[int], tokens: int) -> list[int]:
    """Return the greedy answer of the undivided model, by the library alone."""
    model = hf.AutoModelForCausalLM.from_pretrained(directory).eval()
    for parameter in model.parameters():
        # The file's mapping is not aligned, and kernels then add in another order.
        parameter.data = parameter.data.clone()
    answer = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
    )
    return answer[0, len(prompt) :].tolist()


def spell(token_ids: list[int]) -> str:
    """Return the text of tokens; the end of text has none."""
    return "".join(CHARACTERS[token - 1] for token in token_ids if token != END)
