"""One set of names for the decoders of transformers: ``LanguageModel(..., rename="standard")``.

The table says, for each family, where the standard names stand. A new family is a row.
"""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import torch

from ..errors import ours
from ..model.names import Names, add_name


class Family(NamedTuple):
    """Where one family keeps what has a standard name.

    Attributes:
        layers: The list of blocks, below the inner model.
        around: Standard names of what stands around the blocks, and where it stands below the inner model.
        block: The same of what stands in a block.
        lacking: What a block does not have, and what to use instead.
    """

    layers: str
    around: dict[str, str]
    block: dict[str, str]
    lacking: dict[str, str] = {}  # noqa: RUF012  (never filled)


_LLAMA = Family(
    "layers",
    {"embed_tokens": "embed_tokens", "norm": "norm"},
    {"attn": "self_attn", "mlp": "mlp", "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
)
_GEMMA_2 = _LLAMA._replace(
    block={
        "attn": "self_attn", "mlp": "mlp", "attn_norm": "input_layernorm", "attn_out_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm", "mlp_out_norm": "post_feedforward_layernorm",
    },
)  # fmt: skip
_NO_MLP = "the family has no such module; its blocks hold the two layers of it. Use layers[i].fc1 and layers[i].fc2"

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "h",
        {"embed_tokens": "wte", "embed_positions": "wpe", "norm": "ln_f"},
        {"attn": "attn", "mlp": "mlp", "attn_norm": "ln_1", "mlp_norm": "ln_2"},
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA_2),
    "gpt_neox": Family(
        "layers",
        {"embed_tokens": "embed_in", "norm": "final_layer_norm"},
        {"attn": "attention", "mlp": "mlp", "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    ),
    "opt": Family(
        "decoder.layers",
        {"embed_tokens": "decoder.embed_tokens", "embed_positions": "decoder.embed_positions", "norm": "decoder.final_layer_norm"},
        {"attn": "self_attn", "attn_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm"},
        {"mlp": _NO_MLP},
    ),
    "bloom": Family(
        "h",
        {"embed_tokens": "word_embeddings", "norm": "ln_f"},
        {"attn": "self_attention", "mlp": "mlp", "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    ),
}
"""The families by the name that transformers gives them in ``config.model_type``."""

_HEADS = ("lm_head", "embed_out")
_POST_NORM = "the blocks of this model normalize what attention and the MLP give, not what they take. Use layers[i].{0}"


def family_of(model: torch.nn.Module) -> Family:
    """The row of a model.

    Raises:
        ValueError: its family is not in the table.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, 1)
        raise ours(
            ValueError,
            f"there are no standard names for {type(model).__name__} (model_type {kind!r}); there are for {', '.join(FAMILIES)}."
            + (f" Near: {near[0]}." if near else "")
            + ' Give names of your own: rename={"transformer.h": "layers"}',
        )
    return FAMILIES[kind]


def layers_path(model: torch.nn.Module) -> str:
    """Where the blocks stand, from the model on."""
    return _below(_inner(model), family_of(model).layers)


def inner_path(model: torch.nn.Module) -> str:
    """How paths of what stands in the model without its head begin: empty, or with a dot at the end."""
    inner = _inner(model)
    return f"{inner}." if inner else ""


def standard_names(model: torch.nn.Module) -> Names:
    """The standard names of a model.

    Raises:
        ValueError: its family is not in the table.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> names = standard_names(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9)))
    >>> names.at[""]["layers"], names.at["transformer.h.0"]["mlp_norm"]
    ('transformer.h', 'ln_2')
    """
    family, inner = family_of(model), _inner(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    made = Names()
    top = {"layers": family.layers, **family.around}
    for name, path in [(name, _below(inner, path)) for name, path in top.items()] + [("lm_head", head) for head in _HEADS]:
        if path in modules:
            add_name(made, modules, "", name, path)
    missing = {name: f"{type(model).__name__} has none" for name in ("norm", "embed_positions", "lm_head") if name not in modules}
    made.lacking[""] = {name: why for name, why in missing.items() if name not in made.at.get("", {})}
    block, lacking = dict(family.block), dict(family.lacking)
    if getattr(getattr(model, "config", None), "do_layer_norm_before", True) is False:
        lacking.update((name, _POST_NORM.format(block.pop(name))) for name in ("attn_norm", "mlp_norm"))
    layers = _below(inner, family.layers)
    for number in range(len(modules[layers]._modules)):
        for name, path in block.items():
            add_name(made, modules, f"{layers}.{number}", name, path)
        if lacking:
            made.lacking[f"{layers}.{number}"] = lacking
    return made


def _inner(model: torch.nn.Module) -> str:
    """Where the model without its head stands; what the class says of it is not always so."""
    layers = family_of(model).layers.split(".")
    for prefix in (getattr(model, "base_model_prefix", ""), "model", ""):
        found: Any = model
        for name in [prefix, *layers] if prefix else layers:
            found = found._modules.get(name) if found is not None else None
        if found is not None:
            return str(prefix)
    raise ours(ValueError, f"there are no standard names for {type(model).__name__}: it has no {family_of(model).layers}")


def _below(inner: str, path: str) -> str:
    return f"{inner}.{path}" if inner else path
