"""
The same architecture, a thousand times smaller: configurations for the split probe.

Every setting that makes a model large is set to a size of a few numbers; everything
that makes it behave in its own way (kinds of layers, norms, position encodings,
multipliers, caps, experts per token) stays as it is in the model's own config.json.
Windows become so short that a probe of twenty tokens runs out of them.

The settings are found by name.  A family whose sizes depend on each other in a way of
its own has a line in `_OWN`; a model that still cannot be built small is refused by
the probe, with the library's words.
"""

from typing import Any

from transformers import PreTrainedConfig

from inference.errors import UnsupportedModel

LAYERS = 4
HIDDEN = 32
VOCAB = 300
POSITIONS = 96
WINDOW = 6
"""Of sliding and chunked attention: shorter than the probe's prefill."""
HEADS = 4
HEAD_SIZE = HIDDEN // HEADS

_SIZES: dict[str, int] = {
    # Layers
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    "max_window_layers": 2,
    # Widths
    **dict.fromkeys(
        (
            "hidden_size",
            "n_embd",
            "d_model",
            "dim",
            "embedding_size",
            "word_embed_proj_dim",
        ),
        HIDDEN,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "ffn_hidden_size",
            "hidden_dim",
            "n_inner",
            "dff",
        ),
        48,
    ),
    "expert_ffn_hidden_size": 16,
    "moe_intermediate_size": 16,
    "moe_ffn_hidden_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "dense_intermediate_size": 48,
    "intermediate_size_mlp": 48,
    # Heads
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "swa_num_attention_heads",
            "num_attn_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(
        ("head_dim", "global_head_dim", "swa_head_dim", "attention_head_dim"),
        HEAD_SIZE,
    ),
    "rotary_dim": 4,
    # Latent attention
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": HEAD_SIZE,
    "qk_rope_head_dim": 4,
    "qk_head_dim": HEAD_SIZE + 4,
    "v_head_dim": HEAD_SIZE,
    "swa_v_head_dim": HEAD_SIZE,
    "index_n_heads": HEADS,
    "index_head_dim": HEAD_SIZE,
    "index_topk": 4,
    # Experts
    **dict.fromkeys(
        (
            "num_local_experts",
            "num_experts",
            "n_routed_experts",
            "moe_num_experts",
            "zero_expert_num",
        ),
        HEADS,
    ),
    **dict.fromkeys(
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_topk",
            "moe_top_k",
            "moe_k",
            "experts_top_k",
        ),
        2,
    ),
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_layer_start_index": 1,
    "num_dense_layers": 1,
    # Recurrent and convolutional layers
    "state_size": 4,
    "ssm_state_size": 4,
    "mamba_d_state": 4,
    "mamba_n_heads": HEADS,
    "mamba_num_heads": HEADS,
    "mamba_d_head": 2 * HIDDEN // HEADS,
    "mamba_head_dim": 2 * HIDDEN // HEADS,
    "mamba_d_ssm": 2 * HIDDEN,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "n_groups": 1,
    "chunk_size": 4,
    "conv_kernel": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": HEADS,
    "linear_key_head_dim": HEAD_SIZE,
    "linear_value_head_dim": HEAD_SIZE,
    # Words and positions
    "vocab_size": VOCAB,
    "vocab_size_per_layer_input": VOCAB,
    **dict.fromkeys(
        (
            "max_position_embeddings",
            "n_positions",
            "max_seq_len",
            "max_sequence_length",
            "seq_length",
            "n_ctx",
        ),
        POSITIONS,
    ),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), WINDOW),
    "local_attention": 2 * WINDOW,
}
"""Settings that make a model large, by the names that the library gives them."""

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

_LATENT = {"num_key_value_heads": HEADS, "head_dim": 4}
"""Latent attention has as many keys as queries; `head_dim` is its rotary part."""

_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 2]],
        "attention_layers": ["global", "local"] * 2,
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": HEADS, "head_dim": 2 * HIDDEN // HEADS},
    "xlnet": {"d_head": HEAD_SIZE},
    "zaya": {"num_experts_per_tok": 1},
}
"""Sizes that depend on each other, by model type."""

_WANTED = {
    "head_dim": HEAD_SIZE,
    "num_key_value_heads": HEADS,
    "num_experts_per_tok": 2,
    "n_routed_experts": HEADS,
    "n_shared_experts": 1,
}
"""Settings that some classes need though their default is to have none."""

_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")
"""Lists with one entry per layer."""


def build_tiny_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of a tiny model of the same architecture.

    Raises:
        UnsupportedModel: Its class does not accept these sizes; says why.
    """
    kind = type(config)
    settings = config.to_dict()
    for name in _TOKEN_IDS:
        if settings.get(name) is not None:
            settings[name] = 0
    for name, size in _SIZES.items():
        if isinstance(settings.get(name), int):
            settings[name] = size
    if settings.get("kv_lora_rank") is not None:
        settings |= _LATENT
    for name, size in _WANTED.items():
        if name in settings and settings[name] is None:
            settings[name] = size
    for name in _PER_LAYER:
        if isinstance(settings.get(name), list):
            settings[name] = _shorten(settings[name])
    settings |= _OWN.get(config.model_type, {})
    for name in ("model_type", "transformers_version", "architectures", "dtype"):
        settings.pop(name, None)
    try:
        return kind(**settings)
    except Exception as error:
        # Every configuration class checks itself in its own way.
        raise UnsupportedModel(f"no small model of its class: {error}") from error


def _shorten(kinds: list[Any]) -> list[Any]:
    """Return `LAYERS` entries in which every kind that occurs has a place."""
    distinct = list(dict.fromkeys(map(str, kinds)))
    by_name = {str(kind): kind for kind in kinds}
    return [by_name[distinct[i % len(distinct)]] for i in range(LAYERS)]
