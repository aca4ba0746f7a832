"""TransformerLens's names of tensors: what they denote, and where they are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, RecordError
from tests.huggingface.families import text, tiny_model, word_tokenizer
from tests.huggingface.standard import DECODERS, decoder

pytestmark = pytest.mark.slow

IDS, OTHER = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8, 9, 10]])
KINDS = (*DECODERS, "gpt_neox in sequence")
STREAM = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


def model_of(kind: str) -> LanguageModel:
    net = decoder("gpt_neox", use_parallel_residual=False) if kind == "gpt_neox in sequence" else decoder(kind)
    return LanguageModel(net, tokenizer=word_tokenizer())


def read_all(lm: LanguageModel) -> dict[str, torch.Tensor]:
    with torch.no_grad(), lm.trace(IDS):
        found = {name: lm.hooks[name].clone().save() for name in lm.hooks}
    return {name: proxy.value for name, proxy in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_stream_adds_up(kind):
    lm = model_of(kind)
    seen = read_all(lm)
    for number in range(2):
        pre, attn, mid, mlp, post = (seen.get(f"blocks.{number}.{name}") for name in STREAM)
        assert pre is not None
        assert post is not None
        if mid is not None and attn is not None:
            torch.testing.assert_close(mid, pre + attn)
        if mid is not None and mlp is not None:
            torch.testing.assert_close(post, mid + mlp)
        if mid is None and mlp is not None:
            torch.testing.assert_close(post, pre + attn + mlp)
        if number:
            assert torch.equal(pre, seen["blocks.0.hook_resid_post"])
        assert post.shape == pre.shape == (1, 4, 16)
    if kind not in ("gpt2", "opt"):  # which add positions
        assert torch.equal(seen["hook_embed"], seen["blocks.0.hook_resid_pre"])
    else:
        assert torch.equal(seen["hook_embed"], lm._module.get_input_embeddings()(IDS))


@pytest.mark.parametrize("kind", KINDS)
def test_inside_the_mlp(kind):
    lm = model_of(kind)
    seen = read_all(lm)
    if "blocks.1.mlp.hook_pre" not in seen:
        assert kind == "opt"
        return
    mlp: Any = LanguageModel(lm._module, rename="standard").layers[1].mlp._module
    act = next(getattr(mlp, name) for name in ("act", "act_fn", "gelu_impl") if hasattr(mlp, name))
    out = next(getattr(mlp, name) for name in ("c_proj", "down_proj", "dense_4h_to_h") if hasattr(mlp, name))
    with torch.no_grad():
        expected = act(seen["blocks.1.mlp.hook_pre"]) * seen.get("blocks.1.mlp.hook_pre_linear", 1)
        torch.testing.assert_close(seen["blocks.1.mlp.hook_post"], expected)
        if kind not in ("bloom", "gemma2", "gemma3_text"):
            torch.testing.assert_close(seen["blocks.1.hook_mlp_out"], out(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_can_be_edited_and_assigned(kind):
    lm = model_of(kind)
    with torch.no_grad():
        plain = lm._module(IDS).logits
    for name in lm.hooks:
        with torch.no_grad(), lm.trace(IDS):
            lm.hooks[name][:] = lm.hooks[name] * 0.5 + 0.1
            edited = lm.output.logits.save()
        with torch.no_grad(), lm.trace(IDS):
            lm.hooks[name] = lm.hooks[name] * 0.5 + 0.1
            assigned = lm.output.logits.save()
        with torch.no_grad(), lm.trace(IDS):
            lm.hooks[name] *= 0.5
            lm.hooks[name] += 0.1
            augmented = lm.output.logits.save()
        assert not torch.allclose(edited.value, plain), name
        torch.testing.assert_close(assigned.value, edited.value, msg=name)
        torch.testing.assert_close(augmented.value, edited.value, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STREAM)
def test_what_is_assigned_flows_on_as_the_stream_does(kind, name):
    lm = model_of(kind)
    if f"blocks.0.{name}" not in lm.hooks:
        with pytest.raises(RecordError, match=f"blocks.0.{name} denotes no tensor of "), lm.trace(IDS):
            _ = lm.hooks[f"blocks.0.{name}"]
        return
    torch.manual_seed(1)
    new = torch.randn(1, 4, 16)
    with torch.no_grad(), lm.trace(IDS):
        lm.hooks[f"blocks.0.{name}"] = new
        seen = {each: lm.hooks[f"blocks.0.{each}"].clone().save() for each in STREAM if f"blocks.0.{each}" in lm.hooks}
        following = lm.hooks["blocks.1.hook_resid_pre"].clone().save()
    pre, attn, mid, mlp, post = (seen[each].value if each in seen else None for each in STREAM)
    assert torch.equal(seen[name].value, new)
    assert torch.equal(following.value, post)
    if name == "hook_resid_post":
        return
    if mid is not None and mlp is not None:
        torch.testing.assert_close(post, mid + mlp)
        if name != "hook_resid_mid":
            torch.testing.assert_close(mid, pre + attn)
    elif mlp is not None:
        torch.testing.assert_close(post, pre + attn + mlp)
    elif kind == "bloom" and name == "hook_resid_mid":
        block = lm.transformer.h[0]._module
        with torch.no_grad():
            torch.testing.assert_close(post, block.mlp(block.post_attention_layernorm(new), new)[0:1])


def test_what_hooks_of_pytorch_see():
    net = tiny_model("gpt2")
    seen = {}

    def note(_module, _args, output):
        seen["post"] = output if isinstance(output, torch.Tensor) else output[0]

    handles = [
        net.transformer.h[1].register_forward_hook(note),
        net.transformer.h[1].attn.register_forward_hook(lambda _m, _a, output: seen.update(attn=output[0])),
        net.transformer.h[1].ln_2.register_forward_pre_hook(lambda _m, args: seen.update(mid=args[0])),
    ]
    with torch.no_grad():
        net(IDS)
    for handle in handles:
        handle.remove()
    found = read_all(LanguageModel(net))
    assert torch.equal(found["blocks.1.hook_resid_post"], seen["post"])
    assert torch.equal(found["blocks.1.hook_attn_out"], seen["attn"])
    assert torch.equal(found["blocks.1.hook_resid_mid"], seen["mid"])


@pytest.mark.parametrize("kind", KINDS)
def test_patterns(kind):
    lm = model_of(kind)
    with torch.no_grad():
        expected = lm._module(IDS, output_attentions=True).attentions[1]
    torch.testing.assert_close(read_all(lm)["blocks.1.attn.hook_pattern"], expected)


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
@pytest.mark.parametrize("grad", [False, True])
def test_rows_of_an_invoke(kind, grad):
    lm = model_of(kind)
    for name in ("blocks.0.hook_resid_mid", "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"):
        with torch.set_grad_enabled(grad), lm.trace(IDS):
            lm.hooks[name] = lm.hooks[name] * 2
            alone = lm.output.logits.save()
        with torch.set_grad_enabled(grad), lm.trace() as tracer:
            with tracer.invoke(text(OTHER[0].tolist())):
                other = lm.output.logits.save()
            with tracer.invoke(text(IDS[0].tolist())):
                lm.hooks[name] = lm.hooks[name] * 2
                rows = lm.output.logits.save()
        torch.testing.assert_close(rows.value, alone.value, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(other.value.detach(), lm._module(OTHER).logits, rtol=1e-4, atol=1e-4)


def test_branches_gradients_and_steps():
    lm = model_of("gpt2")
    for sign in (1, -1):
        with torch.no_grad(), lm.trace(IDS):
            if lm.hooks["hook_embed"].abs().sum() * sign > 0:
                lm.hooks["blocks.0.hook_resid_post"] = lm.hooks["blocks.0.hook_resid_post"] * 0
            stream = lm.hooks["blocks.0.hook_resid_post"].save()
        assert bool((stream == 0).all()) == (sign > 0)
    with lm.trace(IDS):
        gradient = lm.hooks["blocks.0.hook_resid_mid"].grad.save()
        same = lm.transformer.h[0].ln_2.input.grad.save()
        lm.output.logits.sum().backward()
    assert torch.equal(gradient.value, same.value)
    lm._module.zero_grad()
    with torch.no_grad(), lm.generate(IDS, max_new_tokens=3, do_sample=False) as tracer:
        shapes = nnsight.list().save()
        for step in tracer.iter[:]:
            shapes.append(lm.hooks["blocks.1.hook_attn_out"].shape[1])
    assert list(shapes) == [4, 1, 1]


REFUSED = [
    ("gpt2", "blocks.1.attn.hook_q", r"model\.transformer\.h\.1\.attn\.c_attn\.output holds queries, keys and values of all heads"),
    ("llama", "blocks.0.attn.hook_k", r"model\.model\.layers\.0\.self_attn\.k_proj\.output holds the keys of all heads"),
    ("llama", "blocks.0.attn.hook_z", r"model\.model\.layers\.0\.self_attn\.o_proj\.input holds what comes out of all heads"),
    ("llama", "blocks.0.attn.hook_rot_q", r"self_attn\.q_proj\.output is before that"),
    ("gpt2", "blocks.0.attn.hook_attn_scores", r"no module passes it on.* attn\.hook_pattern"),
    ("gpt2", "blocks.0.attn.hook_result", "only where that is switched on"),
    ("gpt2", "blocks.0.hook_attn_in", "only where that is switched on"),
    ("gpt2", "ln_final.hook_normalized", r"depends on whether .* model\.transformer\.ln_f\.output is the norm with its weights"),
    ("gemma2", "blocks.0.ln1_post.hook_normalized", r"model\.model\.layers\.0\.post_attention_layernorm\.output is the norm"),
    ("gpt2", "blocks.0.ln1.hook_scale", r"model\.transformer\.h\.0\.ln_1\.input is what is normalized"),
    ("gpt2", "hook_pos_embed", r"model\.transformer\.wpe\.output has the same numbers"),
    ("llama", "hook_pos_embed", "not embeddings that are added"),
    ("gpt_neox", "blocks.0.hook_resid_mid", "attention and MLP read the same residual stream"),
    ("bloom", "blocks.0.hook_attn_out", "The difference of hook_resid_mid and hook_resid_pre"),
    ("opt", "blocks.0.hook_mlp_out", r"model\.model\.decoder\.layers\.0\.fc2\.output has the same numbers, as \[inputs \* tokens, width\]"),
]


@pytest.mark.parametrize(("kind", "name", "message"), REFUSED)
def test_names_that_denote_something_else(kind, name, message):
    lm = model_of(kind)
    assert name not in lm.hooks
    with pytest.raises(RecordError, match=f"{name} denotes no tensor of .*{message}"), lm.trace(IDS):
        _ = lm.hooks[name]
    with pytest.raises(RecordError, match="denotes no tensor"):
        lm.hooks[name] = 0
    for path in re.findall(r"model\.(\S+)\.(?:output|input)\b", _message(lm, name)):
        assert lm.get(path)._module is not None  # what is suggested is there


def _message(lm: LanguageModel, name: str) -> str:
    try:
        lm.hooks[name]
    except RecordError as error:
        return str(error)
    return ""


def test_models_whose_config_makes_names_denote_something_else():
    old = LanguageModel(tiny_model("opt", do_layer_norm_before=False))
    assert list(old.hooks) == []
    with pytest.raises(RecordError, match="normalize what attention and the MLP give"):
        _ = old.hooks["hook_embed"]
    crossed = LanguageModel(tiny_model("gpt2", add_cross_attention=True))
    assert "blocks.0.hook_resid_mid" not in crossed.hooks
    assert "blocks.0.hook_resid_post" in crossed.hooks
    bloom = LanguageModel(tiny_model("bloom", apply_residual_connection_post_layernorm=True))
    assert "blocks.0.hook_resid_mid" not in bloom.hooks


def test_unknown_names():
    lm = model_of("gpt2")
    with pytest.raises(KeyError, match=r"there is no hook 'blocks\.0\.hook_resid_pots'\. Near: blocks\.0\.hook_resid_post"):
        _ = lm.hooks["blocks.0.hook_resid_pots"]
    with pytest.raises(KeyError, match=r"there is no hook 'xyz'; HookNames\(hook_embed, blocks\.i\.hook_resid_pre"):
        _ = lm.hooks["xyz"]
    with pytest.raises(IndexError, match="the model has 2 blocks, from 0 to 1"):
        _ = lm.hooks["blocks.2.hook_resid_pre"]
    with pytest.raises(RecordError, match="inside a trace"):
        _ = lm.hooks["blocks.0.hook_resid_pre"]
    with pytest.raises(ValueError, match="no standard names for T5"):
        _ = LanguageModel(tiny_model("t5")).hooks
    assert len(lm.hooks) == len(list(lm.hooks)) == 1 + 2 * 8
