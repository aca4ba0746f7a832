"""A tiny random model of every model type that a ``LanguageModel`` can take: its own default config, every size made small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

VOCABULARY, LONGEST, LARGEST = 64, 48, 5_000_000

# What a config's whole numbers become: the first pattern that fits the whole name. A name that fits none keeps its value.
SIZES: list[tuple[str, Any]] = [
    (r".*(image|video|audio|vision|speech|boi|eoi|boa|eoa).*_(token_id|token_index)", 63),
    (r"pad_token_id|.*_pad_token_id|decoder_start_token_id", 0),
    (r".*bos_token_id|.*eos_token_id|.*sep_token_id|.*cls_token_id|.*eod_token_id", 1),
    (r".*_token_id|.*_token_index|forced_.*", 2),
    (r"vocab_size|vocab_size_.*|(src|tgt|decoder)_vocab_size|.*_vocab_size", VOCABULARY),
    (r"type_vocab_size", 2),
    (r".*moe_.*layer_(start|end)_index|first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"(num|n)_?kv_?shared.*|num_kv_shared_layers|num_nextn_predict_layers|num_mtp.*", 0),
    (r"(.*_)?num_(hidden_)?layers|n_layers?|(encoder|decoder)_layers|num_(encoder|decoder|transformer|blocks)_layers|num_blocks|depth", 3),
    (r"num_sparse_(encoder|decoder)_layers", 1),
    (r"mamba_(n_heads|num_heads)|n_mamba_heads", 8),
    (r"(.*_)?num_key_value_heads|n_kv_heads|kv_n_heads|num_kv_heads|multi_query_group_num|num_query_groups", 2),
    (r"(.*_)?(num_attention_heads|attention_heads|num_heads|n_heads?|num_(encoder|decoder)_attention_heads)|num_(query|linear).*heads", 4),
    (r"linear_num_(key|value)_heads|.*num_v_heads|.*num_k_heads", 4),
    (r"qk_head_dim", 16),
    (r"(.*_)?(head_dim|key_head_dim|value_head_dim|v_head_dim|qk_nope_head_dim|qk_rope_head_dim|d_kv|attention_head_size)", 8),
    (r"(q|kv|o)_lora_rank|.*_rank", 16),
    (r"(num_|n_)?(local_|routed_|n_routed_|num_routed_)*experts|num_local_experts|moe_num_experts|n_routed_experts", 4),
    (r"(moe_)?top_?k|num_experts_per_tok(en)?|moe_k|num_selected_experts|moe_topk|top_k_experts|num_active_experts", 2),
    (r"(n|num|moe_num)_shared_experts|n_group|topk_group", 1),
    (r"index_topk|index_topk_blocks", 4),
    (r"sliding_window(_size)?|attention_window(_size)?|local_attention|window_size|attention_chunk_size|local_attention_window_len", 4),
    (r"(max|n)_position(_embedding)?s?|max_(position_embeddings|target_positions|source_positions|sequence_length|seq_len|2d_.*)", LONGEST),
    (r"(n_ctx|seq_length|max_(encoder|decoder)_position_embeddings|context_length|n_positions|t2u_max_position_embeddings)", LONGEST),
    (r"(mamba_|ssm_)?(d_state|state_size)", 8),
    (r"mamba_(d_head|head_dim|headdim)", 8),
    (r"(mamba_)?chunk_size|mamba_chunk_size", 4),
    (r"(mamba_)?dt_rank|time_step_rank", 4),
    (r"hidden_size_per_layer_input|(input_|output_)?embedding_size|embed_dim|d_embed|word_embed_proj_dim|entity_emb_size", 32),
    (r".*(hidden_size|d_model|n_embd|model_dim|hidden_dim|lru_width|d_latents|attention_hidden_size|backbone_hidden_size)|dim", 32),
    (r".*(intermediate_size.*|ffn_dim|d_ff|dff|dim_ff|d_inner|n_inner|ffn_hidden_size|feed_forward_size|ffn_intermediate.*|mlp_dim)", 48),
    (r"(num_|relative_attention_num_)buckets|position_bias_num_buckets", 8),
    (r"rotary_dim", 4),
]

_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": LONGEST,
}  # fmt: skip

_FULL_HEADS: dict[str, dict[str, Any]] = {
    name: {"num_key_value_heads": 4}
    for name in """axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu esmc
    dots3_note_text""".split()
}

# Where sizes alone do not do: added to what the rules say, for a model type.
BY_HAND: dict[str, dict[str, Any]] = {
    **_FULL_HEADS,
    "bailing_hybrid": {"num_expert_group": 1, "layer_group_size": 2, "layer_types": None, "num_key_value_heads": 4},
    "bamba": {"mamba_expand": 2, "attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2},
    "dory": {"num_hidden_layers": 3, "layer_types": None, "n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"intermediate_size": [48] * 3, "activation_sparsity_pattern": [0.95, 0.0, 0.0]},
    "funnel": {"block_sizes": [2, 2], "block_repeats": None, "num_decoder_layers": 2},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention", "linear_attention"], "num_key_value_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 16, "head_dim": 8, "num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "ministral": {"head_dim": 8},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32},
    "mpnet": {"pad_token_id": 1, "relative_attention_num_buckets": 32},
    "neomme": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 1, "mamba_num_heads": 8, "mamba_head_dim": 8},
    "perceiver": {"num_self_attends_per_block": 3, "num_latents": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [6, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh", "local"],
        "local_attn_chunk_length": 4, "lsh_attn_chunk_length": 4, "hash_seed": 7,
    },
    "xlm": {"emb_dim": 32, "n_words": 64},
    "flaubert": {"emb_dim": 32, "n_words": 64},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "zamba": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64,
        "attention_head_dim": 16, "num_key_value_heads": 4, "n_mamba_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_headdim": 8, "attention_hidden_size": 64,
        "attention_head_dim": 16, "num_key_value_heads": 4, "num_query_groups": 4,
    },
    "ReformerForMaskedLM": {"is_decoder": False},
    "zaya": {"num_experts_per_tok": 1},
    "encoder-decoder": {"decoder": {**_BERT, "model_type": "bert", "is_decoder": True, "add_cross_attention": True}},
    "esm": {"vocab_size": 64, "position_embedding_type": "rotary", "pad_token_id": 0, "mask_token_id": 2},
}

# Model types that are left out, and why.
LEFT_OUT: dict[str, str] = {}
# Classes that are left out, and why.
LEFT_OUT = {
    "BltForCausalLM": "reads bytes in patches that a model of its own cuts",
    "Dots3NoteForCausalLM": "its default config has an audio tower that no option makes small",
    **dict.fromkeys(("Gemma3nForConditionalGeneration",), "its vision tower is another package's"),
    **dict.fromkeys(("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"), "drafts for another model, from its states"),
    **dict.fromkeys(("MusicgenForCausalLM", "MusicgenMelodyForCausalLM"), "decodes four streams of sound at once"),
    "Qwen4ExpForCausalLM": "its default config is not complete",
    **dict.fromkeys(
        "MusicFlamingoForConditionalGeneration VibeVoiceAsrForConditionalGeneration VoxtralRealtimeForConditionalGeneration".split(),
        "its input is sound",
    ),
}

_KINDS_OF_LAYERS = ("layer_types", "layers_block_type")

KINDS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}


def families() -> dict[str, tuple[str, str]]:
    """Every model class that a ``LanguageModel`` can take, with its model type and what kind of model it is."""
    found: dict[str, tuple[str, str]] = {}
    for kind, names in KINDS.items():
        for model_type, name in names.items():
            found.setdefault(name, (model_type, kind))
    return found


def shrunk(config: Any) -> dict[str, Any]:
    """Arguments for the class of ``config`` that make a small one."""
    small: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        nested = vars(config).get(name)
        if isinstance(nested, PretrainedConfig):
            small[name] = shrunk(nested)
        elif type(value) is int and (size := _size(name)) is not None and value > 0:
            small[name] = size
        elif type(value) is int and value == 0 and name.endswith("token_id"):
            small[name] = _size(name)
        elif name in _KINDS_OF_LAYERS and isinstance(value, list) and len(set(value)) > 1:
            kinds = sorted(set(value), key=lambda kind: (kind == "full_attention", value.index(kind)))
            small[name] = (kinds * 3)[: max(3, len(kinds))]
            small["num_hidden_layers"] = len(small[name])
    return {**small, **BY_HAND.get(config.model_type, {})}


def _size(name: str) -> Any:
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)


class LeftOut(Exception):
    """A model type of which there is no tiny model."""


def tiny_config(kind: Any) -> Any:
    """A small config for a class of models."""
    config = kind.config_class
    return config(**{**shrunk(config()), **BY_HAND.get(kind.__name__, {})})


def build(name: str, attention: str = "eager") -> Any:
    """A tiny model whose weights are large enough for a wrong position to show.

    Raises:
        LeftOut: there is none; says why.
    """
    if name in LEFT_OUT:
        raise LeftOut(LEFT_OUT[name])
    kind = getattr(transformers, name, None)
    if kind is None:
        raise LeftOut("this version of transformers does not have it")
    if attention != "eager" and not getattr(kind, f"_supports_{attention}", False):
        raise LeftOut(f"it has no {attention}")
    try:
        config = tiny_config(kind)
        for each in _configs(config):
            each._attn_implementation = attention
        with torch.device("meta"):
            size = sum(weight.numel() for weight in kind(config).parameters())
        if size > LARGEST:
            raise LeftOut(f"{size:,} weights")
        torch.manual_seed(0)
        model = kind(config).eval()
    except Exception as error:
        raise LeftOut(f"cannot be made small here: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
            elif path.endswith("bias"):
                weight.normal_(std=0.1)
    return model.requires_grad_(False)


def _configs(config: Any) -> Iterator[Any]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _configs(value)
