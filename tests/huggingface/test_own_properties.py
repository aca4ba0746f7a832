"""Attention heads as an own property of language models, against hooks of plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from nnsight_graph import Envoy, LanguageModel, eproperty
from tests.huggingface.families import text, tiny_model, word_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9]])
OTHER = torch.tensor([[11, 12, 13, 14, 15]])


def heads_before(projection):
    class Heads(Envoy):
        @eproperty(key=f"{projection}.input", description="what each head found: [batch, heads, tokens, head_dim]")
        def heads(self): ...

        @heads.preprocess
        def heads(self, value):
            return value[0][0].unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        @heads.transform
        def heads(value):
            return (value.transpose(1, 2).flatten(2),), {}

    return Heads


FAMILIES = {"gpt2": ("transformer.h", "attn", "c_proj", "n_head"), "llama": ("model.layers", "self_attn", "o_proj", "num_attention_heads")}


class Case:
    def __init__(self, family, attention="eager"):
        blocks, name, projection, count = FAMILIES[family]
        self.module = tiny_model(family, attention, **{count: 4})
        self.model = LanguageModel(self.module, tokenizer=word_tokenizer("left"), envoys={name: heads_before(projection)})
        self.attention = self.model.get(blocks)[1].get(name)
        self.projection = self.module.get_submodule(f"{blocks}.1.{name}.{projection}")

    def ablated(self, head, call, calls=None):
        """What ``call`` gives with a head's columns set to zero, in the given calls of the module."""
        count = 0

        def hook(_module, args):
            nonlocal count
            count += 1
            if calls is not None and count - 1 not in calls:
                return None
            value = args[0].clone()
            width = value.shape[-1] // 4
            value[..., head * width : (head + 1) * width] = 0
            return (value, *args[1:])

        handle = self.projection.register_forward_pre_hook(hook)
        try:
            with torch.no_grad():
                return call()
        finally:
            handle.remove()


@pytest.fixture(params=list(FAMILIES))
def case(request):
    return Case(request.param)


def test_a_head_is_ablated(case):
    with torch.no_grad(), case.model.trace(IDS):
        heads = case.attention.heads.clone().save()
        case.attention.heads[:, 2] = 0
        after = case.attention.heads.save()
        logits = case.model.lm_head.output.save()
    assert heads.shape == (1, 4, 5, 4)
    assert after[:, 2].eq(0).all()
    assert torch.equal(after[:, 3], heads[:, 3])
    assert torch.equal(logits, case.ablated(2, lambda: case.module(IDS).logits))
    assert not torch.equal(logits, case.module(IDS).logits)


def test_a_head_is_patched_from_another_prompt(case):
    with torch.no_grad(), case.model.trace() as tracer:
        with tracer.invoke(text(OTHER[0].tolist())):
            source = case.attention.heads[:, 1].clone()
        with tracer.invoke(text(IDS[0].tolist())):
            case.attention.heads[:, 1] = source
            logits = case.model.lm_head.output.save()
    kept = []
    handle = case.projection.register_forward_pre_hook(lambda _module, args: kept.append(args[0].clone()))
    with torch.no_grad():
        case.module(OTHER)
    handle.remove()

    def patch(_module, args):
        value = args[0].clone()
        value[..., 4:8] = kept[0][..., 4:8]
        return (value, *args[1:])

    handle = case.projection.register_forward_pre_hook(patch)
    with torch.no_grad():
        expected = case.module(IDS).logits
    handle.remove()
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bounded", "open", "prompt"])
def test_steps_of_a_generation(case, kind):
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with case.model.generate(IDS, **options) as tracer:
        shapes = []
        if kind == "bounded":
            for _ in tracer.iter[1:3]:
                case.attention.heads[:, 2] = 0
                shapes.append(case.attention.heads.shape.save())
        elif kind == "open":
            for _ in tracer.iter[1:]:
                case.attention.heads[:, 2] = 0
        else:
            with tracer.iter.prompt:
                case.attention.heads[:, 2] = 0
        result = tracer.result.save()
    calls = {"bounded": {1, 2}, "open": {1, 2, 3}, "prompt": {0}}[kind]
    generated = case.ablated(2, lambda: case.module.generate(IDS, attention_mask=torch.ones_like(IDS), **options), calls)
    assert torch.equal(result, generated)
    assert all(tuple(shape) == (1, 4, 1, 4) for shape in shapes)


def test_gradients_of_heads(case):
    with case.model.trace(IDS):
        case.attention.heads[:, 3] *= 2
        gradient = case.attention.heads.grad.save()
        case.model.lm_head.output[0, -1, 7].backward()
    kept = []

    def hook(_module, args):
        value = args[0].clone()
        value[..., 12:16] *= 2
        value.retain_grad()
        kept.append(value)
        return (value, *args[1:])

    handle = case.projection.register_forward_pre_hook(hook)
    case.module(IDS).logits[0, -1, 7].backward()
    handle.remove()
    case.module.zero_grad()
    assert torch.allclose(gradient, kept[0].grad.unflatten(-1, (4, 4)).transpose(1, 2), atol=1e-5)


def test_the_tree_says_what_there_is(case):
    assert ".heads: what each head found: [batch, heads, tokens, head_dim]" in repr(case.model)
    assert repr(case.model).count(".heads: ") == 1  # two equal blocks are printed as one


def test_weights_that_come_later():
    model = LanguageModel("nnsight-graph/capitals", envoys={"attn": heads_before("c_proj")})
    attention = model.transformer.h[3].attn
    with model.trace("The Eiffel Tower is in the city of"):
        attention.heads[:, 0] = 0
        heads = attention.heads.save()
    assert heads[:, 0].eq(0).all()
    assert attention is model.transformer.h[3].attn
    assert attention.path == "model.transformer.h.3.attn"
