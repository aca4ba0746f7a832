"""What the hook names of TransformerLens denote in the models of transformers: tables, and nothing else.

A name is here only where it is the same tensor: the same values, in the same shape, from which the model goes on in the same way. The
values are those of TransformerLens's ``from_pretrained_no_processing``: its ``from_pretrained`` changes the weights of a model first.
"""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a hook name's tensor passes.

    Attributes:
        module: The module, below the block (or, of what stands around the blocks, below the inner model).
        point: ``"input"``, ``"output"``, ``"hidden_states"`` or ``"attention_weights"``.
        shared: Whether the model uses the tensor elsewhere, too: then it is changed in place, so that every use sees it.
    """

    module: str
    point: str
    shared: bool = False


class Hooks(NamedTuple):
    """The hook names of one family.

    Attributes:
        block: Names below ``blocks.i``.
        around: Names outside blocks; a module of ``"0"`` is the first block.
        heads: Where the tensors pass that TransformerLens splits into heads: for ``q``, ``k``, ``v`` and ``z``.
        norms: The norms, by their TransformerLens name.
        refused: Names that denote something else here, and why.
    """

    block: dict[str, Place]
    around: dict[str, Place]
    heads: dict[str, str]
    norms: dict[str, str]
    refused: dict[str, str] = {}  # noqa: RUF012  (never filled)


_PRE, _POST = Place("", "input"), Place("", "hidden_states")


def _stream(attention: str, mlp: str, between: str) -> dict[str, Place]:
    return {
        "hook_resid_pre": _PRE,
        "hook_attn_out": Place(attention, "hidden_states"),
        "hook_resid_mid": Place(between, "input", True),
        "hook_mlp_out": Place(mlp, "output"),
        "hook_resid_post": _POST,
    }


def _plain_mlp(before: str, after: str) -> dict[str, Place]:
    return {"mlp.hook_pre": Place(before, "output"), "mlp.hook_post": Place(after, "input")}


_GATED_MLP = {
    "mlp.hook_pre": Place("mlp.gate_proj", "output"),
    "mlp.hook_pre_linear": Place("mlp.up_proj", "output"),
    "mlp.hook_post": Place("mlp.down_proj", "input"),
}
_LLAMA_HEADS = {**{name: f"self_attn.{name}_proj.output" for name in "qkv"}, "z": "self_attn.o_proj.input"}
_NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
_ROTARY = "the positions of this family are not embeddings that are added to those of the tokens"

_LLAMA = Hooks(
    {**_stream("self_attn", "mlp", "post_attention_layernorm"), **_GATED_MLP},
    {"hook_embed": Place("embed_tokens", "output")},
    _LLAMA_HEADS,
    {**_NORMS, "ln_final": "norm"},
    {"hook_pos_embed": _ROTARY},
)
_GEMMA = _LLAMA._replace(around={"hook_embed": Place("0", "input")})  # there the embeddings are scaled already
_GEMMA_2 = _GEMMA._replace(
    block={
        **_stream("post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm"),
        **_GATED_MLP,
    },
    norms={"ln1": "input_layernorm", "ln2": "pre_feedforward_layernorm", "ln_final": "norm",
           "ln1_post": "post_attention_layernorm", "ln2_post": "post_feedforward_layernorm"},
)  # fmt: skip
_NEOX_MLP = _plain_mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_POSITIONS = (
    "TransformerLens has a row of positions for each input, and the model may have one for all of them. "
    "model.{inner}{module}.output has the same numbers"
)
_ADDED = "the module adds the residual stream itself before it returns. The difference of {0} is the same number"
_FLAT = (
    "the model lays the tokens of all inputs in one dimension there. model.{block}.{0} has the same numbers, as [inputs * tokens, width]"
)

HOOKS: dict[str, Hooks] = {
    "gpt2": Hooks(
        {**_stream("attn", "mlp", "ln_2"), **_plain_mlp("mlp.c_fc", "mlp.c_proj")},
        {"hook_embed": Place("wte", "output")},
        {**dict.fromkeys("qkv", "attn.c_attn.output"), "z": "attn.c_proj.input"},
        {"ln1": "ln_1", "ln2": "ln_2", "ln_final": "ln_f"},
        {"hook_pos_embed": _POSITIONS.replace("{module}", "wpe")},
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    "gemma": _GEMMA,
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA_2),
    "gpt_neox": Hooks(
        {**_stream("attention", "mlp", "post_attention_layernorm"), **_NEOX_MLP},
        {"hook_embed": Place("embed_in", "output")},
        {**dict.fromkeys("qkv", "attention.query_key_value.output"), "z": "attention.dense.input"},
        {**_NORMS, "ln_final": "final_layer_norm"},
        {"hook_pos_embed": _ROTARY},
    ),
    "opt": Hooks(
        {name: place for name, place in _stream("self_attn", "", "").items() if name not in ("hook_resid_mid", "hook_mlp_out")},
        {"hook_embed": Place("decoder.embed_tokens", "output")},
        {**_LLAMA_HEADS, "z": "self_attn.out_proj.input"},
        {"ln1": "self_attn_layer_norm", "ln2": "final_layer_norm", "ln_final": "decoder.final_layer_norm"},
        {
            "hook_pos_embed": _POSITIONS.replace("{module}", "decoder.embed_positions"),
            "hook_resid_mid": _FLAT.replace("{0}", "final_layer_norm.input"),
            "hook_mlp_out": _FLAT.replace("{0}", "fc2.output"),
            "mlp.hook_pre": _FLAT.replace("{0}", "fc1.output"),
            "mlp.hook_post": _FLAT.replace("{0}", "fc2.input"),
        },
    ),
    "bloom": Hooks(
        {"hook_resid_pre": _PRE, "hook_resid_mid": Place("post_attention_layernorm", "input", True), "hook_resid_post": _POST, **_NEOX_MLP},
        {"hook_embed": Place("word_embeddings_layernorm", "output")},
        {**dict.fromkeys("qkv", "self_attention.query_key_value.output"), "z": "self_attention.dense.input"},
        {**_NORMS, "ln_final": "ln_f"},
        {
            "hook_pos_embed": _ROTARY,
            "hook_attn_out": _ADDED.format("hook_resid_mid and hook_resid_pre"),
            "hook_mlp_out": _ADDED.format("hook_resid_post and hook_resid_mid"),
        },
    ),
}
"""The names by family, as transformers calls it in ``config.model_type``."""

HEADS = "TransformerLens has a dimension for the heads, the model has not. model.{block}.{0} holds {1} of all heads side by side"
SCORES = "no module passes it on: it is made and used inside the attention. attn.hook_pattern is what is made of it"
SWITCHED = "TransformerLens has it only where that is switched on, and no module here passes it on"
ROTATED = "no module passes it on: queries and keys are rotated inside the attention. model.{block}.{0} is before that"
SCALE = "no module passes it on. model.{0}.input is what is normalized"
NORMALIZED = (
    "what it denotes depends on whether TransformerLens put the weights of the norm into the next layer, as it does unless told not to. "
    "model.{0}.output is the norm with its weights, model.{0}.input what it takes"
)
PARALLEL = "attention and MLP read the same residual stream, hook_resid_pre: there is nothing between them"
CROSS = "another attention stands between the two. model.{block}.ln_2.input is the residual stream before the MLP"
POST_NORM = "the blocks of this model normalize what attention and the MLP give, which TransformerLens has no names for"
