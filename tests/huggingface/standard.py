"""Tiny decoders of every family that has standard names, and what those stand for."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.huggingface.families import LONGEST, VOCABULARY, tiny_model

_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "intermediate_size": 32, "max_position_embeddings": LONGEST, "pad_token_id": 0,
}  # fmt: skip
OTHERS = {
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
DECODERS = ("gpt2", "llama", *OTHERS, "gpt_neox", "opt", "bloom")

_LLAMA = {
    "layers": "model.layers", "embed_tokens": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head",
    "layers.1.attn": "model.layers.1.self_attn", "layers.1.mlp": "model.layers.1.mlp",
    "layers.1.attn_norm": "model.layers.1.input_layernorm", "layers.1.mlp_norm": "model.layers.1.post_attention_layernorm",
}  # fmt: skip
_GEMMA_2 = {
    **_LLAMA,
    "layers.0.mlp_norm": "model.layers.0.pre_feedforward_layernorm",
    "layers.1.mlp_norm": "model.layers.1.pre_feedforward_layernorm",
    "layers.0.attn_out_norm": "model.layers.0.post_attention_layernorm",
    "layers.0.mlp_out_norm": "model.layers.0.post_feedforward_layernorm",
}  # fmt: skip
STANDS_FOR: dict[str, dict[str, str]] = {
    "gpt2": {
        "layers": "transformer.h", "embed_tokens": "transformer.wte", "embed_positions": "transformer.wpe", "norm": "transformer.ln_f",
        "layers.1.attn": "transformer.h.1.attn", "layers.1.mlp": "transformer.h.1.mlp", "layers.0.attn_norm": "transformer.h.0.ln_1",
        "layers.1.mlp_norm": "transformer.h.1.ln_2", "lm_head": "lm_head",
    },
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA_2),
    "gpt_neox": {
        "layers": "gpt_neox.layers", "embed_tokens": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm",
        "layers.1.attn": "gpt_neox.layers.1.attention", "layers.1.mlp": "gpt_neox.layers.1.mlp",
        "layers.1.attn_norm": "gpt_neox.layers.1.input_layernorm", "layers.1.mlp_norm": "gpt_neox.layers.1.post_attention_layernorm",
    },
    "opt": {
        "layers": "model.decoder.layers", "embed_tokens": "model.decoder.embed_tokens", "norm": "model.decoder.final_layer_norm",
        "embed_positions": "model.decoder.embed_positions", "layers.1.attn": "model.decoder.layers.1.self_attn",
        "layers.1.mlp_norm": "model.decoder.layers.1.final_layer_norm", "layers.0.attn_norm": "model.decoder.layers.0.self_attn_layer_norm",
    },
    "bloom": {
        "layers": "transformer.h", "embed_tokens": "transformer.word_embeddings", "norm": "transformer.ln_f",
        "layers.1.attn": "transformer.h.1.self_attention", "layers.1.mlp": "transformer.h.1.mlp", "lm_head": "lm_head",
        "layers.1.mlp_norm": "transformer.h.1.post_attention_layernorm", "layers.0.attn_norm": "transformer.h.0.input_layernorm",
    },
}  # fmt: skip


def decoder(family: str, **options: Any) -> Any:
    """A tiny decoder with weights large enough for differences to show."""
    if family not in OTHERS:
        return tiny_model(family, **options)
    kind = getattr(transformers, OTHERS[family])
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**_SIZES, **options}, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model
