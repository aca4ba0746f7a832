"""Tiny models with random weights, one for each family, and a tokenizer of whole words: ``w7`` is token 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

VOCABULARY, LONGEST = 40, 24
_GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST}
_LAYERS = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIZES = {**_LAYERS, "intermediate_size": 32, "max_position_embeddings": LONGEST}
_STARTS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
_BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32}
_T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "llama": ("LlamaForCausalLM", _SIZES),
    "opt": ("OPTForCausalLM", {**_LAYERS, "ffn_dim": 32, "max_position_embeddings": LONGEST, "word_embed_proj_dim": 16}),
    "bloom": ("BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "gpt_neox": ("GPTNeoXForCausalLM", _SIZES),
    "bert": ("BertForMaskedLM", _SIZES),
    "roberta": ("RobertaForMaskedLM", {**_SIZES, "pad_token_id": 0}),
    "t5": ("T5ForConditionalGeneration", {**_T5, **_STARTS}),
    "bart": (
        "BartForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 16, "max_position_embeddings": LONGEST, **_BART, **_STARTS},
    ),
}


def tiny_model(family: str, attention: str = "eager", **options: Any) -> Any:
    """A model of ``family`` whose weights are large enough for a wrong position to show."""
    name, sizes = FAMILIES[family]
    kind = getattr(transformers, name)
    config = kind.config_class(**{"bos_token_id": 1, "eos_token_id": 1, **sizes, **options}, attn_implementation=attention)
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def supports(family: str, attention: str) -> bool:
    return attention == "eager" or bool(getattr(getattr(transformers, FAMILIES[family][0]), "_supports_sdpa", False))


def word_tokenizer(side: str = "right", pad: str | None = "<pad>", names: Sequence[str] = ("input_ids", "attention_mask")) -> Any:
    """``"w5 w6"`` -> ``[5, 6]``."""
    special = {"<pad>": 0, "<end>": 1, "<unknown>": 2}
    words = Tokenizer(WordLevel({**special, **{f"w{i}": i for i in range(3, VOCABULARY)}}, unk_token="<unknown>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="<unknown>", pad_token=pad, padding_side=side, model_input_names=list(names)
    )


def text(ids: Sequence[int]) -> str:
    return " ".join(f"w{i}" for i in ids)
